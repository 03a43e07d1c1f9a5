"""Printing, and the formats of numbers, times and names."""
import contextlib
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TextIO

from cnn_numba.escaping import printable

if TYPE_CHECKING:
    from cnn_numba.data import Dataset
    from cnn_numba.history import EpochResult
    from cnn_numba.table import Table


class OutputFailed(Exception):
    """Standard output cannot be written; the OSError is its cause."""


class _State:
    lost: OSError | None = None         # why standard output could not be written


def begin() -> None:
    """Prepare stdout and stderr: nothing that is printed there may raise because of its characters.

    Those that the parent process has closed become the null device, so that no file gets their numbers.
    """
    _State.lost = None
    for name in "stdout", "stderr":
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))
        elif reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")


def end(code: int) -> int:
    """The exit code of the process: `code`, unless the output was lost.

    141 and no word when its reader is gone; one sentence and 2 when it could not be written, as on a full disk.
    """
    try:
        sys.stdout.flush()              # not while the interpreter exits
    except OSError as error:
        _drop(sys.stdout)
        _State.lost = error
    if _State.lost is None:
        return code
    if isinstance(_State.lost, BrokenPipeError):
        return code or 141
    if code == 0:
        fail(f"the output cannot be written ({_State.lost.strerror or _State.lost})")
    return code or 2


def put(line: str = "") -> None:
    """Print a line, whatever is in it.  Raises OutputFailed when it cannot be written."""
    try:
        print(printable(line), flush=True)
    except OSError as error:
        _drop(sys.stdout)
        _State.lost = error
        raise OutputFailed from error


def put_all(parts: "Iterable[str | Table]") -> None:
    """Print lines and tables, broken where they are wider than the terminal."""
    for part in parts:
        for line in fitted(part):
            put(line)


def tell(line: str) -> None:
    """Print a line on stderr or, when that is lost, nowhere."""
    _tell(f"{printable(line)}\n")


def _tell(text: str) -> None:
    try:
        print(text, end="", file=sys.stderr, flush=True)
    except OSError:
        _drop(sys.stderr)


def _drop(stream: TextIO) -> None:
    """Connect a stream that failed to the null device, where what it still holds can go."""
    with contextlib.suppress(OSError, ValueError):
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, stream.fileno())
        os.close(sink)


def printers(quiet: bool, go_on: bool = False) -> tuple["Callable[[str | Table], None]", Callable[[str], None]]:
    """(say, warn): functions that print a line; `say` prints tables, too.

    With `quiet`, say prints nothing, and warn prints on stderr instead of between the lines of say.  With `go_on`,
    lines that cannot be written are lost, and `end` remembers it.
    """
    def say(part: "str | Table") -> None:
        if not quiet:
            with contextlib.suppress(OutputFailed) if go_on else contextlib.nullcontext():
                put_all([part])

    def warn(line: str) -> None:
        if quiet:
            tell(line)
        else:
            say(line)
    return say, warn


def fitted(part: "str | Table") -> list[str]:
    """The lines of a table or of a line that is broken between words, where it is wider than the terminal."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    if not isinstance(part, str):
        return part.lines(columns)
    line = printable(part)
    if columns is None or len(line) <= columns:
        return [line]
    return textwrap.wrap(line, columns, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def fail(sentence: str) -> None:
    """Print an error."""
    tell(f"error: {sentence}")


def warning(sentence: str) -> None:
    tell(f"warning: {sentence}")


def clear_bar() -> None:
    """Delete the bar that a terminal shows, so that a line can replace it."""
    if sys.stderr.isatty():
        _tell("\r\x1b[K")


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def seconds_text(seconds: float) -> str:
    """Seconds with two significant digits at least: 0.0038 s, 0.51 s, 12.05 s."""
    digits = 2
    while digits < 9 and 0 < seconds < 10.0 ** (1 - digits):
        digits += 1
    return f"{seconds:.{digits}f} s"


def duration_text(seconds: float) -> str:
    """A rounded duration."""
    for unit, size in ("hour", 3600), ("minute", 60):
        if seconds >= 1.5 * size:
            return count(round(seconds / size), unit)
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def data_line(data: "Dataset") -> str:
    parts = [(data.train_images, "training"), (data.validation_images, "validation"), (data.test_images, "test")]
    sizes = [f"{len(images):,} {part}" for images, part in parts if images is not None]
    shape = " x ".join(map(str, data.train_images.shape[1:]))
    return (f"Data set {data.name}: {', '.join(sizes[:-1])} and {sizes[-1]} images, {shape}, "
            f"{data.num_classes} classes")


def epoch_line(result: "EpochResult") -> str:
    """The numbers of an epoch in 80 columns: with those on the validation part or, without one, on the test part."""
    line = f"Epoch {result.epoch} Loss= {result.loss:.6f} Acc= {result.accuracy:.2f} % "
    for part, loss, accuracy in (("Val", result.validation_loss, result.validation_accuracy),
                                 ("Test", result.test_loss, result.test_accuracy)):
        if loss is not None:
            return f"{line}{part}: {loss:.6f} {accuracy:.2f} % Run in: {seconds_text(result.seconds)}"
    return f"{line}Run in: {seconds_text(result.seconds)}, {result.images_per_second:,.0f} images/s"
