"""Ctrl-C, SIGTERM and SIGHUP."""
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# A terminal that is closed, or a connection that ends, sends SIGHUP, which Windows does not have.
SIGNALS = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in signal.Signals.__members__)


class Stopped(KeyboardInterrupt):
    """A second signal during a training.

    number : the signal
    """

    def __init__(self, number: int):
        super().__init__()
        self.number = number


class Interruption:
    """A context in which a first signal is only recorded, and a second one raises Stopped.

    number : the signal that was received, or None
    """

    number: int | None = None

    def __enter__(self) -> "Interruption":
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():       # other threads cannot handle signals
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.number is not None:
            raise Stopped(number)
        self.number = number


@contextmanager
def handled() -> Iterator[None]:
    """A context in which Ctrl-C raises KeyboardInterrupt, and ends the process where no exception can be raised.

    LLVM calls back into Python when it has compiled a function; an exception that is raised there is lost.
    """
    hook = sys.unraisablehook

    def leave(lost: Any) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            hook(lost)
            return
        os.write(2, b"Interrupted\n")
        os._exit(128 + signal.SIGINT)
    main_thread = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    if main_thread and before == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.unraisablehook = leave
    try:
        yield
    finally:
        sys.unraisablehook = hook
        if main_thread and before == signal.SIG_DFL:
            signal.signal(signal.SIGINT, before)        # while the interpreter ends


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """The exit code after an interruption, as a shell gives it."""
    return 128 + getattr(interrupt, "number", signal.SIGINT)
