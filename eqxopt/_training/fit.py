"""Many training steps in one compiled loop."""

import functools
import itertools
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._abstract.optimizer import AbstractOptimizer, count_of
from ._compiled_step import Carried
from ._step import training_step


M = TypeVar("M")
O = TypeVar("O", bound=AbstractOptimizer)


class History(NamedTuple):
    """The loss of every step, and the optimizer's count before it.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> x = jnp.ones(())
        >>> opt = eqxopt.SGD(0.25).init(x)
        >>> loss_fn = lambda x, target: (x - target) ** 2
        >>> *_, history = eqxopt.fit(loss_fn, x, opt, [jnp.zeros(())] * 2)
        >>> print(history.loss, history.step)
        [1.   0.25] [0 1]

        ```
    """

    loss: Float[np.ndarray, " steps"]
    step: Int[np.ndarray, " steps"]


def fit(
    loss_fn: Callable[..., Any],
    model: M,
    opt: O,
    batches: Iterable[Any] | PyTree,
    *,
    steps: int | None = None,
    batch_size: int | None = None,
    key: PRNGKeyArray | None = None,
    steps_per_call: int = 50,
    progress: bool = True,
    callback: Callable[[M, O, History], Any] | None = None,
) -> tuple[M, O, History]:
    """Trains for many steps, of which a good number at a time run as one program.

    **Arguments:**

    - `loss_fn`: takes the model and a batch and gives the loss, `loss_fn(model,
        *batch)` if a batch is a tuple and `loss_fn(model, batch)` otherwise.
    - `model`, `opt`: the model, and an optimizer that is initialised for it.
    - `batches`: an iterable of batches, which are pytrees of arrays; or, if
        `batch_size` is given, a pytree of arrays with all the data along their first
        axis, from which batches are drawn on the device, in a new order every epoch.
    - `steps`: how many steps to make. By default all that the iterable gives, or one
        epoch of data in memory.
    - `batch_size`, `key`: the rows of a batch, and the key of the order, for data in
        memory. Rows that do not fill a batch wait for another epoch's order.
    - `steps_per_call`: how many steps run between two looks at the outside world.
        Default 50.
    - `progress`: whether to show a bar with the loss and the steps per second. It needs
        tqdm and a terminal. Default `True`.
    - `callback`: called as `callback(model, opt, history)` between two programs, with
        the history so far. If it returns `True`, training stops.

    **Returns:** `(model, opt, history)`, the history with the loss of every step.

    An interrupt from the keyboard ends training at the end of the current program, and
    what was reached is returned. Training goes on from there, to the very bits, with
    the returned model and optimizer and the same `key`: the order of the data depends
    on `opt.count`, and an iterable goes on where it stopped.

    **Raises:** a `ValueError` for options that do not go together, for data of
    different lengths, and if the loss is not a scalar.

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
    if steps_per_call < 1:
        raise ValueError(f"`fit`: steps_per_call={steps_per_call} must be at least 1")
    first = int(count_of(opt))
    if batch_size is None:
        data = ()
        chunks = _stacked(iter(batches), steps, steps_per_call)
    else:
        data = jtu.tree_map(jnp.asarray, batches)
        rows = _row_count(data)
        if key is None or not 1 <= batch_size <= rows:
            raise ValueError(
                "`fit`: data in memory needs a `key`, and a `batch_size` from 1 to its "
                f"{rows} rows; got key={key} and batch_size={batch_size}"
            )
        steps = rows // batch_size if steps is None else steps
        order = _Order(key, rows, batch_size)
        chunks = order.chunks(first, steps, steps_per_call)

    in_memory = batch_size is not None
    program = _program if _is_hashable(loss_fn) else _program.__wrapped__
    run = program(loss_fn, in_memory, donate=callback is None)
    if callback is None:
        # The memory of what the caller holds is not given away.
        model, opt = _copied((model, opt))
    losses: list[Any] = []

    def history() -> History:
        loss = np.concatenate([np.asarray(x)[:n] for x, n in losses] or [np.zeros(0)])
        return History(loss, first + np.arange(len(loss)))

    with _bar(steps, progress) as advance, _interrupts() as interrupted:
        for chunk, n in chunks:
            model, opt, loss = run(model, opt, data, chunk, n)
            losses.append((loss, n))
            advance(n, loss)
            stop = callback is not None and callback(model, opt, history()) is True
            if stop or interrupted.is_set():
                break
        return model, opt, history()


@functools.lru_cache(maxsize=16)
def _program(loss_fn: Callable[..., Any], in_memory: bool, donate: bool) -> Carried:
    """`n` steps on the batches of a chunk, or on the rows of the data that it numbers.

    What `n` is becomes known when this runs, so that a shorter chunk at the end needs
    no program of its own. Kept, so that going on needs none either.
    """

    def on_batch(model: PyTree, batch: Any) -> Any:
        args = batch if isinstance(batch, tuple) else (batch,)
        return loss_fn(model, *args)

    step = training_step(on_batch, has_aux=False)

    def loop(model: PyTree, opt: PyTree, data: PyTree, chunk: PyTree, n: Array) -> Any:
        carry, rest = eqx.partition((model, opt), eqx.is_array)
        length = jtu.tree_leaves(chunk)[0].shape[0]

        def body(i: Array, state: Any) -> Any:
            carry, losses = state
            model, opt = eqx.combine(carry, rest)
            place, source = (chunk[i], data) if in_memory else (i, chunk)
            batch = jtu.tree_map(lambda x: x[place], source)
            model, opt, loss = step(model, opt, batch)
            losses = losses.at[i].set(loss.astype(losses.dtype))
            return eqx.filter((model, opt), eqx.is_array), losses

        start = carry, jnp.zeros(length, float)
        carry, losses = jax.lax.fori_loop(0, n, body, start)
        return *eqx.combine(carry, rest), losses

    return Carried(loop, donate)


def _stacked(
    batches: Iterator[Any], steps: int | None, size: int
) -> Iterator[tuple[PyTree, int]]:
    """Batches of one shape, up to `size` of them together, and how many they are. All
    stacks of a shape are filled up to the same length."""
    waiting: list[Any] = []
    for batch in itertools.islice(batches, steps):
        if waiting and _shapes(batch) != _shapes(waiting[0]):
            yield _stack(waiting, size), len(waiting)
            waiting = []
        waiting.append(batch)
        if len(waiting) == size:
            yield _stack(waiting, size), size
            waiting = []
    if waiting:
        yield _stack(waiting, size), len(waiting)


def _shapes(batch: PyTree) -> Any:
    leaves, treedef = jtu.tree_flatten(batch)
    return treedef, [(np.shape(x), jnp.result_type(x)) for x in leaves]


def _stack(batches: list[PyTree], size: int) -> PyTree:
    filled = batches + [batches[-1]] * (size - len(batches))

    def stack(*leaves: Any) -> Any:
        on_host = all(not isinstance(x, jax.Array) for x in leaves)
        return (np if on_host else jnp).stack(leaves)

    return jtu.tree_map(stack, *filled)


def _row_count(data: PyTree) -> int:
    leaves = jtu.tree_leaves_with_path(data)
    if not leaves:
        raise ValueError("`fit`: there is no array in the data")
    (first_path, first), *others = leaves
    for path, x in others:
        if x.shape[:1] != first.shape[:1]:
            raise ValueError(
                f"`fit`: the data at {jtu.keystr(path)} has shape {x.shape}, but at "
                f"{jtu.keystr(first_path)} {first.shape}; their first axes are the rows"
            )
    return first.shape[0]


class _Order:
    """Which rows each step sees: a new permutation every epoch, which depends on
    nothing but the key and the number of the epoch."""

    def __init__(self, key: PRNGKeyArray, rows: int, batch_size: int):
        self._per_epoch = rows // batch_size

        @jax.jit
        def order(epoch: Array) -> Int[Array, "steps batch"]:
            rng = jax.random.fold_in(key, epoch)
            shuffled = jax.random.permutation(rng, rows)
            used = self._per_epoch * batch_size
            return shuffled[:used].reshape(self._per_epoch, batch_size)

        self._order = order

    def chunks(
        self, first: int, steps: int, size: int
    ) -> Iterator[tuple[Int[Array, "size batch"], int]]:
        for start in range(first, first + steps, size):
            n = min(size, first + steps - start)
            yield self._rows(start, size), n

    def _rows(self, start: int, size: int) -> Int[Array, "size batch"]:
        epochs = range(
            start // self._per_epoch, (start + size - 1) // self._per_epoch + 1
        )
        orders = jnp.concatenate([self._order(jnp.asarray(e)) for e in epochs])
        offset = start % self._per_epoch
        return orders[offset : offset + size]


@contextmanager
def _bar(steps: int | None, wanted: bool) -> Iterator[Callable[[int, Array], None]]:
    """A function to be told of steps made and their losses."""
    if not (wanted and sys.stderr.isatty() and find_spec("tqdm")):
        yield lambda n, loss: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=steps, unit="step") as bar:

        def advance(n: int, loss: Array) -> None:
            bar.set_postfix(loss=f"{float(loss[n - 1]):.4g}", refresh=False)
            bar.update(n)

        yield advance


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """An event for an interrupt from the keyboard, in place of an exception that might
    come between two halves of a step. A second one is an exception again."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handler(*_: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def _is_hashable(x: Any) -> bool:
    try:
        hash(x)
    except TypeError:  # a module with arrays can be a loss function, too
        return False
    return True


@jax.jit
def _copies(arrays: list[Array]) -> list[Array]:
    return [jnp.copy(x) for x in arrays]


def _copied(tree: Any) -> Any:
    leaves, treedef = jtu.tree_flatten(tree)
    # All at once: a call for each array takes as long as many steps.
    copies = iter(_copies([x for x in leaves if eqx.is_array(x)]))
    return treedef.unflatten([next(copies) if eqx.is_array(x) else x for x in leaves])
