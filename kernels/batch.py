"""A batch of the data set, normalised and turned into lanes."""
import numpy as np
from numba import njit

from .lanes import LANES
from .program import KERNEL


@njit(**KERNEL)
def gather(n, call):
    """x[c, i, j] = (image[c, i, j] - mean[c]) * scale[c] of image order[first + n*LANES + l], in lane l.

    Block n; images (images, C, H, W) of any number type; window = (first, count); the first `lanes` lanes of
    x (N, C, H, W) are overwritten, with 0 past count.
    """
    x, images, order, window, mean, scale, lanes = call[0]
    first, count = window[0], window[1]
    _, C, H, W = images.shape
    for c in range(C):
        for i in range(H):                                          # row by row: x[n, c, i] stays in the first cache
            for l in range(lanes):
                image = n * LANES + l
                if image < count:
                    row = images[order[first + image], c, i]
                    for j in range(W):
                        x[n, c, i, j, l] = (np.float32(row[j]) - mean[c]) * scale[c]
                else:
                    for j in range(W):
                        x[n, c, i, j, l] = np.float32(0)


@njit(**KERNEL)
def next_batch(_, call):
    """window = (first, count) of the batch after the one in window, of `size` images or those that are left."""
    window, size, images = call[0]
    window[0] += window[1]
    window[1] = min(size, images - window[0])
