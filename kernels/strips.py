"""Few images in all lanes: a convolution of an image is that of strips of its rows, and each strip gets a lane.

    whole (N, C, H, W)          lane b is image b, for b < images; the other lanes are empty
    strips (N, C, h, W)         lane s * images + b holds the rows s * step, ..., s * step + h - 1 of image b

With h > step, neighbouring strips share rows.  N is 1: fewer images than lanes make one block.
"""
from numba import njit

from .compiled import KERNEL
from .lanes import ZERO, lanes_from, splat, store


@njit(**KERNEL)
def split_rows(n, strips, whole, step, count, images):
    """The rows of `count` strips; 0 for rows past the last one and in lanes past the last strip.

    strips (N, C, h, W) is overwritten.
    """
    H = whole.shape[2]
    for c in range(whole.shape[1]):
        for r in range(strips.shape[2]):
            inside = min(count, (H - 1 - r) // step + 1)
            for j in range(strips.shape[3]):
                acc = splat(ZERO)
                for s in range(inside):
                    acc = acc + lanes_from(whole, (n, c, s * step + r, j), 0, s * images, images)
                store(strips, (n, c, r, j), acc)


@njit(**KERNEL)
def join_rows(n, whole, strips, top, step, count, images):
    """The sum of the strips, without the first `top` rows: each row is the sum of that row in all strips that share it.

    whole (N, C, H, W) is overwritten, with 0 in the lanes without an image.
    """
    for c in range(whole.shape[1]):
        for i in range(whole.shape[2]):
            row = top + i
            first_s, end_s = max(0, (row - strips.shape[2]) // step + 1), min(count, row // step + 1)
            for j in range(whole.shape[3]):
                acc = splat(ZERO)
                for s in range(first_s, end_s):
                    acc = acc + lanes_from(strips, (n, c, row - s * step, j), s * images, 0, images)
                store(whole, (n, c, i, j), acc)
