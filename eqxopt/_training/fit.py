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
from ._compiled_step import CompiledStep
from ._step import training_step


M = TypeVar("M")
O = TypeVar("O", bound=AbstractOptimizer)


class History(NamedTuple):
    """The losses of a training run: for each step, the loss and the optimizer's count
    before it.

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
    """Trains for many steps. Each call of its compiled program makes `steps_per_call`
    of them.

    **Arguments:**

    - `loss_fn`: returns the loss. Called as `loss_fn(model, *batch)` if a batch is a
        tuple, and as `loss_fn(model, batch)` otherwise.
    - `model`, `opt`: the model, and an optimizer that is initialised for it.
    - `batches`: an iterable of batches, which are pytrees of arrays. Or, with
        `batch_size`, all the data: a pytree of arrays whose first axis is the rows.
        Then batches are drawn on the device, in a new order every epoch.
    - `steps`: the number of steps. Default: all batches of the iterable, or one epoch
        of the data in memory.
    - `batch_size`, `key`: for data in memory, the number of rows in a batch, and the
        random key of the order. Rows that do not fill a batch are left out in that
        epoch.
    - `steps_per_call`: the number of steps in one call of the compiled program. Default
        50.
    - `progress`: whether to show a progress bar with the loss and the steps per second.
        It needs tqdm and a terminal. Default `True`.
    - `callback`: called as `callback(model, opt, history)` after each call of the
        program, with the history so far. Training stops if it returns `True`.

    **Returns:** `(model, opt, history)`, the history with the loss of every step.

    A keyboard interrupt stops training after the current call of the program, and `fit`
    returns what it has reached. To continue, call `fit` with the returned model and
    optimizer and the same `key`. The results are those of an uninterrupted run, bit for
    bit: the order of the data depends on `opt.count`, and an iterable continues where
    it stopped.

    **Raises:** a `ValueError` for options that exclude each other, for data of
    different lengths, and for a loss that is not a scalar.

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
    first_step = int(count_of(opt))
    if batch_size is None:
        data = ()
        chunks = _chunks(iter(batches), steps, steps_per_call)
    else:
        data = jtu.tree_map(jnp.asarray, batches)
        rows = _row_count(data)
        if key is None or not 1 <= batch_size <= rows:
            raise ValueError(
                "`fit`: data in memory needs a `key`, and a `batch_size` from 1 to its "
                f"{rows} rows; got key={key} and batch_size={batch_size}"
            )
        steps = rows // batch_size if steps is None else steps
        order = _RowOrder(key, rows, batch_size)
        chunks = order.chunks(first_step, steps, steps_per_call)

    in_memory = batch_size is not None
    program = _program if _is_hashable(loss_fn) else _program.__wrapped__
    run = program(loss_fn, in_memory, donate=callback is None)
    if callback is None:
        # The program donates its arguments: keep the caller's arrays alive.
        model, opt = _copied((model, opt))
    losses: list[Any] = []

    def history() -> History:
        loss = np.concatenate([np.asarray(x)[:n] for x, n in losses] or [np.zeros(0)])
        return History(loss, first_step + np.arange(len(loss)))

    with _progress_bar(steps, progress) as show, _interrupts() as interrupted:
        for chunk, n in chunks:
            model, opt, loss = run(model, opt, data, chunk, n)
            losses.append((loss, n))
            show(n, loss)
            stop = callback is not None and callback(model, opt, history()) is True
            if stop or interrupted.is_set():
                break
        return model, opt, history()


@functools.lru_cache(maxsize=16)
def _program(
    loss_fn: Callable[..., Any], in_memory: bool, donate: bool
) -> CompiledStep:
    """The compiled loop of `n` steps. A chunk holds its batches, or with `in_memory`
    the row numbers of its batches.

    `n` is an argument of the program, so that a shorter last chunk compiles nothing.
    The cache saves another call of `fit` from compiling.
    """

    def on_batch(model: PyTree, batch: Any) -> Any:
        args = batch if isinstance(batch, tuple) else (batch,)
        return loss_fn(model, *args)

    step = training_step(on_batch, has_aux=False)

    def loop(model: PyTree, opt: PyTree, data: PyTree, chunk: PyTree, n: Array) -> Any:
        carry, static = eqx.partition((model, opt), eqx.is_array)
        length = jtu.tree_leaves(chunk)[0].shape[0]

        def body(i: Array, state: Any) -> Any:
            carry, losses = state
            model, opt = eqx.combine(carry, static)
            index, source = (chunk[i], data) if in_memory else (i, chunk)
            batch = jtu.tree_map(lambda x: x[index], source)
            model, opt, loss = step(model, opt, batch)
            losses = losses.at[i].set(loss.astype(losses.dtype))
            return eqx.filter((model, opt), eqx.is_array), losses

        start = carry, jnp.zeros(length, float)
        carry, losses = jax.lax.fori_loop(0, n, body, start)
        return *eqx.combine(carry, static), losses

    return CompiledStep(loop, donate)


def _chunks(
    batches: Iterator[Any], steps: int | None, size: int
) -> Iterator[tuple[PyTree, int]]:
    """Stack up to `size` successive batches of one shape, and count them. Pad every
    stack to `size`, so that one program fits them all."""
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
    padded = batches + [batches[-1]] * (size - len(batches))

    def stack(*leaves: Any) -> Any:
        on_host = all(not isinstance(x, jax.Array) for x in leaves)
        return (np if on_host else jnp).stack(leaves)

    return jtu.tree_map(stack, *padded)


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


class _RowOrder:
    """The rows of each step: a new permutation every epoch, which depends only on the
    key and the number of the epoch."""

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
        self, first_step: int, steps: int, size: int
    ) -> Iterator[tuple[Int[Array, "size batch"], int]]:
        end = first_step + steps
        for start in range(first_step, end, size):
            n = min(size, end - start)
            yield self._rows(start, size), n

    def _rows(self, start: int, size: int) -> Int[Array, "size batch"]:
        first, last = start // self._per_epoch, (start + size - 1) // self._per_epoch
        epochs = range(first, last + 1)
        orders = jnp.concatenate([self._order(jnp.asarray(e)) for e in epochs])
        offset = start % self._per_epoch
        return orders[offset : offset + size]


@contextmanager
def _progress_bar(
    steps: int | None, wanted: bool
) -> Iterator[Callable[[int, Array], None]]:
    """A function to call after `n` steps with their losses."""
    if not (wanted and sys.stderr.isatty() and find_spec("tqdm")):
        yield lambda n, loss: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=steps, unit="step") as bar:

        def show(n: int, loss: Array) -> None:
            bar.set_postfix(loss=f"{float(loss[n - 1]):.4g}", refresh=False)
            bar.update(n)

        yield show


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """An event that a keyboard interrupt sets. An exception could come in the middle of
    a step; only a second interrupt raises one."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handler(*_: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    previous_handler = signal.signal(signal.SIGINT, handler)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous_handler)


def _is_hashable(x: Any) -> bool:
    try:
        hash(x)
    except TypeError:  # such as a module with arrays
        return False
    return True


@jax.jit
def _copies(arrays: list[Array]) -> list[Array]:
    return [jnp.copy(x) for x in arrays]


def _copied(tree: Any) -> Any:
    leaves, treedef = jtu.tree_flatten(tree)
    # Copy all arrays in one program: one call an array takes as long as many steps.
    copies = iter(_copies([x for x in leaves if eqx.is_array(x)]))
    return treedef.unflatten([next(copies) if eqx.is_array(x) else x for x in leaves])
