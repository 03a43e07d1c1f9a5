"""Two-dimensional convolution (cross-correlation, as in PyTorch) on lanes."""
from numba import njit

from .lanes import (
    ZERO,
    block,
    load,
    mask_tile,
    outer,
    rectify,
    scalars,
    splat,
    spread,
    store,
    store_sums,
    store_tile,
    total,
    vectors,
    zeros,
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
                    for p in range(KH):
                        for q in range(KW):
                            row, col = i * stride + p * dilation_h, j * T.step + q * dilation_w
                            for c in range(C):
                                acc = outer(acc, scalars(weight, (f, c, p, q), T.rows, 0),
                                            vectors(x, (n, g * C + c, row, col), T.cols, 3, T.step))
                    if relu:
                        acc = rectify(acc)
                    store_tile(y, (n, f, i, j), 1, 3, 1, acc)


@njit(**KERNEL)
def taps_to(place, taps, stride, dilation, first, end):
    """The taps p = begin, begin + step, ... < stop that connect an input place (padding counted) with an output place
    a = (place - p * dilation) / stride, whole and first <= a < end; also the first a and how much it falls per step.
    """
    step = 1
    while step * dilation % stride != 0:
        step += 1
    begin = max(0, (place - end * stride) // dilation + 1)
    unfit = 0
    while (place - begin * dilation) % stride != 0:
        begin += 1
        unfit += 1
        if unfit == step:
            return 0, 0, 1, 0, 0
    stop = min(taps, (place - first * stride) // dilation + 1)
    return begin, stop, step, (place - begin * dilation) // stride, step * dilation // stride


@njit(**KERNEL)
def conv2d_backward_input(n, call):
    """dx[c, i, j] = sum of weight[f, c, p, q] dy[f, a, b] over the f, p, q for which a*stride + p*dilation - top = i
    and b*stride + q*dilation - left = j.

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
                p0, p_end, p_step, a0, a_step = taps_to(i + top, KH, stride, dilation_h, 0, OH)
                for phase in range(min(T.step, W)):                 # columns a stride apart share their taps
                    last = phase + ((W - 1 - phase) // T.step + 1 - T.cols) * T.step
                    for j0 in range(phase, W, T.step * T.cols):
                        j = min(j0, last)
                        q0, q_end, q_step, b0, b_step = taps_to(j + left, KW, T.step, dilation_w, 1 - T.cols, OW)
                        acc = zeros(T.rows, T.cols)
                        a = a0
                        for p in range(p0, p_end, p_step):
                            b = b0 + margin
                            for q in range(q0, q_end, q_step):
                                for f in range(g * F, g * F + F):
                                    acc = outer(acc, scalars(weight, (f, c, p, q), T.rows, 1),
                                                vectors(dy, (n, f, a, b), T.cols, 3, 1))
                                b -= b_step
                            a -= a_step
                        if relu:
                            acc = mask_tile(acc, x, (n, g * C + c, i, j), 1, 3, T.step)
                        store_tile(dx, (n, g * C + c, i, j), 1, 3, T.step, acc)


@njit(**KERNEL)
def conv2d_backward_weight(n, call):
    """dweight[n, f, c, p, q] = sum of dy[f, i, j] x[c, i*stride + p*dilation, j*stride + q*dilation] over i, j and the
    images of block n, which is overwritten; `add_blocks` adds the blocks up.

    x (N, C, H, W) includes its padding; dy (N, F, OH, OW).  T: filters x kernel columns, T.step = dilation along a row.
    """
    dweight, dy, x, stride_h, stride_w, dilation_h, groups, T = call[0]
    _, F, C, KH, KW = dweight.shape
    OH, OW = dy.shape[2], dy.shape[3]
    F //= groups
    for g in range(groups):
        for f0 in range(0, F, T.rows):
            f = g * F + min(f0, F - T.rows)
            for c in range(C):
                for p in range(KH):
                    for q0 in range(0, KW, T.cols):
                        q = min(q0, KW - T.cols)
                        acc = zeros(T.rows, T.cols)
                        for i in range(OH):
                            for j in range(OW):
                                row, col = i * stride_h + p * dilation_h, j * stride_w + q * T.step
                                acc = outer(acc, vectors(dy, (n, f, i, j), T.rows, 1, 1),
                                            vectors(x, (n, g * C + c, row, col), T.cols, 3, T.step))
                        store_sums(dweight, (n, f, c, p, q), 1, 4, acc)


@njit(**KERNEL)
def conv2d_backward_weight_window(n, call):
    """The same for small kernels, all taps of which fit in a tile: dy is read once for all of them.

    dweight (N, F, C, KH * KW).  T: filters x taps; window: kernel rows x columns, window.step = dilation along a row.
    """
    dweight, dy, x, stride_h, stride_w, dilation_h, groups, T, window = call[0]
    _, F, C, _ = dweight.shape
    OH, OW = dy.shape[2], dy.shape[3]
    F //= groups
    for g in range(groups):
        for f0 in range(0, F, T.rows):
            f = g * F + min(f0, F - T.rows)
            for c in range(C):
                acc = zeros(T.rows, T.cols)
                for i in range(OH):
                    for j in range(OW):
                        acc = outer(acc, vectors(dy, (n, f, i, j), T.rows, 1, 1),
                                    block(x, (n, g * C + c, i * stride_h, j * stride_w), window, dilation_h))
                store_sums(dweight, (n, f, c, 0), 1, 3, acc)


@njit(**KERNEL)
def conv2d_backward_weight_narrow(n, call):
    """The same for kernels one column wide, whose taps make no tile.  T: filters x channels."""
    dweight, dy, x, stride_h, stride_w, dilation_h, groups, T = call[0]
    _, F, C, KH, _ = dweight.shape
    OH, OW = dy.shape[2], dy.shape[3]
    F //= groups
    for g in range(groups):
        for f0 in range(0, F, T.rows):
            f = g * F + min(f0, F - T.rows)
            for c0 in range(0, C, T.cols):
                c = min(c0, C - T.cols)
                for p in range(KH):
                    acc = zeros(T.rows, T.cols)
                    for i in range(OH):
                        for j in range(OW):
                            row, col = i * stride_h + p * dilation_h, j * stride_w
                            acc = outer(acc, vectors(dy, (n, f, i, j), T.rows, 1, 1),
                                        vectors(x, (n, g * C + c, row, col), T.cols, 1, 1))
                    store_sums(dweight, (n, f, c, p, 0), 1, 2, acc)


@njit(**KERNEL)
def conv2d_backward_bias(n, call):
    """dbias[n, f] = sum of dy[f, i, j] over i, j and the images of block n, which is overwritten."""
    dbias, dy = call[0]
    _, F, OH, OW = dy.shape[:4]
    for f in range(F):
        even, odd = splat(ZERO), splat(ZERO)                # two sums: a single one waits for each addition
        for i in range(OH):
            for j in range(0, OW - 1, 2):
                even, odd = even + load(dy, (n, f, i, j)), odd + load(dy, (n, f, i, j + 1))
            if OW % 2:
                even = even + load(dy, (n, f, i, OW - 1))
        dbias[n, f] = total(even + odd)


@njit(**KERNEL)
def add_blocks(item, call):
    """y[k] = sum of x[n, k] over n, always in the same order; an item is `chunk` vectors k; y is overwritten."""
    y, x, chunk = call[0]
    for k in range(item * chunk, min(item * chunk + chunk, y.shape[0])):
        acc = load(x, (0, k))
        for n in range(1, x.shape[0]):
            acc = acc + load(x, (n, k))
        store(y, (k,), acc)
