"""A compiled training step."""

from collections.abc import Callable
from typing import (
    Any,
    Literal,
    overload,
    Protocol,
    runtime_checkable,
    TypeVar,
    TypeVarTuple,
)

import jax
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PRNGKeyArray

from .._abstract.optimizer import AbstractOptimizer
from .._places import everywhere
from .._types import Scalar
from ._compiled_step import CompiledStep
from ._layout import in_layout, Layout
from ._loss import Given
from ._program import ProgramOf
from ._step import Carry, check_microbatches, check_optimizer, training_step


M = TypeVar("M")
O = TypeVar("O", bound=AbstractOptimizer)
S = TypeVar("S")


# What a step gives after the model, the optimizer and the state.
Out = TypeVarTuple("Out")


@runtime_checkable
class TrainingStep(Protocol[*Out]):
    """A compiled step, as type checkers see it."""

    @overload
    def __call__(
        self,
        model: M,
        opt: O,
        *batch: Any,
        state: None = None,
        key: PRNGKeyArray | None = None,
        **others: Any,
    ) -> tuple[M, O, *Out]: ...
    @overload
    def __call__(
        self,
        model: M,
        opt: O,
        *batch: Any,
        state: S,
        key: PRNGKeyArray | None = None,
        **others: Any,
    ) -> tuple[M, O, S, *Out]: ...
    def __call__(self, model: Any, opt: Any, *batch: Any, **named: Any) -> Any: ...


@overload
def make_step(
    loss_fn: Callable[..., Any],
    *,
    has_aux: Literal[False] = False,
    residuals: bool = False,
    donate: bool = True,
    microbatches: int = 1,
) -> TrainingStep[Scalar]: ...
@overload
def make_step(
    loss_fn: Callable[..., Any],
    *,
    has_aux: Literal[True],
    residuals: bool = False,
    donate: bool = True,
    microbatches: int = 1,
) -> TrainingStep[Scalar, Any]: ...
def make_step(
    loss_fn: Callable[..., Any],
    *,
    has_aux: bool = False,
    residuals: bool = False,
    donate: bool = True,
    microbatches: int = 1,
) -> Any:
    """Makes a compiled training step, for any optimizer.

    The step is called as `step(model, opt, *batch)` and returns `(model, opt, loss)`.
    It gives the optimizer the loss and the loss function, so optimizers that need them
    work in the same loop as all others.

    **Arguments:**

    - `loss_fn`: [the loss function][the-loss-function], called as
        `loss_fn(model, *batch)`.
    - `has_aux`: whether `loss_fn` returns something beside the loss, `(loss, aux)`.
        Default `False`.
    - `residuals`: whether `loss_fn` returns residuals in place of the loss, as
        [`eqxopt.GaussNewton`][] and [`eqxopt.LevenbergMarquardt`][] need them: any tree
        of arrays. The loss is half the sum of their squares. All optimizers can be used
        with it. Default `False`.
    - `donate`: whether the old model and optimizer give their memory to the new ones.
        Then the old ones cannot be used again. Default `True`.
    - `microbatches`: the number of parts into which the batch is split, along the first
        axis of its arrays; on a mesh each device splits its own rows. They are computed
        one after the other, and their gradients are averaged in at least float32. A
        state goes from one to the next, each has a key of its own, and scalars are
        repeated. Default 1.

    **Returns:** `step(model, opt, *batch) -> (model, opt, loss)`, which can be given
    by keywords:

    - `state`: what `loss_fn` is given after the model, and gives after the loss, such
        as an `equinox.nn.State`. The step returns `(model, opt, state, loss)`.
    - `key`: a random key, the same one for all steps. `loss_fn` is given `key=` made
        from it and the number of steps that `opt` has made.
    - any others: passed to `loss_fn`, and never split. Numbers and booleans become
        arrays; for strings and functions the step is compiled.

    With `has_aux` it also returns `aux`, after the loss. With several microbatches
    `aux` has a leading axis.

    The step is compiled once for each structure and shape, and again if something that
    `loss_fn` reads has changed: [what is looked at][what-a-program-depends-on].

    **Raises:** a `ValueError` for a model or optimizer that was donated to an earlier
    step, for an array that is donated and used beside it, and for a batch that does
    not split evenly; a `TypeError` for a loss function with other arguments or
    results.

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
    check_microbatches("`make_step`", microbatches, residuals)

    def advance(
        carry: Carry, args: tuple[Any, Given], layout: Layout | None
    ) -> tuple[Carry, Any]:
        loss_fn, given = args
        carry, out = training_step(
            loss_fn,
            carry,
            given,
            has_aux=has_aux,
            residuals=residuals,
            microbatches=microbatches,
            on_mesh=layout is not None,
        )
        return in_layout(carry, layout), (out.loss, out.aux)

    new = lambda: CompiledStep(advance, donate)
    return _Step(ProgramOf(loss_fn, new(), new, "`make_step`"), has_aux)


class _Step:
    def __init__(self, program: ProgramOf, has_aux: bool):
        self._program = program
        self._has_aux = has_aux

    def __call__(
        self,
        model: Any,
        opt: Any,
        *batch: Any,
        state: Any = None,
        key: PRNGKeyArray | None = None,
        **others: Any,
    ) -> tuple[Any, ...]:
        check_optimizer("the step of `make_step`", opt)
        step, loss_fn = self._program.now()
        if jax.process_count() > 1:
            _check_global((model, opt), batch)
        args = loss_fn, Given(batch, others, key)
        (model, opt, state), (loss, aux) = step((model, opt, state), args)
        stated = () if state is None else (state,)
        return model, opt, *stated, loss, *((aux,) if self._has_aux else ())


def _check_global(carry: Any, batch: tuple[Any, ...]) -> None:
    """A batch that each process has for itself would train each on other rows."""
    place = everywhere(jtu.tree_leaves(carry))
    if place is None or place.is_fully_addressable:
        return
    for path, x in jtu.tree_leaves_with_path(batch):
        here = isinstance(x, np.ndarray) or (
            isinstance(x, jax.Array) and x.is_fully_addressable
        )
        if here and x.ndim > 0:
            raise ValueError(
                f"the step of `make_step`: the batch at {jtu.keystr(path)} is an array "
                "of this process, but the model lies on the devices of several. Make "
                "one array of the rows of all by `jax.make_array_from_process_local_"
                "data(jax.NamedSharding(mesh, jax.P('data')), rows)`"
            )
