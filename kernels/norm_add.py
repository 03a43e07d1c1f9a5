"""Batch normalisation and the sum with a shortcut at once: neither the normalised image nor the sum is stored before
the ReLU."""
import numpy as np
from numba import njit

from .compiled import KERNEL
from .lanes import ZERO, added, fma, load, maximum, repeat, splat, store, store_pack, total, vectors, where


@njit(**KERNEL)
def batch_norm_add_forward(n, y, x, shortcut, scales, weight, bias, relu):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias + shortcut; `relu` applies max(0, .).

    Block n; x, y, shortcut (N, C, H, W); weight, bias (C,); scales (N, C, 2) = (mean, 1 / sqrt(...)); y is overwritten.
    """
    _, C, H, W = x.shape[:4]
    for c in range(C):
        mean, scale, offset = splat(scales[n, c, 0]), splat(scales[n, c, 1] * weight[c]), splat(bias[c])
        for i in range(H):
            for j in range(W):
                index = (n, c, i, j)
                v = fma(load(x, index) - mean, scale, offset) + load(shortcut, index)
                store(y, index, maximum(splat(ZERO), v) if relu else v)


@njit(**KERNEL)
def batch_norm_add_backward_sums(n, sums, dy, y, x, scales, T):
    """sums[n, c] = (sum of dy, sum of dy * normalised x) of a channel, after dy is set to 0 where y is not positive.

    Block n; dy, y, x (N, C, H, W), dy 0 in lanes without an image; scales (N, C, 2); sums float64 (N, C, 2) is
    overwritten, dy updated.  T: 1 x columns; T.cols divides W.
    """
    _, C, H, W = x.shape[:4]
    for c in range(C):
        middle, none = repeat(splat(scales[n, c, 0]), T.cols), repeat(splat(ZERO), T.cols)
        plain, weighted = none, none
        for i in range(H):
            for j in range(0, W, T.cols):
                index = (n, c, i, j)
                d = where(vectors(y, index, T.cols, 3, 1) > none, vectors(dy, index, T.cols, 3, 1), none)
                store_pack(dy, index, 3, d)
                plain = plain + d
                weighted = weighted + d * (vectors(x, index, T.cols, 3, 1) - middle)
        sums[n, c, 0] = total(added(plain))
        sums[n, c, 1] = np.float64(total(added(weighted))) * scales[n, c, 1]
