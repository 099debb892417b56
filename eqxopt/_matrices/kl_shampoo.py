"""KL-Shampoo: the Kronecker factors that describe gradients best as a covariance."""

from typing import NamedTuple

import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, Int

from .._abstract.matrixwise import AbstractRefreshedMatrixOptimizer
from .._abstract.nested import fallback_of
from .._dtype import compute_dtype, real_dtype, zeros_like
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
from .._math import abs_sq, ema, no_update, plus_one, product, squarable
from .._number import integer
from .._types import FirstMoment, Leaf, Matrix, Scalar
from ._fallback import Fallback, settle_fallback
from ._sides import (
    averaged,
    first_age,
    identities,
    orthonormalized,
    outer_products,
    rotated,
    rotated_back,
    Sides,
    squares,
    unfolded,
    with_first_bases,
)


class WhitenedMomentum(NamedTuple):
    """The number of gradients of a matrix; their running mean and that of their
    whitened outer products; bases in which these are nearly diagonal; and running means
    of the diagonals, with the shapes (batch, rows, 1) and (batch, 1, columns)."""

    age: Int[Array, "batch 1 1"]
    mu: FirstMoment
    factors: Sides
    bases: Sides
    values: Sides


class KLShampoo(AbstractRefreshedMatrixOptimizer):
    r"""Shampoo with factors estimated together, without need of Adam's step lengths.

    $$
    \begin{aligned}
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
    u_t &= -\alpha_t \left( Q_L \left( \frac{s}{1 + \varepsilon s} \odot Q_L^* m_t Q_R
        \right) Q_R^* + \lambda \theta_{t-1} \right), \qquad
        s_{ij} = (l_i r_j)^{-1/2} \\
    L_t &= \beta_2 L_{t-1} + \frac{1 - \beta_2}{n_\text{in}}\, g_t\, Q_R\,
        \mathrm{diag}(r)^{-1} Q_R^* g_t^* \\
    R_t &= \beta_2 R_{t-1} + \frac{1 - \beta_2}{n_\text{out}}\, g_t^*\, Q_L\,
        \mathrm{diag}(l)^{-1} Q_L^* g_t \\
    l_t &= \beta_2 l_{t-1} + (1 - \beta_2)\, \mathrm{mean}_j\, |Q_L^* g_t
        Q_R|_{ij}^2 / r_j \\
    r_t &= \beta_2 r_{t-1} + (1 - \beta_2)\, \mathrm{mean}_i\, |Q_L^* g_t
        Q_R|_{ij}^2 / l_i
    \end{aligned}
    $$

    where the right sides have $l$ and $r$ of the update before. $L \otimes R$ is the
    covariance with the least Kullback-Leibler divergence from that of the gradients;
    $l$ and $r$ are its eigenvalues in bases that lag behind.

    The first update moves nothing: it makes $L$ and $R$ from $g g^* / n_\text{in}$ and
    $g^* g / n_\text{out}$, and sets $l = r = s_0$. The second begins with the bases of
    their eigenvectors. After every $f$ further updates, $Q_L \leftarrow \mathrm{qr}(L
    Q_L)$, and $Q_R$ likewise. All other updates cost matrix products alone. Only
    updates in which a matrix has a gradient count for it; where its first is not the
    first of all, it decays in that one. $L$ and $R$ are Hermitian,
    and the state holds one triangle of each.

    This is the authors' code, with its lower bound $c^{-2}$ on $l$ and $r$, $c =
    \max(10, \min(n, 4000))$ for a side of length $n$. There, the decay acts on what the
    step has already moved, and bfloat16 is computed in bfloat16. As there, $m$ has no
    bias correction. Derivatives of training take the bases as constants, because
    eigenvectors are not a smooth function where eigenvalues meet.

    **Arguments:** the last two are keyword only.

    - `learning_rate`: $\alpha$ of the matrices, in [0, inf).
    - `b1`: $\beta_1$, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, in [0, 1). Default 0.98.
    - `eps`: $\varepsilon$, in [0, inf). Default 1e-8.
    - `weight_decay`: $\lambda$, in [0, inf). Default 0.01.
    - `mask`: which matrices decay, a [selector][selectors]. Default: all.
    - `init_factor`: $s_0$, in (0, inf). Default 0.1.
    - `precondition_frequency`: $f$, an integer in [1, inf). Default 10.
    - `max_precond_dim`: the longest side that is rotated and scaled, an integer in [1,
        inf). Of a longer side $Q$ is the identity and $l$ or $r$ is 1. Default 10000.
    - `matrices`: which parameters are matrices, a [selector][matrices-and-the-rest].
    - `fallback`: trains the rest: an optimizer, or a function that makes one from the
        learning rate, such as `eqxopt.AdamW`. Default
        `AdamW(learning_rate, b2=0.95, weight_decay=0.0)`.

    **Raises:** a `ValueError` with the path of a matrix that has too few axes.

    **Source:** Lin et al., [Understanding and Improving Shampoo and SOAP via
    Kullback-Leibler Minimization](https://arxiv.org/abs/2509.03378), 2025, with the
    defaults of [its code](https://github.com/yorkerlin/KL-Methods).
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.98)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.01)
    mask: OptionalMask = mask_of("weight_decay", default=None)
    init_factor: Hyperparameter = hyperparameter("(0, inf)", default=0.1)
    precondition_frequency: int = integer("[1, inf)", default=10)
    max_precond_dim: int = integer("[1, inf)", default=10000)
    matrices: MatricesField = matrices_of(default=default_matrices, kw_only=True)
    fallback: Fallback = fallback_of(default=None, kw_only=True)

    def __check_init__(self) -> None:
        settle_fallback(self)

    def init_matrix(self, param: Leaf, view: MatrixView) -> WhitenedMomentum:
        dtype, limit = compute_dtype(param.dtype), self.max_precond_dim
        ones = lambda *shape: jnp.ones((view.batch, *shape), real_dtype(dtype))
        return WhitenedMomentum(
            age=first_age(view),
            mu=zeros_like(param),
            factors=squares(view, dtype, limit),
            bases=identities(view, dtype, limit),
            values=Sides(
                ones(view.rows, 1) if view.rows <= limit else None,
                ones(1, view.columns) if view.columns <= limit else None,
            ),
        )

    def accumulate(
        self, t: Scalar, grad: Matrix, state: WhitenedMomentum
    ) -> tuple[Matrix, WhitenedMomentum]:
        grad, age = squarable(grad), plus_one(state.age)
        mu = jnp.where(age == 1, state.mu, ema(state.mu, grad, self.b1))
        return grad, state._replace(age=age, mu=mu)

    def due(
        self, count: Int[Array, ""], state: WhitenedMomentum
    ) -> Bool[Array, "batch 1 1"]:
        # At the beginning of the update after the one that the factors are from.
        age = state.age
        return (age > 1) & ((age - 2) % self.precondition_frequency == 0)

    def refresh(
        self, t: Scalar, x: Matrix, state: WhitenedMomentum
    ) -> WhitenedMomentum:
        factors = unfolded(state.factors)
        products = jtu.tree_map(product, factors, state.bases)
        moved = orthonormalized(products)
        bases = with_first_bases(state.age == 2, factors, moved)
        return state._replace(bases=bases)

    def precondition(
        self, t: Scalar, x: Matrix, state: WhitenedMomentum
    ) -> tuple[Matrix, WhitenedMomentum]:
        bases, values = state.bases, state.values
        _, rows, columns = x.shape
        left, right = inverse_root(values.left), inverse_root(values.right)
        scale = left * right / (1 + self.eps * left * right)
        direction = rotated_back(scale * rotated(state.mu, bases), bases)

        # Each side once the other is whitened, as a mean over the other.
        left, right = left / rows**0.5, right / columns**0.5
        by_rows = rotated(x, bases._replace(left=None))
        by_columns = rotated(x, bases._replace(right=None))
        both = rotated(by_rows, bases._replace(right=None))
        outer = outer_products(right * by_rows, left * by_columns, state.factors)
        diagonals = Sides(
            None if values.left is None else over(abs_sq(right * both), axis=2),
            None if values.right is None else over(abs_sq(left * both), axis=1),
        )
        values = jtu.tree_map(
            lambda x: jnp.where(state.age == 1, self.init_factor, bounded(x)),
            averaged(values, diagonals, self.b2),
        )
        factors = averaged(state.factors, outer, self.b2)
        return direction, state._replace(factors=factors, values=values)

    def step(self, t: Scalar, direction: Leaf, param: Leaf) -> Leaf:
        update = -self.learning_rate * (direction + self.weight_decay * param)
        return jnp.where(t == 1, no_update(update), update)


def inverse_root(
    values: Float[Array, "batch r c"] | None,
) -> float | Float[Array, "batch r c"]:
    return 1.0 if values is None else 1 / jnp.sqrt(values)


def over(x: Float[Array, "batch r c"], axis: int) -> Float[Array, "batch _ _"]:
    return jnp.sum(x, axis=axis, keepdims=True)


def bounded(values: Float[Array, "batch r c"]) -> Float[Array, "batch r c"]:
    """The eigenvalues of a side, not below the bound of the authors' code."""
    length = max(values.shape[1:])
    return jnp.maximum(values, max(10, min(length, 4000)) ** -2)
