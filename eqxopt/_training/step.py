"""A compiled training step."""

from collections.abc import Callable
from typing import Any, Literal, overload, Protocol, runtime_checkable, TypeVar

from .._abstract.optimizer import AbstractOptimizer
from .._types import Scalar
from ._compiled_step import CompiledStep
from ._step import training_step


M = TypeVar("M")
O = TypeVar("O", bound=AbstractOptimizer)


@runtime_checkable
class TrainingStep(Protocol):
    def __call__(self, model: M, opt: O, *batch: Any) -> tuple[M, O, Scalar]: ...


@runtime_checkable
class TrainingStepWithAux(Protocol):
    def __call__(self, model: M, opt: O, *batch: Any) -> tuple[M, O, Scalar, Any]: ...


@overload
def make_step(
    loss_fn: Callable[..., Any],
    *,
    has_aux: Literal[False] = False,
    donate: bool = True,
    microbatches: int = 1,
) -> TrainingStep: ...
@overload
def make_step(
    loss_fn: Callable[..., Any],
    *,
    has_aux: Literal[True],
    donate: bool = True,
    microbatches: int = 1,
) -> TrainingStepWithAux: ...
def make_step(
    loss_fn: Callable[..., Any],
    *,
    has_aux: bool = False,
    donate: bool = True,
    microbatches: int = 1,
) -> Any:
    """Makes a compiled training step, for any optimizer.

    The step gives the optimizer the loss and the loss function, so optimizers that need
    them work in the same loop as all others.

    **Arguments:**

    - `loss_fn`: called as `loss_fn(model, *batch)`, returns the loss, a scalar. With
        `has_aux` it returns a pair of the loss and anything else.
    - `has_aux`: whether `loss_fn` returns such a pair. Default `False`.
    - `donate`: whether the old model and optimizer give their memory to the new ones.
        Then the old ones cannot be used again. Default `True`.
    - `microbatches`: the number of parts into which the batch is split, along the first
        axis of its arrays. They are computed one after the other, and their gradients
        are averaged in at least float32. Random keys are split; scalars are repeated.
        Default 1.

    **Returns:** `step(model, opt, *batch) -> (model, opt, loss)`. With `has_aux` it is
    `(model, opt, loss, aux)`, where `aux` has a leading axis if there are several
    microbatches.

    **Raises:** a `ValueError` for a model or optimizer that was donated to an earlier
    step, and for a batch that does not split evenly.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> step = eqxopt.make_step(lambda x, target: jnp.sum((x - target) ** 2))
        >>> x = jnp.zeros(2)
        >>> opt = eqxopt.SGD(0.25).init(x)
        >>> for _ in range(2):
        ...     x, opt, loss = step(x, opt, jnp.array([1.0, 2.0]))
        >>> print(x, loss)
        [0.75 1.5 ] 1.25

        ```
    """
    if microbatches < 1:
        raise ValueError(f"`make_step`: microbatches={microbatches} must be at least 1")
    step = training_step(loss_fn, has_aux, microbatches)
    return CompiledStep(step, donate)
