"""Fully connected layers on lanes."""
from numba import njit

from .compiled import KERNEL
from .lanes import (
    LANES,
    ZERO,
    load,
    mask_tile,
    outer,
    rectify,
    scalars,
    splat,
    spread,
    store,
    store_pack,
    store_row,
    store_tile,
    total,
    transposed,
    vectors,
    zeros,
)


@njit(**KERNEL)
def linear_forward(n, y, x, weight, bias, relu, T):
    """y[o] = bias[o] + sum of weight[o, k] x[k] over k; `relu` applies max(0, .).

    Block n; x (N, K), weight (O, K); y (N, O) is overwritten.  T: units x 1.
    """
    O, K = weight.shape
    for o0 in range(0, O, T.rows):
        o = min(o0, O - T.rows)
        acc = spread(bias, o, T.rows, T.cols)
        for k in range(K):
            acc = outer(acc, scalars(weight, (o, k), T.rows, 0), vectors(x, (n, k), T.cols, 0, 1))
        if relu:
            acc = rectify(acc)
        store_tile(y, (n, o), 1, 0, 1, acc)


@njit(**KERNEL)
def linear_backward_input(n, dx, dy, weight, x, relu, T):
    """dx[k] = sum of weight[o, k] dy[o] over o; `relu`: 0 where x is not positive.

    Block n; dy (N, O), weight (O, K); dx (N, K) is overwritten.  T: features x 1.
    """
    O, K = weight.shape
    for k0 in range(0, K, T.rows):
        k = min(k0, K - T.rows)
        acc = zeros(T.rows, T.cols)
        for o in range(O):
            acc = outer(acc, scalars(weight, (o, k), T.rows, 1), vectors(dy, (n, o), T.cols, 0, 1))
        if relu:
            acc = mask_tile(acc, x, (n, k), 1, 0, 1)
        store_tile(dx, (n, k), 1, 0, 1, acc)


@njit(**KERNEL)
def linear_backward_input_by_lines(item, dx, dy, weight, x, panel, relu, T):
    """As `linear_backward_input`, for weight (O, K / LANES, LANES) that is too large to be read for each block.

    An item is some lines of all rows and all blocks; the rows of a line are first copied side by side to panel (items,
    lines, O, LANES), which is scratch: rows 4 kB apart compete for a set of the cache.
    """
    lines, O = panel.shape[1], panel.shape[2]
    first = item * lines
    count = min(lines, weight.shape[1] - first)
    for o in range(O):
        for line in range(count):
            store(panel, (item, line, o), load(weight, (o, first + line)))
    for n in range(dx.shape[0]):
        for k in range(0, count * LANES, T.rows):
            acc, here = zeros(T.rows, T.cols), (n, first * LANES + k)
            line, lane = k // LANES, k % LANES
            for o in range(O):
                acc = outer(acc, scalars(panel, (item, line, o, lane), T.rows, 3), vectors(dy, (n, o), T.cols, 0, 1))
            if relu:
                acc = mask_tile(acc, x, here, 1, 0, 1)
            store_tile(dx, here, 1, 0, 1, acc)


@njit(**KERNEL)
def linear_backward_weight(item, dweight, dy, x, xt, lanes, T):
    """dweight[o, k] = sum of dy[o] x[k] over all images; here a vector holds LANES features of one image.

    An item is T.cols vectors of features, for all units; dy (N, O), x (N, K); dweight (O, K) is overwritten; only the
    first `lanes` lanes of a block hold images; xt (items, T.cols, N * LANES) is scratch.  T: units x vectors.
    """
    O, K = dweight.shape
    first = min(item * T.cols, -(-K // LANES) - T.cols)
    for v in range(T.cols):
        k = (first + v) * LANES
        for n in range(x.shape[0]):
            if k + LANES <= K:
                store_pack(xt, (item, v, n * LANES), 2, transposed(vectors(x, (n, k), LANES, 1, 1)))
            else:
                for feature in range(k, K):
                    for l in range(lanes):
                        xt[item, v, n * LANES + l, feature - k] = x[n, feature, l]
    for o0 in range(0, O, T.rows):
        o = min(o0, O - T.rows)
        acc = zeros(T.rows, T.cols)
        for n in range(dy.shape[0]):
            for l in range(lanes):
                acc = outer(acc, scalars(dy, (n, o, l), T.rows, 1),
                            vectors(xt, (item, 0, n * LANES + l), T.cols, 1, 1))
        store_row(dweight, (o, first * LANES), 0, acc)


@njit(**KERNEL)
def linear_backward_bias(o, dbias, dy):
    """dbias[o] = sum of dy[o] over all images; dbias is overwritten."""
    acc = splat(ZERO)
    for n in range(dy.shape[0]):
        acc = acc + load(dy, (n, o))
    dbias[o] = total(acc)
