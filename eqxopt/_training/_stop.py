"""Signals that end a training run between two steps."""

import signal
import threading
from types import FrameType
from typing import Any


class Stop:
    """Within this context, the first SIGINT or SIGTERM only sets `requested`, since an
    exception could come in the middle of a step. A second one raises."""

    def __init__(self):
        self.requested: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                previous = signal.getsignal(number)
                # Leave alone what is ignored, as in a job behind `nohup`, and what is
                # not Python's.
                if previous not in (signal.SIG_IGN, None):
                    self._previous[number] = previous
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            raise SystemExit(128 + number)
        self.requested = signal.Signals(number).name
        previous = self._previous[signal.Signals(number)]
        if callable(previous) and previous is not signal.default_int_handler:
            previous(number, frame)
