"""Shampoo: gradients divided by roots of their second moments as matrices."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Inexact, Int

from .._abstract.matrixwise import AbstractMatrixOptimizer
from .._abstract.optimizer import AbstractOptimizer, count_of, inner
from .._abstract.together import decayed_step, together
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
from .._math import abs_sq, debias, divide, ema, inverse_power, sqrt, stable_norm
from .._number import integer
from .._types import AnyLeaf, Leaf, Matrix, RealLeaf
from ._fallback import default_fallback
from ._sides import (
    identities,
    laid_out,
    means,
    multiplied,
    outer_products,
    Sides,
    squares,
    whole,
)


class PreconditionedMoments(NamedTuple):
    """Running means of a matrix's gradient, of its square if Adam sets the size of
    steps, and of its outer products; and the roots of these."""

    mu: Leaf
    nu: RealLeaf | None
    factors: Sides
    roots: Sides


class Shampoo(AbstractMatrixOptimizer):
    r"""Gradients divided by roots of their second moments, one for the rows and one for
    the columns, with steps as long as Adam's; another optimizer, by default AdamW, for
    what is no matrix.

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

    where a hat is a division by $1 - \beta^t$. The powers are made in every $f$-th
    step, from eigenvalues and eigenvectors, and stay in between, where a step costs
    matrix products alone. Before the first of them, while gradients are too few to fill
    $L$ and $R$, steps are Adam's. Without `grafting` there is no $v$; then $u_t =
    -\alpha_t (d_t + \lambda \theta_{t-1})$, and the first powers are the identity.

    The first paper sums $g g^*$ where this has running means, as PyTorch's Distributed
    Shampoo does with $\beta_2 < 1$, which this follows. That splits large matrices into
    blocks; here a side that is too long has no power.

    Training can be differentiated through the powers too, which are smooth where
    eigenvectors are not.

    A convolution kernel (out, in, ...) is the matrix (out, in · ...); what is a matrix
    is said as in [`eqxopt.Muon`][].

    **Arguments:**

    - `learning_rate`: $\alpha \ge 0$, of the matrices alone. With grafting that of Adam
        fits.
    - `b1`: $\beta_1 \in [0, 1)$. Default 0.9.
    - `b2`: $\beta_2 \in [0, 1)$. Default 0.999.
    - `eps`: $\varepsilon > 0$. Default 1e-12.
    - `weight_decay`: $\lambda \ge 0$. Default 0.
    - `mask`: which matrices decay: a tree of booleans that is a prefix of the model, or
        a function of `(path, array)`. By default all do.
    - `exponent`: $p \ge 0$. Default 0.25. 0.5 is closer to full-matrix Adam.
    - `precondition_frequency`: $f$, an integer of at least 1. Default 10.
    - `max_precond_dim`: a side that is longer has the identity in place of its power,
        and its $L$ or $R$ is not kept. Default 10000.
    - `grafting`: keyword only, as all that follow. Whether steps have the length of
        Adam's. Default `True`.
    - `graft_eps`: $\bar\varepsilon \ge 0$. Default 1e-8.
    - `matrices`: which parameters are matrices: a function of `(path, array)`, or a
        tree that is a prefix of the model, giving `True` or `"matrix"`, `"stack"`,
        `False` or `"fallback"`.
    - `fallback`: the optimizer of the other parameters. Default `AdamW(3e-4, b2=0.95,
        weight_decay=0.0)`.

    **Raises:** a `ValueError` for a parameter that is to be a matrix but has too few
    axes, with its path.

    **Source:** Gupta et al., [Shampoo: Preconditioned Stochastic Tensor
    Optimization](https://arxiv.org/abs/1802.09568), 2018; Shi et al., [A Distributed
    Data-Parallel PyTorch Implementation of the Distributed Shampoo
    Optimizer](https://arxiv.org/abs/2309.06497), 2023; Morwani et al., [A New
    Perspective on Shampoo's Preconditioner](https://arxiv.org/abs/2406.17748), 2024,
    for $p = 1/2$.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda w: jnp.sum((w - 1) ** 2)
        >>> w = jnp.array([[1.0, 2.0], [3.0, -4.0]])
        >>> opt = eqxopt.Shampoo(0.1, precondition_frequency=1).init(w)
        >>> for _ in range(5):
        ...     w, opt = opt.apply(jax.grad(f)(w), w)
        >>> print(f"{f(w):.2f}")
        22.41

        ```
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
    matrices: MatricesField = matrices_of(default=default_matrices)
    fallback: AbstractOptimizer = inner(default_factory=default_fallback, kw_only=True)

    def init_matrix(self, param: AnyLeaf, view: MatrixView) -> PreconditionedMoments:
        dtype, limit = compute_dtype(param.dtype), self.max_precond_dim
        return PreconditionedMoments(
            mu=zeros_like(param),
            nu=real_zeros_like(param) if self.grafting else None,
            factors=squares(view, dtype, limit),
            roots=identities(view, dtype, limit),
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
        pairs = [whole(*each) for each in zip(grads, states, views)]
        new_states = together(_moments, rules, pairs, count)

        def powers(states: list[PreconditionedMoments]) -> list[Sides]:
            return together(functools.partial(_powers, count), rules, states, count)

        # A branch for all of them, which in most steps costs nothing.
        due = count % self.precondition_frequency == 0
        keep = lambda states: [state.roots for state in states]
        roots = jax.lax.cond(due, powers, keep, new_states)
        new_states = [x._replace(roots=new) for x, new in zip(new_states, roots)]
        steps = together(functools.partial(_step, count), rules, new_states, count)
        updates = [decayed_step(*each) for each in zip(rules, steps, params, views)]
        return updates, [laid_out(*each) for each in zip(new_states, params, views)]


def _moments(
    rule: Shampoo, pair: tuple[Matrix, PreconditionedMoments]
) -> PreconditionedMoments:
    grad, old = pair
    outer = outer_products(grad, grad, old.factors)
    return PreconditionedMoments(
        mu=ema(old.mu, grad, rule.b1),
        nu=None if old.nu is None else ema(old.nu, abs_sq(grad), rule.b2),
        factors=means(old.factors, outer, rule.b2),
        roots=old.roots,
    )


def _powers(
    count: Int[Array, ""], rule: Shampoo, state: PreconditionedMoments
) -> Sides:
    def power(factor: Inexact[Array, "batch n n"]) -> Inexact[Array, "batch n n"]:
        whole = debias(factor, rule.b2, count.astype(rule.b2.dtype))
        return inverse_power(whole, rule.eps, rule.exponent)

    return jtu.tree_map(power, state.factors)


def _step(count: Int[Array, ""], rule: Shampoo, state: PreconditionedMoments) -> Matrix:
    t = count.astype(rule.b1.dtype)
    mean = debias(state.mu, rule.b1, t)
    step = multiplied(mean, state.roots)
    if state.nu is None:
        return step
    adam = divide(mean, sqrt(debias(state.nu, rule.b2, t)) + rule.graft_eps)
    lengths = (stable_norm(x, axes=(-2, -1)) for x in (adam, step))
    grafted = step * divide(*lengths)
    return jnp.where(count < rule.precondition_frequency, adam, grafted)
