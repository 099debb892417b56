"""Fast weights that explore, slow weights that follow."""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool

from .._abstract.groups import first_states, groups, kept_after, where_updated
from .._abstract.nested import inner
from .._abstract.optimizer import AbstractOptimizer
from .._abstract.paths import kept_like
from .._abstract.rules import (
    begun,
    check_seen,
    kept_states,
    reached,
    rules,
)
from .._abstract.step import Step
from .._abstract.transform import count_of
from .._compile.once import once_per_shape
from .._fields import Hyperparameter, hyperparameter
from .._math import lerp, moved, own_copy, plus_one, select, zero_count
from .._tree import Parameters, replace_fields
from .._types import AnyLeaf, Count, Leaf, Leaves, Scalar, Self


class Slow(NamedTuple):
    """A parameter's slow weights."""

    slow: Leaf


class Lookahead(AbstractOptimizer):
    r"""Lookahead: after every $k$ steps, goes back part of their way.

    $$
    \begin{aligned}
    \theta &\leftarrow \theta + u_t && \text{in every step} \\
    \phi &\leftarrow \phi + \alpha (\theta - \phi), \quad \theta \leftarrow \phi
        && \text{and after it, in every } k\text{-th}
    \end{aligned}
    $$

    The model holds the fast weights $\theta$, with which gradients are computed;
    `opt.eval_params(model)` gives the slow weights $\phi$, which are kept in at least
    float32. Put wrappers that change updates inside of it.

    **Arguments:**

    - `optimizer`: any optimizer, which gives $u_t$.
    - `sync_period`: $k$, in [1, inf), a number or a schedule. Default 6.
    - `slow_step_size`: $\alpha$, in [0, 1]. Default 0.5.
    - `reset_state`: whether to restart `optimizer`, schedules included, after every
        $k$-th step. Default `False`. Keyword only.

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

    passes_gradients: ClassVar[bool] = True

    optimizer: AbstractOptimizer = inner()
    sync_period: Hyperparameter = hyperparameter("[1, inf)", default=6)
    slow_step_size: Hyperparameter = hyperparameter("[0, 1]", default=0.5)
    reset_state: bool = eqx.field(default=False, static=True, kw_only=True)
    fast_steps: Count = eqx.field(default=None, init=False)
    """The number of steps since the slow weights moved."""

    def start(self, parameters: Parameters) -> Self:
        slow = [Slow(own_copy(param)) for param in parameters.arrays]
        return replace_fields(
            begun(self, parameters),
            optimizer=self.optimizer.start(parameters),
            kept=first_states(parameters, slow),
            fast_steps=zero_count(),
        )

    def advance(self, step: Step) -> tuple[Leaves, Self]:
        parameters = step.parameters
        count = plus_one(count_of(self))
        check_seen(self, step)
        fast_updates, optimizer = self.optimizer.advance(step)
        fast_steps = plus_one(self.fast_steps)
        sync = reached(self, fast_steps, "sync_period")
        updates = list(fast_updates)
        both = where_updated(step.grads, updates)
        every_rule = rules(replace_fields(self, optimizer=None), parameters)
        states = []
        for group in groups(self, parameters, both, every_rule):
            group.check_shape()
            each = map(group.of, (parameters.arrays, fast_updates))
            update, state = group.call(
                _synchronized, group.state, *each, group.rule.slow_step_size, sync
            )
            group.part(update, updates)
            states.append((group, state))
        if self.reset_state:
            after = parameters.exchange(moved(parameters.arrays, updates))
            fresh = kept_like(self.optimizer.start(after), optimizer)
            optimizer = select(sync, fresh, optimizer)
        return updates, replace_fields(
            self,
            optimizer=optimizer,
            count=count,
            kept=kept_after(self, parameters, states),
            fast_steps=jnp.where(sync, 0, fast_steps),
        )

    def evaluate(self, parameters: Parameters) -> list[AnyLeaf]:
        return [
            param if state is None else state.slow.astype(param.dtype, copy=True)
            for param, state in zip(parameters.arrays, kept_states(self, parameters))
        ]


@once_per_shape
def _synchronized(
    state: Slow, param: Leaf, update: Leaf, step_size: Scalar, sync: Bool[Array, ""]
) -> tuple[Leaf, Slow]:
    """The update and the slow weights; both have moved if it is time to `sync`."""
    slow = state.slow
    param = param.astype(slow.dtype)
    new = lerp(slow, param + update, step_size)
    return jnp.where(sync, new - param, update), Slow(jnp.where(sync, new, slow))
