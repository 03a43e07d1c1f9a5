"""The operations on lanes as NumPy functions, for NUMBA_DISABLE_JIT=1."""
import numpy as np
from numpy.lib.stride_tricks import as_strided

from .shapes import LANES, ROUND, ZERO

__all__ = [
    "add_tile", "added", "block", "clear_first", "counters", "first_lanes", "fma", "four_columns", "integers",
    "lanes_from", "load", "load_tile", "local_tile", "mask_tile", "maximum", "outer", "rectify", "repeat", "row_tile",
    "row_vectors", "scalars", "scalars_apart", "splat", "spread", "sqrt", "store", "store_from", "store_pack",
    "store_row", "store_sums", "store_tile", "store_totals", "times_power", "total", "transposed", "unit", "vectors",
    "where", "zeros",
]


def _pack(x, index, n, axis, spacing):
    return x[tuple(slice(i, i + n * spacing, spacing) if k == axis else i for k, i in enumerate(index))].copy()


def load(x, index):
    return x[index].copy()


def lanes_from(x, index, source, target, count):
    v = np.zeros(LANES, np.float32)
    v[target:target + count] = x[index][source:source + count]
    return v


def store(x, index, v):
    x[index] = v


def store_row(x, index, row_axis, acc):
    for r in range(acc.shape[0]):
        *lead, first = _shift(index, row_axis, r, len(index) - 1, 0)
        row = x[tuple(lead)][first:]
        row[:acc[r].size] = acc[r].reshape(-1)[:len(row)]


def splat(s):
    return np.full(LANES, s, np.float32)


def fma(a, b, c):
    return (np.multiply(a, b, dtype=np.float64) + c).astype(np.float32)


def sqrt(a):
    return np.sqrt(a)


def maximum(a, b):
    return np.where((b > a) | (b != b), b, a)


def where(mask, a, b):
    return np.where(mask, a, b)


def first_lanes(count):
    return np.arange(LANES) < count


def integers(s):
    return np.full(LANES, int(s) & 0xFFFFFFFF, np.uint32)


def counters(first):
    return integers(first) + np.arange(LANES, dtype=np.uint32)


def unit(v):
    return (v >> 8).astype(np.float32) * np.float32(2**-24)


def row_vectors(x, index, n, axis):
    pack = np.zeros((n, LANES), np.float32)
    for k in range(n):
        *lead, first = _shift(index, axis, k * LANES if axis == x.ndim - 1 else k, axis, 0)
        row = x[tuple(lead)][first:first + LANES]
        pack[k, :len(row)] = row
    return pack


def repeat(v, n):
    return np.broadcast_to(v, (n, LANES)).copy()


def added(pack):
    return sum(pack[1:], pack[0])


def transposed(pack):
    return pack.T.copy()


def times_power(v, t):
    k = t.view(np.int32) - ROUND.view(np.int32)
    with np.errstate(over="ignore"):
        for part in (k >> 1, k - (k >> 1)):
            v = v * ((part + 127) << 23).view(np.float32)
    return v


def total(v):
    while v.shape[-1] > 1:
        v = v[..., :v.shape[-1] // 2] + v[..., v.shape[-1] // 2:]
    return v[..., 0]


def vectors(x, index, n, axis, spacing):
    return _pack(x, index, n, axis, spacing)


def scalars(w, index, n, axis):
    return np.repeat(_pack(w, index, n, axis, 1)[:, None], LANES, 1)


def scalars_apart(x, index, n, spacing):
    first = x[index[:-1]][index[-1]:]
    return np.repeat(as_strided(first, (n,), (spacing * x.itemsize,))[:, None], LANES, 1)


def four_columns(x, index):
    row, col = index
    return x[np.minimum(row + np.arange(LANES), len(x) - 1), col:col + 4].T.copy()


def block(x, index, window, row_spacing):
    *lead, i, j = index
    rows = slice(i, i + window.rows * row_spacing, row_spacing)
    cols = slice(j, j + window.cols * window.spacing, window.spacing)
    return x[tuple(lead)][rows, cols].reshape(-1, LANES).copy()


def zeros(rows, cols):
    return np.zeros((rows, cols, LANES), np.float32)


def local_tile(rows, cols):
    return np.empty((rows, cols, LANES), np.float32)


def spread(b, index, rows, cols):
    return np.broadcast_to(b[index:index + rows, None, None], (rows, cols, LANES)).copy()


def row_tile(pack, cols):
    return np.repeat(pack[:, None], cols, 1)


def load_tile(x, index, row_axis, col_axis, row_spacing, col_spacing, rows, cols):
    return np.array([[x[_shift(index, row_axis, r * row_spacing, col_axis, c * col_spacing)] for c in range(cols)]
                     for r in range(rows)])


def outer(acc, a, b):
    return fma(a[:, None], b[None], acc)


def rectify(acc):
    return np.where(acc < ZERO, ZERO, acc)


def mask_tile(acc, x, index, row_axis, col_axis, spacing):
    out = acc.copy()
    for r in range(acc.shape[0]):
        for c in range(acc.shape[1]):
            out[r, c] = where(x[_shift(index, row_axis, r, col_axis, c * spacing)] > 0, acc[r, c], ZERO)
    return out


def _shift(index, row_axis, r, col_axis, c):
    shifted = list(index)
    shifted[row_axis] += r
    shifted[col_axis] += c
    return tuple(shifted)


def store_tile(y, index, row_axis, col_axis, spacing, acc):
    for r in range(acc.shape[0]):
        for c in range(acc.shape[1]):
            y[_shift(index, row_axis, r, col_axis, c * spacing)] = acc[r, c]


def store_sums(y, index, row_axis, col_axis, acc):
    store_tile(y, index, row_axis, col_axis, 1, total(acc))


def add_tile(y, index, row_axis, col_axis, acc):
    for r in range(acc.shape[0]):
        for c in range(acc.shape[1]):
            y[_shift(index, row_axis, r, col_axis, c)] += acc[r, c]


def store_pack(y, index, axis, pack):
    for k, v in enumerate(pack.reshape(-1, LANES)):
        y[_shift(index, axis, k, axis, 0)] = v


def store_from(y, index, axis, first, pack):
    store_pack(y, _shift(index, axis, first, axis, 0), axis, pack.reshape(-1, LANES)[first:])


def store_totals(y, index, acc):
    totals = total(acc).reshape(-1)
    sums = np.zeros(-(-totals.size // LANES) * LANES, np.float32)
    sums[:totals.size] = totals
    store_pack(y, index, len(index) - 1, sums.reshape(-1, LANES))


def clear_first(pack, count):
    pack = pack.copy()
    pack[:count] = 0
    return pack
