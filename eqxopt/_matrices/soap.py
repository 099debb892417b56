"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Int

from .._abstract.matrixwise import AbstractMatrixOptimizer
from .._abstract.optimizer import AbstractOptimizer, inner
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
from .._math import abs_sq, divide, ema, one_minus_power, product, sqrt
from .._number import integer
from .._types import AnyLeaf, Leaf, Matrix, RealLeaf
from ._fallback import default_fallback
from ._sides import (
    identities,
    means,
    orthonormal,
    outer_products,
    rotated,
    rotated_back,
    rotated_updates,
    Sides,
    squares,
)


class RotatedMoments(NamedTuple):
    """Running means of a matrix's gradient; of its square in the eigenbases; of its
    outer products; and these bases."""

    mu: Leaf
    nu: RealLeaf
    factors: Sides
    bases: Sides


class SOAP(AbstractMatrixOptimizer):
    r"""Adam in the eigenbasis of Shampoo's preconditioner, where gradients are nearly
    uncorrelated; another optimizer, by default AdamW, for what is no matrix.

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

    The first step moves nothing: it makes $L$ and $R$, and the bases $Q_L$ and $Q_R$ of
    their eigenvectors. After every $f$-th of the others, the columns of the bases, and
    the entries of $v$ with them, are sorted by $q^* L q$, and follow $L$ and $R$ by one
    step of power iteration, $Q_L \leftarrow \mathrm{qr}(L Q_L)$. In between a step
    costs matrix products alone.

    A convolution kernel (out, in, ...) is the matrix (out, in · ...); what is a matrix
    is said as in [`eqxopt.Muon`][]. This is the authors' code, but for the decay, which
    there acts on what the step has already moved. As there, $\varepsilon$ meets $v$
    before its bias is corrected.

    Training can be differentiated with the bases taken as constants, because
    eigenvectors are no smooth function where eigenvalues meet.

    **Arguments:**

    - `learning_rate`: $\alpha \ge 0$, of the matrices alone. The paper has 3e-3.
    - `b1`: $\beta_1 \in [0, 1)$. Default 0.95.
    - `b2`: $\beta_2 \in [0, 1)$. Default 0.95.
    - `shampoo_beta`: $\beta_s \in [0, 1)$. Default `None`, for $\beta_2$.
    - `eps`: $\varepsilon \ge 0$. Default 1e-8.
    - `weight_decay`: $\lambda \ge 0$. Default 0.01.
    - `mask`: which matrices decay: a tree of booleans that is a prefix of the model, or
        a function of `(path, array)`. By default all do.
    - `precondition_frequency`: $f$, an integer of at least 1. Default 10.
    - `max_precond_dim`: a side that is longer is not rotated: its $Q$ is the identity,
        and its $L$ or $R$ is not kept. Default 10000.
    - `matrices`: keyword only. Which parameters are matrices: a function of `(path,
        array)`, or a tree that is a prefix of the model, giving `True` or `"matrix"`,
        `"stack"`, `False` or `"fallback"`.
    - `fallback`: keyword only. The optimizer of the other parameters. Default
        `AdamW(3e-4, b2=0.95, weight_decay=0.0)`.

    **Raises:** a `ValueError` for a parameter that is to be a matrix but has too few
    axes, with its path.

    **Source:** Vyas et al., [SOAP: Improving and Stabilizing Shampoo using
    Adam](https://arxiv.org/abs/2409.11321), 2024, with the defaults of [its
    code](https://github.com/nikhilvyas/SOAP).

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda w: jnp.sum((w - 1) ** 2)
        >>> w = jnp.array([[1.0, 2.0], [3.0, -4.0]])
        >>> opt = eqxopt.SOAP(learning_rate=0.1).init(w)
        >>> for _ in range(5):
        ...     w, opt = opt.apply(jax.grad(f)(w), w)
        >>> print(f"{f(w):.2f}")
        25.47

        ```
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
    matrices: MatricesField = matrices_of(default=default_matrices)
    fallback: AbstractOptimizer = inner(default_factory=default_fallback, kw_only=True)

    def init_matrix(self, param: AnyLeaf, view: MatrixView) -> RotatedMoments:
        dtype, limit = compute_dtype(param.dtype), self.max_precond_dim
        return RotatedMoments(
            mu=zeros_like(param),
            nu=real_zeros_like(param),
            factors=squares(view, dtype, limit),
            bases=identities(view, dtype, limit),
        )

    def update_matrices(
        self,
        rules: Sequence[Any],
        grads: Sequence[AnyLeaf],
        params: Sequence[AnyLeaf],
        states: Sequence[Any],
        views: Sequence[MatrixView],
    ) -> tuple[list[AnyLeaf], list[Any]]:
        return rotated_updates(
            self, _step, _power_iteration, rules, grads, params, states, views
        )


def _step(
    count: Int[Array, ""], rule: SOAP, pair: tuple[Matrix, RotatedMoments]
) -> tuple[Matrix, dict[str, Any]]:
    """The step of matrices of one size, and what changes in their state."""
    grad, old = pair
    mu = ema(old.mu, grad, rule.b1)
    nu = ema(old.nu, abs_sq(rotated(grad, old.bases)), rule.b2)
    scaled = divide(rotated(mu, old.bases), sqrt(nu) + rule.eps)
    first = count == 1  # which does not count
    t = jnp.maximum(count - 1, 1).astype(nu.dtype)
    unbiased = sqrt(one_minus_power(rule.b2, t)) / one_minus_power(rule.b1, t)
    beta = rule.b2 if rule.shampoo_beta is None else rule.shampoo_beta
    outer = outer_products(grad, grad, old.factors)
    return unbiased * rotated_back(scaled, old.bases), {
        "mu": jnp.where(first, old.mu, mu),
        "nu": jnp.where(first, old.nu, nu),
        "factors": means(old.factors, outer, beta),
    }


def _power_iteration(rule: SOAP, state: RotatedMoments) -> dict[str, Any]:
    """Bases in the order of their eigenvalues, and one iteration further."""
    del rule
    products = jtu.tree_map(product, state.factors, state.bases)
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
    return {"nu": nu, "bases": orthonormal(in_order)}
