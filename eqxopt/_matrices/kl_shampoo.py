"""KL-Shampoo: the Kronecker factors that describe gradients best as a covariance."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, Int

from .._abstract.matrixwise import AbstractMatrixOptimizer
from .._abstract.optimizer import AbstractOptimizer, inner
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
from .._math import abs_sq, ema, product
from .._number import integer
from .._types import AnyLeaf, Leaf, Matrix
from ._fallback import default_fallback
from ._sides import (
    identities,
    means,
    ones,
    orthonormal,
    outer_products,
    rotated,
    rotated_back,
    rotated_updates,
    Sides,
    squares,
)


class WhitenedMomentum(NamedTuple):
    """Running means of a matrix's gradient and of its whitened outer products; bases
    in which these are nearly diagonal; and running means of what is there on the
    diagonals."""

    mu: Leaf
    factors: Sides
    bases: Sides
    values: Sides


class KLShampoo(AbstractMatrixOptimizer):
    r"""Shampoo whose factors are estimated together, so that it needs no lengths from
    Adam; another optimizer, by default AdamW, for what is no matrix.

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

    in which the right sides have $l$, $r$ and the bases of the step before. $L \otimes
    R$ is the covariance of gradients with the least Kullback-Leibler divergence from
    theirs; $l$ and $r$ are its eigenvalues in bases that lag behind.

    The first step moves nothing: it makes $L$ and $R$ from $g g^* / n_\text{in}$ and
    $g^* g / n_\text{out}$, the bases of their eigenvectors, and $l = r = s_0$. After
    every $f$-th of the others $Q_L \leftarrow \mathrm{qr}(L Q_L)$, and $Q_R$ likewise.
    In between a step costs matrix products alone.

    This is the authors' code, with its lower bound $c^{-2}$ on $l$ and $r$, $c =
    \max(10, \min(n, 4000))$ for a side of length $n$; but for the decay, which there
    acts on what the step has already moved, and for bfloat16, in which that computes.
    As there, $m$ has no correction of its bias.

    Training can be differentiated with the bases taken as constants, because
    eigenvectors are no smooth function where eigenvalues meet.

    A convolution kernel (out, in, ...) is the matrix (out, in · ...); what is a matrix
    is said as in [`eqxopt.Muon`][].

    **Arguments:**

    - `learning_rate`: $\alpha \ge 0$, of the matrices alone.
    - `b1`: $\beta_1 \in [0, 1)$. Default 0.9.
    - `b2`: $\beta_2 \in [0, 1)$. Default 0.98.
    - `eps`: $\varepsilon \ge 0$. Default 1e-8.
    - `weight_decay`: $\lambda \ge 0$. Default 0.01.
    - `mask`: which matrices decay: a tree of booleans that is a prefix of the model, or
        a function of `(path, array)`. By default all do.
    - `init_factor`: $s_0 > 0$. Default 0.1.
    - `precondition_frequency`: $f$, an integer of at least 1. Default 10.
    - `max_precond_dim`: a side that is longer is not rotated and not scaled: its $Q$ is
        the identity, and its $l$ or $r$ is 1. Default 10000.
    - `matrices`: keyword only. Which parameters are matrices: a function of `(path,
        array)`, or a tree that is a prefix of the model, giving `True` or `"matrix"`,
        `"stack"`, `False` or `"fallback"`.
    - `fallback`: keyword only. The optimizer of the other parameters. Default
        `AdamW(3e-4, b2=0.95, weight_decay=0.0)`.

    **Raises:** a `ValueError` for a parameter that is to be a matrix but has too few
    axes, with its path.

    **Source:** Lin et al., [Understanding and Improving Shampoo and SOAP via
    Kullback-Leibler Minimization](https://arxiv.org/abs/2509.03378), 2025, with the
    defaults of [its code](https://github.com/yorkerlin/KL-Methods).

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda w: jnp.sum((w - 1) ** 2)
        >>> w = jnp.array([[1.0, 2.0], [3.0, -4.0]])
        >>> opt = eqxopt.KLShampoo(learning_rate=0.1).init(w)
        >>> for _ in range(5):
        ...     w, opt = opt.apply(jax.grad(f)(w), w)
        >>> print(f"{f(w):.2f}")
        18.42

        ```
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
    matrices: MatricesField = matrices_of(default=default_matrices)
    fallback: AbstractOptimizer = inner(default_factory=default_fallback, kw_only=True)

    def init_matrix(self, param: AnyLeaf, view: MatrixView) -> WhitenedMomentum:
        dtype, limit = compute_dtype(param.dtype), self.max_precond_dim
        return WhitenedMomentum(
            mu=zeros_like(param),
            factors=squares(view, dtype, limit),
            bases=identities(view, dtype, limit),
            values=ones(view, real_dtype(dtype), limit),
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
    count: Int[Array, ""], rule: KLShampoo, pair: tuple[Matrix, WhitenedMomentum]
) -> tuple[Matrix, dict[str, Any]]:
    """The step of matrices of one size, and what changes in their state."""
    grad, old = pair
    mu = ema(old.mu, grad, rule.b1)
    by_row = _inverse_root(old.values.left, axis=2)
    by_column = _inverse_root(old.values.right, axis=1)
    scale = by_row * by_column / (1 + rule.eps * by_row * by_column)
    step = rotated_back(scale * rotated(mu, old.bases), old.bases)

    rows = rotated(grad, old.bases._replace(left=None))
    columns = rotated(grad, old.bases._replace(right=None))
    both = rotated(rows, old.bases._replace(right=None))
    # What each side sees once the other is whitened, as a mean over the other.
    by_row = by_row / max(grad.shape[1], 1) ** 0.5
    by_column = by_column / max(grad.shape[2], 1) ** 0.5
    outer = outer_products(by_column * rows, by_row * columns, old.factors)
    left, right = abs_sq(by_column * both), abs_sq(by_row * both)
    first = count == 1
    return step, {
        "mu": jnp.where(first, old.mu, mu),
        "factors": means(old.factors, outer, rule.b2),
        "values": Sides(
            _eigenvalues(rule, first, old.values.left, jnp.sum(left, axis=2)),
            _eigenvalues(rule, first, old.values.right, jnp.sum(right, axis=1)),
        ),
    }


def _inverse_root(
    values: Float[Array, "batch n"] | None, axis: int
) -> float | Float[Array, "..."]:
    if values is None:
        return 1.0
    return jnp.expand_dims(1 / jnp.sqrt(values), axis)


def _eigenvalues(
    rule: KLShampoo,
    first: Bool[Array, ""],
    old: Float[Array, "batch n"] | None,
    new: Float[Array, "batch n"],
) -> Float[Array, "batch n"] | None:
    if old is None:
        return None
    least = max(10, min(old.shape[-1], 4000)) ** -2
    mean = jnp.maximum(ema(old, new, rule.b2), least)
    return jnp.where(first, rule.init_factor, mean)


def _power_iteration(rule: KLShampoo, state: WhitenedMomentum) -> dict[str, Any]:
    del rule
    return {"bases": orthonormal(jtu.tree_map(product, state.factors, state.bases))}
