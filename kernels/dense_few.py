"""Dense layers for a few images: vectors hold LANES features, that is neighbours in a row of weights, not images.

One image per lane leaves most lanes empty, and a multiply-add for each weight; here it is one for LANES weights and
each image.  x, y and their gradients stay (N, features, LANES) with images in the first lanes, as in `dense`.
"""
from numba import njit

from .compiled import KERNEL
from .lanes import LANES, ZERO, outer, row_vectors, scalars, store_tile, store_totals, vectors, zeros
from .pieces import piece


@njit(**KERNEL)
def linear_forward_by_rows(n, y, x, weight, bias, xt, sums, relu, T):
    """As `linear_forward` for the first T.cols lanes; other lanes are left as they are.

    Block n; xt (images, K / LANES, LANES) and sums (room for T.rows * T.cols numbers, LANES) are scratch, at first 0.
    T: units x images.
    """
    O, K = weight.shape
    for k in range(K):
        for b in range(T.cols):
            xt[b, k // LANES, k % LANES] = x[n, k, b]
    for o0 in range(0, O, T.rows):
        o = min(o0, O - T.rows)
        acc = zeros(T.rows, T.cols)
        for v in range(xt.shape[1]):
            acc = outer(acc, row_vectors(weight, (o, v * LANES), T.rows, 0), vectors(xt, (0, v), T.cols, 0, 1))
        store_totals(sums, (0,), acc)
        for r in range(T.rows):
            for b in range(T.cols):
                index = r * T.cols + b
                out = bias[o + r] + sums[index // LANES, index % LANES]
                y[n, o + r, b] = ZERO if relu and out < ZERO else out


@njit(**KERNEL)
def linear_backward_input_by_rows(item, dx, dy, weight, x, out, relu, pieces, T):
    """As `linear_backward_input` for the first T.rows lanes; other lanes are left as they are.

    An item is some vectors of features of a block; out (images, T.cols, LANES) is scratch.  T: images x vectors.
    """
    O, K = weight.shape
    n, first_v, end_v = piece(item, pieces, -(-K // LANES))
    for v0 in range(first_v, end_v, T.cols):
        v = min(v0, end_v - T.cols)
        acc = zeros(T.rows, T.cols)
        for o in range(O):
            acc = outer(acc, scalars(dy, (n, o, 0), T.rows, 2), row_vectors(weight, (o, v * LANES), T.cols, 1))
        store_tile(out, (0, 0), 0, 1, 1, acc)
        for k in range(v * LANES, min((v + T.cols) * LANES, K)):
            for b in range(T.rows):
                masked = relu and not x[n, k, b] > ZERO
                dx[n, k, b] = ZERO if masked else out[b, k // LANES - v, k % LANES]
