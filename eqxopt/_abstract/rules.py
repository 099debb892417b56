"""What a transform sees of a model: itself, with the hyperparameters of each parameter,
and the states that it keeps."""

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Int, PyTree

from .._dtype import compute_dtype, real_dtype
from .._fields import AbstractSelector, at_step, fix_choice, own_keys, PerParameter
from .._number import check_fields
from .._tree import array_leaves, is_nothing, Parameters, replace_fields
from .._types import AnyLeaf, Scalar
from .nested import hyperparameter_names
from .states import layout_of, states_in
from .step import Step
from .transform import AbstractTransform, count_of


T = TypeVar("T", bound=AbstractTransform)


def begun(transform: T, parameters: Parameters) -> T:
    """`transform` at count 0, with what it chooses for each parameter fixed."""
    name = type(transform).__name__
    fixed = {
        field: fix_choice(getattr(transform, field), parameters, f"`{name}.{field}`")
        for field in hyperparameter_names(transform)
    }
    # The state is set also where there is none: a field that was never set is another
    # structure than one that is None, and so would be compiled for again.
    zero = jnp.zeros((), jnp.int32)
    new = replace_fields(transform, **fixed, count=zero, kept=None)
    if any(fixed[field] is not getattr(transform, field) for field in fixed):
        check_fields(new)  # also what a function has chosen
    return new


def rules(transform: T, parameters: Parameters) -> list[T]:
    """The transform as each parameter sees it: hyperparameters are scalars of its
    compute dtype at this step, masks are booleans, and other selectors what they
    choose."""
    columns = _hyperparameter_columns(transform, parameters)
    selected, masked = _selector_columns(transform, parameters)
    # Equal numbers stay one object, which is how batches tell that they are equal.
    casts: dict[Hashable, Array] = {}
    made: dict[Hashable, T] = {}
    rules = []
    for i, param in enumerate(parameters.arrays):
        dtype = real_dtype(compute_dtype(param.dtype))
        on = {field: column[i] for field, column in selected.items()}
        # Usually all parameters share one rule, and so one set of arguments.
        key = (dtype, *on.values(), *(id(column[i]) for column in columns.values()))
        if key not in made:
            scalars = {}
            for field, column in columns.items():
                off = on.get(masked.get(field, "")) is False
                number = None if off else column[i]
                if (id(number), dtype) not in casts:
                    casts[id(number), dtype] = (
                        jnp.zeros((), dtype) if off else column[i].astype(dtype)
                    )
                scalars[field] = casts[id(number), dtype]
            made[key] = replace_fields(
                transform, count=None, kept=None, **scalars, **on
            )
        rules.append(made[key])
    return rules


def keyed_rules(transform: T, parameters: Parameters) -> list[T]:
    """`rules`, with the random keys of this step and each parameter."""
    keys = own_keys(transform, count_of(transform), len(parameters))
    return [
        replace_fields(rule, **own) if own else rule
        for rule, own in zip(rules(transform, parameters), keys)
    ]


def _hyperparameter_columns(
    transform: AbstractTransform, parameters: Parameters
) -> dict[str, list[Array]]:
    """For each hyperparameter in use, its scalar at this step for each parameter."""
    count = count_of(transform)
    # A schedule is evaluated once, whoever shares it. It is kept here as well, so that
    # its id stays its own.
    scalars: dict[int, tuple[Any, Array]] = {}
    columns = {}
    for field in hyperparameter_names(transform):
        what = f"`{type(transform).__name__}.{field}`"
        value = getattr(transform, field)
        if value is None:
            continue
        if isinstance(value, PerParameter):
            if value.function is not None:
                # `replace` has set it, so `init` has not checked what it chooses.
                value = fix_choice(value, parameters, what)
                check_fields(replace_fields(transform, **{field: value}))
            values = value.at(parameters, what)
        else:
            values = [value] * len(parameters)
        for value in values:
            if id(value) not in scalars:
                scalars[id(value)] = value, at_step(value, count, what)
        columns[field] = [scalars[id(value)][1] for value in values]
    return columns


def _selector_columns(
    transform: AbstractTransform, parameters: Parameters
) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """For each mask or other selector in use, what it chooses for each parameter; and
    for each hyperparameter that a mask switches off, which mask."""
    columns, masked = {}, {}
    for field in dataclasses.fields(transform):
        selector = getattr(transform, field.name)
        if isinstance(selector, AbstractSelector):
            what = f"`{type(transform).__name__}.{field.name}`"
            columns[field.name] = selector.at(parameters, what)
            for name in field.metadata.get("masks", ()):
                masked[name] = field.name
    return columns, masked


def scalar_of(transform: AbstractTransform, name: str) -> Scalar:
    """The hyperparameter `name` at this step, one for the whole model."""
    what = f"`{type(transform).__name__}.{name}`"
    value = getattr(transform, name)
    if isinstance(value, PerParameter):
        raise TypeError(
            f"{what} is one number for the whole model, or a schedule: it cannot be "
            "chosen for each parameter"
        )
    return at_step(value, count_of(transform), what)


def reached(
    transform: AbstractTransform, count: Int[Array, ""], name: str
) -> Bool[Array, ""]:
    """Whether `count` is at least the hyperparameter `name` at this step."""
    value = scalar_of(transform, name)
    return count.astype(value.dtype) >= value


def states_of(
    transform: AbstractTransform,
    step: Step,
    shapes: Sequence[tuple[int, ...]] | None = None,
) -> list[Any]:
    """The transform's own state of each parameter, known to fit where there is a
    gradient: its first array has the parameter's shape, or that of `shapes`."""
    parameters, grads = step.parameters, step.grads
    states = kept_states(transform, parameters)
    for i, (param, state, grad) in enumerate(zip(parameters.arrays, states, grads)):
        if grad is None:
            continue
        if state is None:
            raise unseen(transform, parameters, i)
        expected = param.shape if shapes is None else shapes[i]
        shape = next((x.shape for x in array_leaves(state)), expected)
        if shape != expected:
            raise unfit(transform, parameters, i, f"it has shape {shape}")
    return states


def kept_states(transform: AbstractTransform, parameters: Parameters) -> list[Any]:
    """The state of each parameter, `None` for one that `init` did not see."""
    numbers = state_numbers(transform, parameters)
    if is_nothing(transform.kept):
        return [()] * len(parameters)
    states = transform.kept.each()
    return [None if number is None else states[number] for number in numbers]


def state_numbers(
    transform: AbstractTransform, parameters: Parameters
) -> list[int | None]:
    """The number of each parameter's state, `None` for one that `init` did not see."""
    count_of(transform)
    if is_nothing(transform.kept):
        return list(range(len(parameters)))
    what = f"`{type(transform).__name__}`: the optimizer's states"
    return parameters.align(transform.kept.layout.numbers(), what)


def kept_alone(parameters: Parameters, states: Sequence[Any]) -> PyTree:
    """The states as an optimizer keeps them, each on its own."""
    return kept_in(parameters, states, [])


def kept_in(
    parameters: Parameters, states: Sequence[Any], stacks: Iterable[Sequence[int]]
) -> PyTree:
    """The states as an optimizer keeps them. `stacks` has the parameters in each
    stack."""
    # If no parameter has state, keep `()` once: it costs no time in a step.
    if states and all(map(is_nothing, states)):
        return ()
    layout, in_order = layout_of(parameters, states, stacks)
    return states_in(layout, in_order)


def unfit(
    transform: AbstractTransform, parameters: Parameters, i: int, why: str
) -> ValueError:
    """The error for a state that does not fit the `i`-th parameter."""
    return ValueError(
        f"`{type(transform).__name__}`: the state at {parameters.path(i)} does not fit "
        f"the parameter of shape {parameters.arrays[i].shape}: {why}. Call `opt = "
        "opt.init(model)` again."
    )


def check_seen(transform: AbstractTransform, step: Step) -> None:
    """Check that `init` saw every parameter that has a gradient."""
    numbers = state_numbers(transform, step.parameters)
    for i, (grad, number) in enumerate(zip(step.grads, numbers)):
        if grad is not None and number is None:
            raise unseen(transform, step.parameters, i)


def unseen(transform: AbstractTransform, parameters: Parameters, i: int) -> ValueError:
    """The error for a parameter without a state."""
    return ValueError(
        f"`{type(transform).__name__}`: {parameters.path(i)} was no parameter when "
        "`init` saw the model. Call `opt = opt.init(model)` again."
    )


class StateMismatch(Exception):
    """A state that was made for another parameter, or with other options."""


def check_state(
    init: Callable[[AnyLeaf], PyTree], param: AnyLeaf, state: PyTree
) -> None:
    """Check that a state is like what `init` makes for this parameter."""
    expected = jax.eval_shape(init, param)
    if jtu.tree_structure(expected) != jtu.tree_structure(state):
        raise StateMismatch("it was made with other options")
    for new, old in zip(jtu.tree_leaves(expected), array_leaves(state)):
        if new.shape != old.shape:
            raise StateMismatch(f"it has shape {old.shape} and not {new.shape}")


def check_result(
    rule: AbstractTransform, method: str, result: Any, param: AnyLeaf, state: PyTree
) -> tuple[AnyLeaf, PyTree]:
    """The update and the state that `method` returned, checked."""
    where = f"`{type(rule).__name__}.{method}`"
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(
            f"{where} must return the update and the next state, `return update, "
            f"state`, but it returned {_kind(result)}. A rule without state returns "
            "`update, ()`."
        )
    update, new = result
    if getattr(update, "shape", None) != param.shape:
        raise TypeError(
            f"{where} must return an update of the parameter's shape, {param.shape}, "
            f"but it returned {_kind(update)}"
        )
    if jtu.tree_structure(new) != jtu.tree_structure(state):
        raise TypeError(
            f"{where} must return a state like that of `init_leaf`, "
            f"{jtu.tree_structure(state)}, but it returned {jtu.tree_structure(new)}"
        )
    for x, old in zip(jtu.tree_leaves(new), jtu.tree_leaves(state)):
        if jnp.shape(x) != old.shape:
            raise TypeError(
                f"{where} must keep the shapes of the state: `init_leaf` returned an "
                f"array of shape {old.shape}, and now it has shape {jnp.shape(x)}"
            )
    return update, new


def _kind(x: Any) -> str:
    shape = getattr(x, "shape", None)
    if shape is not None:
        return f"an array of shape {shape}"
    return f"a tuple of {len(x)}" if isinstance(x, tuple) else f"{x!r}"
