"""What the readers share: the pixels and labels that they accept, and the functions that they call while they read."""

import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np

from cnn_numba.errors import InputError

MAX_LABEL = 9999            # a larger number comes from a column that does not hold labels

StrPath = str | os.PathLike[str]
Arrays = tuple[np.ndarray, np.ndarray]                          # images (N, C, H, W) and labels (N,)
Content = tuple[np.ndarray, np.ndarray | None] | dict[str, Arrays]         # of a file, labels or None, or its parts
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]
Keep = Callable[[Path, object, object, Callable[[], Arrays]], Arrays]       # `cached`, for a given data folder
Say = Callable[[str], object]                                   # takes one sentence

CHANNELS = 1, 3, 4          # sizes of an axis that can hold colours
LAYOUTS = "CHW", "HWC"      # orders of the numbers of an image: channels first or last


@contextmanager
def no_progress(name: str, total: int) -> Iterator[Callable[[int], object]]:
    """The progress report that shows nothing."""
    yield lambda amount: None


def keep_nothing(path: Path, state: object, options: object, read: Callable[[], Arrays]) -> Arrays:
    """`cached` without a data folder."""
    return read()


def say_nothing(sentence: str) -> None:
    """The report that nobody reads."""


def first_line(error: Exception) -> str:
    """The start of what an exception of another library says, or its name when it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0][:100]


def as_pixels(values: np.ndarray) -> np.ndarray:
    """The values as uint8 when all are whole numbers from 0 to 255, else as float32 (infinite if too large)."""
    with np.errstate(invalid="ignore", over="ignore"):
        small = values.astype(np.uint8, copy=False)
        return small if np.array_equal(small, values) else values.astype(np.float32, copy=False)


def shape_of_image(pixels: int, image_shape: tuple[int, ...] | None, where: str,
                   like: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """(C, H, W) of images with this number of pixels: `image_shape` when it is given, else one channel and a square.

    `like` comes before a square when it has this number of pixels.

    Raises InputError when the number of pixels does not match; `where` names the file.
    """
    if image_shape is not None:
        if math.prod(image_shape) != pixels:
            raise InputError(f"{where} holds images of {pixels} pixels, but the image shape {shape_text(image_shape)} "
                             f"has {math.prod(image_shape)}")
        return tuple(image_shape)
    if like is not None and math.prod(like) == pixels:
        return tuple(like)
    if not is_square(pixels):
        third = math.isqrt(pixels // 3)
        colours = (f": give the image shape 3x{third}x{third} if they are channel by channel, and {third}x{third}x3 if "
                   "the colours of a pixel are side by side (--image-shape)")
        raise InputError(f"{where} holds images of {pixels} pixels, which is not a square" + (
            colours if 3 * third * third == pixels else ": give the image shape as CHANNELSxROWSxCOLUMNS or, where "
            "the colours of a pixel are side by side, as ROWSxCOLUMNSxCHANNELS (--image-shape 3x32x32 or 32x32x3)"))
    return 1, math.isqrt(pixels), math.isqrt(pixels)


def is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def shape_text(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))


def in_channels(pixels: np.ndarray, image_shape: tuple[int, ...] | None, layout: str | None, where: str,
                like: tuple[int, ...] | None = None) -> np.ndarray:
    """Images as (N, C, H, W), of an array (N, pixels), (N, H, W), (N, C, H, W) or (N, H, W, C).

    Parameters
    ----------
    pixels : the array
    image_shape : (C, H, W) that the images must have; by default flat images are a square of one channel
    layout : "CHW" or "HWC"; by default flat images are CHW, and four axes are HWC when only the last can be colours
    like : (C, H, W) that the images probably have, when nothing is chosen

    Raises
    ------
    InputError : another number of axes, another shape, or four axes that can be read in both ways.
    """
    if not 2 <= pixels.ndim <= 4 or 0 in pixels.shape:
        raise InputError(f"{where} has the shape {pixels.shape}, expected (N, H, W), (N, C, H, W), (N, H, W, C) or "
                         "(N, pixels)")
    if pixels.ndim == 3 and pixels.shape[2] == 1 and is_square(pixels.shape[1]):
        pixels = pixels[:, :, 0]                    # flat images with an axis for their one channel
    if pixels.ndim == 2:
        channels, rows, columns = shape_of_image(pixels.shape[1], image_shape, where, like)
        images = pixels.reshape(-1, rows, columns, channels) if layout == "HWC" else pixels.reshape(
            -1, channels, rows, columns)
    else:
        images = pixels[:, None] if pixels.ndim == 3 else pixels
        if pixels.ndim == 3 or layout is None:
            layout = "CHW" if pixels.ndim == 3 else _order(images.shape[1:], image_shape or like, where)
    if layout == "HWC":
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if image_shape is not None and images.shape[1:] != tuple(image_shape):
        raise InputError(f"{where} holds images of {shape_text(images.shape[1:])}, but the image shape is "
                         f"{shape_text(image_shape)}")
    return images


def _order(shape: tuple[int, ...], image_shape: tuple[int, ...] | None, where: str) -> str:
    """The order of three axes."""
    moved = shape[2], shape[0], shape[1]
    if image_shape is not None and tuple(image_shape) in (shape, moved):
        return "CHW" if tuple(image_shape) == shape else "HWC"
    if (shape[0], shape[2]) in ((1, 3), (3, 1), (3, 3), (4, 4)):
        raise InputError(f"{where} holds images of {shape_text(shape)}, which can have {shape[0]} channels in front "
                         f"(--image-layout CHW) or {shape[2]} at the end (--image-layout HWC)")
    return "HWC" if channels_last(shape) else "CHW"


def channels_last(shape: tuple[int, ...]) -> bool:
    """Whether only the last of three sizes is likely to be the number of channels."""
    return shape[2] in CHANNELS and shape[0] not in (CHANNELS if shape[2] == 4 else (1, 3))


def as_labels(values: np.ndarray, where: str) -> np.ndarray:
    """Labels (N,) as int64 or as names, of whole numbers of any type, truth values, text, or one-hot rows (N, classes).

    Raises InputError for others, and for numbers below 0 or above MAX_LABEL.
    """
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2 and values.dtype.kind in "buif":
        if not (np.isin(values, (0, 1)).all() and (values.sum(axis=1) == 1).all()):
            raise InputError(f"{where} has the shape {values.shape}, expected one label per image, or rows with a "
                             "single 1 (one-hot)")
        return values.argmax(axis=1).astype(np.int64)
    if values.ndim != 1 or not len(values):
        raise InputError(f"{where} has the shape {values.shape}, expected one label per image")
    if values.dtype.kind in "SU":
        return _names(values, where)
    if values.dtype.kind not in "buif":
        raise InputError(f"{where} holds {values.dtype.name}, expected whole numbers or names")
    wrong = values[values != np.floor(values)] if values.dtype.kind == "f" else values[:0]
    if len(wrong):                                  # NaN, too
        raise InputError(f"{where} holds {values.dtype.name} numbers such as {wrong[0]:g}, expected whole numbers")
    return checked_labels(values, where)


def _names(values: np.ndarray, where: str) -> np.ndarray:
    """Text as an array of str; InputError for characters that do not exist, which NumPy does not check."""
    try:
        if values.dtype.kind == "S":
            return np.array([name.decode() for name in values.tolist()], np.str_)
        codes = np.frombuffer(values.tobytes(), np.dtype("u4").newbyteorder(values.dtype.byteorder))
        if codes.max(initial=0) <= sys.maxunicode:
            return np.array(values, values.dtype.newbyteorder("="))
    except UnicodeDecodeError:
        pass
    raise InputError(f"{where} holds a name with characters that do not exist")


def class_order(name: str) -> tuple[int, str]:
    """Sort key of class names: numbers by value, before words."""
    return int(name) if name.isdecimal() else MAX_LABEL, name


def checked_labels(labels: np.ndarray, where: str) -> np.ndarray:
    """The labels as int64; raises InputError when one is below 0 or above MAX_LABEL."""
    wrong = labels[(labels < 0) | (labels > MAX_LABEL)]
    if len(wrong):
        raise InputError(f"{where} holds the label {wrong[0]}, expected 0 to {MAX_LABEL}")
    return labels.astype(np.int64, copy=False)
