"""Newton-Schulz iterations: the nearest orthogonal matrix by multiplications alone."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from .._math.small import adjoint, divide, stable_norm
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
            raise ValueError(f"`ns_coefficients` has no {x!r}; it has {known}")
        return PRESETS[x]
    rows = tuple(x)
    if len(rows) == 3 and all(isinstance(row, float | int) for row in rows):
        rows = (rows,)
    if not rows or any(np.shape(row) != (3,) for row in rows):
        raise ValueError(
            "`ns_coefficients` are three numbers, or three for each step, but got "
            f"{x!r}"
        )
    return tuple((float(a), float(b), float(c)) for a, b, c in rows)


def normalized(x: Matrix, eps: Float[Array, "#batch 1 1"]) -> Matrix:
    """Each matrix by its Frobenius norm, and so with no singular value above 1."""
    return divide(x, stable_norm(x, axes=(-2, -1)) + eps)


def newton_schulz(
    x: Matrix,
    coefficients: Sequence[Triple],
    steps: int,
    *,
    gram: bool,
) -> Matrix:
    """Each matrix, of norm 1, with its singular values brought near 1.

    After the last of `coefficients`, that is repeated. With `gram` the steps are made
    on the small matrix of products of rows, where it is small enough to pay.
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
