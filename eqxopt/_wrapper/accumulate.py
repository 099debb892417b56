"""Gradients of several micro-batches for one update."""

import functools
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool

from .._abstract.groups import first_states, groups, kept_after
from .._abstract.nested import inner
from .._abstract.optimizer import AbstractOptimizer
from .._abstract.rules import begun, check_seen, reached
from .._abstract.step import Step
from .._abstract.transform import count_of
from .._compile.once import all_finite, once_per_shape
from .._dtype import real_dtype, zeros_like
from .._fields import Hyperparameter, hyperparameter
from .._math import no_update, plus_one, plus_one_if, zero_count
from .._number import as_number, NumberLike
from .._sharding import cond, placed_with
from .._tree import Parameters, replace_fields
from .._types import Amount, AnyLeaf, Count, Leaf, Leaves, Scalar, Self


class Accumulated(NamedTuple):
    """The weighted sum of a parameter's gradients since the last update."""

    total: Leaf


class Accumulate(AbstractOptimizer):
    r"""Gradient accumulation: one update for the mean gradient of micro-batches.

    $$
    \bar g = \sum_{i=1}^{k} w_i\, g_i \Big/ \sum_{i=1}^{k} w_i
    $$

    Every call of `apply` adds one gradient, and every $k$-th call makes one update with
    the mean. In between, the update is not computed, and the model and the wrapped
    optimizer stay as they are, bit for bit. Sums are float32 at least.

    `count` is the number of updates, not of calls, so that schedules, also that of
    `every`, move with the updates. An update is made as soon as `micro_steps` reaches
    `every`. So after `opt.replace(every=1)` the next call makes the update with what
    has been summed so far, such as at the end of an epoch.

    All micro-batches have the weight $w_i = 1$, unless `weighted` gives the next one
    another. If $g_i$ is a mean over $n_i$ examples, `opt.weighted(n_i).apply(grads,
    model)` gives the mean over all examples. A weight holds for one call. A micro-batch
    of weight 0 counts as a call and adds nothing, even if its gradient is NaN; while
    all weights are 0 there is no update. If every call is given its loss, the wrapped
    optimizer is given their mean with the same weights. It is given the `value_fn` and
    the `residual_fn` of the last micro-batch.

    **Arguments:**

    - `optimizer`: any optimizer.
    - `every`: $k$, in [1, inf), a number or a schedule.
    - `drop_nonfinite`: whether to drop a micro-batch whose gradient or loss has an
        infinity or a NaN. It is then counted in `dropped`, and not in `micro_steps`.
        Default `False`: it is summed like any other, and spoils one sum. Put
        [`SkipNonFinite`][eqxopt.SkipNonFinite] inside, or that update spoils the model.
        Keyword only.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = jnp.array(1.0)
        >>> opt = eqxopt.Accumulate(eqxopt.SGD(0.1), every=2).init(params)
        >>> for n, grad in [(1, 4.0), (3, 0.0), (1, 2.0)]:
        ...     params, opt = opt.weighted(n).apply(jnp.array(grad), params)
        ...     print(f"{params:.1f}", opt.count, opt.micro_steps)
        1.0 0 1
        0.9 1 0
        0.9 1 1

        ```
    """

    passes_gradients: ClassVar[bool] = True

    optimizer: AbstractOptimizer = inner()
    every: Hyperparameter = hyperparameter("[1, inf)")
    drop_nonfinite: bool = eqx.field(default=False, static=True, kw_only=True)
    micro_steps: Count = eqx.field(default=None, init=False)
    """The number of micro-batches since the last update."""
    calls: Count = eqx.field(default=None, init=False)
    """The number of micro-batches since `init`."""
    dropped: Count = eqx.field(default=None, init=False)
    """The number of micro-batches dropped since `init`."""
    weight: Amount = eqx.field(default=None, init=False)
    """The weight of the next micro-batch."""
    total_weight: Amount = eqx.field(default=None, init=False)
    """The sum of the weights since the last update."""
    total_value: Amount = eqx.field(default=None, init=False)
    """The weighted sum of the losses since the last update."""

    def start(self, parameters: Parameters) -> Self:
        totals = [
            placed_with(param, Accumulated(zeros_like(param)))
            for param in parameters.arrays
        ]
        return replace_fields(
            begun(self, parameters),
            optimizer=self.optimizer.start(parameters),
            kept=first_states(parameters, totals),
            micro_steps=zero_count(),
            calls=zero_count(),
            dropped=zero_count(),
            weight=jnp.ones((), float),
            total_weight=jnp.zeros((), float),
            total_value=jnp.zeros((), float),
        )

    def weighted(self, weight: NumberLike) -> Self:
        """This optimizer with a weight for the next micro-batch.

        **Arguments:**

        - `weight`: in [0, inf), such as the number of examples or tokens in it.
        """
        count_of(self)
        weight = as_number(weight)
        # NumPy compares at once, also while a program is traced.
        if not isinstance(weight, Tracer) and not 0 <= np.asarray(weight) < np.inf:
            raise ValueError(
                f"`Accumulate.weighted({weight})`: `weight` must lie in [0, inf)"
            )
        return replace_fields(self, weight=weight)

    def advance(self, step: Step) -> tuple[Leaves, Self]:
        count = count_of(self)
        check_seen(self, step)
        loss = None if step.value is None else step.value.astype(float)

        kept = all_finite([*step.grads, loss] if self.drop_nonfinite else [])
        used = kept & (self.weight > 0)
        micro_steps = plus_one_if(kept, self.micro_steps)
        one = jnp.ones_like(self.weight)
        total_weight = _plus(self.total_weight, one, self.weight, used)
        complete = kept & reached(self, micro_steps, "every") & (total_weight > 0)
        add = lambda total, new: _add(total, new, self.weight, used, complete)
        lost = jnp.zeros_like(self.total_value) if loss is None else loss
        total_value, next_value = add(self.total_value, lost)
        totals: Leaves = [None] * len(step.grads)
        states = []
        for group in groups(self, step.parameters, step.grads):
            group.check_shape()
            grad, state = group.of(step.grads), group.state
            total, next_total = group.call(
                _add, state.total, grad, self.weight, used, complete
            )
            group.part(total, totals)
            states.append((group, Accumulated(next_total)))

        def update(
            optimizer: AbstractOptimizer, totals: Leaves
        ) -> tuple[Leaves, AbstractOptimizer]:
            mean = lambda total: _over(total, total_weight)
            means = [None if total is None else mean(total) for total in totals]
            value = None if loss is None else mean(total_value)
            return optimizer.advance(step._replace(grads=means, value=value))

        updates, optimizer = _update_if(complete, update, self.optimizer, totals)
        zero_if_complete = lambda x: jnp.where(complete, jnp.zeros_like(x), x)
        return updates, replace_fields(
            self,
            optimizer=optimizer,
            count=plus_one_if(complete, count),
            kept=kept_after(self, step.parameters, states),
            micro_steps=zero_if_complete(micro_steps),
            calls=plus_one(self.calls),
            dropped=plus_one_if(~kept, self.dropped),
            weight=jnp.ones_like(self.weight),
            total_weight=zero_if_complete(total_weight),
            total_value=next_value,
        )

    def evaluate(self, parameters: Parameters) -> list[AnyLeaf]:
        return self.optimizer.evaluate(parameters)


@once_per_shape
def _add(
    total: Leaf,
    new: Leaf,
    weight: Scalar,
    used: Bool[Array, ""],
    complete: Bool[Array, ""],
) -> tuple[Leaf, Leaf]:
    """The total with one more, and the total to go on with."""
    total = _plus(total, new, weight, used)
    return total, jnp.where(complete, jnp.zeros_like(total), total)


@once_per_shape
def _plus(total: Leaf, new: Leaf, weight: Scalar, used: Bool[Array, ""]) -> Leaf:
    # Select before the product: its derivative by the weight is `new`, even if NaN.
    new = jnp.where(used, new.astype(total.dtype), 0)
    return total + weight.astype(real_dtype(total.dtype)) * new


@once_per_shape
def _over(total: Leaf, weight: Scalar) -> Leaf:
    return total / weight.astype(real_dtype(total.dtype))


def _update_if(
    condition: Bool[Array, ""],
    update: Callable[[AbstractOptimizer, Leaves], tuple[Leaves, AbstractOptimizer]],
    optimizer: AbstractOptimizer,
    totals: Leaves,
) -> tuple[Leaves, AbstractOptimizer]:
    """`update(optimizer, totals)` if the condition holds, and no update otherwise."""
    update = jax.jit(update)  # traced once, for its shapes and for the branch
    updates, updated = jax.eval_shape(update, optimizer, totals)

    def skip(
        optimizer: AbstractOptimizer, totals: Leaves
    ) -> tuple[Leaves, AbstractOptimizer]:
        alike = functools.cache(lambda shape, dtype: no_update(jnp.zeros(shape, dtype)))
        nothing = [None if x is None else alike(x.shape, x.dtype) for x in updates]
        # A checkpoint may have given `optimizer` other containers than `updated` has.
        structure = jtu.tree_structure(updated)
        return nothing, structure.unflatten(jtu.tree_leaves(optimizer))

    # A branch, not a select: computing the update is most of the work of a step.
    return cond(condition, update, skip, optimizer, totals)
