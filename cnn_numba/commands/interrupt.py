"""Ctrl-C and SIGTERM during a training."""
import signal
import threading
from types import FrameType
from typing import Any


class Terminated(KeyboardInterrupt):
    """A second SIGTERM."""


class Interruption:
    """A context in which a first Ctrl-C or SIGTERM is only recorded, and a second one raises KeyboardInterrupt.

    number : the signal that was received, or None
    """

    number: int | None = None

    def __enter__(self) -> "Interruption":
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():       # other threads cannot handle signals
            for number in signal.SIGINT, signal.SIGTERM:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.number is not None:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        self.number = number
