"""Activations as kernels of their own, for where no neighbouring layer applies them."""
import math

import numpy as np
from numba import njit

from .compiled import KERNEL
from .exponential import exp, sigmoid, tanh
from .lanes import LANES, ZERO, load, maximum, splat, store, where

ONE = np.float32(1)


@njit(**KERNEL)
def relu_forward(n, y, x):
    """y = max(0, x); a NaN stays a NaN.  Block n; x, y (N, C, H, W); y is overwritten and may be x."""
    for c in range(x.shape[1]):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                store(y, (n, c, i, j), maximum(splat(ZERO), load(x, (n, c, i, j))))


@njit(**KERNEL)
def relu_backward(n, dx, dy, y):
    """dx = dy where y is positive, else 0.  Block n; all (N, C, H, W); dx is overwritten and may be dy."""
    for c in range(y.shape[1]):
        for i in range(y.shape[2]):
            for j in range(y.shape[3]):
                index = (n, c, i, j)
                store(dx, index, where(load(y, index) > splat(ZERO), load(dy, index), splat(ZERO)))


@njit(**KERNEL)
def leaky_relu_forward(n, y, x, slope):
    """y = x where x is positive, else slope[0] x.  Block n; x, y (N, C, H, W); y is overwritten."""
    for c in range(x.shape[1]):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                v = load(x, (n, c, i, j))
                store(y, (n, c, i, j), where(v > splat(ZERO), v, splat(slope[0]) * v))


@njit(**KERNEL)
def leaky_relu_backward(n, dx, dy, x, slope):
    """dx = dy where x is positive, else slope[0] dy.  Block n; all (N, C, H, W); dx is overwritten."""
    for c in range(x.shape[1]):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                index = (n, c, i, j)
                d = load(dy, index)
                store(dx, index, where(load(x, index) > splat(ZERO), d, splat(slope[0]) * d))


@njit(**KERNEL)
def tanh_forward(n, y, x):
    """y = tanh(x).  Block n; x, y (N, C, H, W); y is overwritten."""
    for c in range(x.shape[1]):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                store(y, (n, c, i, j), tanh(load(x, (n, c, i, j))))


@njit(**KERNEL)
def tanh_backward(n, dx, dy, y):
    """dx = dy (1 - y^2).  Block n; all (N, C, H, W); dx is overwritten."""
    for c in range(y.shape[1]):
        for i in range(y.shape[2]):
            for j in range(y.shape[3]):
                v = load(y, (n, c, i, j))
                store(dx, (n, c, i, j), load(dy, (n, c, i, j)) * (splat(ONE) - v * v))


@njit(**KERNEL)
def sigmoid_forward(n, y, x):
    """y = 1 / (1 + exp(-x)).  Block n; x, y (N, C, H, W); y is overwritten."""
    for c in range(x.shape[1]):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                store(y, (n, c, i, j), sigmoid(load(x, (n, c, i, j))))


@njit(**KERNEL)
def sigmoid_backward(n, dx, dy, y):
    """dx = dy y (1 - y).  Block n; all (N, C, H, W); dx is overwritten."""
    for c in range(y.shape[1]):
        for i in range(y.shape[2]):
            for j in range(y.shape[3]):
                v = load(y, (n, c, i, j))
                store(dx, (n, c, i, j), load(dy, (n, c, i, j)) * ((splat(ONE) - v) * v))


@njit(**KERNEL)
def softmax_forward(n, y, x):
    """y[c] = exp(x[c]) / the sum of exp(x[k]) over k, at every i, j; the largest x is subtracted first, so that exp
    cannot overflow.  Block n; x, y (N, C, H, W); y is overwritten."""
    _, C, H, W = x.shape[:4]
    for i in range(H):
        for j in range(W):
            top, scale = load(x, (n, 0, i, j)), splat(ZERO)
            for c in range(1, C):
                top = maximum(top, load(x, (n, c, i, j)))
            for c in range(C):
                e = exp(load(x, (n, c, i, j)) - top)
                scale = scale + e
                store(y, (n, c, i, j), e)
            for c in range(C):
                store(y, (n, c, i, j), load(y, (n, c, i, j)) / scale)


@njit(**KERNEL)
def softmax_backward(n, dx, dy, y):
    """dx[c] = y[c] (dy[c] - the sum of dy[k] y[k] over k).  Block n; all (N, C, H, W); dx is overwritten."""
    _, C, H, W = y.shape[:4]
    for i in range(H):
        for j in range(W):
            mean = splat(ZERO)
            for c in range(C):
                mean = mean + load(dy, (n, c, i, j)) * load(y, (n, c, i, j))
            for c in range(C):
                store(dx, (n, c, i, j), load(y, (n, c, i, j)) * (load(dy, (n, c, i, j)) - mean))


@njit(**KERNEL)
def log_softmax_forward(n, y, x):
    """y[c] = x[c] - log(the sum of exp(x[k]) over k), at every i, j; the largest x is subtracted first, so that exp
    cannot overflow.  Block n; x, y (N, C, H, W); y is overwritten."""
    _, C, H, W = x.shape[:4]
    for i in range(H):
        for j in range(W):
            top, scale = load(x, (n, 0, i, j)), splat(ZERO)
            for c in range(1, C):
                top = maximum(top, load(x, (n, c, i, j)))
            for c in range(C):
                scale = scale + exp(load(x, (n, c, i, j)) - top)
            store(y, (n, 0, i, j), scale)
            for l in range(LANES):
                y[n, 0, i, j, l] = math.log(np.float64(y[n, 0, i, j, l]))
            scale = load(y, (n, 0, i, j))
            for c in range(C):
                store(y, (n, c, i, j), load(x, (n, c, i, j)) - top - scale)


@njit(**KERNEL)
def log_softmax_backward(n, dx, dy, y):
    """dx[c] = dy[c] - exp(y[c]) * the sum of dy[k] over k.  Block n; all (N, C, H, W); dx is overwritten."""
    _, C, H, W = y.shape[:4]
    for i in range(H):
        for j in range(W):
            sum_of_dy = splat(ZERO)
            for c in range(C):
                sum_of_dy = sum_of_dy + load(dy, (n, c, i, j))
            for c in range(C):
                store(dx, (n, c, i, j), load(dy, (n, c, i, j)) - exp(load(y, (n, c, i, j))) * sum_of_dy)
