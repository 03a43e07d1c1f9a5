"""Activations that no neighbour computes on its way."""
from numba import njit

from .lanes import ZERO, load, maximum, splat, store, where
from .program import KERNEL


@njit(**KERNEL)
def relu_forward(n, call):
    """y = max(0, x); a NaN stays a NaN.  Block n; x, y (N, C, H, W); y is overwritten and may be x."""
    y, x = call[0]
    for c in range(x.shape[1]):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                store(y, (n, c, i, j), maximum(splat(ZERO), load(x, (n, c, i, j))))


@njit(**KERNEL)
def relu_backward(n, call):
    """dx = dy where y is positive, else 0.  Block n; all (N, C, H, W); dx is overwritten and may be dy."""
    dx, dy, y = call[0]
    for c in range(y.shape[1]):
        for i in range(y.shape[2]):
            for j in range(y.shape[3]):
                place = (n, c, i, j)
                store(dx, place, where(load(y, place) > splat(ZERO), load(dy, place), splat(ZERO)))
