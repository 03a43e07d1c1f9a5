"""Smooth activations, element by element: y = f(x), dx = dy f'(x).

Block n; all arrays are (N, C, H, W); y or dx is overwritten.
"""
import math

import numpy as np
from numba import njit

from .compiled import HELPER, KERNEL
from .exponential import exp, sigmoid, tanh
from .lanes import LANES, ZERO, load, splat, store, where

HALF, ONE = np.float32(0.5), np.float32(1)
# erf(x) = 1 - t (A1 + t (A2 + ...)) exp(-x^2), t = 1 / (1 + P x): Abramowitz and Stegun, 7.1.26; to 1.5e-7
P = np.float32(0.3275911)
A1, A2, A3 = np.float32(0.254829592), np.float32(-0.284496736), np.float32(1.421413741)
A4, A5 = np.float32(-1.453152027), np.float32(1.061405429)
ROOT, DENSITY = np.float32(math.sqrt(0.5)), np.float32(1 / math.sqrt(2 * math.pi))
# tanh(SLOPE (x + CUBE x^3)), which resembles erf(x / sqrt(2)): Hendrycks and Gimpel, arXiv:1606.08415 (2016)
SLOPE, CUBE, THREE_CUBE = np.float32(math.sqrt(2 / math.pi)), np.float32(0.044715), np.float32(3 * 0.044715)


@njit(**HELPER)
def normal_share(v):
    """The probability that a standard normal number is below v."""
    size = where(v > splat(ZERO), v, splat(ZERO) - v) * splat(ROOT)
    t = splat(ONE) / (splat(ONE) + splat(P) * size)
    p = t * (splat(A1) + t * (splat(A2) + t * (splat(A3) + t * (splat(A4) + t * splat(A5)))))
    tail = splat(HALF) * p * exp(splat(ZERO) - size * size)
    return where(v > splat(ZERO), splat(ONE) - tail, tail)


@njit(**KERNEL)
def gelu_forward(n, y, x):
    """f(x) = x times the probability that a standard normal number is below x."""
    for c in range(x.shape[1]):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                v = load(x, (n, c, i, j))
                store(y, (n, c, i, j), v * normal_share(v))


@njit(**KERNEL)
def gelu_backward(n, dx, dy, x):
    """f'(x) = the probability + x exp(-x^2 / 2) / sqrt(2 pi)"""
    for c in range(x.shape[1]):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                v = load(x, (n, c, i, j))
                density = splat(DENSITY) * exp(splat(ZERO) - splat(HALF) * v * v)
                store(dx, (n, c, i, j), load(dy, (n, c, i, j)) * (normal_share(v) + v * density))


@njit(**KERNEL)
def gelu_tanh_forward(n, y, x):
    """f(x) = x (1 + t) / 2, t = tanh(SLOPE (x + CUBE x^3))"""
    for c in range(x.shape[1]):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                v = load(x, (n, c, i, j))
                t = tanh(splat(SLOPE) * (v + splat(CUBE) * v * v * v))
                store(y, (n, c, i, j), splat(HALF) * v * (splat(ONE) + t))


@njit(**KERNEL)
def gelu_tanh_backward(n, dx, dy, x):
    """f'(x) = (1 + t + x (1 - t^2) SLOPE (1 + 3 CUBE x^2)) / 2"""
    for c in range(x.shape[1]):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                v = load(x, (n, c, i, j))
                t = tanh(splat(SLOPE) * (v + splat(CUBE) * v * v * v))
                slope = v * (splat(ONE) - t * t) * splat(SLOPE) * (splat(ONE) + splat(THREE_CUBE) * v * v)
                store(dx, (n, c, i, j), load(dy, (n, c, i, j)) * splat(HALF) * (splat(ONE) + t + slope))


@njit(**KERNEL)
def silu_forward(n, y, x):
    """f(x) = x / (1 + exp(-x))"""
    for c in range(x.shape[1]):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                v = load(x, (n, c, i, j))
                store(y, (n, c, i, j), v * sigmoid(v))


@njit(**KERNEL)
def silu_backward(n, dx, dy, x):
    """f'(x) = s (1 + x (1 - s)), s = 1 / (1 + exp(-x))"""
    for c in range(x.shape[1]):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                v = load(x, (n, c, i, j))
                s = sigmoid(v)
                store(dx, (n, c, i, j), load(dy, (n, c, i, j)) * (s * (splat(ONE) + v * (splat(ONE) - s))))


@njit(**KERNEL)
def elu_forward(n, y, x, alpha):
    """f(x) = x where it is positive, else alpha[0] (exp(x) - 1)"""
    for c in range(x.shape[1]):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                v = load(x, (n, c, i, j))
                below = splat(alpha[0]) * (exp(where(v > splat(ZERO), splat(ZERO), v)) - splat(ONE))
                store(y, (n, c, i, j), where(v > splat(ZERO), v, below))


@njit(**KERNEL)
def elu_backward(n, dx, dy, x, alpha):
    """f'(x) = 1 where x is positive, else alpha[0] exp(x)"""
    for c in range(x.shape[1]):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                v = load(x, (n, c, i, j))
                slope = splat(alpha[0]) * exp(where(v > splat(ZERO), splat(ZERO), v))
                store(dx, (n, c, i, j), load(dy, (n, c, i, j)) * where(v > splat(ZERO), splat(ONE), slope))


@njit(**KERNEL)
def softplus_forward(n, y, x, beta):
    """f(x) = log(1 + exp(beta[0] x)) / beta[0], and x where beta[0] x is above beta[1]"""
    for c in range(x.shape[1]):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                v = splat(beta[0]) * load(x, (n, c, i, j))
                size = where(v > splat(ZERO), v, splat(ZERO) - v)
                store(y, (n, c, i, j), exp(splat(ZERO) - size))
                for l in range(LANES):
                    y[n, c, i, j, l] = math.log1p(np.float64(y[n, c, i, j, l]))     # as interpreted, to the bit
                whole = (load(y, (n, c, i, j)) + where(v > splat(ZERO), v, splat(ZERO))) / splat(beta[0])
                store(y, (n, c, i, j), where(v > splat(beta[1]), load(x, (n, c, i, j)), whole))


@njit(**KERNEL)
def softplus_backward(n, dx, dy, x, beta):
    """f'(x) = 1 / (1 + exp(-beta[0] x)), and 1 where beta[0] x is above beta[1]"""
    for c in range(x.shape[1]):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                v = splat(beta[0]) * load(x, (n, c, i, j))
                slope = where(v > splat(beta[1]), splat(ONE), sigmoid(v))
                store(dx, (n, c, i, j), load(dy, (n, c, i, j)) * slope)
