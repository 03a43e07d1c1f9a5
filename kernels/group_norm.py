"""Normalisation of each image alone: a group of its channels gets mean 0 and variance 1 over all their pixels.

weight, bias (C, 1, 1) or (C, H, W): one for each channel, or one for each number.
"""
import numpy as np
from numba import njit

from .compiled import KERNEL
from .lanes import ZERO, fma, load, splat, sqrt, store, total


@njit(**KERNEL)
def group_norm_scales(n, scales, x, groups, eps):
    """scales[g] = (mean, 1 / sqrt(variance + eps[0])) of a group, for each image.

    Block n; x (N, C, H, W); scales (N, groups, 2) is overwritten.
    """
    _, C, H, W = x.shape[:4]
    of_group = C // groups
    share = splat(np.float32(1 / (of_group * H * W)))
    for g in range(groups):
        acc = splat(ZERO)
        for c in range(g * of_group, (g + 1) * of_group):
            for i in range(H):
                row = splat(ZERO)
                for j in range(W):
                    row = row + load(x, (n, c, i, j))
                acc = acc + row
        mean = acc * share
        acc = splat(ZERO)
        for c in range(g * of_group, (g + 1) * of_group):
            for i in range(H):
                row = splat(ZERO)
                for j in range(W):
                    away = load(x, (n, c, i, j)) - mean
                    row = fma(away, away, row)
                acc = acc + row
        store(scales, (n, g, 0), mean)
        store(scales, (n, g, 1), splat(np.float32(1)) / sqrt(fma(acc, share, splat(eps[0]))))


@njit(**KERNEL)
def group_norm_forward(n, y, x, scales, weight, bias, groups):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias.

    Block n; x, y (N, C, H, W), scales (N, groups, 2); y is overwritten.
    """
    _, C, H, W = x.shape[:4]
    for c in range(C):
        g = c // (C // groups)
        mean, scale = load(scales, (n, g, 0)), load(scales, (n, g, 1))
        for i in range(H):
            for j in range(W):
                k, l = i % weight.shape[1], j % weight.shape[2]
                v = (load(x, (n, c, i, j)) - mean) * scale
                store(y, (n, c, i, j), fma(v, splat(weight[c, k, l]), splat(bias[c, k, l])))


@njit(**KERNEL)
def group_norm_backward_input(n, dx, dy, x, scales, weight, groups):
    """dx = (g - mean of g - x^ * mean of (g x^)) / sqrt(variance + eps), with g = dy * weight and x^ the normalised x.

    Block n; dx, dy, x (N, C, H, W), scales (N, groups, 2); dx is overwritten.
    """
    _, C, H, W = x.shape[:4]
    of_group = C // groups
    share = splat(np.float32(1 / (of_group * H * W)))
    for group in range(groups):
        mean, scale = load(scales, (n, group, 0)), load(scales, (n, group, 1))
        plain, weighted = splat(ZERO), splat(ZERO)
        for c in range(group * of_group, (group + 1) * of_group):
            for i in range(H):
                for j in range(W):
                    g = load(dy, (n, c, i, j)) * splat(weight[c, i % weight.shape[1], j % weight.shape[2]])
                    plain = plain + g
                    weighted = fma(g, (load(x, (n, c, i, j)) - mean) * scale, weighted)
        plain, weighted = plain * share, weighted * share
        for c in range(group * of_group, (group + 1) * of_group):
            for i in range(H):
                for j in range(W):
                    g = load(dy, (n, c, i, j)) * splat(weight[c, i % weight.shape[1], j % weight.shape[2]])
                    v = (load(x, (n, c, i, j)) - mean) * scale
                    store(dx, (n, c, i, j), (g - plain - v * weighted) * scale)


@njit(**KERNEL)
def group_norm_backward_parameters(c, dweight, dbias, dy, x, scales, groups):
    """dweight = the sum of dy x^, dbias = the sum of dy, over all images, and over all pixels where there is one number
    for each channel.  Channel c; dy, x (N, C, H, W), scales (N, groups, 2); both are overwritten."""
    N, C, H, W = x.shape[:4]
    g, rows, cols = c // (C // groups), dweight.shape[1], dweight.shape[2]
    for k in range(rows):
        for l in range(cols):
            plain, weighted = splat(ZERO), splat(ZERO)
            for n in range(N):
                mean, scale = load(scales, (n, g, 0)), load(scales, (n, g, 1))
                for i in range(k, H, rows):
                    for j in range(l, W, cols):
                        d = load(dy, (n, c, i, j))
                        plain = plain + d
                        weighted = fma(d, (load(x, (n, c, i, j)) - mean) * scale, weighted)
            dweight[c, k, l] = total(weighted)
            dbias[c, k, l] = total(plain)
