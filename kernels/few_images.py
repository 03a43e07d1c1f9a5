"""Forward passes of a few images: here the LANES numbers of a vector are channels of one image, not images.

    image x (N, C / LANES, H, W, LANES)     lane l of vector v is channel v * LANES + l; n is one image
    features x (N, K / LANES, LANES)        in memory the K features of an image, one after the other

Lanes past the last channel hold copies of it.  One image fills whole vectors, where lanes of images leave 15 of 16
empty.  Kernels that treat all channels alike (`pool`, `activation`, `residual`) run as they are.  Weights are
gathered first, LANES filters per vector; sums have the order of `conv` and `dense`, so the bits are the same.
"""
import math

import numpy as np
from numba import njit

from .compiled import HELPER, KERNEL
from .lanes import (
    LANES,
    ZERO,
    fma,
    four_columns,
    load,
    load_tile,
    maximum,
    outer,
    rectify,
    row_tile,
    scalars,
    scalars_apart,
    splat,
    store,
    store_pack,
    store_tile,
    vectors,
)


@njit(**HELPER)
def gather(packed, v, weight, first, count):
    """packed[v, k, l] = weight[v * LANES + l, first + k] for k < count; the last row stands for those past it."""
    whole = count - count % 4
    for k in range(0, whole, 4):
        store_pack(packed, (v, k), 1, four_columns(weight, (v * LANES, first + k)))
    for k in range(whole, count):
        for l in range(LANES):
            packed[v, k, l] = weight[min(v * LANES + l, weight.shape[0] - 1), first + k]


@njit(**KERNEL)
def gather_filters(v, packed, weight):
    """packed[v, k, l] = weight[v * LANES + l, k]: the k-th numbers of LANES filters as one vector.

    Item: vector v; weight (F, K); packed (F / LANES, K, LANES) is overwritten.
    """
    gather(packed, v, weight, 0, weight.shape[1])


@njit(**KERNEL)
def few_conv2d_forward(item, y, x, weight, bias, C, stride, dilation_h, dilation_w, bands, relu, T):
    """As `conv2d_forward`; an item is one of the bands of rows of an image.

    x (N, vectors, H, W, L) includes its padding and holds C channels, L in a vector (1: an ordinary image); weight
    (F / LANES, C, KH, KW, LANES), bias (F / LANES, 1, LANES); y (N, F / LANES, OH, OW, LANES) is overwritten.
    T: vectors of filters x columns, T.spacing = distance in memory of the columns under neighbouring outputs.
    """
    V, _, KH, KW = weight.shape[:4]
    OH, OW, L = y.shape[2], y.shape[3], x.shape[4]
    n, band = item // bands, item % bands
    for v0 in range(0, V, T.rows):
        v = min(v0, V - T.rows)
        for i in range(OH * band // bands, OH * (band + 1) // bands):
            for j0 in range(0, OW, T.cols):
                j = min(j0, OW - T.cols)
                acc = row_tile(vectors(bias, (v, 0), T.rows, 0, 1), T.cols)
                for p in range(KH):
                    for q in range(KW):
                        row, col = i * stride + p * dilation_h, j * (T.spacing // L) + q * dilation_w
                        for u in range(x.shape[1]):
                            for l in range(min(L, C - u * L)):
                                acc = outer(acc, vectors(weight, (v, u * L + l, p, q), T.rows, 0, 1),
                                            scalars_apart(x, (n, u, row, col, l), T.cols, T.spacing))
                if relu:
                    acc = rectify(acc)
                store_tile(y, (n, v, i, j), 1, 3, 1, acc)


@njit(**KERNEL)
def few_linear_forward(item, y, x, weight, bias, chunk, relu, T):
    """As `linear_forward` for T.cols vectors of units and all images.

    Item: vectors item * T.cols, ... of y (N, O / LANES, LANES), which is overwritten; x (N, K) holds ordinary numbers;
    weight (O, K); bias (O / LANES, 1, LANES).  chunk (O / LANES, features, LANES): scratch, weights gathered at a time.
    T: images x vectors of units.
    """
    O, K = weight.shape
    first, size = item * T.cols, chunk.shape[1]
    for n in range(x.shape[0]):
        for v in range(first, first + T.cols):
            store(y, (n, v), load(bias, (v, 0)))
    for k0 in range(0, K, size):
        count = min(size, K - k0)
        for v in range(first, first + T.cols):
            gather(chunk, v, weight, k0, count)
        for n in range(0, x.shape[0], T.rows):
            acc = load_tile(y, (n, first), 0, 1, 1, 1, T.rows, T.cols)
            for k in range(count):
                acc = outer(acc, scalars(x, (n, k0 + k), T.rows, 0), vectors(chunk, (first, k), T.cols, 0, 1))
            if relu and k0 + count == K:
                acc = rectify(acc)
            store_tile(y, (n, first), 0, 1, 1, acc)


@njit(**KERNEL)
def channel_scales(v, scales, means, variances, weight, bias, hyper):
    """scales[v, 0 to 2] = mean, weight / sqrt(variance + eps), bias of LANES channels.

    Item: vector v; scales (C / LANES, 3, LANES) is overwritten; others (C,), hyper = (eps, ...).
    """
    for l in range(LANES):
        c = min(v * LANES + l, means.shape[0] - 1)
        scales[v, 0, l] = means[c]
        scales[v, 1, l] = np.float32(1 / math.sqrt(variances[c] + hyper[0])) * weight[c]
        scales[v, 2, l] = bias[c]


@njit(**KERNEL)
def few_batch_norm_forward(n, y, x, scales, relu):
    """As `batch_norm_forward` with `channel_scales`: y = (x - mean) * scale + bias.  Image n; y is overwritten."""
    for v in range(x.shape[1]):
        mean, scale, shift = load(scales, (v, 0)), load(scales, (v, 1)), load(scales, (v, 2))
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                out = fma(load(x, (n, v, i, j)) - mean, scale, shift)
                store(y, (n, v, i, j), maximum(splat(ZERO), out) if relu else out)


@njit(**KERNEL)
def few_flatten(n, y, x, C):
    """y[n, k] = the numbers of an image in the order of its C channels, rows and columns.

    Image n; x (N, C / LANES, H, W, LANES); y (N, C * H * W) is overwritten.
    """
    H, W = x.shape[2], x.shape[3]
    for c in range(C):
        for i in range(H):
            for j in range(W):
                y[n, (c * H + i) * W + j] = x[n, c // LANES, i, j, c % LANES]
