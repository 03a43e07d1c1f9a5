"""Random augmentation of images while a batch is gathered.

Every image has a transform (a, b, r, c, d, s): pixel (i, j) of the result is the image at row a*i + b*j + r and column
c*i + d*j + s.  Beyond its edges an image is 0 before normalisation.
"""
import math

import numpy as np
from numba import njit

from .compiled import KERNEL
from .lanes import LANES
from .random import AUGMENT, bits, fraction, word


@njit(**KERNEL)
def transforms(n, out, order, batch, draw, ranges, rows, columns):
    """The transforms of block n: flip the columns, rotate and scale about the centre, shift.

    out (N, LANES, 6) is overwritten, out[n, l] for image order[first + n*LANES + l]; ranges: largest shift in pixels,
    largest angle in radians, largest relative change of size, probability of a flip.  The transforms differ from pass
    to pass: draw = (seed, pass).
    """
    first, count = batch[0], batch[1]
    middle_row, middle_column = 0.5 * (rows - 1), 0.5 * (columns - 1)
    key = bits(bits(word(draw[0]), draw[1]), AUGMENT)
    for l in range(min(LANES, count - n * LANES)):
        image = bits(key, order[first + n * LANES + l])
        down = math.floor(fraction(image, 0) * (2 * ranges[0] + 1)) - ranges[0]
        right = math.floor(fraction(image, 1) * (2 * ranges[0] + 1)) - ranges[0]
        angle = ranges[1] * (2 * fraction(image, 2) - 1)
        size = 1 + ranges[2] * (2 * fraction(image, 3) - 1)
        mirror = -1.0 if fraction(image, 4) < ranges[3] else 1.0
        cos, sin = math.cos(angle) / size, math.sin(angle) / size
        down, right = down + middle_row, right + middle_column
        out[n, l, 0] = cos
        out[n, l, 1] = sin
        out[n, l, 2] = middle_row - cos * down - sin * right
        out[n, l, 3] = -mirror * sin
        out[n, l, 4] = mirror * cos
        out[n, l, 5] = middle_column + mirror * (sin * down - cos * right)


@njit(**KERNEL)
def gather_shifted(n, x, images, order, batch, mean, scale, lanes, moves):
    """As `batch.gather`, for shifted and flipped images: the numbers of their transforms are integers."""
    first, count = batch[0], batch[1]
    _, C, H, W = images.shape
    for c in range(C):
        outside = (np.float32(0) - mean[c]) * scale[c]
        for i in range(H):
            for l in range(lanes):
                image = n * LANES + l
                y = x[n, c, i]
                if image >= count:
                    for j in range(W):
                        y[j, l] = np.float32(0)
                    continue
                p, begin, end = i + int(moves[n, l, 2]), 0, 0
                if 0 <= p < H:
                    row, left = images[order[first + image], c, p], int(moves[n, l, 5])
                    if moves[n, l, 4] < 0:
                        row, left = row[::-1], W - 1 - left
                    begin, end = max(0, -left), min(W, W - left)
                    row = row[begin + left:]
                    for j in range(end - begin):
                        y[begin + j, l] = (np.float32(row[j]) - mean[c]) * scale[c]
                for j in range(begin):
                    y[j, l] = outside
                for j in range(end, W):
                    y[j, l] = outside


@njit(**KERNEL)
def gather_warped(n, x, padded, images, order, batch, mean, scale, lanes, moves):
    """As `batch.gather`, for any transforms, with interpolation between four pixels.

    padded (N, H + 3, W + 3) is scratch: one channel of an image, which begins at (1, 1), amid zeros.
    """
    first, count = batch[0], batch[1]
    _, C, H, W = images.shape
    source, zero, last_row, last_column = padded[n], np.float32(0), np.float32(H + 1), np.float32(W + 1)
    for c in range(C):
        for l in range(lanes):
            if n * LANES + l >= count:
                for i in range(H):
                    for j in range(W):
                        x[n, c, i, j, l] = zero
                continue
            image = images[order[first + n * LANES + l], c]
            for i in range(H):
                for j in range(W):
                    source[i + 1, j + 1] = image[i, j]
            across_rows, across_columns = moves[n, l, 1], moves[n, l, 4]
            for i in range(H):
                begin_row = moves[n, l, 0] * np.float32(i) + moves[n, l, 2] + np.float32(1)
                begin_column = moves[n, l, 3] * np.float32(i) + moves[n, l, 5] + np.float32(1)
                for j in range(W):
                    row = min(max(begin_row + across_rows * np.float32(j), zero), last_row)
                    column = min(max(begin_column + across_columns * np.float32(j), zero), last_column)
                    p, q = int(row), int(column)
                    down, right = row - np.float32(p), column - np.float32(q)
                    above = source[p, q] + right * (source[p, q + 1] - source[p, q])
                    below = source[p + 1, q] + right * (source[p + 1, q + 1] - source[p + 1, q])
                    x[n, c, i, j, l] = (above + down * (below - above) - mean[c]) * scale[c]
