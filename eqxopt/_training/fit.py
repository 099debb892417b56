"""Many training steps in one compiled loop."""

from collections.abc import Callable, Iterable
from typing import Any, overload, TypeVar

import jax
import jax.tree_util as jtu
from jax.core import Tracer
from jaxtyping import PRNGKeyArray, PyTree

from .._abstract.optimizer import AbstractOptimizer
from .._places import everywhere
from ._compiled_step import check_alive
from ._history import History, Recorder
from ._loop import new_loop, shared_loop
from ._loss import check_key, takes_key
from ._peers import Peers
from ._program import ProgramOf
from ._progress import shown_progress
from ._run import Run
from ._source import source_of
from ._step import batches_taken, Carry, check_microbatches, check_optimizer
from ._stop import Stop
from ._unmoved import Unmoved


M = TypeVar("M")
O = TypeVar("O", bound=AbstractOptimizer)
S = TypeVar("S")


@overload
def fit(
    loss_fn: Callable[..., Any],
    model: M,
    opt: O,
    batches: Iterable[Any] | PyTree = None,
    *,
    state: None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    key: PRNGKeyArray | None = None,
    has_aux: bool = False,
    residuals: bool = False,
    microbatches: int = 1,
    batch_axes: str | tuple[str, ...] | None = None,
    steps_per_call: int = 50,
    progress: bool = True,
    stop_on_nonfinite: bool = False,
    callback: Callable[[M, O, History], Any] | None = None,
) -> tuple[M, O, History]: ...
@overload
def fit(
    loss_fn: Callable[..., Any],
    model: M,
    opt: O,
    batches: Iterable[Any] | PyTree = None,
    *,
    state: S,
    steps: int | None = None,
    batch_size: int | None = None,
    key: PRNGKeyArray | None = None,
    has_aux: bool = False,
    residuals: bool = False,
    microbatches: int = 1,
    batch_axes: str | tuple[str, ...] | None = None,
    steps_per_call: int = 50,
    progress: bool = True,
    stop_on_nonfinite: bool = False,
    callback: Callable[[M, O, S, History], Any] | None = None,
) -> tuple[M, O, S, History]: ...
def fit(
    loss_fn: Callable[..., Any],
    model: Any,
    opt: Any,
    batches: Iterable[Any] | PyTree = None,
    *,
    state: Any = None,
    steps: int | None = None,
    batch_size: int | None = None,
    key: PRNGKeyArray | None = None,
    has_aux: bool = False,
    residuals: bool = False,
    microbatches: int = 1,
    batch_axes: str | tuple[str, ...] | None = None,
    steps_per_call: int = 50,
    progress: bool = True,
    stop_on_nonfinite: bool = False,
    callback: Callable[..., Any] | None = None,
) -> Any:
    """Trains for many steps. Each call of its compiled program makes up to
    `steps_per_call` of them.

    **Arguments:**

    - `loss_fn`: [the loss function][the-loss-function]. Called as
        `loss_fn(model, *batch)` if a batch is a tuple or a list, and as
        `loss_fn(model, batch)` otherwise.
    - `model`, `opt`: the model, and an optimizer that is initialised for it.
    - `batches`: an iterable of batches, such as a data loader: pytrees of what NumPy
        can read. Or, with `batch_size`, all the data: a pytree of arrays whose first
        axis is the rows. It is copied to the device once, and batches are drawn there,
        in a new order every epoch. Default: no batch, and `loss_fn(model)` is called.
    - `state`: what `loss_fn` is given after the model, and gives after the loss, such
        as an `equinox.nn.State`. Default: none.
    - `steps`: the number of steps. Default: all batches of the iterable, or one epoch
        of the data in memory.
    - `batch_size`: for data in memory, the number of rows in a batch. Rows that do not
        fill a batch are left out in that epoch. All rows, in their own order, are the
        batch of every step if it is their number.
    - `key`: the random key of the run. The order of the data in memory depends on it,
        and a `loss_fn` that has a parameter `key` is given one made from it and the
        number of steps that `opt` has made, as by [`make_step`][eqxopt.make_step].
    - `has_aux`: whether `loss_fn` gives a dictionary of named scalars as well. They are
        in `history.aux`. Default `False`.
    - `residuals`: whether `loss_fn` gives residuals in place of the loss, as for
        [`make_step`][eqxopt.make_step]. Default `False`.
    - `microbatches`: the number of parts into which each batch is split, as by
        [`make_step`][eqxopt.make_step], to save memory. The entries of `history.aux`
        are means over the parts. Default 1.
    - `batch_axes`: on a mesh, the axes over which the rows of a batch are shared out.
        Default: the only axis of the model's mesh, or those over which the rows of the
        data lie already. Each device computes its rows, and draws them from its own
        shard if the data lies in shards: [several devices][several-devices].
    - `steps_per_call`: the most steps in one call of the compiled program, and the
        steps between two calls of `callback`. Default 50.
    - `progress`: whether to show a progress bar, which needs tqdm, in terminals and
        notebooks, and a line every ten seconds elsewhere. Default `True`.
    - `stop_on_nonfinite`: whether to stop after a call in which a loss is infinite or
        NaN. There is a warning in any case. Default `False`.
    - `callback`: called as `callback(model, opt, history)`, or with a state as
        `callback(model, opt, state, history)`, after every `steps_per_call` steps and
        after the last. Training stops if it returns `True`.

    **Returns:** `(model, opt, history)`, or with a state `(model, opt, state,
    history)`.

    The first SIGINT, as from a keyboard interrupt, or SIGTERM, which preempted jobs
    get, stops training after the current step, or after a quarter of a second if steps
    are shorter. `fit` then returns what it has reached, and `history.stopped` says why.
    An exception in an iterator, a step or a callback passes through with the attribute
    `reached`: what `fit` would have returned just before.

    To continue, call `fit` with the returned model, optimizer and state and the same
    `key`. The results are those of an uninterrupted run, bit for bit: the order of the
    data and the keys depend on the number of steps that the optimizer has made, and an
    iterator continues where it stopped.

    At its end `fit` warns if most entries of a parameter in bfloat16 or float16 are
    what they were, unless something keeps small updates, as
    [`eqxopt.MasterWeights`][] does. It looks at 1,024 entries at most.

    A second call with the same shapes compiles nothing, unless something that `loss_fn`
    reads has changed or may have changed unseen: [what is looked
    at][what-a-program-depends-on].

    **Raises:** a `ValueError` for options that exclude each other, data of different
    lengths, too few batches, and a loss that is not a scalar; a `TypeError` for a loss
    function with other arguments or results, and for batches that are no numbers.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> x = jnp.linspace(-1, 1, 64)
        >>> loss_fn = lambda slope, x, y: jnp.mean((slope * x - y) ** 2)
        >>> opt = eqxopt.Adam(0.1).init(jnp.zeros(()))
        >>> slope, opt, history = eqxopt.fit(
        ...     loss_fn, jnp.zeros(()), opt, (x, 2 * x),
        ...     steps=200, batch_size=16, key=jax.random.key(0),
        ... )
        >>> print(f"{slope:.3f}", history.loss.shape)
        2.000 (200,)

        ```
    """
    _check((model, opt, state), steps, steps_per_call)
    check_key("`fit`", key)
    check_microbatches("`fit`", microbatches, residuals)
    first = int(jax.device_get(batches_taken(opt)))
    in_memory = None if batch_size is None else batches
    place = everywhere(jtu.tree_leaves((model, opt, in_memory)))
    peers = Peers("`fit`", place)
    source, steps = source_of(
        "`fit`",
        batches,
        steps,
        batch_size,
        key,
        first,
        steps_per_call,
        place,
        batch_axes,
        peers,
    )
    if batch_size is None:
        _check_key(key, loss_fn)
    options = has_aux, residuals, microbatches
    anew = lambda: new_loop(*options)
    program = ProgramOf(loss_fn, shared_loop(*options), anew, "`fit`")
    unmoved = Unmoved(model, opt)
    with shown_progress(steps, progress and peers.leads) as show, Stop() as stop:
        key = key if takes_key(loss_fn) else None
        run = Run(program, key, (model, opt, state), Recorder(first), show, peers)
        try:
            run.train(source, stop, steps, steps_per_call, stop_on_nonfinite, callback)
        except BaseException as error:
            run.settle()
            error.reached = run.result()  # pyright: ignore[reportAttributeAccessIssue]
            error.add_note(
                f"`fit`: `reached` of this exception has what was trained in "
                f"{run.recorder.steps} steps"
            )
            if peers.several and isinstance(error, jax.errors.JaxRuntimeError):
                error.add_note(
                    "`fit`: if another of the processes has ended, start all of them "
                    "again, from the last checkpoint by `eqxopt.load`"
                )
            raise
    result = run.result()
    unmoved.warn(*result[:2])
    return result


def _check(carry: Carry, steps: int | None, steps_per_call: int) -> None:
    check_optimizer("`fit`", carry[1])
    if any(isinstance(x, Tracer) for x in jtu.tree_leaves(carry)):
        raise TypeError(
            "`fit` compiles a loop of its own and looks at the losses, so it cannot be "
            "part of a function that is transformed, such as by `jax.vmap` or "
            "`jax.jit`. Use `opt.apply` in a `jax.lax.scan` there"
        )
    check_alive(carry)
    if steps_per_call < 1:
        raise ValueError(f"`fit`: steps_per_call={steps_per_call} must be at least 1")
    if steps is not None and steps < 0:
        raise ValueError(f"`fit`: steps={steps} must be at least 0")


def _check_key(key: PRNGKeyArray | None, loss_fn: Callable[..., Any]) -> None:
    if key is not None and not takes_key(loss_fn):
        raise ValueError(
            "`fit`: nothing uses the `key`: the loss function has no parameter of that "
            "name, and the batches have their own order"
        )
