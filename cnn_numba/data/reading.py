"""What the readers of users' own files share: which pixels and labels they accept, and a progress bar."""

import math
from contextlib import contextmanager

import numpy as np

from cnn_numba.errors import InputError

MAX_LABEL = 9999            # above it a column of something else was taken for the labels
SHOWN_FROM = 4 << 20        # bytes: below, reading is over before a bar can be seen


def as_pixels(values):
    """The values as uint8 when all are whole numbers from 0 to 255, else as float32 (infinite if too big)."""
    with np.errstate(invalid="ignore", over="ignore"):
        small = values.astype(np.uint8, copy=False)
        return small if np.array_equal(small, values) else values.astype(np.float32, copy=False)


def shape_of_image(pixels, image_shape, where):
    """(C, H, W) of images of so many pixels: `image_shape` when it is given, else one channel and a square.

    Raises InputError when that does not come out even; `where` names the file.
    """
    if image_shape is not None:
        if math.prod(image_shape) != pixels:
            text = "x".join(map(str, image_shape))
            raise InputError(f"{where} holds images of {pixels} pixels, but the image shape {text} has "
                             f"{math.prod(image_shape)}")
        return tuple(image_shape)
    side = math.isqrt(pixels)
    if side * side != pixels:
        raise InputError(f"{where} holds images of {pixels} pixels, which is no square: give the image shape "
                         "as CHANNELSxROWSxCOLUMNS (--image-shape 3x32x32)")
    return 1, side, side


def checked_labels(labels, where):
    """The labels as int64; raises InputError when one is below 0 or above MAX_LABEL."""
    wrong = labels[(labels < 0) | (labels > MAX_LABEL)]
    if len(wrong):
        raise InputError(f"{where} holds the label {wrong[0]}, expected 0 to {MAX_LABEL}")
    return labels.astype(np.int64)


@contextmanager
def shown(name, total, size):
    """Gives a function that is told how much more of `total` is read: a bar on stderr if a terminal.

    size : bytes to be read, about
    """
    if size < SHOWN_FROM:
        yield lambda amount: None
        return
    from progress.bar import Bar

    with Bar(f"{name} ", max=total, suffix="%(percent)d%%") as bar:
        waiting = 0

        def advance(amount):
            nonlocal waiting
            waiting += amount
            if waiting * 100 >= total:      # drawing a bar takes as long as reading a small image
                bar.next(waiting)
                waiting = 0
        yield advance
