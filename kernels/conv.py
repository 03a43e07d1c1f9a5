"""Two-dimensional convolution (cross-correlation, as in PyTorch) on lanes."""
from numba import njit

from .lanes import (
    load,
    mask_tile,
    outer,
    rectify,
    scalars,
    splat,
    spread,
    store_sums,
    store_tile,
    total,
    vectors,
    zeros,
    ZERO,
)
from .program import KERNEL


@njit(**KERNEL)
def conv2d_forward(n, call):
    """y[f, i, j] = bias[f] + sum of weight[f, c, p, q] x[c, i*stride + p*dilation, j*stride + q*dilation] over c, p, q.

    Block n; x (N, C, H, W) includes its padding, y (N, F, OH, OW) is overwritten; a group of filters sees its share of
    the channels; `relu` adds max(0, .).  T: filters x columns, T.step = stride along a row.
    """
    y, x, weight, bias, stride, dilation_h, dilation_w, groups, relu, T = call[0]
    F, C, KH, KW = weight.shape
    OH, OW = y.shape[2], y.shape[3]
    F //= groups
    for g in range(groups):
        for f0 in range(0, F, T.rows):
            f = g * F + min(f0, F - T.rows)                         # the last tile is shifted back to fit
            for i in range(OH):
                for j0 in range(0, OW, T.cols):
                    j = min(j0, OW - T.cols)
                    acc = spread(bias, f, T.rows, T.cols)
                    for c in range(C):
                        for p in range(KH):
                            for q in range(KW):
                                row, col = i * stride + p * dilation_h, j * T.step + q * dilation_w
                                acc = outer(acc, scalars(weight, (f, c, p, q), T.rows, 0),
                                            vectors(x, (n, g * C + c, row, col), T.cols, 3, T.step))
                    if relu:
                        acc = rectify(acc)
                    store_tile(y, (n, f, i, j), 1, 3, 1, acc)


@njit(**KERNEL)
def conv2d_backward_input(n, call):
    """dx[c, i, j] = sum of weight[f, c, p, q] dy[f, a, b] over the f, p, q for which a*stride + p*dilation - top = i and
    b*stride + q*dilation - left = j.

    Block n; dx (N, C, H, W) without padding is overwritten; dy (N, F, OH, margin + OW + margin) has at least T.cols - 1
    columns of zeros at both sides; `relu`: 0 where x is not positive.  T: channels x columns a stride (T.step) apart.
    """
    dx, dy, weight, x, stride, dilation_h, dilation_w, groups, top, left, margin, relu, T = call[0]
    F, C, KH, KW = weight.shape
    H, W = dx.shape[2], dx.shape[3]
    OH, OW = dy.shape[2], dy.shape[3] - 2 * margin
    F //= groups
    for g in range(groups):
        for c0 in range(0, C, T.rows):
            c = min(c0, C - T.rows)
            for i in range(H):
                for phase in range(min(T.step, W)):                 # columns a stride apart share their taps
                    last = phase + ((W - 1 - phase) // T.step + 1 - T.cols) * T.step
                    for j0 in range(phase, W, T.step * T.cols):
                        j = min(j0, last)
                        acc = zeros(T.rows, T.cols)
                        for p in range(KH):
                            a = i + top - p * dilation_h
                            if a < 0 or a % stride != 0 or a // stride >= OH:
                                continue
                            for q in range(KW):
                                b = j + left - q * dilation_w
                                if b <= -T.step * T.cols or b % T.step != 0 or b // T.step >= OW:
                                    continue
                                for f in range(g * F, g * F + F):
                                    acc = outer(acc, scalars(weight, (f, c, p, q), T.rows, 1),
                                                vectors(dy, (n, f, a // stride, b // T.step + margin), T.cols, 3, 1))
                        if relu:
                            acc = mask_tile(acc, x, (n, g * C + c, i, j), 1, 3, T.step)
                        store_tile(dx, (n, g * C + c, i, j), 1, 3, T.step, acc)


@njit(**KERNEL)
def conv2d_backward_weight(item, call):
    """dweight[f, c, p, q] = sum of dy[f, i, j] x[c, i*stride + p*dilation, j*stride + q*dilation] over i, j and all images.

    An item is a tile of filters for one channel c and kernel row p; x (N, C, H, W) includes its padding; dweight is
    overwritten.  T: filters x kernel columns, T.step = dilation along a row.
    """
    dweight, dy, x, stride_h, stride_w, dilation_h, groups, T = call[0]
    F, C, KH, KW = dweight.shape
    N, OH, OW = dy.shape[0], dy.shape[2], dy.shape[3]
    F //= groups
    tile, cp = item // (C * KH), item % (C * KH)
    tiles = (F + T.rows - 1) // T.rows
    g, c, p = tile // tiles, cp // KH, cp % KH
    f = g * F + min(tile % tiles * T.rows, F - T.rows)
    for q0 in range(0, KW, T.cols):
        q = min(q0, KW - T.cols)
        acc = zeros(T.rows, T.cols)
        for n in range(N):
            for i in range(OH):
                for j in range(OW):
                    row, col = i * stride_h + p * dilation_h, j * stride_w + q * T.step
                    acc = outer(acc, vectors(dy, (n, f, i, j), T.rows, 1, 1),
                                vectors(x, (n, g * C + c, row, col), T.cols, 3, T.step))
        store_sums(dweight, (f, c, p, q), 0, 3, acc)


@njit(**KERNEL)
def conv2d_backward_bias(f, call):
    """dbias[f] = sum of dy[f, i, j] over i, j and all images; dbias is overwritten."""
    dbias, dy = call[0]
    acc = splat(ZERO)
    for n in range(dy.shape[0]):
        for i in range(dy.shape[2]):
            for j in range(dy.shape[3]):
                acc = acc + load(dy, (n, f, i, j))
    dbias[f] = total(acc)
