"""Gradients of several micro-batches for one update."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, PyTree

from .._abstract.optimizer import (
    AbstractOptimizer,
    count_of,
    inner,
    needed_value,
)
from .._abstract.rules import gradients, reached, started, states_of
from .._compile.once import all_finite, once_per_shape
from .._dtype import real_dtype, zeros_like
from .._fields import Hyperparameter, hyperparameter
from .._math import no_update, plus_one_if, zero_count
from .._number import as_number, NumberLike
from .._sharding import beside
from .._tree import Parameters, replace_fields
from .._types import Amount, Count, Leaf, Scalar, Self


M = TypeVar("M")


class Accumulated(NamedTuple):
    """The weighted sum of a parameter's gradients since the last update."""

    total: Leaf


class Accumulate(AbstractOptimizer):
    r"""Gradient accumulation: one update for the mean gradient of some micro-batches.

    $$
    \bar g = \sum_{i=1}^{k} w_i\, g_i \Big/ \sum_{i=1}^{k} w_i
    $$

    Every call of `apply` takes in the gradient of one micro-batch, and every $k$-th
    call makes one update with the mean. In between the model and the wrapped optimizer
    stay as they are, bit for bit, and the update is not computed. Sums are kept in at
    least float32.

    Here `count` is the number of updates, not of calls, so that schedules, of `every`
    too, move with the updates. The call that makes an update is the first at which
    `micro_steps` reaches `every`; after `opt.replace(every=1)` the next call therefore
    finishes what has been begun, such as the rest of an epoch.

    All micro-batches weigh the same, unless `weighted` says otherwise for the next one:
    where $g_i$ is a mean over $n_i$ examples,
    `opt.weighted(n_i).apply(grads, model)` gives the mean over all examples. A weight
    holds for one call. A micro-batch of weight 0 counts as a call and adds nothing,
    even if its gradient is NaN.

    If `apply` is given losses, the wrapped optimizer is given their mean, of the same
    weights. A `value_fn` is that of the last micro-batch.

    **Arguments:**

    - `optimizer`: any optimizer.
    - `every`: $k \ge 1$, a number or a schedule.
    - `drop_nonfinite`: whether to drop a micro-batch whose gradient or loss has an
        infinity or a NaN, as if it had never come: it is counted in `dropped` and not
        in `micro_steps`. Keyword only. By default it is summed like any other, and
        spoils one update at most.

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

    optimizer: AbstractOptimizer = inner()
    every: Hyperparameter = hyperparameter("[1, inf)")
    drop_nonfinite: bool = eqx.field(default=False, static=True, kw_only=True)
    micro_steps: Count = eqx.field(default=None, init=False)
    """The micro-batches taken in since the last update."""
    dropped: Count = eqx.field(default=None, init=False)
    """The micro-batches dropped since `init`."""
    weight: Amount = eqx.field(default=None, init=False)
    """The weight of the next micro-batch."""
    total_weight: Amount = eqx.field(default=None, init=False)
    """The weight of all micro-batches since the last update."""
    total_value: Amount = eqx.field(default=None, init=False)
    """The weighted sum of the losses since the last update."""

    def init(self, params: PyTree) -> Self:
        parameters = Parameters(params)
        return replace_fields(
            started(self, parameters),
            optimizer=self.optimizer.init(params),
            state=parameters.tree(
                [beside(p, Accumulated(zeros_like(p))) for p in parameters.arrays]
            ),
            micro_steps=zero_count(),
            dropped=zero_count(),
            weight=jnp.ones((), float),
            total_weight=jnp.zeros((), float),
            total_value=jnp.zeros((), float),
        )

    def weighted(self, weight: NumberLike) -> Self:
        """This optimizer with another weight than 1 for the next micro-batch.

        **Arguments:**

        - `weight`: a number of at least 0, such as the micro-batch's count of
            examples or tokens.
        """
        count_of(self)
        weight = as_number(weight)
        if not isinstance(weight, Tracer) and not weight >= 0:
            raise ValueError(
                f"`Accumulate.weighted({weight})`: `weight` must be at least 0"
            )
        return replace_fields(self, weight=weight)

    def update(
        self,
        grads: PyTree,
        params: PyTree,
        *,
        value: Any = None,
        value_fn: Callable[..., Any] | None = None,
    ) -> tuple[PyTree, Self]:
        count = count_of(self)
        parameters = Parameters(params)
        grad_leaves = gradients(self, grads, parameters)
        states = states_of(self, parameters, grad_leaves)
        loss = None if value is None else needed_value(self, value).astype(float)

        kept = all_finite([*grad_leaves, loss] if self.drop_nonfinite else [])
        used = kept & (self.weight > 0)
        plus = lambda total, new: _plus(total, new, self.weight, used)
        micro_steps = plus_one_if(kept, self.micro_steps)
        total_weight = plus(self.total_weight, jnp.ones_like(self.weight))
        total_value = self.total_value if loss is None else plus(self.total_value, loss)
        totals = [
            None if grad is None else plus(state.total, grad)
            for state, grad in zip(states, grad_leaves)
        ]

        def update(inner: AbstractOptimizer) -> tuple[PyTree, AbstractOptimizer]:
            means = [None if x is None else _over(x, total_weight) for x in totals]
            updates, inner = inner.update(
                parameters.tree(means),
                params,
                value=None if loss is None else _over(total_value, total_weight),
                value_fn=value_fn,
            )
            return updates, inner

        complete = kept & reached(self, micro_steps, "every") & (total_weight > 0)
        updates, optimizer = _update_if(complete, update, self.optimizer)
        afresh = lambda x: jnp.where(complete, jnp.zeros_like(x), x)
        for i, total in enumerate(totals):
            if total is not None:
                states[i] = Accumulated(afresh(total))
        return updates, replace_fields(
            self,
            optimizer=optimizer,
            count=plus_one_if(complete, count),
            state=parameters.tree(states),
            micro_steps=afresh(micro_steps),
            dropped=plus_one_if(~kept, self.dropped),
            weight=jnp.ones_like(self.weight),
            total_weight=afresh(total_weight),
            total_value=afresh(total_value),
        )

    def eval_params(self, params: M) -> M:
        return self.optimizer.eval_params(params)


@once_per_shape
def _plus(total: Leaf, new: Leaf, weight: Scalar, used: Bool[Array, ""]) -> Leaf:
    # What is not used is taken out before the product, whose derivative by the weight
    # it would still be.
    new = jnp.where(used, new.astype(total.dtype), 0)
    return total + weight.astype(real_dtype(total.dtype)) * new


@once_per_shape
def _over(total: Leaf, weight: Scalar) -> Leaf:
    return total / weight.astype(real_dtype(total.dtype))


def _update_if(
    condition: Bool[Array, ""],
    update: Callable[[AbstractOptimizer], tuple[PyTree, AbstractOptimizer]],
    optimizer: AbstractOptimizer,
) -> tuple[PyTree, AbstractOptimizer]:
    """`update(optimizer)` if the condition holds, and no update otherwise."""
    shapes = jax.eval_shape(update, optimizer)
    updates, _ = shapes

    def skip(optimizer: AbstractOptimizer) -> list[Array]:
        nothing = [no_update(jnp.zeros(x.shape, x.dtype)) for x in leaves(updates)]
        return nothing + leaves(optimizer)

    leaves = jax.tree.leaves
    # Not a select: in most steps computing the update would be most of the work.
    chosen = jax.lax.cond(condition, lambda x: leaves(update(x)), skip, optimizer)
    # A checkpoint may have given `optimizer` other containers.
    return jax.tree.unflatten(jax.tree.structure(shapes), chosen)
