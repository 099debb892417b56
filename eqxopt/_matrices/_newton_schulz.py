"""Newton-Schulz iterations: the nearest orthogonal matrix by multiplications alone."""

from collections.abc import Sequence
from typing import Any, dataclass_transform, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from .._fields import DType, dtype_option, word
from .._math import adjoint, divide, stable_norm
from .._number import check_fields, integer
from .._types import Matrix


Triple = tuple[float, float, float]

# Of the largest slope at 0 that keeps singular values around 1, by Jordan.
STANDARD: tuple[Triple, ...] = ((3.4445, -4.775, 2.0315),)

# Algorithm 1 of the Polar Express paper, for singular values down to 1e-3. All but the
# last are made safe for rounding: p(x / 1.01) instead of p(x).
_OPTIMAL: tuple[Triple, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)
# The paper also divides the matrix by 1.01 before the first step.
POLAR_EXPRESS: tuple[Triple, ...] = (
    *(
        (a / s, b / s**3, c / s**5)
        for (a, b, c), s in zip(_OPTIMAL, (1.01**2, *[1.01] * 6))
    ),
    (1.875, -1.25, 0.375),
)
PRESETS = {"standard": STANDARD, "polar-express": POLAR_EXPRESS}


def as_coefficients(x: Any) -> tuple[Triple, ...]:
    """A field converter: the coefficients of each step, by name or as numbers."""
    if isinstance(x, str):
        if x not in PRESETS:
            known = ", ".join(repr(name) for name in PRESETS)
            raise ValueError(f"`coefficients` has no {x!r}; it has {known}")
        return PRESETS[x]
    rows = ((x,) if np.shape(x) == (3,) else tuple(x)) if np.ndim(x) else ()
    if not rows or any(np.shape(row) != (3,) for row in rows):
        raise ValueError(
            f"`coefficients` are three numbers, or three for each step, but got {x!r}"
        )
    return tuple((float(a), float(b), float(c)) for a, b, c in rows)


@dataclass_transform(field_specifiers=(eqx.field, integer, dtype_option, word))
class OptionsMeta(type(eqx.Module)):
    """Tells type checkers which functions declare a static option."""


class NewtonSchulz(eqx.Module, metaclass=OptionsMeta):
    r"""Brings all singular values of matrices near 1, by matrix products alone.

    From $X_0 = X / (\|X\| + \varepsilon)$, each step takes

    $$
    A = X X^*, \qquad X \leftarrow a X + (b A + c A^2) X
    $$

    [`eqxopt.Muon`][], [`eqxopt.NorMuon`][] and [`eqxopt.Scion`][] hold it.

    **Arguments:**

    - `coefficients`: $(a, b, c)$, or one such triple for each step, of which the last
        is repeated; or `"standard"`, the default, which is (3.4445, -4.775, 2.0315) and
        leaves singular values between about 0.7 and 1.2; or `"polar-express"`, the best
        polynomial for each step, which comes closer to 1.
    - `steps`: the number of steps, an integer in [1, inf). Default 5.
    - `method`: `"gram"`, the default, or `"standard"`. Where a matrix is at least 1.5
        times as long as wide, `"gram"` makes the steps on the small $X X^*$, which at
        4 : 1 takes half the operations; only rounding differs.
    - `dtype`: the dtype of the steps. By default that of the parameter, and at least
        float32, which suits CPUs. bfloat16 is far faster on accelerators; combine it
        with `"polar-express"` and `method="standard"`, because the large first
        coefficients magnify what rounding does to $X X^*$.

    **Raises:** a `ValueError` for coefficients or words that it does not know.

    **Source:** Jordan et al., [Muon: An optimizer for hidden layers in neural
    networks](https://kellerjordan.github.io/posts/muon/), 2024; Amsel et al., [The
    Polar Express](https://arxiv.org/abs/2505.16932), 2025; Dao AI Lab, [Gram
    Newton-Schulz](https://dao-lab.ai/blog/2026/gram-newton-schulz), 2026.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> x = jnp.array([[3.0, 0.0], [0.0, 1.0]])
        >>> steps = eqxopt.NewtonSchulz("polar-express", steps=8)
        >>> print(steps(x[None], jnp.array(0.0))[0].round(3))
        [[1. 0.]
         [0. 1.]]

        ```
    """

    coefficients: tuple[Triple, ...] = eqx.field(
        converter=as_coefficients, default="standard", static=True
    )
    steps: int = integer("[1, inf)", default=5)
    method: Literal["gram", "standard"] = word(
        "method", "gram", "standard", default="gram"
    )
    dtype: DType = dtype_option(default=None)

    def __check_init__(self) -> None:
        check_fields(self)

    def __call__(self, x: Matrix, eps: Float[Array, "..."]) -> Matrix:
        """Each matrix of a batch, orthogonal or nearly so."""
        dtype = x.dtype if self.dtype is None or jnp.iscomplexobj(x) else self.dtype
        # Divided in the precision that came: its squares need not fit the other.
        unit = divide(x, stable_norm(x, axes=(-2, -1)) + eps).astype(dtype)
        gram = self.method == "gram"
        steps = newton_schulz(unit, self.coefficients, self.steps, gram=gram)
        return steps.astype(x.dtype)


def as_newton_schulz(x: NewtonSchulz) -> NewtonSchulz:
    """A field converter: the steps that an optimizer takes."""
    if not isinstance(x, NewtonSchulz):
        raise TypeError(
            "`newton_schulz` takes the steps as a module, such as "
            f"`eqxopt.NewtonSchulz('polar-express', steps=8)`, not {x!r}"
        )
    return x


def newton_schulz(
    x: Matrix, coefficients: Sequence[Triple], steps: int, *, gram: bool
) -> Matrix:
    """Each matrix, of norm 1, with its singular values brought near 1. After the last
    of `coefficients`, that is repeated. With `gram` the steps are made on the small
    matrix of products of rows, where it is small enough to pay.
    """
    if x.shape[-2] > x.shape[-1]:  # the products of columns are the smaller matrix
        return adjoint(newton_schulz(adjoint(x), coefficients, steps, gram=gram))
    triples = [coefficients[min(k, len(coefficients) - 1)] for k in range(steps)]
    if gram and 2 * x.shape[-1] >= 3 * x.shape[-2]:
        # The error of the products grows with every step, so they are taken anew.
        half = jnp.finfo(x.dtype).bits < 32
        while triples:
            first = 2 if half and len(triples) == steps else 3 if half else 5
            x = _gram_steps(x, triples[:first])
            triples = triples[first:]
    else:
        for triple in triples:
            x = _polynomial(x @ adjoint(x), triple) @ x
    return x


def _polynomial(
    r: Inexact[Array, "batch rows rows"], triple: Triple
) -> Inexact[Array, "batch rows rows"]:
    # With the identity, which saves an addition after every product by it.
    a, b, c = triple
    return a * jnp.eye(r.shape[-1], dtype=r.dtype)[None] + b * r + c * (r @ r)


def _gram_steps(x: Matrix, triples: Sequence[Triple]) -> Matrix:
    # Every step multiplies x from the left by a polynomial of r = x x*, and polynomials
    # of one matrix commute. So q, their product, and r are all that has to be known.
    r = x @ adjoint(x)
    q = None
    for k, triple in enumerate(triples):
        p = _polynomial(r, triple)
        q = p if q is None else p @ q
        if k + 1 < len(triples):
            r = p @ (p @ r)
    return x if q is None else q @ x


def spectral_scale(rows: int, columns: int) -> float:
    """The factor by which orthogonal steps change outputs alike in every shape."""
    return max(1.0, rows / max(columns, 1)) ** 0.5
