"""From a rule for one parameter to an optimizer for a model."""

import abc
import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.core import Tracer
from jaxtyping import Array, Float, Inexact, PyTree

from ._dtype import compute_dtype, real_dtype, widen
from ._hyperparameter import at_step, fix_choice, PerParameter
from ._key import own_keys
from ._mask import Mask
from ._optimizer import AbstractOptimizer, count_of, hyperparameter_names
from ._tree import array_leaves, Parameters, replace_fields
from ._types import Self


M = TypeVar("M")


class AbstractLeafwiseOptimizer(AbstractOptimizer):
    """An optimizer that treats every parameter by the same rule, on its own.

    A subclass is its hyperparameters, `init_leaf` and `update_leaf`. In both methods
    every hyperparameter of `self` is the scalar of this step and this parameter, and
    a mask is the boolean of this parameter; in `init_leaf` a key is this parameter's
    own. Arrays come at least in float32; what the
    rule returns as state is rounded to the dtype that `init_leaf` gave it.
    """

    @abc.abstractmethod
    def init_leaf(self, param: Inexact[Array, "*shape"]) -> PyTree:
        """The state of one parameter before the first update."""

    @abc.abstractmethod
    def update_leaf(
        self,
        t: Float[Array, ""],
        grad: Inexact[Array, "*shape"],
        param: Inexact[Array, "*shape"],
        state: Any,
    ) -> tuple[Inexact[Array, "*shape"], Any]:
        """The update number `t`, from 1, of one parameter, and its next state."""

    def init(self, params: PyTree) -> Self:
        parameters = Parameters(params)
        name = type(self).__name__
        fixed = {
            field: fix_choice(getattr(self, field), parameters, f"`{name}.{field}`")
            for field in hyperparameter_names(self)
        }
        new = replace_fields(self, **fixed, count=jnp.zeros((), jnp.int32))
        states = [
            _init_leaf(replace_fields(rule, **own_keys(self, i)), param)
            for i, (rule, param) in enumerate(
                zip(_rules(new, parameters), parameters.arrays)
            )
        ]
        return replace_fields(new, state=parameters.tree(states))

    def update(
        self,
        grads: PyTree,
        params: PyTree,
        *,
        value: Any = None,
        value_fn: Callable[..., Any] | None = None,
    ) -> tuple[PyTree, Self]:
        del value, value_fn
        count = count_of(self)
        parameters = Parameters(params)
        name = type(self).__name__
        grad_leaves = parameters.align(grads, f"`{name}`: the gradients")
        states = parameters.align(self.state, f"`{name}`: the optimizer's states")
        rules = _rules(self, parameters)
        count = count + 1
        t = count.astype(jnp.float32)
        updates = []
        for i, (grad, param) in enumerate(zip(grad_leaves, parameters.arrays)):
            update = None
            if grad is not None and getattr(grad, "dtype", None) != jax.dtypes.float0:
                _check_leaf(name, parameters, i, grad, states[i])
                try:
                    update, states[i] = _update_leaf(
                        rules[i], t, grad, param, states[i]
                    )
                except _StateMismatch as error:
                    raise ValueError(
                        f"`{name}`: the state at {parameters.path(i)} does not fit the "
                        f"parameter of shape {param.shape}: {error}. Call "
                        "`opt = opt.init(model)` again."
                    ) from None
            updates.append(update)
        new = replace_fields(self, count=count, state=parameters.tree(states))
        return parameters.tree(updates), new

    def eval_params(self, params: M) -> M:
        return params


class _StateMismatch(Exception):
    pass


def _check_leaf(
    name: str, parameters: Parameters, i: int, grad: Any, state: Any
) -> None:
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
    if grad.shape != param.shape:
        raise ValueError(
            f"`{name}`: the gradient at {parameters.path(i)} has shape {grad.shape}, "
            f"but the parameter has shape {param.shape}"
        )
    if state is None:
        raise ValueError(
            f"`{name}`: {parameters.path(i)} was no parameter when `init` saw the "
            "model. Call `opt = opt.init(model)` again."
        )


def _init_leaf(rule: AbstractLeafwiseOptimizer, param: Inexact[Array, "..."]) -> PyTree:
    state = rule.init_leaf(param)
    if not isinstance(param, Tracer):
        return state
    # Inside jit the compiler gives an array the sharding of what it is computed from,
    # and zeros are computed from nothing. This select, gone after compilation, ties
    # them to their parameter.
    missing = jnp.isnan(param)
    return jtu.tree_map(
        lambda x: jnp.where(missing, x, x) if x.shape == param.shape else x, state
    )


@jax.jit
def _update_leaf(
    rule: AbstractLeafwiseOptimizer,
    t: Float[Array, ""],
    grad: Inexact[Array, "*shape"],
    param: Inexact[Array, "*shape"],
    state: PyTree,
) -> tuple[Inexact[Array, "*shape"], PyTree]:
    # Compiled on its own so that parameters of equal shape are traced and lowered
    # once, however many there are.
    _check_state(rule, param, state)
    dtype = compute_dtype(param.dtype)
    grad, param = grad.astype(dtype), param.astype(dtype)
    t = t.astype(real_dtype(dtype))
    # A complex parameter meets real hyperparameters and moments everywhere.
    complex_ = jnp.issubdtype(dtype, jnp.complexfloating)
    mode = "standard" if complex_ else jax.config.jax_numpy_dtype_promotion  # pyright: ignore
    with jax.numpy_dtype_promotion(mode):
        update, new = rule.update_leaf(t, grad, param, jtu.tree_map(widen, state))
    new = jtu.tree_map(lambda x, old: x.astype(old.dtype), new, state)
    return update.astype(dtype), new


def _check_state(
    rule: AbstractLeafwiseOptimizer, param: Inexact[Array, "..."], state: PyTree
) -> None:
    expected = jax.eval_shape(rule.init_leaf, param)
    if jtu.tree_structure(expected) != jtu.tree_structure(state):
        raise _StateMismatch("it was made with other options")
    for new, old in zip(jtu.tree_leaves(expected), array_leaves(state)):
        if new.shape != old.shape:
            raise _StateMismatch(f"it has shape {old.shape} and not {new.shape}")


def _rules(
    optimizer: AbstractLeafwiseOptimizer, parameters: Parameters
) -> list[AbstractLeafwiseOptimizer]:
    """The optimizer as each parameter sees it: hyperparameters are scalars of its
    compute dtype at this step, masks are booleans."""
    columns = _hyperparameter_columns(optimizer, parameters)
    masks, masked = _mask_columns(optimizer, parameters)
    made: dict[Hashable, AbstractLeafwiseOptimizer] = {}
    rules = []
    for i, param in enumerate(parameters.arrays):
        dtype = real_dtype(compute_dtype(param.dtype))
        on = {field: column[i] for field, column in masks.items()}
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
                optimizer, count=None, state=None, **scalars, **on
            )
        rules.append(made[key])
    return rules


def _hyperparameter_columns(
    optimizer: AbstractLeafwiseOptimizer, parameters: Parameters
) -> dict[str, list[Array]]:
    """For each hyperparameter in use, its scalar at this step for each parameter."""
    count = count_of(optimizer)
    scalars: dict[int, Array] = {}  # a schedule is evaluated once, whoever shares it
    columns = {}
    for field in hyperparameter_names(optimizer):
        what = f"`{type(optimizer).__name__}.{field}`"
        value = getattr(optimizer, field)
        if value is None:
            continue
        if isinstance(value, PerParameter):
            values = value.at(parameters, what)
        else:
            values = [value] * len(parameters)
        for value in values:
            if id(value) not in scalars:
                scalars[id(value)] = at_step(value, count, what)
        columns[field] = [scalars[id(value)] for value in values]
    return columns


def _mask_columns(
    optimizer: AbstractLeafwiseOptimizer, parameters: Parameters
) -> tuple[dict[str, list[bool]], dict[str, str]]:
    """For each mask in use, its boolean for each parameter; and for each
    hyperparameter that a mask switches off, which mask."""
    columns, masked = {}, {}
    for field in dataclasses.fields(optimizer):
        mask = getattr(optimizer, field.name)
        if isinstance(mask, Mask):
            what = f"`{type(optimizer).__name__}.{field.name}`"
            columns[field.name] = mask.at(parameters, what)
            for name in field.metadata.get("masks", ()):
                masked[name] = field.name
    return columns, masked
