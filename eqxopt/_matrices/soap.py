"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

from typing import NamedTuple

import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Int

from .._abstract.matrixwise import AbstractRefreshedMatrixOptimizer
from .._abstract.nested import fallback_of
from .._dtype import compute_dtype, real_zeros_like, zeros_like
from .._fields import (
    default_matrices,
    Hyperparameter,
    hyperparameter,
    mask_of,
    matrices_of,
    MatricesField,
    MatrixView,
    OptionalHyperparameter,
    OptionalMask,
)
from .._math import (
    abs_sq,
    divide,
    ema,
    no_update,
    one_minus_power,
    plus_one,
    product,
    sqrt,
    squarable,
)
from .._number import integer
from .._types import FirstMoment, Leaf, Matrix, Scalar, SecondMoment
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


class RotatedMoments(NamedTuple):
    """The number of gradients of a matrix; their running mean, that of their squares
    in the eigenbases, and that of their outer products; and these bases."""

    age: Int[Array, "batch 1 1"]
    mu: FirstMoment
    nu: SecondMoment
    factors: Sides
    bases: Sides


class SOAP(AbstractRefreshedMatrixOptimizer):
    r"""Adam in the eigenbasis of Shampoo's preconditioner, where gradients are nearly
    uncorrelated.

    $$
    \begin{aligned}
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
    v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, |Q_L^* g_t Q_R|^2 \\
    d_t &= Q_L \frac{Q_L^* m_t Q_R}{\sqrt{v_t} + \varepsilon} Q_R^* \\
    u_t &= -\alpha_t \left( \frac{\sqrt{1 - \beta_2^{t-1}}}{1 - \beta_1^{t-1}}\, d_t +
        \lambda \theta_{t-1} \right) \\
    L_t &= \beta_s L_{t-1} + (1 - \beta_s)\, g_t g_t^*, \qquad
    R_t = \beta_s R_{t-1} + (1 - \beta_s)\, g_t^* g_t
    \end{aligned}
    $$

    The first update moves nothing: it only makes $L$ and $R$. The second begins with
    the bases $Q_L$ and $Q_R$ of their eigenvectors. After every $f$ further updates, we
    sort the columns of the bases, and the entries of $v$ with them, by $q^* L q$, and
    let them follow $L$ and $R$ by one step of power iteration, $Q_L \leftarrow
    \mathrm{qr}(L Q_L)$. All other updates cost matrix products alone. Only updates in
    which a matrix has a gradient count for it; where its first is not the first of all,
    it decays in that one. $L$ and $R$ are Hermitian, and the
    state holds one triangle of each.

    This is the authors' code except for the decay, which there acts on what the step
    has already moved. As there, $\varepsilon$ meets $v$ before the bias correction.
    Derivatives of training take the bases as constants, because eigenvectors are not a
    smooth function where eigenvalues meet.

    **Arguments:** the last two are keyword only.

    - `learning_rate`: $\alpha$ of the matrices, in [0, inf). The paper has 3e-3.
    - `b1`: $\beta_1$, in [0, 1). Default 0.95.
    - `b2`: $\beta_2$, in [0, 1). Default 0.95.
    - `shampoo_beta`: $\beta_s$, in [0, 1). Default `None`, for $\beta_2$.
    - `eps`: $\varepsilon$, in [0, inf). Default 1e-8.
    - `weight_decay`: $\lambda$, in [0, inf). Default 0.01.
    - `mask`: which matrices decay, a [selector][selectors]. Default: all.
    - `precondition_frequency`: $f$, an integer in [1, inf). Default 10.
    - `max_precond_dim`: the longest side that is rotated, an integer in [1, inf). A
        longer side has no $L$ or $R$, and its $Q$ is the identity. Default 10000.
    - `matrices`: which parameters are matrices, a [selector][matrices-and-the-rest].
    - `fallback`: trains the rest: an optimizer, or a function that makes one from the
        learning rate, such as `eqxopt.AdamW`. Default
        `AdamW(learning_rate, b2=0.95, weight_decay=0.0)`.

    **Raises:** a `ValueError` with the path of a matrix that has too few axes.

    **Source:** Vyas et al., [SOAP: Improving and Stabilizing Shampoo using
    Adam](https://arxiv.org/abs/2409.11321), 2024, with the defaults of [its
    code](https://github.com/nikhilvyas/SOAP).
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.95)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.95)
    shampoo_beta: OptionalHyperparameter = hyperparameter("[0, 1)", default=None)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.01)
    mask: OptionalMask = mask_of("weight_decay", default=None)
    precondition_frequency: int = integer("[1, inf)", default=10)
    max_precond_dim: int = integer("[1, inf)", default=10000)
    matrices: MatricesField = matrices_of(default=default_matrices, kw_only=True)
    fallback: Fallback = fallback_of(default=None, kw_only=True)

    def __check_init__(self) -> None:
        settle_fallback(self)

    def init_matrix(self, param: Leaf, view: MatrixView) -> RotatedMoments:
        dtype, limit = compute_dtype(param.dtype), self.max_precond_dim
        return RotatedMoments(
            age=first_age(view),
            mu=zeros_like(param),
            nu=real_zeros_like(param),
            factors=squares(view, dtype, limit),
            bases=identities(view, dtype, limit),
        )

    def accumulate(
        self, t: Scalar, grad: Matrix, state: RotatedMoments
    ) -> tuple[Matrix, RotatedMoments]:
        grad, age = squarable(grad), plus_one(state.age)
        mu = jnp.where(age == 1, state.mu, ema(state.mu, grad, self.b1))
        return grad, state._replace(age=age, mu=mu)

    def due(
        self, count: Int[Array, ""], state: RotatedMoments
    ) -> Bool[Array, "batch 1 1"]:
        # At the beginning of the update after the one that the factors are from.
        age = state.age
        return (age > 1) & ((age - 2) % self.precondition_frequency == 0)

    def refresh(self, t: Scalar, x: Matrix, state: RotatedMoments) -> RotatedMoments:
        factors = unfolded(state.factors)
        moved = power_iteration(state, factors)
        bases = with_first_bases(state.age == 2, factors, moved.bases)
        return moved._replace(bases=bases)

    def precondition(
        self, t: Scalar, x: Matrix, state: RotatedMoments
    ) -> tuple[Matrix, RotatedMoments]:
        nu = ema(state.nu, abs_sq(rotated(x, state.bases)), self.b2)
        scaled = divide(rotated(state.mu, state.bases), sqrt(nu) + self.eps)
        # The first update does not count.
        past = jnp.maximum(state.age - 1, 1).astype(nu.dtype)
        unbiased = sqrt(one_minus_power(self.b2, past)) / one_minus_power(self.b1, past)
        direction = unbiased * rotated_back(scaled, state.bases)
        beta = self.b2 if self.shampoo_beta is None else self.shampoo_beta
        outer = outer_products(x, x, state.factors)
        return direction, state._replace(
            nu=jnp.where(state.age == 1, state.nu, nu),
            factors=averaged(state.factors, outer, beta),
        )

    def step(self, t: Scalar, direction: Leaf, param: Leaf) -> Leaf:
        update = -self.learning_rate * (direction + self.weight_decay * param)
        return jnp.where(t == 1, no_update(update), update)


def power_iteration(state: RotatedMoments, factors: Sides) -> RotatedMoments:
    """The bases in the order of their eigenvalues, and one iteration further."""
    products = jtu.tree_map(product, factors, state.bases)
    order = jtu.tree_map(
        lambda q, p: jnp.argsort(-jnp.sum(q.conj() * p, axis=-2).real, axis=-1),
        state.bases,
        products,
    )
    nu = state.nu
    if order.left is not None:
        nu = jnp.take_along_axis(nu, order.left[:, :, None], axis=1)
    if order.right is not None:
        nu = jnp.take_along_axis(nu, order.right[:, None, :], axis=2)
    in_order = jtu.tree_map(
        lambda p, i: jnp.take_along_axis(p, i[:, None, :], axis=2), products, order
    )
    return state._replace(nu=nu, bases=orthonormalized(in_order))
