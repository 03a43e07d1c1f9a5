"""Batch normalisation and max pooling at once: the normalised image is computed where it is needed, and never stored.

The windows of the pooling tile the image.  T: the window.  Everything else is as in `norm` and `pool`, and so are the
bits of y: normalised values are compared, so that ties fall as they do in two steps.
"""
import numpy as np
from numba import njit

from .compiled import KERNEL
from .lanes import ZERO, first_lanes, fma, load, maximum, splat, store, total, where


@njit(**KERNEL)
def batch_norm_pool_forward(n, y, x, scales, weight, bias, relu, T):
    """y[c, i, j] = the maximum over a window of (x - mean) / sqrt(variance + eps) * weight + bias; `relu` applies
    max(0, .).

    Block n; x (N, C, H, W); weight, bias (C,); scales (N, C, 2) = (mean, 1 / sqrt(...)); y (N, C, OH, OW) is
    overwritten.
    """
    for c in range(y.shape[1]):
        mean, scale, offset = splat(scales[n, c, 0]), splat(scales[n, c, 1] * weight[c]), splat(bias[c])
        for i in range(y.shape[2]):
            for j in range(y.shape[3]):
                best = fma(load(x, (n, c, i * T.rows, j * T.cols)) - mean, scale, offset)
                for p in range(T.rows):
                    for q in range(T.cols):
                        away = load(x, (n, c, i * T.rows + p, j * T.cols + q)) - mean
                        best = maximum(best, fma(away, scale, offset))
                store(y, (n, c, i, j), maximum(splat(ZERO), best) if relu else best)


@njit(**KERNEL)
def batch_norm_pool_backward_sums(n, sums, dy, y, x, scales, weight, bias, relu, T):
    """sums[n, c] = (sum of d, sum of d * normalised x), where d is dy at the first maximum of each window, 0 elsewhere.

    Block n; dy (N, C, OH, OW), 0 in lanes without an image; other arguments as in the forward pass; sums float64 (N, C,
    2) is overwritten.
    """
    none = splat(ZERO)
    for c in range(y.shape[1]):
        mean, scale, offset = splat(scales[n, c, 0]), splat(scales[n, c, 1] * weight[c]), splat(bias[c])
        plain, weighted = none, none
        for i in range(y.shape[2]):
            for j in range(y.shape[3]):
                best, d, of_best = load(y, (n, c, i, j)), load(dy, (n, c, i, j)), none
                if relu:
                    d = where(best > none, d, none)
                for p in range(T.rows - 1, -1, -1):             # backwards: the first maximum is the last one seen
                    for q in range(T.cols - 1, -1, -1):
                        away = load(x, (n, c, i * T.rows + p, j * T.cols + q)) - mean
                        of_best = where(fma(away, scale, offset) == best, away, of_best)
                plain = plain + d
                weighted = weighted + d * of_best
        sums[n, c, 0] = total(plain)
        sums[n, c, 1] = np.float64(total(weighted)) * scales[n, c, 1]


@njit(**KERNEL)
def batch_norm_pool_backward_input(n, dx, dy, y, x, weight, bias, scales, sums, batch, of_batch, relu_after, relu, T):
    """dx as in `norm.batch_norm_backward_input`, for the d of `batch_norm_pool_backward_sums` in place of dy.

    `relu_after`: the forward pass applied max(0, .); `relu`: 0 where x is not positive.  Block n; dx (N, C, H, W) is
    overwritten.
    """
    N, C, H, W = x.shape[:4]
    valid, none = first_lanes(batch[1] - n * dx.shape[4]), splat(ZERO)
    for c in range(C):
        plain, weighted = 0.0, 0.0
        if of_batch:
            for m in range(N):
                plain += sums[m, c, 0]
                weighted += sums[m, c, 1]
        factor, per_value = scales[n, c, 1] * weight[c], 1 / (batch[1] * H * W)
        mean, scale, offset = splat(scales[n, c, 0]), splat(factor), splat(bias[c])
        shift = splat(np.float32(-factor * plain * per_value))
        slope = splat(np.float32(-factor * scales[n, c, 1] * weighted * per_value))
        for i in range(y.shape[2]):
            for j in range(y.shape[3]):
                best, left_over = load(y, (n, c, i, j)), load(dy, (n, c, i, j))
                if relu_after:
                    left_over = where(best > none, left_over, none)
                for p in range(T.rows):
                    for q in range(T.cols):
                        index = (n, c, i * T.rows + p, j * T.cols + q)
                        value = load(x, index)
                        here = fma(value - mean, scale, offset) == best
                        d = fma(where(here, left_over, none), scale, fma(value - mean, slope, shift))
                        left_over = where(here, none, left_over)
                        d = where(valid, d, none)
                        store(dx, index, where(value > none, d, none) if relu else d)
