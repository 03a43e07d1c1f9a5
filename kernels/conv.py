"""Two-dimensional convolution (cross-correlation, as in PyTorch) on lanes."""
from numba import njit

from .compiled import HELPER, KERNEL
from .lanes import (
    LANES,
    ZERO,
    block,
    load,
    load_tile,
    mask_tile,
    outer,
    rectify,
    row_tile,
    scalars,
    splat,
    spread,
    store,
    store_pack,
    store_row,
    store_sums,
    store_tile,
    total,
    transposed,
    vectors,
    zeros,
)


def conv2d_plain(y, x, weight, bias, stride=1, dilation=1):
    """The textbook convolution: y[n, f, i, j] = bias[f] + sum of weight[f, c, p, q] times the pixel under it.

    Ordinary arrays: images x (N, C, H, W) with their padding, weight (F, C, KH, KW); y (N, F, OH, OW) is overwritten.
    All kernels below compute this, or a gradient of it, for LANES images at a time.
    """
    N, F, OH, OW = y.shape
    _, C, KH, KW = weight.shape
    for n in range(N):
        for f in range(F):
            for i in range(OH):
                for j in range(OW):
                    acc = bias[f]
                    for c in range(C):
                        for p in range(KH):
                            for q in range(KW):
                                row, col = i * stride + p * dilation, j * stride + q * dilation
                                acc += weight[f, c, p, q] * x[n, c, row, col]
                    y[n, f, i, j] = acc


@njit(**KERNEL)
def conv2d_forward(n, y, x, weight, bias, stride, dilation_h, dilation_w, groups, relu, T):
    """y[f, i, j] = bias[f] + sum of weight[f, c, p, q] x[c, i*stride + p*dilation, j*stride + q*dilation] over c, p, q.

    Block n; x (N, C, H, W) includes its padding, y (N, F, OH, OW) is overwritten; each group of filters reads its
    share of the channels; `relu` applies max(0, .).  T: filters x columns, T.spacing = stride along a row.
    """
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
                            row, col = i * stride + p * dilation_h, j * T.spacing + q * dilation_w
                            for c in range(C):
                                acc = outer(acc, scalars(weight, (f, c, p, q), T.rows, 0),
                                            vectors(x, (n, g * C + c, row, col), T.cols, 3, T.spacing))
                    if relu:
                        acc = rectify(acc)
                    store_tile(y, (n, f, i, j), 1, 3, 1, acc)


@njit(**HELPER)
def taps_to(row, taps, stride, dilation, first, end):
    """begin, stop, every, a, fall: the taps p = begin, begin + every, ... < stop connect an input row (padding counted)
    with the output rows (row - p * dilation) / stride, as far as these are integers from first to end - 1.  The first
    of them is a, and each tap lowers it by fall.  Columns likewise.
    """
    every = 1
    while every * dilation % stride != 0:
        every += 1
    begin = max(0, (row - end * stride) // dilation + 1)
    unfit = 0
    while (row - begin * dilation) % stride != 0:
        begin += 1
        unfit += 1
        if unfit == every:
            return 0, 0, 1, 0, 0
    stop = min(taps, (row - first * stride) // dilation + 1)
    return begin, stop, every, (row - begin * dilation) // stride, every * dilation // stride


@njit(**KERNEL)
def conv2d_backward_input(n, dx, dy, weight, x, stride, dilation_h, dilation_w, groups, top, left, margin, relu, T):
    """dx[c, i, j] = sum of weight[f, c, p, q] dy[f, a, b] over the f, p, q for which a*stride + p*dilation - top = i
    and b*stride + q*dilation - left = j.

    Block n; dx (N, C, H, W) without padding is overwritten; dy (N, F, OH, margin + OW + margin) has at least T.cols - 1
    columns of zeros at both sides; `relu`: 0 where x is not positive.  T: channels x columns, T.spacing = stride.
    """
    F, C, KH, KW = weight.shape
    H, W = dx.shape[2], dx.shape[3]
    OH, OW = dy.shape[2], dy.shape[3] - 2 * margin
    F //= groups
    for g in range(groups):
        for c0 in range(0, C, T.rows):
            c = min(c0, C - T.rows)
            for i in range(H):
                p0, p_end, p_every, a0, a_fall = taps_to(i + top, KH, stride, dilation_h, 0, OH)
                for offset in range(min(T.spacing, W)):                 # columns a stride apart share their taps
                    last = offset + ((W - 1 - offset) // T.spacing + 1 - T.cols) * T.spacing
                    for j0 in range(offset, W, T.spacing * T.cols):
                        j = min(j0, last)
                        q0, q_end, q_every, b0, b_fall = taps_to(j + left, KW, T.spacing, dilation_w, 1 - T.cols, OW)
                        acc = zeros(T.rows, T.cols)
                        a = a0
                        for p in range(p0, p_end, p_every):
                            b = b0 + margin
                            for q in range(q0, q_end, q_every):
                                for f in range(g * F, g * F + F):
                                    acc = outer(acc, scalars(weight, (f, c, p, q), T.rows, 1),
                                                vectors(dy, (n, f, a, b), T.cols, 3, 1))
                                b -= b_fall
                            a -= a_fall
                        if relu:
                            acc = mask_tile(acc, x, (n, g * C + c, i, j), 1, 3, T.spacing)
                        store_tile(dx, (n, g * C + c, i, j), 1, 3, T.spacing, acc)


@njit(**KERNEL)
def conv2d_backward_weight(n, dweight, dy, x, stride_h, stride_w, dilation_h, groups, T):
    """dweight[n, f, c, p, q] = sum of dy[f, i, j] x[c, i*stride + p*dilation, j*stride + q*dilation] over i, j and the
    images of block n, overwritten; `add_blocks` adds up the blocks.

    x (N, C, H, W) includes its padding; dy (N, F, OH, OW).  T: filters x kernel columns, T.spacing = dilation.
    """
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
                                row, col = i * stride_h + p * dilation_h, j * stride_w + q * T.spacing
                                acc = outer(acc, vectors(dy, (n, f, i, j), T.rows, 1, 1),
                                            vectors(x, (n, g * C + c, row, col), T.cols, 3, T.spacing))
                        store_sums(dweight, (n, f, c, p, q), 1, 4, acc)


@njit(**KERNEL)
def conv2d_backward_weight_window(n, dweight, dy, x, stride_h, stride_w, dilation_h, groups, T, window):
    """The same for windows whose taps all fit in one tile: dy is read once for all of them.

    dweight (N, F, C, KH * KW).  T: filters x taps; window: kernel rows x columns, window.spacing = dilation.
    """
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
def conv2d_backward_weight_narrow(n, dweight, dy, x, stride_h, stride_w, dilation_h, groups, T):
    """The same for windows of one column, whose taps do not fill a tile.  T: filters x channels."""
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
def conv2d_backward_weight_by_filters(n, dweight, dy, x, lines, sums, kernel_rows, kernel_cols, stride_h, stride_w,
                                      dilation_h, dilation_w, groups, T):
    """As `conv2d_backward_weight`, with LANES filters of one image in a vector: no lanes are to be added up.

    dweight (N, F, C * KH * KW), the filters of a group a multiple of LANES and its channels one of T.cols.  Scratch:
    lines, dy of some rows with filters and images exchanged (their pixels * LANES), and sums (1, C * KH * KW or more).
    T: 1 x channels.
    """
    _, F, K = dweight.shape
    OH, OW, taps = dy.shape[2], dy.shape[3], kernel_rows * kernel_cols
    F //= groups
    C, rows = K // taps, lines.shape[0] // (OW * LANES)
    for g in range(groups):
        for f in range(g * F, g * F + F, LANES):
            for k in range(K):
                store(sums, (0, k), splat(ZERO))
            for first in range(0, OH, rows):                        # so few that they stay in the first cache
                end, k = min(first + rows, OH), 0
                for i in range(first, end):
                    for j in range(OW):
                        store_pack(lines, (k,), 0, transposed(vectors(dy, (n, f, i, j), LANES, 1, 1)))
                        k += LANES
                for c in range(0, C, T.cols):
                    for p in range(kernel_rows):
                        for q in range(kernel_cols):
                            acc, k = zeros(1, T.cols), 0
                            for i in range(first, end):
                                row, col = i * stride_h + p * dilation_h, q * dilation_w
                                for _ in range(OW):
                                    for l in range(LANES):
                                        acc = outer(acc, vectors(lines, (k + l,), 1, 0, 1),
                                                    scalars(x, (n, g * C + c, row, col, l), T.cols, 1))
                                    k, col = k + LANES, col + stride_w
                            here = (0, (c * kernel_rows + p) * kernel_cols + q)
                            store_tile(sums, here, 0, 1, taps, acc + load_tile(sums, here, 0, 1, 1, taps, 1, T.cols))
            for k in range(0, K, LANES):
                store_row(dweight, (n, f, k), 1, row_tile(transposed(vectors(sums, (0, k), LANES, 1, 1)), 1))


@njit(**KERNEL)
def conv2d_backward_bias(n, dbias, dy):
    """dbias[n, f] = sum of dy[f, i, j] over i, j and the images of block n, overwritten."""
    _, F, OH, OW = dy.shape[:4]
    for f in range(F):
        even, odd = splat(ZERO), splat(ZERO)                # two sums: one alone waits for each addition
        for i in range(OH):
            for j in range(0, OW - 1, 2):
                even, odd = even + load(dy, (n, f, i, j)), odd + load(dy, (n, f, i, j + 1))
            if OW % 2:
                even = even + load(dy, (n, f, i, OW - 1))
        dbias[n, f] = total(even + odd)


@njit(**KERNEL)
def add_blocks(item, y, x, chunk):
    """y[k] = sum of x[n, k] over n, always in the same order.  An item is `chunk` vectors k; y is overwritten."""
    for k in range(item * chunk, min(item * chunk + chunk, y.shape[0])):
        acc = load(x, (0, k))
        for n in range(1, x.shape[0]):
            acc = acc + load(x, (n, k))
        store(y, (k,), acc)
