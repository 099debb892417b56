"""What optimizers that go as far as a line search tells have in common."""

import abc
from collections.abc import Callable
from typing import Any, cast, ClassVar, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from .._abstract.optimizer import AbstractOptimizer
from .._abstract.rescaling import wide_gradients
from .._abstract.rules import begun, kept_alone, kept_states, rules, states_of
from .._abstract.step import (
    half_squares,
    needed_residual_fn,
    needed_value,
    needed_value_fn,
    Step,
)
from .._abstract.transform import count_of
from .._compile.once import once_per_shape
from .._compile.staging import in_jit
from .._compile.traces import as_argument, compiled
from .._dtype import compute_dtype, real_dtype, widest_real_dtype, zeros_like
from .._line_search.abstract import AbstractLineSearch, Point
from .._math import (
    moved,
    no_update,
    own_copy,
    plus_one,
    plus_one_if,
    select,
    zero_count,
)
from .._sharding import cond, placed_with
from .._tree import fill, Parameters, replace_fields
from .._types import Amount, AnyLeaf, Count, Leaf, Leaves, Scalar, Self
from ._active import Active, Arrays
from ._box import is_outside
from ._pairs import inner_products, Last, Pair, times
from ._progress import compared, MOST_FAILURES, MOST_LEVEL_STEPS, unit_after


M = TypeVar("M")


def as_search(linesearch: Any) -> Any:
    """A field converter: a line search, or `None`."""
    if not isinstance(linesearch, AbstractLineSearch | None):
        raise TypeError(
            "a line search is one such as `eqxopt.ZoomLineSearch()`, or `None`, not "
            f"{linesearch!r}"
        )
    return linesearch


class AbstractNewtonOptimizer(AbstractOptimizer):
    """Goes in a direction that it makes of the gradients and of the curvature, as far
    as a line search tells, or at the learning rate.

    A subclass has the fields `learning_rate` and `linesearch`, each at its place among
    the arguments.
    """

    learns: ClassVar[bool] = True
    """Whether `learn` needs what a step has changed."""
    value: Amount = eqx.field(default=None, init=False)
    """The loss at the end of the last line search. 0 before the first."""
    step_size: Amount = eqx.field(default=None, init=False)
    r"""$\eta$ of the last line search that found a lower point."""
    evaluations: Count = eqx.field(default=None, init=False)
    """The number of evaluations of the loss in the last line search."""
    failures: Count = eqx.field(default=None, init=False)
    """The number of searches in a row that found no lower point from the same
    gradients. After four, nothing more is evaluated there."""
    level_steps: Count = eqx.field(default=None, init=False)
    """The number of steps since the loss last fell clearly in which it fell by no more
    than rounding, and the gradients became no smaller. After 20, none is made."""

    @abc.abstractmethod
    def begin(self, parameters: Parameters) -> Self:
        """This optimizer with what it keeps beside the states of parameters."""

    @abc.abstractmethod
    def init_leaf(self, param: Leaf, last: Last) -> Any:
        """The state of a parameter: `last`, or a record that has its fields too."""

    @abc.abstractmethod
    def choose(self, active: Active) -> tuple[Self, Arrays, Active]:
        """A direction for each parameter, with what was learned on the way. If the
        `Active` that is returned has a box, no step leaves it, and a start outside
        moves into it."""

    @abc.abstractmethod
    def learn(
        self, active: Active, changes: list[Pair], is_known: Bool[Array, ""]
    ) -> tuple[Self, list[Any]]:
        """This optimizer and the states, after a step that made these changes. They are
        known if the step was made. The gradients are those from before it."""

    def start(self, parameters: Parameters) -> Self:
        fixed = search_of(self) is None

        def state(param: Leaf) -> Any:
            last = Last(None, None)
            if self.learns or not fixed:
                last = Last(placed_with(param, zeros_like(param)), None)
            if self.learns and fixed:
                last = last._replace(param=own_copy(param))
            return self.init_leaf(param, last)

        states = [state(param) for param in parameters.arrays]
        new = replace_fields(
            begun(self, parameters), kept=kept_alone(parameters, states)
        ).begin(parameters)
        if fixed:
            # A field that was never set is another structure than one that is None.
            names = "value", "step_size", "evaluations", "failures", "level_steps"
            return replace_fields(new, **dict.fromkeys(names))
        dtype = widest_real_dtype(parameters.arrays)
        return replace_fields(
            new,
            value=jnp.zeros((), dtype),
            step_size=jnp.ones((), dtype),
            evaluations=zero_count(),
            failures=zero_count(),
            level_steps=zero_count(),
        )

    def value_and_grad(
        self, value_fn: Callable[..., Any], params: M
    ) -> tuple[Scalar, M]:
        """The loss and its gradients at `params`, in the form that `apply` takes. They
        come from the last line search if there was one. Otherwise they are evaluated.

        **Arguments:**

        - `value_fn`: the loss as a function of the model, as in the last `apply`.
        - `params`: the model that the last `apply` returned.

        **Returns:** the loss and a tree of gradients. Gradients of complex parameters
        are conjugated, so that they point uphill.
        """
        count_of(self)
        if in_jit():
            return _value_and_grad(self, params, value_fn)
        return _compiled_value_and_grad(self, params, as_argument(value_fn, params))

    def advance(self, step: Step) -> tuple[Leaves, Self]:
        count = plus_one(count_of(self))
        has_grad = [grad is not None for grad in step.grads]
        updates: Leaves = [None] * len(has_grad)
        if not any(has_grad):
            return updates, replace_fields(self, count=count)
        if self.uses_residual_fn:  # before the error about the loss
            needed_residual_fn(self, step.residual_fn)
        states = states_of(self, step)
        active = _active(self, step, [s for s, x in zip(states, has_grad) if x])
        search = search_of(self)
        if search is None:
            new, active_updates, active_states = _fixed_step(self, active)
        else:
            search = search.at_step(count_of(self), self.value.dtype)
            new, active_updates, active_states = _search_step(self, active, search)
        fill(updates, has_grad, active_updates)
        fill(states, has_grad, active_states)
        kept = kept_alone(step.parameters, states)
        return updates, replace_fields(new, count=count, kept=kept)

    def evaluate(self, parameters: Parameters) -> list[AnyLeaf]:
        return parameters.arrays

    def has_failed(self, active: Active) -> Bool[Array, ""]:
        """Whether the last search began at these gradients and found nothing."""
        return (self.failures > 0) & active.are_last()


def search_of(optimizer: AbstractNewtonOptimizer) -> AbstractLineSearch | None:
    return cast(Any, optimizer).linesearch


O = TypeVar("O", bound=AbstractNewtonOptimizer)
Stepped = tuple[O, Arrays, list[Any]]


def _active(
    optimizer: AbstractNewtonOptimizer, step: Step, states: list[Any]
) -> Active:
    parameters = step.parameters.only([grad is not None for grad in step.grads])
    rates = []
    for rule, param in zip(rules(optimizer, parameters), parameters.arrays):
        dtype = real_dtype(compute_dtype(param.dtype))
        rate = cast(Any, rule).learning_rate
        rates.append(jnp.ones((), dtype) if rate is None else rate)
    grads = [grad for grad in wide_gradients(step) if grad is not None]
    return Active(parameters, grads, states, rates, step)


def _fixed_step(optimizer: O, active: Active) -> Stepped[O]:
    """A step at the learning rate. What it changes is known only in the step after."""
    if not optimizer.learns:
        new, updates, active = optimizer.choose(active)
        return new, active.in_box(updates), active.states
    wide = [own_copy(array) for array in active.arrays]
    changes = [
        Pair(s=array - cast(Array, state.param), y=grad - state.grad)
        for array, grad, state in zip(wide, active.grads, active.states)
    ]
    before = active._replace(grads=[state.grad for state in active.states])
    new, states = optimizer.learn(before, changes, count_of(optimizer) > 0)
    new, updates, active = new.choose(active._replace(states=states))
    states = [
        state._replace(grad=grad, param=array)
        for state, grad, array in zip(active.states, active.grads, wide)
    ]
    return new, active.in_box(updates), states


def _search_step(
    optimizer: O, active: Active, search: AbstractLineSearch
) -> Stepped[O]:
    """A step as long as `search` makes it."""
    dtype = optimizer.value.dtype
    loss = _loss(optimizer, active).astype(dtype)
    loss_fn = needed_value_fn(optimizer, active.step.value_fn)
    loss_at = lambda arrays: loss_fn(active.parameters.model(arrays))
    optimizer, directions, active = optimizer.choose(active)

    slope = inner_products(directions, active.grads).astype(dtype)
    # A search that found nothing would find nothing again.
    has_failed = optimizer.has_failed(active)
    at_rest = has_failed & (optimizer.failures >= MOST_FAILURES)
    unit = jnp.where(has_failed, unit_after(optimizer.failures, dtype), 1)

    def line(units: Scalar) -> Any:
        step_size = unit * units
        updates = active.in_box(_scaled(directions, step_size))
        value, vjp = jax.vjp(loss_at, moved(active.arrays, list(updates)))

        def slope_and_grads() -> Any:
            (grads,) = vjp(jnp.ones_like(value))
            grads = [conjugated(grad) for grad in grads]
            moving = active.onward(directions, step_size)
            slope = unit * inner_products(moving, grads).astype(dtype)
            return slope, grads

        return value.astype(dtype), slope_and_grads

    start = Point(jnp.zeros((), dtype), loss, jnp.where(at_rest, 0, unit * slope))
    end, grads, evaluations = search.search(
        line, start, active.grads, optimizer.step_size
    )
    end = end._replace(step_size=unit * end.step_size)
    updates = active.in_box(_scaled(directions, end.step_size))
    old_norm = active.grad_norm(active.arrays, active.grads)
    new_norm = active.grad_norm(moved(active.arrays, list(updates)), grads)
    is_level, is_clear = compared(start, end, old_norm, new_norm)
    # On the way out of a flat valley, or away from a saddle, the loss falls by less
    # than rounding for some steps, while the gradients grow. At a minimum it does so
    # in every step. If not even the gradients changed, nothing moved.
    may_be_level = ~has_failed & (optimizer.level_steps < MOST_LEVEL_STEPS)
    may_be_level &= new_norm != old_norm
    found = (end.step_size > 0) & (may_be_level | ~is_level)
    level_steps = plus_one_if(found & is_level, optimizer.level_steps)
    end, grads = select(found, (end, grads), (start, active.grads))
    updates = active.in_box(_scaled(directions, end.step_size))
    ends = moved(active.arrays, list(updates))
    changes = [
        Pair(s=own_copy(new) - own_copy(old), y=new_grad - grad)
        for new, old, new_grad, grad in zip(ends, active.arrays, grads, active.grads)
    ]
    has_moved = end.step_size > 0
    failures = jnp.where(has_failed, plus_one(optimizer.failures), 1)
    if active.box is not None:
        # A move into the box is no failure, and leaves the loss there unknown.
        failures = jnp.where(is_outside(active.box, active.arrays), 0, failures)
    new = replace_fields(
        optimizer,
        value=end.value,
        step_size=jnp.where(has_moved, end.step_size, optimizer.step_size),
        evaluations=evaluations,
        failures=jnp.where(has_moved, 0, failures),
        level_steps=jnp.where(is_clear, 0, level_steps),
    )
    new, states = new.learn(active, changes, has_moved)
    states = [state._replace(grad=grad) for state, grad in zip(states, grads)]
    return new, updates, states


def _loss(optimizer: AbstractNewtonOptimizer, active: Active) -> Scalar:
    step = active.step
    if step.value is None and step.residual_fn is not None:
        residuals = needed_residual_fn(optimizer, step.residual_fn)
        return half_squares(residuals(active.parameters.model(active.arrays)))
    return needed_value(optimizer, step.value)


def _scaled(directions: Arrays, step_size: Scalar) -> Arrays:
    return [_scale(direction, step_size) for direction in directions]


@once_per_shape
def _scale(direction: Leaf, step_size: Scalar) -> Leaf:
    # If no step is made, the direction may be infinite.
    scaled = times(direction, step_size)
    return jnp.where(step_size > 0, scaled, no_update(direction))


def conjugated(grad: Leaf) -> Leaf:
    """JAX's gradient in the form that `apply` takes: complex ones are conjugated, so
    that they point uphill."""
    return jnp.conj(grad).astype(compute_dtype(grad.dtype))


def _value_and_grad(
    optimizer: AbstractNewtonOptimizer, params: PyTree, value_fn: Callable[..., Any]
) -> tuple[Scalar, PyTree]:
    parameters = Parameters(params)
    states = kept_states(optimizer, parameters)
    dtype = widest_real_dtype(parameters.arrays)

    def evaluated() -> tuple[Scalar, list[Any]]:
        loss_fn = needed_value_fn(optimizer, value_fn)
        loss = lambda arrays: loss_fn(parameters.model(arrays))
        value, grads = jax.value_and_grad(loss)(parameters.arrays)
        return value.astype(dtype), [conjugated(grad) for grad in grads]

    if search_of(optimizer) is None:
        value, grads = evaluated()
    else:
        kept = optimizer.value, [state.grad for state in states]
        # A search without evaluations is one that failed.
        searched = (optimizer.evaluations > 0) | (optimizer.failures > 0)
        known = searched & jnp.isfinite(optimizer.value)
        value, grads = cond(known, lambda *kept: kept, lambda *kept: evaluated(), *kept)
    return value, parameters.tree(grads)


_compiled_value_and_grad = compiled(_value_and_grad)
