"""Printing, and the formats of numbers, times and names."""
import shutil
import sys
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnn_numba.data import Dataset
    from cnn_numba.history import EpochResult

def printers(quiet: bool) -> tuple[Callable[[str], None], Callable[[str], None]]:
    """(say, warn): functions that print a line.

    With `quiet`, say prints nothing, and warn prints on stderr instead of between the lines of say.
    """
    def say(line: str) -> None:
        if not quiet:
            print(fitted(line), flush=True)

    def warn(line: str) -> None:
        print(line if quiet else fitted(line), file=sys.stderr if quiet else sys.stdout, flush=True)
    return say, warn


def fitted(line: str) -> str:
    """A line broken between words where it is longer than the terminal is wide."""
    columns = shutil.get_terminal_size().columns
    if not sys.stdout.isatty() or len(line) <= columns:
        return line
    return textwrap.fill(line, columns, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def fail(sentence: str) -> None:
    """Print an error."""
    print(f"error: {safe(sentence)}", file=sys.stderr, flush=True)


def warning(sentence: str) -> None:
    print(f"warning: {safe(sentence)}", file=sys.stderr, flush=True)


def clear_bar() -> None:
    """Delete the bar that a terminal shows, so that a line can replace it."""
    if sys.stderr.isatty():
        print(end="\r\x1b[K", file=sys.stderr, flush=True)


def make_printable() -> None:
    """Let characters that stdout and stderr cannot encode be printed as escapes, instead of an error."""
    for stream in sys.stdout, sys.stderr:
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")


def safe(text: str) -> str:
    """A text such as the name of a file or class, with escapes in place of characters that control a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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
    return (f"Data set {safe(data.name)}: {', '.join(sizes[:-1])} and {sizes[-1]} images, {shape}, "
            f"{data.num_classes} classes")


def epoch_line(result: "EpochResult") -> str:
    """The numbers of an epoch; in 80 columns, also with validation."""
    line = f"Epoch {result.epoch} Loss= {result.loss:.6f} Acc= {result.accuracy:.2f} % "
    if result.validation_loss is None:
        return f"{line}Run in: {seconds_text(result.seconds)}, {result.images_per_second:,.0f} images/s"
    return (f"{line}Val: {result.validation_loss:.6f} {result.validation_accuracy:.2f} % "
            f"Run in: {seconds_text(result.seconds)}")
