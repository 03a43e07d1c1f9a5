"""A batch of the data set, normalised and turned into lanes."""
import numpy as np
from numba import njit

from .compiled import KERNEL
from .lanes import LANES


@njit(**KERNEL)
def gather(n, x, images, order, batch, mean, scale, lanes):
    """x[c, i, j] = (image[c, i, j] - mean[c]) * scale[c] of image order[first + n*LANES + l], in lane l.

    Block n; images (images, C, H, W) of any number type; batch = (first, count); the first `lanes` lanes of
    x (N, C, H, W) are overwritten, with 0 past count.
    """
    first, count = batch[0], batch[1]
    _, C, H, W = images.shape
    for c in range(C):
        for i in range(H):                                          # row by row: x[n, c, i] stays in the L1 cache
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
def next_batch(_, batch, size, images):
    """Move batch = (first, count) to the next batch: `size` images, or those that are left."""
    batch[0] += batch[1]
    batch[1] = min(size, images - batch[0])
