"""What an optimizer sees of a model: its own hyperparameters for every parameter, and
gradients that fit."""

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from .._dtype import compute_dtype, real_dtype
from .._fields.hyperparameter import at_step, fix_choice, PerParameter
from .._fields.selectors import AbstractSelector
from .._tree import array_leaves, Parameters, replace_fields
from .._types import AnyLeaf, Scalar
from .optimizer import AbstractTransform, count_of, hyperparameter_names


T = TypeVar("T", bound=AbstractTransform)


def started(transform: T, parameters: Parameters) -> T:
    """`transform` at count 0, with what it chooses for each parameter fixed."""
    name = type(transform).__name__
    fixed = {
        field: fix_choice(getattr(transform, field), parameters, f"`{name}.{field}`")
        for field in hyperparameter_names(transform)
    }
    # The state is set also where there is none: a field that was never set is another
    # structure than one that is None, and so would be compiled for again.
    zero = jnp.zeros((), jnp.int32)
    return replace_fields(transform, **fixed, count=zero, state=None)


def gradients(
    transform: AbstractTransform,
    grads: PyTree,
    parameters: Parameters,
    *,
    per_example: bool = False,
) -> list[AnyLeaf | None]:
    """The gradient of each parameter, or `None`, once all are known to fit; with
    `per_example` those of each example along a leading axis."""
    name = type(transform).__name__
    leaves = parameters.align(grads, f"`{name}`: the gradients")
    batch: tuple[int | str, ...] = ()
    for i, grad in enumerate(leaves):
        if getattr(grad, "dtype", None) == jax.dtypes.float0:
            leaves[i] = None
        elif grad is not None:
            _check_gradient(name, parameters, i, grad)
            if per_example and not batch:
                batch = grad.shape[:1] or ("batch",)
            _check_shape(name, parameters, i, grad, batch)
    return leaves


def _check_gradient(name: str, parameters: Parameters, i: int, grad: Any) -> None:
    param = parameters.arrays[i]
    if not eqx.is_array(grad):
        raise TypeError(
            f"`{name}`: the gradient at {parameters.path(i)} is not an array but "
            f"{grad!r}"
        )
    if not jnp.issubdtype(grad.dtype, jnp.inexact):
        raise TypeError(
            f"`{name}`: the gradient at {parameters.path(i)} has dtype {grad.dtype}; "
            "gradients are floating-point, or `None` for a parameter to leave alone"
        )
    if jnp.iscomplexobj(grad) and not jnp.iscomplexobj(param):
        raise TypeError(
            f"`{name}`: the gradient at {parameters.path(i)} has dtype {grad.dtype}, "
            f"but the parameter is real, {param.dtype}"
        )


def _check_shape(
    name: str, parameters: Parameters, i: int, grad: Array, batch: tuple[int | str, ...]
) -> None:
    shape = (*batch, *parameters.arrays[i].shape)
    if grad.shape == shape:
        return
    expected = f"the parameter has shape {shape}"
    if batch:
        expected = (
            f"one for each example has {shape}. Make them with "
            "`jax.vmap(jax.grad(loss), in_axes=(None, 0))`"
        )
    raise ValueError(
        f"`{name}`: the gradient at {parameters.path(i)} has shape {grad.shape}, but "
        f"{expected}"
    )


def rules(transform: T, parameters: Parameters) -> list[T]:
    """The transform as each parameter sees it: hyperparameters are scalars of its
    compute dtype at this step, masks are booleans, and other selectors what they
    choose."""
    columns = _hyperparameter_columns(transform, parameters)
    selected, masked = _selector_columns(transform, parameters)
    made: dict[Hashable, T] = {}
    rules = []
    for i, param in enumerate(parameters.arrays):
        dtype = real_dtype(compute_dtype(param.dtype))
        on = {field: column[i] for field, column in selected.items()}
        # Usually all parameters share one rule, and so one set of arguments.
        key = (dtype, *on.values(), *(id(column[i]) for column in columns.values()))
        if key not in made:
            scalars = {
                field: jnp.zeros((), dtype)
                if not on.get(masked.get(field, ""), True)
                else column[i].astype(dtype)
                for field, column in columns.items()
            }
            made[key] = replace_fields(
                transform, count=None, state=None, **scalars, **on
            )
        rules.append(made[key])
    return rules


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
    parameters: Parameters,
    grads: Sequence[Any],
    shapes: Sequence[tuple[int, ...]] | None = None,
) -> list[Any]:
    """The transform's own state of each parameter, known to fit where there is a
    gradient: its first array has the parameter's shape, or that of `shapes`."""
    name = type(transform).__name__
    states = parameters.align(transform.state, f"`{name}`: the optimizer's states")
    for i, (param, state, grad) in enumerate(zip(parameters.arrays, states, grads)):
        if grad is None:
            continue
        if state is None:
            raise ValueError(
                f"`{name}`: {parameters.path(i)} was no parameter when `init` saw the "
                "model. Call `opt = opt.init(model)` again."
            )
        expected = param.shape if shapes is None else shapes[i]
        shape = next((x.shape for x in array_leaves(state)), expected)
        if shape != expected:
            raise ValueError(
                f"`{name}`: the state at {parameters.path(i)} does not fit the "
                f"parameter of shape {param.shape}: it has shape {shape}. Call "
                "`opt = opt.init(model)` again."
            )
    return states
