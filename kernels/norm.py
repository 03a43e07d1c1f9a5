"""Batch normalisation: each channel gets mean 0 and variance 1 over all pixels of the images of a batch."""
import math

import numpy as np
from numba import njit

from .compiled import KERNEL
from .lanes import LANES, ZERO, added, first_lanes, fma, load, maximum, repeat, splat, store, total, vectors, where


@njit(**KERNEL)
def batch_norm_block(n, sums, x, batch, T):
    """sums[n, c] = (mean, sum of (x - mean)**2) of a channel, over the images of the block.

    Block n; x (N, C, H, W); batch = (first, count); sums float64 (N, C, 2) is overwritten.  T: 1 x columns;
    T.cols divides W.
    """
    _, C, H, W = x.shape[:4]
    images = min(LANES, max(0, batch[1] - n * LANES))
    valid = first_lanes(images)
    for c in range(C):
        acc = repeat(splat(ZERO), T.cols)
        for i in range(H):
            for j in range(0, W, T.cols):
                acc = acc + vectors(x, (n, c, i, j), T.cols, 3, 1)
        mean = np.float64(total(where(valid, added(acc), splat(ZERO)))) / max(1, images * H * W)
        middle, acc = repeat(splat(np.float32(mean)), T.cols), repeat(splat(ZERO), T.cols)
        for i in range(H):
            for j in range(0, W, T.cols):
                away = vectors(x, (n, c, i, j), T.cols, 3, 1) - middle
                acc = acc + away * away
        sums[n, c, 0] = mean
        sums[n, c, 1] = total(where(valid, added(acc), splat(ZERO)))


@njit(**KERNEL)
def batch_norm_statistics(n, scales, means, variances, batches, sums, batch, pixels, hyper):
    """scales[n, c] = (mean, 1 / sqrt(variance + eps)) over all blocks (Chan et al., "Updating formulae and a pairwise
    algorithm for computing sample variances", 1979).

    Reads sums (N, C, 2) of all blocks; images have `pixels` pixels; hyper = (eps, momentum); scales (N, C, 2) is
    overwritten.  Block 0 also moves means and variances towards the mean and the unbiased variance: by `momentum`, or
    if that is negative, to the average over all batches, which `batches` counts.
    """
    N, C = sums.shape[:2]
    count, eps, momentum = batch[1] * pixels, hyper[0], hyper[1]
    if n == 0 and momentum < 0:
        momentum = 1 / (batches[0] + 1.0)
    for c in range(C):
        mean, spread = 0.0, 0.0
        for m in range(N):
            mean += max(0, min(LANES, batch[1] - m * LANES)) * pixels * sums[m, c, 0]
        mean /= count
        for m in range(N):
            away = sums[m, c, 0] - mean
            spread += sums[m, c, 1] + max(0, min(LANES, batch[1] - m * LANES)) * pixels * away * away
        scales[n, c, 0] = mean
        scales[n, c, 1] = 1 / math.sqrt(spread / count + eps)
        if n == 0:
            means[c] += momentum * (mean - means[c])
            variances[c] += momentum * (spread / max(1, count - 1) - variances[c])
    if n == 0:
        batches[0] += 1


@njit(**KERNEL)
def batch_norm_running(n, scales, means, variances, hyper):
    """scales[n, c] = (mean, 1 / sqrt(variance + eps)) of the running statistics; scales (N, C, 2) is overwritten."""
    for c in range(means.shape[0]):
        scales[n, c, 0] = means[c]
        scales[n, c, 1] = 1 / math.sqrt(variances[c] + hyper[0])


@njit(**KERNEL)
def batch_norm_forward(n, y, x, scales, weight, bias, relu):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias; `relu` applies max(0, .).

    Block n; x, y (N, C, H, W); weight, bias (C,); scales (N, C, 2) = (mean, 1 / sqrt(...)); y is overwritten.
    """
    _, C, H, W = x.shape[:4]
    for c in range(C):
        mean, scale, shift = splat(scales[n, c, 0]), splat(scales[n, c, 1] * weight[c]), splat(bias[c])
        for i in range(H):
            for j in range(W):
                v = fma(load(x, (n, c, i, j)) - mean, scale, shift)
                store(y, (n, c, i, j), maximum(splat(ZERO), v) if relu else v)


@njit(**KERNEL)
def batch_norm_backward_sums(n, sums, dy, x, scales, weight, bias, relu, T):
    """sums[n, c] = (sum of d, sum of d * normalised x) of a channel, where d is dy or, with `relu`, 0 where y was not
    positive.

    Block n; dy, x (N, C, H, W), dy 0 in lanes without an image; other arguments as in the forward pass; sums float64
    (N, C, 2) is overwritten.  T: 1 x columns; T.cols divides W.
    """
    _, C, H, W = x.shape[:4]
    for c in range(C):
        middle, none = repeat(splat(scales[n, c, 0]), T.cols), repeat(splat(ZERO), T.cols)
        scale, offset = repeat(splat(scales[n, c, 1] * weight[c]), T.cols), repeat(splat(bias[c]), T.cols)
        plain, weighted = none, none
        for i in range(H):
            for j in range(0, W, T.cols):
                d, away = vectors(dy, (n, c, i, j), T.cols, 3, 1), vectors(x, (n, c, i, j), T.cols, 3, 1) - middle
                if relu:
                    d = where(fma(away, scale, offset) > none, d, none)
                plain = plain + d
                weighted = weighted + d * away
        sums[n, c, 0] = total(added(plain))
        sums[n, c, 1] = np.float64(total(added(weighted))) * scales[n, c, 1]


@njit(**KERNEL)
def batch_norm_backward_input(n, dx, dy, x, weight, bias, scales, sums, batch, of_batch, relu_after, relu):
    """dx = weight / sqrt(variance + eps) * (d - mean of d - normalised x * mean of (d * normalised x)).

    d is dy or, with `relu_after`, 0 where y was not positive.  Without `of_batch`, x was normalised by running
    statistics and the means are 0.  dx is 0 in lanes without an image and, with `relu`, where x is not positive.  Block
    n; dx, dy, x (N, C, H, W); sums of all blocks; scales (N, C, 2); dx is overwritten.
    """
    N, C, H, W = x.shape[:4]
    valid, none = first_lanes(batch[1] - n * LANES), splat(ZERO)
    for c in range(C):
        plain, weighted = 0.0, 0.0
        if of_batch:
            for m in range(N):
                plain += sums[m, c, 0]
                weighted += sums[m, c, 1]
        scale, per_value = scales[n, c, 1] * weight[c], 1 / (batch[1] * H * W)
        mean, factor, offset = splat(scales[n, c, 0]), splat(scale), splat(bias[c])
        shift = splat(np.float32(-scale * plain * per_value))
        slope = splat(np.float32(-scale * scales[n, c, 1] * weighted * per_value))
        for i in range(H):
            for j in range(W):
                index = (n, c, i, j)
                value, d = load(x, index), load(dy, index)
                away = value - mean
                if relu_after:
                    d = where(fma(away, factor, offset) > none, d, none)
                d = where(valid, fma(d, factor, fma(away, slope, shift)), none)
                store(dx, index, where(value > none, d, none) if relu else d)


@njit(**KERNEL)
def batch_norm_backward_parameters(_, dweight, dbias, sums):
    """dweight[c] = sum of dy * normalised x, dbias[c] = sum of dy, over all blocks; both are overwritten."""
    for c in range(dweight.shape[0]):
        dbias[c], dweight[c] = np.float32(0), np.float32(0)
        for n in range(sums.shape[0]):
            dbias[c] += sums[n, c, 0]
            dweight[c] += sums[n, c, 1]
