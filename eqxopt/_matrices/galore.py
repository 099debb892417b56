"""GaLore: Adam in a subspace of the gradients."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Inexact, Int

from .._abstract.matrixwise import AbstractRefreshedMatrixOptimizer
from .._abstract.nested import fallback_of
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
)
from .._math import (
    abs_sq,
    adjoint,
    debias,
    divide,
    ema,
    plus_one,
    sqrt,
    squarable,
    svd,
)
from .._number import integer
from .._types import FirstMoment, Leaf, Matrix, Scalar, SecondMoment
from ._fallback import Fallback, settle_fallback
from ._sides import transposed_if


class Subspace(NamedTuple):
    """The number of updates of a matrix; the projection of its longer side; and running
    means of the projected gradient and of its square."""

    age: Int[Array, "batch 1 1"]
    projection: Inexact[Array, "batch rank long"]
    mu: FirstMoment
    nu: SecondMoment


class GaLore(AbstractRefreshedMatrixOptimizer):
    r"""Adam of every matrix in the subspace in which its gradient is largest, which
    takes little memory. For a matrix of at least as many rows as columns,

    $$
    \begin{aligned}
    P_t &= \begin{cases}
        U^* \text{ of the first } r \text{ left singular vectors } U \text{ of } g_t &
            \text{if } T \text{ divides } t - 1 \\
        P_{t-1} & \text{otherwise}
    \end{cases} \\
    R_t &= P_t g_t \\
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, R_t \\
    v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, |R_t|^2 \\
    \hat m_t &= m_t / (1 - \beta_1^t), \qquad \hat v_t = v_t / (1 - \beta_2^t) \\
    u_t &= -\alpha_t \left( s\, P_t^*\, \hat m_t / (\sqrt{\hat v_t} + \varepsilon) +
        \lambda \theta_{t-1} \right)
    \end{aligned}
    $$

    and for the others the same of the transpose. The moments stay as they are where the
    subspace changes. This is optax's rule, of which the state of $n \times m$ has $nr +
    2mr$ numbers for the longer side $n$. The paper's projects the shorter side, for
    $2nr + mr$, and its code has $s = 0.25$. optax takes the singular vectors in float32
    whatever the dtype of the parameters; here float32 is the least. Derivatives of
    training take the subspaces as constants.

    **Arguments:** keyword only from `b1` on.

    - `learning_rate`: $\alpha$ of the matrices, in [0, inf).
    - `rank`: $r$, an integer in [1, inf), at most the shorter side. Default 128.
    - `update_proj_gap`: $T$, an integer in [1, inf). Default 200. A singular value
        decomposition costs as much as many steps.
    - `scale`: $s$, in [0, inf). Default 1.
    - `weight_decay`: $\lambda$, in [0, inf). Default 0.
    - `mask`: which matrices decay, a [selector][selectors]. Default: all.
    - `b1`: $\beta_1$, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, in [0, 1). Default 0.999.
    - `eps`: $\varepsilon$, in [0, inf), outside the root. Default 1e-8.
    - `matrices`: which parameters are matrices, a [selector][matrices-and-the-rest].
    - `fallback`: trains the rest: an optimizer, or a function that makes one from the
        learning rate, such as `eqxopt.AdamW`. Default
        `AdamW(learning_rate, b2=0.95, weight_decay=0.0)`.

    **Raises:** a `ValueError` with the path of a matrix that has too few axes.

    **Source:** Zhao et al., [GaLore: Memory-Efficient LLM Training by Gradient Low-Rank
    Projection](https://arxiv.org/abs/2403.03507), 2024, with its code's $r$ and $T$.

    !!! example

        ```pycon
        >>> import equinox as eqx, jax, jax.numpy as jnp, eqxopt
        >>> model = eqx.nn.Linear(8, 10, key=jax.random.key(0))
        >>> opt = eqxopt.GaLore(learning_rate=0.01, rank=2).init(model)
        >>> print(eqxopt.describe(opt, model))
        path     shape    dtype    group   rate  state
        .weight  (10, 8)  float32  matrix  0.01  212 B
        .bias    (10,)    float32  AdamW   0.01  80 B
        total    90                              292 B

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
    matrices: MatricesField = matrices_of(default=default_matrices, kw_only=True)
    fallback: Fallback = fallback_of(default=None, kw_only=True)

    def __check_init__(self) -> None:
        settle_fallback(self)

    def init_matrix(self, param: Leaf, view: MatrixView) -> Subspace:
        dtype = compute_dtype(param.dtype)
        short, long = sorted((view.rows, view.columns))
        rank = min(self.rank, short)
        return Subspace(
            age=jnp.zeros((view.batch, 1, 1), jnp.int32),
            projection=jnp.zeros((view.batch, rank, long), dtype),
            mu=jnp.zeros((view.batch, rank, short), dtype),
            nu=jnp.zeros((view.batch, rank, short), real_dtype(dtype)),
        )

    def accumulate(
        self, t: Scalar, grad: Matrix, state: Subspace
    ) -> tuple[Matrix, Subspace]:
        return squarable(grad), state

    def due(self, count: Int[Array, ""], state: Subspace) -> Bool[Array, "batch 1 1"]:
        # By the age of each matrix: its first gradient may come late.
        return state.age % self.update_proj_gap == 0

    def refresh(self, t: Scalar, x: Matrix, state: Subspace) -> Subspace:
        return state._replace(projection=leading_vectors(x, state.mu.shape[1]))

    def precondition(
        self, t: Scalar, x: Matrix, state: Subspace
    ) -> tuple[Matrix, Subspace]:
        age, p, mu, nu = state
        wide = x.shape[1] < x.shape[2]
        low = p @ transposed_if(wide, x)
        mu = ema(mu, low, self.b1)
        nu = ema(nu, abs_sq(low), self.b2)
        mu_hat, nu_hat = debias(mu, self.b1, t), debias(nu, self.b2, t)
        scaled = divide(mu_hat, sqrt(nu_hat) + self.eps)
        direction = self.scale * (adjoint(p) @ scaled)
        return transposed_if(wide, direction), Subspace(plus_one(age), p, mu, nu)

    def step(self, t: Scalar, direction: Leaf, param: Leaf) -> Leaf:
        return -self.learning_rate * (direction + self.weight_decay * param)


def leading_vectors(x: Matrix, rank: int) -> Inexact[Array, "batch rank long"]:
    """The adjoint of the longer side's singular vectors of largest singular values."""
    # Their derivative is infinite where two singular values are equal.
    left, _, right = svd(jax.lax.stop_gradient(x))
    wide = x.shape[1] < x.shape[2]
    return (right.conj() if wide else adjoint(left))[:, :rank]
