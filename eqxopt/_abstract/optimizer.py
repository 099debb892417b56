"""The contract of optimizers: a model in, a trained model out."""

import abc
from collections.abc import Callable
from typing import Any, TypeVar

from jaxtyping import PyTree

from .._compile.staging import in_jit
from .._compile.traces import as_argument, compiled
from .._math import moved
from .._places import as_placed, is_on_mesh
from .._tree import Parameters
from .._types import AnyLeaf, Scalar, Self
from .nested import inner_transforms
from .spread import placed_like
from .step import as_loss, needed_residual_fn, needed_value_fn
from .transform import AbstractTransform, check_single, opened


M = TypeVar("M")
O = TypeVar("O", bound="AbstractOptimizer")


class AbstractOptimizer(AbstractTransform):
    """A transform whose updates train a model by themselves."""

    @abc.abstractmethod
    def evaluate(self, parameters: Parameters) -> list[AnyLeaf]:
        """The arrays to evaluate the model with, one for each parameter."""

    def apply(
        self,
        grads: PyTree,
        params: M,
        *,
        value: Any = None,
        value_fn: Callable[..., Any] | None = None,
        residual_fn: Callable[..., Any] | None = None,
    ) -> tuple[M, Self]:
        """One step of training: the next model and the next optimizer.

        Compiled, so it is fast when called on its own, and part of the whole when
        called inside a function that you compile.

        **Arguments:**

        - `grads`: a tree of the model's shape, as `equinox.filter_grad` gives. A
            parameter whose gradient is `None` stays as it is, and so does its state.
            Conjugate gradients of complex parameters first, since JAX gives the
            conjugate of what points uphill; [`eqxopt.make_step`][] does so.
        - `params`: the model, or any pytree. What is not an inexact array passes
            through.
        - `value`: the loss at `params`, a scalar. Only some optimizers need it.
        - `value_fn`: the loss as a function of the model. Only some optimizers need
            it. It is evaluated with what the arrays, globals and attributes that it
            reads are now. A `lambda` of the batch, made in every step, compiles once.
        - `residual_fn`: the residuals as a function of the model, any tree of arrays.
            The loss is half the sum of their squares, and so this stands for `value_fn`
            too. Only some optimizers need it.

        **Returns:** `(params, optimizer)`, with the types, shapes and dtypes that went
        in.

        **Raises:** a `ValueError` or `TypeError`, before anything is computed, if
        there was no `init` or the gradients do not fit the model.
        """
        check_single(self, "apply", "grads", "model")
        if value is not None:
            value = as_loss(type(self).__name__, value)
        # Inside a function that is being compiled another jit would only cost time.
        if in_jit():
            return _apply(self, grads, params, value, value_fn, residual_fn)
        calls_value, calls_residuals = _calls(self)
        calls_residuals |= calls_value and value_fn is None
        if value_fn is not None:
            needed_value_fn(self, value_fn)  # it must be a function
            value_fn = as_argument(value_fn, params) if calls_value else _undeclared
        if residual_fn is not None:
            needed_residual_fn(self, residual_fn)
            residual_fn = (
                as_argument(residual_fn, params) if calls_residuals else _undeclared
            )
        new = _compiled_apply(self, grads, params, value, value_fn, residual_fn)
        return as_placed(new, (params, self)) if is_on_mesh(self.count) else new

    def eval_params(self, params: M) -> M:
        """The model to evaluate: an averaged one for the methods that keep an average,
        `params` itself for the others."""
        check_single(self, "eval_params", "model")
        parameters = Parameters(params)
        arrays = self.evaluate(parameters)
        return params if arrays is parameters.arrays else parameters.model(arrays)


def _apply(
    optimizer: O,
    grads: PyTree,
    params: M,
    value: Scalar | None,
    value_fn: Callable[..., Any] | None,
    residual_fn: Callable[..., Any] | None,
) -> tuple[M, O]:
    functions = value_fn, residual_fn
    step = opened(optimizer, grads, Parameters(params), value, *functions)
    updates, new = optimizer.advance(step)
    parameters = step.parameters
    after = moved(parameters.arrays, updates), new
    arrays, new = placed_like(after, (parameters.arrays, optimizer), parameters)
    return parameters.model(arrays), new


_compiled_apply = compiled(_apply)


def _calls(transform: AbstractTransform) -> tuple[bool, bool]:
    """Whether this or what it wraps calls `value_fn`, and whether `residual_fn`."""
    inner = [_calls(x) for x in inner_transforms(transform).values()]
    own = transform.uses_value_fn, transform.uses_residual_fn
    values, residuals = zip(own, *inner)
    return any(values), any(residuals)


def _undeclared(params: PyTree) -> Scalar:
    # Stands for a function that is not called, and so need not be compiled for.
    raise TypeError(
        "an optimizer that calls `value_fn` or `residual_fn` says `uses_value_fn = "
        "True` or `uses_residual_fn = True`"
    )
