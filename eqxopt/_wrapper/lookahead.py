"""Fast weights that explore, slow weights that follow."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from .._abstract.optimizer import (
    AbstractOptimizer,
    add_updates,
    count_of,
    inner,
)
from .._abstract.rules import gradients, reached, rules, started, states_of
from .._compile.once import once_per_shape
from .._fields import Hyperparameter, hyperparameter
from .._math import own_copy, select, zero_count
from .._tree import Parameters, replace_fields
from .._types import Count, Leaf, Scalar, Self


M = TypeVar("M")


class Slow(NamedTuple):
    """A parameter's slow weights."""

    slow: Leaf


class Lookahead(AbstractOptimizer):
    r"""Lookahead: after every $k$ steps, goes part of the way back that they went.

    $$
    \begin{aligned}
    \theta &\leftarrow \theta + u_t && \text{in every step} \\
    \phi &\leftarrow \phi + \alpha (\theta - \phi), \quad \theta \leftarrow \phi
        && \text{and after it, in every } k\text{-th}
    \end{aligned}
    $$

    The model holds the fast weights $\theta$, with which gradients are computed;
    `opt.eval_params(model)` gives the slow weights $\phi$, which are kept in at least
    float32. What changes updates belongs inside of it.

    **Arguments:**

    - `optimizer`: any optimizer, which gives $u_t$.
    - `sync_period`: $k \ge 1$, a number or a schedule. Default 6.
    - `slow_step_size`: $\alpha \in [0, 1]$. Default 0.5.
    - `reset_state`: whether `optimizer` starts anew after every $k$-th step, its
        schedules too. Keyword only. Default `False`.

    **Source:** Zhang et al., [Lookahead Optimizer: k steps forward, 1 step
    back](https://arxiv.org/abs/1907.08610), 2019. Its experiments take $k$ of 5 to 20
    and $\alpha$ of 0.5 and 0.8; 6 and 0.5 are the usual defaults.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = jnp.array(1.0)
        >>> opt = eqxopt.Lookahead(eqxopt.SGD(0.1), sync_period=3).init(params)
        >>> for _ in range(3):
        ...     params, opt = opt.apply(jnp.ones(()), params)
        ...     print(f"{params:.2f}", f"{opt.eval_params(params):.2f}")
        0.90 1.00
        0.80 1.00
        0.85 0.85

        ```
    """

    optimizer: AbstractOptimizer = inner()
    sync_period: Hyperparameter = hyperparameter("[1, inf)", default=6)
    slow_step_size: Hyperparameter = hyperparameter("[0, 1]", default=0.5)
    reset_state: bool = eqx.field(default=False, static=True, kw_only=True)
    fast_steps: Count = eqx.field(default=None, init=False)
    """The steps since the slow weights moved."""

    def init(self, params: PyTree) -> Self:
        parameters = Parameters(params)
        return replace_fields(
            started(self, parameters),
            optimizer=self.optimizer.init(params),
            state=parameters.tree([Slow(own_copy(p)) for p in parameters.arrays]),
            fast_steps=zero_count(),
        )

    def update(
        self,
        grads: PyTree,
        params: PyTree,
        *,
        value: Any = None,
        value_fn: Callable[..., Any] | None = None,
    ) -> tuple[PyTree, Self]:
        count = count_of(self) + 1
        parameters = Parameters(params)
        grad_leaves = gradients(self, grads, parameters)
        states = states_of(self, parameters, grad_leaves)
        fast_updates, optimizer = self.optimizer.update(
            grads, params, value=value, value_fn=value_fn
        )
        updates = parameters.align(fast_updates, "the updates")
        fast_steps = self.fast_steps + 1
        sync = reached(self, fast_steps, "sync_period")
        for i, rule in enumerate(rules(self, parameters)):
            if grad_leaves[i] is not None and updates[i] is not None:
                updates[i], slow = _synchronized(
                    states[i].slow,
                    parameters.arrays[i],
                    updates[i],
                    rule.slow_step_size,
                    sync,
                )
                states[i] = Slow(slow)
        new_updates = parameters.tree(updates)
        if self.reset_state:
            fresh = self.optimizer.init(add_updates(params, new_updates))
            optimizer = select(sync, fresh, optimizer)
        return new_updates, replace_fields(
            self,
            optimizer=optimizer,
            count=count,
            state=parameters.tree(states),
            fast_steps=jnp.where(sync, 0, fast_steps),
        )

    def eval_params(self, params: M) -> M:
        count_of(self)
        parameters = Parameters(params)
        slow = parameters.align(self.state, "`Lookahead`: the slow weights")
        return parameters.tree(
            [
                param if own is None else own.slow.astype(param.dtype, copy=True)
                for param, own in zip(parameters.arrays, slow)
            ],
            rest=True,
        )


@once_per_shape
def _synchronized(
    slow: Leaf, param: Leaf, update: Leaf, step_size: Scalar, sync: Bool[Array, ""]
) -> tuple[Leaf, Leaf]:
    param = param.astype(slow.dtype)
    new = slow + step_size * (param + update - slow)
    return jnp.where(sync, new - param, update), jnp.where(sync, new, slow)
