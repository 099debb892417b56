"""Mechanic: the learning rate of any optimizer, found while it trains."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._abstract.groups import first_states, groups, where_updated
from .._abstract.nested import inner
from .._abstract.optimizer import AbstractOptimizer
from .._abstract.rules import begun, check_seen, scalar_of
from .._abstract.step import Step
from .._abstract.transform import count_of
from .._compile.once import once_per_shape, summed
from .._dtype import widest_real_dtype
from .._fields import Hyperparameter, hyperparameter
from .._math import inner_product, own_copy, plus_one, sqrt, squarable, squared_norm
from .._number import integer
from .._tree import Parameters, replace_fields
from .._types import AnyLeaf, Leaf, Leaves, Scalar, Self


class Start(NamedTuple):
    r"""A parameter's value before the first update, $\theta_0$."""

    start: Leaf


class Terms(NamedTuple):
    r"""The squared norms of a parameter and of its gradient, and the inner products of
    both with $\theta_0 - \theta_{t-1}$."""

    param_squares: Scalar
    grad_squares: Scalar
    param_back: Scalar
    grad_back: Scalar


class Bets(NamedTuple):
    r"""$m_t$, $v_t$, $r_t$ and $s_t$, with an entry for each $\beta_i$."""

    largest: Float[Array, " bettors"]
    squares: Float[Array, " bettors"]
    reward: Float[Array, " bettors"]
    scale: Float[Array, " bettors"]


class Mechanic(AbstractOptimizer):
    r"""Mechanic: learns a factor for the updates of another optimizer.

    $$
    \begin{aligned}
    \Delta_t &= (\theta_0 - \theta_{t-1}) / (\textstyle\sum_i s_{t-1,i} +
        \varepsilon) \\
    h_t &= \left\langle \Delta_t,\; g_t + \lambda \textstyle\sum_i s_{t-1,i}
        \frac{\|g_t\|}{\|\theta_{t-1}\| + \varepsilon}\, \theta_{t-1} \right\rangle \\
    r_{t,i} &= \beta_i r_{t-1,i} + s_{t-1,i} \max(-m_{t-1,i}, \min(h_t, m_{t-1,i})) \\
    m_{t,i} &= \max(\beta_i m_{t-1,i}, |h_t| + \varepsilon), \qquad
    v_{t,i} = \beta_i^2 v_{t-1,i} + h_t^2 \\
    s_{t,i} &= \frac{(s_0 / n)\, m_{t,i} + \max(0, r_{t,i})}
        {\sqrt{v_{t,i}} + \varepsilon} \\
    \theta_t &= \theta_0 - \textstyle\sum_i s_{t,i}\, (\Delta_t - u_t)
    \end{aligned}
    $$

    with $\beta_i = 1 - 10^{-i}$ for $i = 1, \dots, n$, and $s_{0,i} = s_0$. Products
    and norms are those of all parameters together. Updates are multiplied by
    `opt.scale`, $\sum_i s_i$. Give the wrapped optimizer a learning rate of 1, or a
    schedule relative to 1. If the first update is below the precision of the
    parameters, it is lost, and so are all that follow. The wrapped optimizer should not
    normalize its updates by itself, as LARS and LAMB do. As in optax, $h_t$ is clipped
    to $m_{t-1,i}$ in $r_{t,i}$, which the paper does not do. A negative $r_{t,i}$ is
    kept; the authors' package sets it to 0.

    **Arguments:**

    - `optimizer`: any optimizer, which gives $u_t$.
    - `weight_decay`: $\lambda$, in [0, inf), added to that of `optimizer`. It makes
        results vary less between seeds. Default 0.01.
    - `eps`: $\varepsilon$, in (0, inf). Default 1e-8.
    - `s_init`: $s_0$, in (0, inf), the first scale, meant too small. Default 1e-6.
    - `num_betas`: $n$, an integer in [1, inf). Default 6.

    **Source:** Cutkosky et al., [Mechanic: A Learning Rate
    Tuner](https://arxiv.org/abs/2306.00144), 2023.
    """

    optimizer: AbstractOptimizer = inner()
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=1e-2)
    eps: Hyperparameter = hyperparameter("(0, inf)", default=1e-8)
    s_init: Hyperparameter = hyperparameter("(0, inf)", default=1e-6)
    num_betas: int = integer("[1, inf)", default=6)
    bets: Bets | None = eqx.field(default=None, init=False)

    @property
    def scale(self) -> Scalar:
        """The factor of the wrapped optimizer's updates."""
        count_of(self)
        assert self.bets is not None
        return jnp.sum(self.bets.scale)

    def start(self, parameters: Parameters) -> Self:
        new = begun(self, parameters)
        dtype = widest_real_dtype(parameters.arrays)
        zeros = lambda: jnp.zeros(self.num_betas, dtype)
        for name in ("weight_decay", "eps"):
            scalar_of(new, name)  # raises an error for a choice per parameter
        first = scalar_of(new, "s_init").astype(dtype)
        starts = [Start(own_copy(param)) for param in parameters.arrays]
        return replace_fields(
            new,
            optimizer=self.optimizer.start(parameters),
            kept=first_states(parameters, starts),
            bets=Bets(zeros(), zeros(), zeros(), scale=zeros() + first),
        )

    def advance(self, step: Step) -> tuple[Leaves, Self]:
        parameters, params = step.parameters, step.parameters.arrays
        count = plus_one(count_of(self))
        check_seen(self, step)
        inner_updates, optimizer = self.optimizer.advance(step)
        new = replace_fields(self, optimizer=optimizer, count=count)
        updates: Leaves = [None] * len(params)
        both = where_updated(step.grads, inner_updates)
        every_group = groups(self, parameters, both)
        for group in every_group:
            group.check_shape()
        if every_group:
            terms = [
                group.numbers(
                    group.call(
                        _terms, group.of(both), group.of(params), group.state.start
                    )
                )
                for group in every_group
            ]
            before, bets = self._bet(summed(terms, widest_real_dtype(params)))
            after = jnp.sum(bets.scale)
            for group in every_group:
                each = map(group.of, (inner_updates, params))
                update = group.call(_rescaled, *each, group.state.start, before, after)
                group.part(update, updates)
            new = replace_fields(new, bets=bets)
        return updates, new

    def evaluate(self, parameters: Parameters) -> list[AnyLeaf]:
        return self.optimizer.evaluate(parameters)

    def _bet(self, sums: Terms) -> tuple[Scalar, Bets]:
        r"""$\sum_i s_{t-1,i} + \varepsilon$, and the next bets."""
        bets = self.bets
        assert bets is not None
        dtype = bets.scale.dtype
        weight_decay, eps, s_init = (
            scalar_of(self, name).astype(dtype)
            for name in ("weight_decay", "eps", "s_init")
        )
        betas = 1 - 0.1 ** jnp.arange(1, self.num_betas + 1, dtype=dtype)
        scale = jnp.sum(bets.scale)
        decay = weight_decay * scale * sqrt(sums.grad_squares)
        decay = decay / (sqrt(sums.param_squares) + eps)
        h = squarable((sums.grad_back + decay * sums.param_back) / (scale + eps))
        reward = betas * bets.reward + bets.scale * jnp.clip(
            h, -bets.largest, bets.largest
        )
        largest = jnp.maximum(betas * bets.largest, jnp.abs(h) + eps)
        squares = jnp.square(betas) * bets.squares + jnp.square(h)
        wealth = s_init / self.num_betas * largest + jnp.maximum(reward, 0)
        return scale + eps, Bets(
            largest, squares, reward, scale=wealth / (sqrt(squares) + eps)
        )


@once_per_shape
def _terms(grad: Leaf, param: Leaf, start: Leaf) -> Terms:
    grad, param = squarable(grad.astype(start.dtype)), param.astype(start.dtype)
    back = start - param
    return Terms(
        param_squares=squared_norm(param),
        grad_squares=squared_norm(grad),
        param_back=inner_product(param, back),
        grad_back=inner_product(grad, back),
    )


@once_per_shape
def _rescaled(
    update: Leaf, param: Leaf, start: Leaf, before: Scalar, after: Scalar
) -> Leaf:
    param = param.astype(start.dtype)
    before, after = before.astype(start.real.dtype), after.astype(start.real.dtype)
    return start - after * ((start - param) / before - update) - param
