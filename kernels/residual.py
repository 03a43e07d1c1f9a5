"""The sum of two branches of a network."""
from numba import njit

from .compiled import KERNEL
from .lanes import ZERO, load, maximum, splat, store, where


@njit(**KERNEL)
def add_forward(n, y, a, b, relu):
    """y = a + b; `relu` applies max(0, .).  Block n; all (N, C, H, W); y is overwritten."""
    for c in range(y.shape[1]):
        for i in range(y.shape[2]):
            for j in range(y.shape[3]):
                both = load(a, (n, c, i, j)) + load(b, (n, c, i, j))
                store(y, (n, c, i, j), maximum(splat(ZERO), both) if relu else both)


@njit(**KERNEL)
def add_backward(n, dx, db, x, relu):
    """dx += db; `relu`: 0 where x is not positive.  Block n; all (N, C, H, W); dx is updated."""
    for c in range(dx.shape[1]):
        for i in range(dx.shape[2]):
            for j in range(dx.shape[3]):
                both = load(dx, (n, c, i, j)) + load(db, (n, c, i, j))
                if relu:
                    both = where(load(x, (n, c, i, j)) > splat(ZERO), both, splat(ZERO))
                store(dx, (n, c, i, j), both)
