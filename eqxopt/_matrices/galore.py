"""GaLore: Adam in a subspace of the gradients."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Int

from .._abstract.matrixwise import AbstractMatrixOptimizer
from .._abstract.optimizer import AbstractOptimizer, count_of, inner
from .._compile.once import once_per_shape
from .._dtype import compute_dtype, real_dtype
from .._fields import (
    default_matrices,
    Hyperparameter,
    hyperparameter,
    mask_of,
    matrices_of,
    MatricesField,
    MatrixView,
    OptionalMask,
    transposed_if,
)
from .._math import abs_sq, debias, ema, sqrt
from .._number import integer
from .._sharding import gathered, sharded_like
from .._types import AnyLeaf, Leaf, Matrix
from ._fallback import default_fallback


class Subspace(NamedTuple):
    """How many updates a matrix has had; an orthonormal basis for its longer side; and
    running means of its gradient in that basis and of its square."""

    age: Int[Array, ""]
    basis: Inexact[Array, "batch long rank"]
    mu: Inexact[Array, "batch rank short"]
    nu: Float[Array, "batch rank short"]


class GaLore(AbstractMatrixOptimizer):
    r"""Adam of every matrix in the subspace in which its gradient is largest, and so
    with little memory; another optimizer, by default AdamW, for what is no matrix.

    For a matrix of at least as many rows as columns,

    $$
    \begin{aligned}
    P_t &= \begin{cases}
        \text{the first } r \text{ left singular vectors of } g_t &
            \text{if } T \text{ divides } t - 1 \\
        P_{t-1} & \text{otherwise}
    \end{cases} \\
    R_t &= P_t^* g_t \\
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, R_t \\
    v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, |R_t|^2 \\
    \hat m_t &= m_t / (1 - \beta_1^t), \qquad \hat v_t = v_t / (1 - \beta_2^t) \\
    u_t &= -\alpha_t \left( s\, P_t\, \hat m_t / (\sqrt{\hat v_t} + \varepsilon) +
        \lambda \theta_{t-1} \right)
    \end{aligned}
    $$

    and for the others the same of the transpose. The moments stay as they are where
    the subspace changes. A convolution kernel (out, in, ...) is the matrix (out, in ·
    ...).

    This is optax's rule, of which the state of $n \times m$ has $nr + 2mr$ numbers for
    the longer side $n$. The paper's projects the shorter side, for $2nr + mr$; and its
    code has $s$ = 0.25. optax takes the singular vectors in float32 whatever the
    parameters' dtype, which here is only the least. Derivatives of training take the
    subspaces as given.

    **Arguments:**

    - `learning_rate`: $\alpha \ge 0$, of the matrices alone.
    - `rank`: $r$, an integer. Default 128. At most the shorter side is of use, and
        taken.
    - `update_proj_gap`: $T$, an integer. Default 200. A singular value decomposition
        costs as much as many steps.
    - `scale`: $s \ge 0$. Default 1.
    - `weight_decay`: $\lambda \ge 0$. Default 0.
    - `mask`: which matrices decay: a tree of booleans that is a prefix of the model, or
        a function of `(path, array)`. By default all do.
    - `b1`: keyword only, as all that follow. $\beta_1 \in [0, 1)$. Default 0.9.
    - `b2`: $\beta_2 \in [0, 1)$. Default 0.999.
    - `eps`: $\varepsilon \ge 0$, outside the root. Default 1e-8.
    - `matrices`: which parameters are matrices, as for [`eqxopt.Muon`][]: `True` or
        `"matrix"`, `"stack"`, or `False` or `"fallback"` for each, by a function of
        `(path, array)` or a tree that is a prefix of the model.
    - `fallback`: the optimizer of the other parameters. Default `AdamW(3e-4, b2=0.95,
        weight_decay=0.0)`.

    **Raises:** a `ValueError` for a parameter that is to be a matrix but has too few
    axes, with its path.

    **Source:** Zhao et al., [GaLore: Memory-Efficient LLM Training by Gradient Low-Rank
    Projection](https://arxiv.org/abs/2403.03507), 2024, with its code's $r$ and $T$.

    !!! example

        ```pycon
        >>> import equinox as eqx, jax, jax.numpy as jnp, eqxopt
        >>> model = eqx.nn.Linear(8, 10, key=jax.random.key(0))
        >>> opt = eqxopt.GaLore(learning_rate=0.01, rank=2).init(model)
        >>> print(eqxopt.describe(opt, model))
        path     shape    dtype    group   rate    state
        .weight  (10, 8)  float32  matrix  0.01    212 B
        .bias    (10,)    float32  AdamW   0.0003  80 B
        total    90                                292 B

        ```
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    rank: int = integer("[1, inf)", default=128)
    update_proj_gap: int = integer("[1, inf)", default=200)
    scale: Hyperparameter = hyperparameter("[0, inf)", default=1.0)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    mask: OptionalMask = mask_of("weight_decay", default=None)
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9, kw_only=True)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999, kw_only=True)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8, kw_only=True)
    matrices: MatricesField = matrices_of(default=default_matrices)
    fallback: AbstractOptimizer = inner(default_factory=default_fallback, kw_only=True)

    def init_matrix(self, param: AnyLeaf, view: MatrixView) -> Subspace:
        dtype = compute_dtype(param.dtype)
        short, long = sorted((view.rows, view.columns))
        rank = min(self.rank, short)
        return Subspace(
            age=jnp.zeros((), jnp.int32),
            basis=jnp.zeros((view.batch, long, rank), dtype),
            mu=jnp.zeros((view.batch, rank, short), dtype),
            nu=jnp.zeros((view.batch, rank, short), real_dtype(dtype)),
        )

    def update_matrices(
        self,
        rules: Sequence[Any],
        grads: Sequence[AnyLeaf],
        params: Sequence[AnyLeaf],
        states: Sequence[Any],
        views: Sequence[MatrixView],
    ) -> tuple[list[AnyLeaf], list[Any]]:
        count = count_of(self)
        results = [
            _update(rule, count, grad, param, state, view)
            for rule, grad, param, state, view in zip(
                rules, grads, params, states, views
            )
        ]
        return [update for update, _ in results], [state for _, state in results]


@once_per_shape
def _update(
    rule: GaLore,
    count: Int[Array, ""],
    grad: Leaf,
    param: Leaf,
    state: Subspace,
    view: MatrixView,
) -> tuple[Leaf, Subspace]:
    dtype = compute_dtype(param.dtype)
    t, wide = count.astype(real_dtype(dtype)), view.rows < view.columns
    matrices = view.matrices(gathered(grad.astype(dtype)))
    # By the age of the state: the first gradient of a matrix may come late.
    basis = jax.lax.cond(
        state.age % rule.update_proj_gap == 0,
        lambda: leading_vectors(matrices, state.basis.shape[-1]),
        lambda: state.basis,
    )
    low = jnp.swapaxes(basis.conj(), -2, -1) @ transposed_if(wide, matrices)
    mu, nu = ema(state.mu, low, rule.b1), ema(state.nu, abs_sq(low), rule.b2)
    mu_hat, nu_hat = debias(mu, rule.b1, t), debias(nu, rule.b2, t)
    direction = rule.scale * (basis @ (mu_hat / (sqrt(nu_hat) + rule.eps)))
    step = sharded_like(view.array(transposed_if(wide, direction)), param)
    update = -rule.learning_rate * (step + rule.weight_decay * param.astype(dtype))
    return update, Subspace(state.age + 1, basis, mu, nu)


def leading_vectors(x: Matrix, rank: int) -> Inexact[Array, "batch long rank"]:
    """The singular vectors of the largest singular values, along the longer side."""
    wide = x.shape[-2] < x.shape[-1]
    if x.size == 0:
        return transposed_if(wide, x)[..., :rank]
    # Their derivative is infinite where two singular values are equal.
    left, _, right = jnp.linalg.svd(jax.lax.stop_gradient(x), full_matrices=False)
    return (jnp.swapaxes(right, -2, -1) if wide else left)[..., :rank]
