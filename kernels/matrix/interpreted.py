"""The operations on tiles as NumPy functions, for NUMBA_DISABLE_JIT=1."""
import numpy as np
from numpy.lib.stride_tricks import as_strided

__all__ = [
    "begin", "clear", "configure", "multiply", "neighbours", "pair", "release", "remainder", "store_exchanged",
    "store_images", "store_pair", "store_products", "store_transposed",
]

HIGH = np.uint32(0xFFFF0000)


class Sums:
    """Tiles of sums, and the number of channel pairs that a product adds up."""

    def __init__(self, T, rows, pairs):
        self.tiles, self.pairs = np.zeros((T.rows, T.cols, rows, 16), np.float32), pairs


def configure(T, rows, pairs):
    return Sums(T, rows, pairs)


def release(sums):
    """Nothing to give back."""


def clear(sums):
    sums.tiles[...] = 0


def begin(sums, start, f, down):
    rows = sums.tiles.shape[2]
    for r, row in enumerate(sums.tiles):
        row[...] = start[f + r * down:f + r * down + rows]


def _tile(x, index, rows, cols, stride):
    """The rows x cols numbers from x[index] on, the rows `stride` bytes apart."""
    return as_strided(x[index[:-1]][index[-1]:], (rows, cols), (stride, x.itemsize))


def _halves(pairs):
    """(second numbers, first numbers) of bf16 pairs, in float32."""
    return (pairs & HIGH).view(np.float32), (pairs << 16).view(np.float32)


def multiply(sums, a, at, axis, down, b, first, second):
    _, cols, rows, _ = sums.tiles.shape
    right = [_halves(_tile(b, (*index, 0), sums.pairs, 16, 64)) for index in (first, second)[:cols]]
    for r, row in enumerate(sums.tiles):
        left = _halves(_tile(a, _moved(at, axis, r * down), rows, sums.pairs, a.strides[axis]))
        for tile, factors in zip(row, right, strict=True):
            for k in range(sums.pairs):
                for x, y in zip(left, factors, strict=True):
                    with np.errstate(invalid="ignore"):             # as LLVM's instructions: 0 * infinity is NaN
                        tile += x[:, k, None] * y[k]


def store_products(sums, y, first, second, axis, down):
    for r, row in enumerate(sums.tiles):
        for tile, index in zip(row, (first, second), strict=False):
            for k, vector in enumerate(tile):
                _here(y, _moved(index, axis, r * down + k))[...] = vector


def _here(x, index):
    """The 16 numbers of x[index], or from there on along the last axis."""
    return x[index] if len(index) < x.ndim else x[index[:-1]][index[-1]:index[-1] + 16]


def _moved(index, axis, distance):
    return (*index[:axis], index[axis] + distance, *index[axis + 1:])


def _rounded(x):
    """The bits of float32 numbers, rounded to bf16."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    return np.where(np.isnan(x), bits | 0x400000, bits + 0x7FFF + ((bits >> 16) & 1)) & HIGH


def pair(even, odd):
    return (_rounded(even) >> 16 | _rounded(odd)).astype(np.uint32)


def remainder(x):
    high = _rounded(x).view(np.float32)
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(high), x - high, np.float32(0)).astype(np.float32)


def store_pair(v, index, even, odd):
    _here(v, index)[...] = pair(even, odd)


def neighbours(x, index):
    numbers = _tile(x, index, 16, 2, 2 * x.itemsize)
    return numbers[:, 0].copy(), numbers[:, 1].copy()


def store_exchanged(u, index, weight, at, part):
    (m, l), (f, k) = index, at
    numbers = weight[f:f + 32, k:k + 16]
    numbers = remainder(numbers) if part else numbers
    u[m:m + 16, l:l + 16] = pair(numbers[::2], numbers[1::2]).T


def _images_in_pairs(pairs):
    """(first, second) of pairs of numbers of 16 images, each with two images in a pair."""
    even, odd = pairs[..., ::2], pairs[..., 1::2]
    return (even & 0xFFFF) | (odd << 16), (even >> 16) | (odd & HIGH)


def store_images(g, index, axis, d, at):
    for k, images in enumerate(_images_in_pairs(d[at])):
        g[_moved(index, axis, k)[:-1]] = images


def store_transposed(t, index, v, at):
    first, second = _images_in_pairs(np.stack([v[_moved(at, len(at) - 1, k)] for k in range(8)]))
    channels = np.stack([first, second], 1).reshape(16, 8)
    for k in range(8):
        t[_moved(index, len(index) - 1, k)] = channels[:, k]
