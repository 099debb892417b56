"""How a training run shows its progress."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec


# Between two lines where there is no bar, such as in the log of a batch job.
SECONDS = 10.0


@contextmanager
def shown_progress(
    steps: int | None, wanted: bool
) -> Iterator[Callable[[int, float], None]]:
    """A function to call after `n` steps with the last of their losses.

    A bar in terminals and notebooks, and a line every few seconds elsewhere.
    """
    if not wanted:
        yield lambda n, loss: None
    elif (_in_notebook() or sys.stderr.isatty()) and find_spec("tqdm"):
        with _bar(steps) as show:
            yield show
    else:
        yield _Lines(steps).show


@contextmanager
def _bar(steps: int | None) -> Iterator[Callable[[int, float], None]]:
    from tqdm import tqdm

    if _in_notebook() and find_spec("ipywidgets"):
        from tqdm.notebook import tqdm

    with tqdm(total=steps, unit="step") as bar:

        def show(n: int, loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            bar.update(n)

        yield show


class _Lines:
    def __init__(self, steps: int | None):
        self._total = "" if steps is None else f"/{steps}"
        self._done = self._shown = 0
        self._time = time.monotonic()

    def show(self, n: int, loss: float) -> None:
        self._done += n
        seconds = time.monotonic() - self._time
        if seconds >= SECONDS:
            rate = (self._done - self._shown) / seconds
            print(
                f"step {self._done}{self._total}  loss {loss:.4g}  {rate:.3g} steps/s",
                file=sys.stderr,
                flush=True,
            )
            self._time += seconds
            self._shown = self._done


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"
