"""What the readers share: the pixels and labels that they accept, and the functions that they call while they read."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np

from cnn_numba.errors import InputError

MAX_LABEL = 9999            # a larger number comes from a column that does not hold labels

StrPath = str | os.PathLike[str]
Arrays = tuple[np.ndarray, np.ndarray]                          # images (N, C, H, W) and labels (N,)
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]
Keep = Callable[[Path, object, object, Callable[[], Arrays]], Arrays]       # `cached`, for a given data folder


@contextmanager
def no_progress(name: str, total: int) -> Iterator[Callable[[int], object]]:
    """The progress report that shows nothing."""
    yield lambda amount: None


def keep_nothing(path: Path, state: object, options: object, read: Callable[[], Arrays]) -> Arrays:
    """`cached` without a data folder."""
    return read()


def file_state(path: Path) -> tuple[int, int]:
    """Size in bytes and time of modification in ns, which change when a file does; InputError if it is unreadable."""
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    return status.st_size, status.st_mtime_ns


def first_line(error: Exception) -> str:
    """The start of what an exception of another library says, or its name when it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0][:100]


def as_pixels(values: np.ndarray) -> np.ndarray:
    """The values as uint8 when all are whole numbers from 0 to 255, else as float32 (infinite if too large)."""
    with np.errstate(invalid="ignore", over="ignore"):
        small = values.astype(np.uint8, copy=False)
        return small if np.array_equal(small, values) else values.astype(np.float32, copy=False)


def shape_of_image(pixels: int, image_shape: tuple[int, ...] | None, where: str) -> tuple[int, ...]:
    """(C, H, W) of images with this number of pixels: `image_shape` when it is given, else one channel and a square.

    Raises InputError when the number of pixels does not match; `where` names the file.
    """
    if image_shape is not None:
        if math.prod(image_shape) != pixels:
            text = "x".join(map(str, image_shape))
            raise InputError(f"{where} holds images of {pixels} pixels, but the image shape {text} has "
                             f"{math.prod(image_shape)}")
        return tuple(image_shape)
    side = math.isqrt(pixels)
    if side * side != pixels:
        raise InputError(f"{where} holds images of {pixels} pixels, which is not a square: give the image shape "
                         "as CHANNELSxROWSxCOLUMNS (--image-shape 3x32x32)")
    return 1, side, side


def class_order(name: str) -> tuple[int, str]:
    """Sort key of class names: numbers by value, before words."""
    return int(name) if name.isdecimal() else MAX_LABEL, name


def checked_labels(labels: np.ndarray, where: str) -> np.ndarray:
    """The labels as int64; raises InputError when one is below 0 or above MAX_LABEL."""
    wrong = labels[(labels < 0) | (labels > MAX_LABEL)]
    if len(wrong):
        raise InputError(f"{where} holds the label {wrong[0]}, expected 0 to {MAX_LABEL}")
    return labels.astype(np.int64, copy=False)
