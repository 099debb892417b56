"""What one update is given: the record that transforms hand each other."""

import reprlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .._dtype import widest_real_dtype
from .._math import as_vector
from .._tree import jax_array, Parameters
from .._types import Leaves, Scalar, Vector


class Step(NamedTuple):
    """One update, as every transform in a composition sees it.

    The model is flattened and the gradients are checked once, however transforms are
    nested.
    """

    parameters: Parameters
    """The parameters, with their paths, and how to rebuild the model."""
    grads: Leaves
    """The gradient of each parameter, or `None`."""
    value: Scalar | None
    """The loss, if `apply` was given it."""
    value_fn: Callable[..., Any] | None
    """The loss as a function of the model, if `apply` was given it."""
    residual_fn: Callable[..., Any] | None = None
    """The residuals as a function of the model, if `apply` was given it."""

    def with_grads(self, grads: Leaves) -> "Step":
        """The same step with other gradients."""
        return self._replace(grads=grads)

    def only(self, own: Sequence[bool]) -> "Step":
        """The same step for some of the parameters."""
        return self._replace(
            parameters=self.parameters.only(own),
            grads=[grad for grad, x in zip(self.grads, own) if x],
        )


def checked_step(
    name: str,
    grads: PyTree,
    parameters: Parameters,
    value: Any,
    value_fn: Callable[..., Any] | None,
    residual_fn: Callable[..., Any] | None,
    *,
    per_example: bool,
) -> Step:
    """The record of one update, once everything is known to fit.

    `name` is the class that the user called. `residual_fn` gives a vector. With
    `per_example` the gradients come for each example, along a leading axis.
    """
    checked = _gradients(name, grads, parameters, per_example=per_example)
    loss = None if value is None else as_loss(name, value)
    if value_fn is None and residual_fn is not None:
        value_fn = lambda model: half_squares(residual_fn(model))
    return Step(parameters, checked, loss, value_fn, residual_fn)


def as_loss(name: str, value: Any, what: str = "`value` must be") -> Scalar:
    """The loss as an array, for a call of the class `name`."""
    if not eqx.is_array_like(value) or jnp.iscomplexobj(value):
        raise TypeError(
            f"`{name}`: {what} a real scalar, the loss, not {reprlib.repr(value)}"
        )
    value = jnp.asarray(value)
    if value.shape != ():
        raise ValueError(
            f"`{name}`: {what} a scalar, not an array of shape {value.shape}"
        )
    return value


def as_residuals(function: str, residuals: PyTree) -> Vector:
    """The tree of residuals that `function` gave as one real vector."""
    leaves = jtu.tree_leaves(residuals)
    for x in leaves:
        if not (eqx.is_array(x) and jnp.issubdtype(x.dtype, jnp.inexact)):
            raise TypeError(
                f"{function} must give arrays of floating point, the residuals, not "
                f"{reprlib.repr(x)}"
            )
    if not any(x.size for x in leaves):
        raise ValueError(f"{function} gave no residuals")
    return as_vector(leaves, widest_real_dtype(leaves))


def half_squares(residuals: Vector) -> Scalar:
    """The loss that residuals stand for."""
    return 0.5 * jnp.sum(jnp.square(residuals))


def _gradients(
    name: str, grads: PyTree, parameters: Parameters, *, per_example: bool
) -> Leaves:
    """The gradient of each parameter, or `None`, checked."""
    try:
        leaves = parameters.align(grads, f"`{name}`: the gradients")
    except (TypeError, ValueError) as error:
        raise type(error)(f"{error}{_other_place(grads)}") from None
    batch: tuple[int | str, ...] = ()
    for i, grad in enumerate(leaves):
        if getattr(grad, "dtype", None) == jax.dtypes.float0:
            leaves[i] = None
        elif grad is not None:
            leaves[i] = grad = jax_array(grad)
            _check_dtype(name, parameters, i, grad)
            if per_example and not batch:
                batch = grad.shape[:1] or ("batch",)
            _check_shape(name, parameters, i, grad, batch)
    return leaves


def _other_place(grads: PyTree) -> str:
    """What a tree that does not fit may be in place of gradients."""
    match grads:
        case (first, _) if isinstance(first, jax.Array) and first.ndim == 0:
            return ". If these are `(loss, grads)`, give `grads` alone"
    if any(callable(x) for x in jtu.tree_leaves(grads)):
        return ". If this is the model: the gradients come first, `(grads, model)`"
    return ""


def _check_dtype(name: str, parameters: Parameters, i: int, grad: Any) -> None:
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


def needed_value(optimizer: Any, value: Scalar | None) -> Scalar:
    """The loss, for the optimizers that cannot do without."""
    if value is None:
        also = ", value_fn=lambda model: ..." if optimizer.uses_value_fn else ""
        raise ValueError(
            f"`{type(optimizer).__name__}` needs the loss: call `opt.apply(grads, "
            f"model, value=loss{also})`"
        )
    return value


def needed_value_fn(
    optimizer: Any, value_fn: Callable[..., Any] | None
) -> Callable[[Any], Scalar]:
    """The loss as a function of the model, for the optimizers that cannot do
    without."""
    name = type(optimizer).__name__
    call = "`opt.apply(grads, model, value_fn=lambda model: ...)`"
    function = _needed(name, value_fn, "value_fn", "the loss", call)
    return lambda params: as_loss(name, function(params), "`value_fn` must give")


def needed_residual_fn(
    optimizer: Any, residual_fn: Callable[..., Any] | None
) -> Callable[[Any], Vector]:
    """The residuals as a vector, for the optimizers that cannot do without."""
    name = type(optimizer).__name__
    call = (
        "`opt.apply(grads, model, residual_fn=lambda model: ...)`, or train with "
        "`make_step(residual_fn, residuals=True)` or `fit(..., residuals=True)`"
    )
    function = _needed(name, residual_fn, "residual_fn", "the residuals", call)
    where = f"`{name}`: `residual_fn`"
    return lambda params: as_residuals(where, function(params))


def _needed(
    name: str, function: Callable[..., Any] | None, argument: str, what: str, call: str
) -> Callable[..., Any]:
    """`function`, known to be one, for a call of the class `name`."""
    if function is None:
        raise ValueError(
            f"`{name}` needs {what} as a function of the model: call {call}"
        )
    if not callable(function):
        raise TypeError(
            f"`{name}`: `{argument}` must be {what} as a function of the model, "
            f"not {reprlib.repr(function)}"
        )
    return function
