"""Shampoo: gradients divided by roots of their second moments as matrices."""

from typing import NamedTuple

import equinox as eqx
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
    OptionalMask,
)
from .._math import (
    abs_sq,
    debias,
    divide,
    ema,
    inverse_power,
    plus_one,
    sqrt,
    squarable,
    stable_norm,
)
from .._number import integer
from .._types import FirstMoment, Leaf, Matrix, Scalar, SecondMoment
from ._fallback import Fallback, settle_fallback
from ._sides import (
    averaged,
    first_age,
    identities,
    multiplied,
    outer_products,
    Sides,
    squares,
    unfolded,
)


class PreconditionedMoments(NamedTuple):
    """The number of gradients of a matrix; their running mean, that of their squares
    if Adam sets the size of steps, and that of their outer products; and the roots of
    these."""

    age: Int[Array, "batch 1 1"]
    mu: FirstMoment
    nu: SecondMoment | None
    factors: Sides
    roots: Sides


class Shampoo(AbstractRefreshedMatrixOptimizer):
    r"""Gradients divided by roots of their second moments, one for the rows and one for
    the columns, with steps as long as Adam's.

    $$
    \begin{aligned}
    L_t &= \beta_2 L_{t-1} + (1 - \beta_2)\, g_t g_t^*, \qquad
    R_t = \beta_2 R_{t-1} + (1 - \beta_2)\, g_t^* g_t \\
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t, \qquad
    v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, |g_t|^2 \\
    d_t &= (\hat L + \varepsilon I)^{-p}\, \hat m_t\, (\hat R + \varepsilon I)^{-p} \\
    u_t &= -\alpha_t \left( \frac{\|\hat m_t / (\sqrt{\hat v_t} +
        \bar\varepsilon)\|}{\|d_t\|}\, d_t + \lambda \theta_{t-1} \right)
    \end{aligned}
    $$

    where a hat is a division by $1 - \beta^t$. Every $f$-th update makes the powers,
    from eigenvalues and eigenvectors. All other updates keep them and cost matrix
    products alone. Before the first powers, while gradients are too few to fill $L$ and
    $R$, steps are Adam's. Only updates in which a matrix has a gradient count for it.
    Without `grafting` there is no $v$; then $u_t = -\alpha_t
    (d_t + \lambda \theta_{t-1})$, and the first powers are the identity. $L$ and $R$
    are Hermitian, and the state holds one triangle of each.

    The first paper sums $g g^*$. We take running means, as PyTorch's Distributed
    Shampoo does with $\beta_2 < 1$. That one splits large matrices into blocks; here a
    side that is too long has no power. Training can be differentiated through the
    powers too, which are smooth where eigenvectors are not.

    **Arguments:** keyword only from `grafting` on.

    - `learning_rate`: $\alpha$ of the matrices, in [0, inf). With grafting Adam's fits.
    - `b1`: $\beta_1$, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, in [0, 1). Default 0.999.
    - `eps`: $\varepsilon$, in (0, inf). Default 1e-12.
    - `weight_decay`: $\lambda$, in [0, inf). Default 0.
    - `mask`: which matrices decay, a [selector][selectors]. Default: all.
    - `exponent`: $p$, in [0, inf). Default 0.25. 0.5 is closer to full-matrix Adam.
    - `precondition_frequency`: $f$, an integer in [1, inf). Default 10.
    - `max_precond_dim`: the longest side that has a power, an integer in [1, inf). Of a
        longer side the power is the identity; $L$ or $R$ is not kept. Default 10000.
    - `grafting`: whether steps have the length of Adam's. Default `True`.
    - `graft_eps`: $\bar\varepsilon$, in [0, inf). Default 1e-8.
    - `matrices`: which parameters are matrices, a [selector][matrices-and-the-rest].
    - `fallback`: trains the rest: an optimizer, or a function that makes one from the
        learning rate, such as `eqxopt.AdamW`. Default
        `AdamW(learning_rate, b2=0.95, weight_decay=0.0)`.

    **Raises:** a `ValueError` with the path of a matrix that has too few axes.

    **Source:** Gupta et al., [Shampoo: Preconditioned Stochastic Tensor
    Optimization](https://arxiv.org/abs/1802.09568), 2018; Shi et al., [A Distributed
    Data-Parallel PyTorch Implementation of the Distributed Shampoo
    Optimizer](https://arxiv.org/abs/2309.06497), 2023; Morwani et al., [A New
    Perspective on Shampoo's Preconditioner](https://arxiv.org/abs/2406.17748), 2024,
    for $p = 1/2$.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999)
    eps: Hyperparameter = hyperparameter("(0, inf)", default=1e-12)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    mask: OptionalMask = mask_of("weight_decay", default=None)
    exponent: Hyperparameter = hyperparameter("[0, inf)", default=0.25)
    precondition_frequency: int = integer("[1, inf)", default=10)
    max_precond_dim: int = integer("[1, inf)", default=10000)
    grafting: bool = eqx.field(default=True, static=True, kw_only=True)
    graft_eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8, kw_only=True)
    matrices: MatricesField = matrices_of(default=default_matrices, kw_only=True)
    fallback: Fallback = fallback_of(default=None, kw_only=True)

    def __check_init__(self) -> None:
        settle_fallback(self)

    def init_matrix(self, param: Leaf, view: MatrixView) -> PreconditionedMoments:
        dtype, limit = compute_dtype(param.dtype), self.max_precond_dim
        return PreconditionedMoments(
            age=first_age(view),
            mu=zeros_like(param),
            nu=real_zeros_like(param) if self.grafting else None,
            factors=squares(view, dtype, limit),
            roots=identities(view, dtype, limit),
        )

    def accumulate(
        self, t: Scalar, grad: Matrix, state: PreconditionedMoments
    ) -> tuple[Matrix, PreconditionedMoments]:
        grad, age = squarable(grad), plus_one(state.age)
        mu = ema(state.mu, grad, self.b1)
        nu = None if state.nu is None else ema(state.nu, abs_sq(grad), self.b2)
        outer = outer_products(grad, grad, state.factors)
        factors = averaged(state.factors, outer, self.b2)
        mu_hat = debias(mu, self.b1, age.astype(t.dtype))
        return mu_hat, PreconditionedMoments(age, mu, nu, factors, state.roots)

    def due(
        self, count: Int[Array, ""], state: PreconditionedMoments
    ) -> Bool[Array, "batch 1 1"]:
        return state.age % self.precondition_frequency == 0

    def refresh(
        self, t: Scalar, x: Matrix, state: PreconditionedMoments
    ) -> PreconditionedMoments:
        age = state.age.astype(t.dtype)

        def root(factor: Matrix) -> Matrix:
            return inverse_power(debias(factor, self.b2, age), self.eps, self.exponent)

        return state._replace(roots=jtu.tree_map(root, unfolded(state.factors)))

    def precondition(
        self, t: Scalar, x: Matrix, state: PreconditionedMoments
    ) -> tuple[Matrix, PreconditionedMoments]:
        direction = multiplied(x, state.roots)
        if state.nu is None:
            return direction, state
        nu_hat = debias(state.nu, self.b2, state.age.astype(t.dtype))
        adam = divide(x, sqrt(nu_hat) + self.graft_eps)
        lengths = [stable_norm(y, axes=(-2, -1)) for y in (adam, direction)]
        grafted = direction * divide(*lengths)
        return jnp.where(state.age < self.precondition_frequency, adam, grafted), state

    def step(self, t: Scalar, direction: Leaf, param: Leaf) -> Leaf:
        return -self.learning_rate * (direction + self.weight_decay * param)
