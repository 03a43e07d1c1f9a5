"""The progress bars of reading and downloading."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from cnn_numba.escaping import printable
from cnn_numba.notebook import notebook_bars, notebook_progress

INTERVAL = 0.1              # seconds before the first drawing, and between two: drawing may take longer than reading


@contextmanager
def bar(name: str, total: int) -> Iterator[Callable[[int], object]]:
    """Gives a function that advances a bar on stderr by an amount of the total.

    In a notebook it is a bar of tqdm.  It draws nothing where stderr is something else.
    """
    if notebook_bars():
        with notebook_progress(name, total) as fill:
            yield fill
        return
    from progress.bar import Bar

    drawn, waiting, due = None, 0, time.monotonic() + INTERVAL

    def advance(amount: int) -> None:
        nonlocal drawn, waiting, due
        waiting += amount
        if time.monotonic() >= due:
            with suppress(OSError):             # the terminal is gone
                drawn = drawn or Bar(f"{printable(name)} ", max=total, suffix="%(percent)d%%")
                drawn.next(waiting)
            waiting, due = 0, time.monotonic() + INTERVAL

    try:
        yield advance
    finally:
        if drawn:
            with suppress(OSError):
                drawn.next(waiting)
                drawn.finish()
