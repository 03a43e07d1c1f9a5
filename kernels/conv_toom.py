"""Convolution with stride 1 by Cook-Toom products along the rows (see `toom`): half the multiplications or fewer.

    u[f, c, p]    = G weight[f, c, p]               n numbers per kernel row, once per step
    v[c, i, t]    = B x[c, i, t*m : t*m + n]        n vectors per tile t of m columns
    d[f, i, t]    = A dy[f, i, t*m : t*m + m]
    y[f, i, t*m : t*m + m]      = bias[f] + A^T (sum of u[f, c, p] v[c, i + p, t] over c, p)
    dx[c, i, t*m : t*m + n]    += B^T (sum of u[f, c, p] d[f, i - p, t] over f, p)
    dweight[f, c, p]            = G^T (sum of d[f, i, t] v[c, i + p, t] over i, t and images)

Products are element by element over the n points, the axis of u, v and d before the lanes.  The last tile is shifted
back to fit; the columns that it shares with the tile before are 0 in d, so that they count once.  toom: Toom(m, r).
"""
from numba import njit

from .compiled import KERNEL
from .lanes import (
    LANES,
    ZERO,
    add_tile,
    clear_first,
    load,
    outer,
    rectify,
    scalars,
    splat,
    spread,
    store,
    store_pack,
    store_row,
    store_tile,
    store_totals,
    vectors,
    where,
    zeros,
)
from .toom import by_points, transform


@njit(**KERNEL)
def toom_weights(f, u, weight, taps, T):
    """u[f, c, p, xi] = sum of G[xi, q] weight[f, c, p, q] over q; here the lanes of a vector are points xi.

    u (F, C, KH, n) is overwritten; taps (KW, LANES): column q of G.  T: kernel rows x 1.
    """
    C, KH, KW = weight.shape[1:]
    for c in range(C):
        for p0 in range(0, KH, T.rows):
            p, acc = min(p0, KH - T.rows), zeros(T.rows, T.cols)
            for q in range(KW):
                acc = outer(acc, scalars(weight, (f, c, p, q), T.rows, 2), vectors(taps, (q,), T.cols, 0, 1))
            store_row(u, (f, c, p, 0), 2, acc)


@njit(**KERNEL)
def toom_input(n, v, x, toom):
    """v of block n; x (N, C, H, W) includes its padding; v (N, C, H, tiles, n) is overwritten."""
    last = x.shape[3] - toom.n
    for c in range(x.shape[1]):
        for i in range(x.shape[2]):
            for t in range(v.shape[3]):
                tile = vectors(x, (n, c, i, min(t * toom.m, last)), toom.n, 3, 1)
                store_pack(v, (n, c, i, t, 0), 4, transform(toom.B, tile))


@njit(**KERNEL)
def toom_gradient(n, d, dy, toom):
    """d of block n; dy (N, F, OH, OW); d (N, F, OH, tiles, n) is overwritten."""
    last = dy.shape[3] - toom.m
    for f in range(dy.shape[1]):
        for i in range(dy.shape[2]):
            for t in range(d.shape[3]):
                j = min(t * toom.m, last)
                tile = clear_first(vectors(dy, (n, f, i, j), toom.m, 3, 1), t * toom.m - j)
                store_pack(d, (n, f, i, t, 0), 4, transform(toom.A, tile))


@njit(**KERNEL)
def toom_forward(n, y, u, v, bias, relu, toom, T):
    """y of block n (N, F, OH, OW), overwritten; `relu` applies max(0, .).  T: filters x points."""
    F, C, KH, _ = u.shape
    last = y.shape[3] - toom.m
    for i in range(y.shape[2]):
        for t in range(v.shape[3]):
            for f0 in range(0, F, T.rows):
                f = min(f0, F - T.rows)
                acc = zeros(T.rows, toom.n)
                for c in range(C):
                    for p in range(KH):
                        acc = by_points(acc, u, (f, c, p, 0), 0, vectors(v, (n, c, i + p, t, 0), toom.n, 4, 1))
                out = transform(toom.AT, acc) + spread(bias, f, T.rows, toom.m)
                if relu:
                    out = rectify(out)
                store_tile(y, (n, f, i, min(t * toom.m, last)), 1, 3, 1, out)


@njit(**KERNEL)
def toom_backward_input(n, dx, u, d, x, top, left, relu, toom, T):
    """dx of block n, overwritten; `relu`: 0 where x is not positive.

    dx (N, C, H, left + W + right) includes the padding columns, which are set to 0; x (N, C, H, W) does not.
    T: channels x points.
    """
    F, C, KH, _ = u.shape
    OH, H, W = d.shape[2], x.shape[2], x.shape[3]
    last = dx.shape[3] - toom.n
    none = splat(ZERO)
    for c0 in range(0, C, T.rows):
        c = min(c0, C - T.rows)
        for i in range(H):
            first_p, end_p = max(0, i + top - OH + 1), min(KH, i + top + 1)
            for r in range(c, c + T.rows):
                for j in range(dx.shape[3]):
                    store(dx, (n, r, i, j), none)
            for t in range(d.shape[3]):
                acc = zeros(T.rows, toom.n)
                for f in range(F):
                    for p in range(first_p, end_p):
                        acc = by_points(acc, u, (f, c, p, 0), 1, vectors(d, (n, f, i + top - p, t, 0), toom.n, 4, 1))
                add_tile(dx, (n, c, i, min(t * toom.m, last)), 1, 3, transform(toom.BT, acc))
            for r in range(c, c + T.rows):
                for j in range(left):
                    store(dx, (n, r, i, j), none)
                for j in range(left + W, dx.shape[3]):
                    store(dx, (n, r, i, j), none)
                if relu:
                    for j in range(W):
                        here = (n, r, i, left + j)
                        store(dx, here, where(load(x, (n, r, i, j)) > none, load(dx, here), none))


@njit(**KERNEL)
def toom_backward_weight(n, dweight, d, v, sums, toom, T):
    """dweight (N, F, C, KH, KW) of block n, overwritten.

    sums (n, room for T.rows * T.cols numbers) is scratch.  T: filters x kernel rows, for one channel and point.
    """
    _, F, C, KH, KW = dweight.shape
    for f0 in range(0, F, T.rows):
        f = min(f0, F - T.rows)
        for c in range(C):
            for xi in range(toom.n):
                acc = zeros(T.rows, T.cols)
                for i in range(d.shape[2]):
                    for t in range(d.shape[3]):
                        acc = outer(acc, vectors(d, (n, f, i, t, xi), T.rows, 1, 1),
                                    vectors(v, (n, c, i, t, xi), T.cols, 2, 1))
                store_totals(sums, (xi, 0), acc)
            for k in range(sums.shape[1]):                          # a vector holds LANES of the tile's sums
                store_pack(sums, (0, k), 0, transform(toom.GT, vectors(sums, (0, k), toom.n, 0, 1)))
            for r in range(T.rows):
                for p in range(KH):
                    index = r * KH + p
                    for q in range(KW):
                        dweight[n, f + r, c, p, q] = sums[q, index // LANES, index % LANES]
