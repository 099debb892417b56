"""One training step, compiled, with as little around it as there can be."""

from collections.abc import Callable
from typing import Any, Literal, overload, Protocol, runtime_checkable, TypeVar

from .._abstract.optimizer import AbstractOptimizer
from .._types import Scalar
from ._compiled_step import Carried
from ._step import training_step


M = TypeVar("M")
O = TypeVar("O", bound=AbstractOptimizer)


@runtime_checkable
class Step(Protocol):
    def __call__(self, model: M, opt: O, *batch: Any) -> tuple[M, O, Scalar]: ...


@runtime_checkable
class StepWithAux(Protocol):
    def __call__(self, model: M, opt: O, *batch: Any) -> tuple[M, O, Scalar, Any]: ...


@overload
def make_step(
    loss_fn: Callable[..., Any],
    *,
    has_aux: Literal[False] = False,
    donate: bool = True,
    microbatches: int = 1,
) -> Step: ...
@overload
def make_step(
    loss_fn: Callable[..., Any],
    *,
    has_aux: Literal[True],
    donate: bool = True,
    microbatches: int = 1,
) -> StepWithAux: ...
def make_step(
    loss_fn: Callable[..., Any],
    *,
    has_aux: bool = False,
    donate: bool = True,
    microbatches: int = 1,
) -> Any:
    """A compiled training step, for any optimizer.

    **Arguments:**

    - `loss_fn`: takes the model and a batch, `loss_fn(model, *batch)`, and gives the
        loss, a scalar; with `has_aux` a pair of the loss and anything else.
    - `has_aux`: whether it gives that pair. Default `False`.
    - `donate`: whether the model and the optimizer that go in give their memory to
        those that come out, and cannot be used any more. Default `True`.
    - `microbatches`: into how many parts the batch is split along the first axis of
        its arrays, to be taken one after the other. Their gradients are averaged in at
        least float32. Keys are split and scalars repeated. Default 1.

    **Returns:** `step(model, opt, *batch) -> (model, opt, loss)`, or with `has_aux`
    `(model, opt, loss, aux)`, where `aux` has a leading axis of the microbatches if
    there are several. The optimizer is given the loss and the loss function, so those
    that need them work in the same loop as all others.

    **Raises:** a `ValueError` for a model or optimizer that was given to a step
    before, and for a batch that does not split evenly.

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
    return Carried(step, donate)
