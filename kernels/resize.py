"""Images of another size: zeros around them, pixels that are repeated, and channels side by side."""
from numba import njit

from .compiled import KERNEL
from .lanes import ZERO, load, splat, store


@njit(**KERNEL)
def pad_forward(n, y, x, top, left):
    """y = x with zeros around it; pixel (0, 0) of x is (top, left) of y.

    Block n; x, y (N, C, H, W); y is overwritten.
    """
    H, W = x.shape[2], x.shape[3]
    for c in range(y.shape[1]):
        for i in range(y.shape[2]):
            for j in range(y.shape[3]):
                if top <= i < top + H and left <= j < left + W:
                    store(y, (n, c, i, j), load(x, (n, c, i - top, j - left)))
                else:
                    store(y, (n, c, i, j), splat(ZERO))


@njit(**KERNEL)
def pad_backward(n, dx, dy, top, left):
    """dx = dy without what was padded.  Block n; dx, dy (N, C, H, W); dx is overwritten."""
    for c in range(dx.shape[1]):
        for i in range(dx.shape[2]):
            for j in range(dx.shape[3]):
                store(dx, (n, c, i, j), load(dy, (n, c, i + top, j + left)))


@njit(**KERNEL)
def nearest_forward(n, y, x, rows, cols):
    """y[i, j] = x[rows[i], cols[j]].  Block n; x, y (N, C, H, W); rows, cols int64; y is overwritten."""
    for c in range(y.shape[1]):
        for i in range(y.shape[2]):
            for j in range(y.shape[3]):
                store(y, (n, c, i, j), load(x, (n, c, rows[i], cols[j])))


@njit(**KERNEL)
def nearest_backward(n, dx, dy, rows, cols):
    """dx[i, j] = the sum of dy[k, l] with rows[k] = i and cols[l] = j.

    Block n; dx, dy (N, C, H, W); dx is overwritten.
    """
    for c in range(dx.shape[1]):
        for i in range(dx.shape[2]):
            for j in range(dx.shape[3]):
                store(dx, (n, c, i, j), splat(ZERO))
        for k in range(dy.shape[2]):
            for l in range(dy.shape[3]):
                index = (n, c, rows[k], cols[l])
                store(dx, index, load(dx, index) + load(dy, (n, c, k, l)))


@njit(**KERNEL)
def add_bias(n, y, bias):
    """y[c] += bias[c].  Block n; y (N, C, H, W) is updated."""
    for c in range(y.shape[1]):
        shift = splat(bias[c])
        for i in range(y.shape[2]):
            for j in range(y.shape[3]):
                store(y, (n, c, i, j), load(y, (n, c, i, j)) + shift)
