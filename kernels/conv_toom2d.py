"""Convolution with stride 1 by Cook-Toom products along both axes (see `toom`): a quarter of the multiplications.

An image is cut into tiles of rows.m x cols.m outputs, which depend on windows of rows.n x cols.n inputs.

    u[xi, f, c]   = G weight[f, c] G^T              one number for each of the rows.n * cols.n points xi, once per step
    v[xi, c, k]   = B x[c, window k] B^T            one vector for each tile k
    d[xi, f, k]   = A dy[f, tile k] A^T
    y[f, tile k]  = bias[f] + A^T (sum of u[f, c] v[c, k] over c) A
    dweight[f, c] = G^T (sum of d[f, k] v[c, k] over k and images) G

dx is computed as y is: the convolution of dy, with its padding, with the flipped weights.  Its transposed form,
B^T (sum of u[f, c] d[f, k] over f) B, would add rows.n * cols.n numbers to dx for each tile instead of writing
rows.m * cols.m, and tiles that share numbers could not run at once.

The products of a point are those of matrices, which a register tile computes with few loads.  The last tile of a row or
column is shifted back to fit; the outputs that it shares with the tile before are left out, and 0 in d.
rows, cols: Toom(m, r) of the two directions.  Point xi = b * rows.n + a is point a of the rows and b of the columns.

Each matrix is applied to the rows of a tile and then to its columns, by way of memory: registers do not hold a tile.

Winograd, "Arithmetic complexity of computations" (1980); Lavin and Gray (2016), as F(4x4, 3x3).
"""
from numba import njit

from .compiled import HELPER, KERNEL
from .lanes import (
    LANES,
    clear_first,
    load,
    load_tile,
    local_tile,
    mask_tile,
    outer,
    rectify,
    repeat,
    row_tile,
    row_vectors,
    scalars,
    scalars_apart,
    splat,
    store,
    store_from,
    store_pack,
    store_row,
    store_tile,
    transposed,
    vectors,
    zeros,
)
from .pieces import piece
from .toom import transform


@njit(**KERNEL)
def toom2d_weights(item, u, weight, group, rows, cols):
    """u[g, xi, k, r] = (G w G^T)[xi] for the weights w between output g * group + r and summand k, overwritten.

    An item is as many groups of outputs as fit into a vector.  weight (outputs, summands, KH, KW); u (groups, points,
    summands): vectors `group` numbers apart, each written over the rest of the one before.
    """
    each, outputs = LANES // group, weight.shape[0]
    taps, by_row, points = local_tile(rows.r, cols.r), local_tile(rows.r, cols.n), local_tile(rows.n, cols.n)
    first = max(0, min(item * each * group, outputs - LANES))
    for k in range(weight.shape[1]):
        for l in range(LANES):                                      # past the last output: that one again
            for p in range(rows.r):
                for q in range(cols.r):
                    taps[p, q, l] = weight[min(first + l, outputs - 1), k, p, q]
        for p in range(rows.r):
            store_pack(by_row, (p, 0), 1, transform(cols.G, vectors(taps, (p, 0), cols.r, 1, 1)))
        for b in range(cols.n):
            store_pack(points, (0, b), 0, transform(rows.G, vectors(by_row, (0, b), rows.r, 0, 1)))
        for g in range(item * each, min(item * each + each, u.shape[0])):
            for b in range(cols.n):
                for a in range(rows.n):
                    of_group = row_vectors(points, (a, b, g * group - first), 1, 2)
                    store_row(u, (g, b * rows.n + a, k, 0), 2, row_tile(of_group, 1))


@njit(**HELPER)
def input_panel(n, q, v, x, high, wide, last_i, last_j, rows, cols):
    """v of panel q of block n, for all tiles and channels.

    x (N, C, H, W) includes its padding; v (N, panels, points, C, tiles of a panel); the last tiles begin at output
    last_i, last_j.
    """
    first, by_row = q * v.shape[4], local_tile(rows.n, cols.n)
    for c in range(v.shape[3]):
        for k in range(first, min(first + v.shape[4], high * wide)):
            i, j = min(k // wide * rows.m, last_i), min(k % wide * cols.m, last_j)
            for a in range(rows.n):
                store_pack(by_row, (a, 0), 1, transform(cols.B, vectors(x, (n, c, i + a, j), cols.n, 3, 1)))
            for b in range(cols.n):
                column = transform(rows.B, vectors(by_row, (0, b), rows.n, 0, 1))
                store_pack(v, (n, q, b * rows.n, c, k - first), 2, column)


@njit(**HELPER)
def gradient_panel(n, q, d, dy, high, wide, last_i, last_j, rows, cols):
    """d of panel q of block n, for all tiles and filters; dy (N, F, OH, OW); d (N, panels, points, F, tiles of a
    panel)."""
    first, by_row = q * d.shape[4], local_tile(rows.m, cols.n)
    for f in range(dy.shape[1]):
        for k in range(first, min(first + d.shape[4], high * wide)):
            i, j = min(k // wide * rows.m, last_i), min(k % wide * cols.m, last_j)
            again_i, again_j = k // wide * rows.m - i, k % wide * cols.m - j            # outputs of the tile before
            for a in range(rows.m):
                row = clear_first(vectors(dy, (n, f, i + a, j), cols.m, 3, 1), cols.m if a < again_i else again_j)
                store_pack(by_row, (a, 0), 1, transform(cols.A, row))
            for b in range(cols.n):
                column = transform(rows.A, vectors(by_row, (0, b), rows.m, 0, 1))
                store_pack(d, (n, q, b * rows.n, f, k - first), 2, column)


@njit(**KERNEL)
def toom2d_gradient(item, d, dy, high, wide, pieces, rows, cols):
    """d of some panels of a block, overwritten."""
    n, first, end = piece(item, pieces, d.shape[1])
    for q in range(first, end):
        gradient_panel(n, q, d, dy, high, wide, dy.shape[2] - rows.m, dy.shape[3] - cols.m, rows, cols)


@njit(**HELPER)
def point_products(products, u, g, v, n, q, s, rows, cols, T):
    """products[r, t, xi] = sum of u[g, xi, c, r] v[n, q, xi, c, s + t] over c, for all points xi; overwritten.

    T.rows outputs r of group g, and T.cols tiles t of panel q from its tile s on; u (groups, points, C, T.rows); v
    (N, panels, points, C, tiles of a panel); products (T.rows, T.cols, rows.n, cols.n).
    """
    for a in range(rows.n):
        for b in range(cols.n):
            xi, acc = b * rows.n + a, zeros(T.rows, T.cols)
            for c in range(v.shape[3]):
                acc = outer(acc, scalars(u, (g, xi, c, 0), T.rows, 3), vectors(v, (n, q, xi, c, s), T.cols, 4, 1))
            store_tile(products, (0, 0, a, b), 0, 1, 1, acc)


@njit(**KERNEL)
def toom2d_convolution(item, y, u, v, x, bias, positive, products, high, wide, relu, masks, adds, pieces, each, rows,
                       cols, T):
    """y of some panels and groups of filters of a block (N, F, OH, OW), overwritten, or added to what is there with
    `adds`.

    For an output, `relu` applies max(0, .).  For the gradient of an input, `masks` sets it to 0 where `positive`, an
    array like y, is not positive.
    x includes its padding; u, v and products, which are scratch, as in `point_products`.  `each`: groups, of those of
    a panel, that stay in one item; with all of them, v is that of the block afterwards.  T: filters x tiles.
    """
    F, last_i, last_j, groups = y.shape[1], y.shape[2] - rows.m, y.shape[3] - cols.m, u.shape[0]
    n, first, end = piece(item, pieces, v.shape[1] * groups // each)
    for part in range(first * each, end * each):
        q, g = part // groups, part % groups
        if g == 0 or part == first * each:
            input_panel(n, q, v, x, high, wide, last_i, last_j, rows, cols)
        first_k = q * v.shape[4]
        for k0 in range(first_k, min(first_k + v.shape[4], high * wide), T.cols):
            point_products(products, u, g, v, n, q, k0 - first_k, rows, cols, T)
            for f in range(g * T.rows, min(g * T.rows + T.rows, F)):
                for k in range(k0, min(k0 + T.cols, high * wide)):
                    r, t = f - g * T.rows, k - k0
                    for a in range(rows.n):
                        row = vectors(products, (r, t, a, 0), cols.n, 3, 1)
                        store_pack(products, (r, t, a, 0), 3, transform(cols.AT, row))
                    i, j = min(k // wide * rows.m, last_i), min(k % wide * cols.m, last_j)
                    again_i, again_j = k // wide * rows.m - i, k % wide * cols.m - j    # outputs of the tile before
                    for b in range(again_j, cols.m):
                        here = n, f, i, j + b
                        column = transform(rows.AT, vectors(products, (r, t, 0, b), rows.n, 2, 1))
                        column = row_tile(column + repeat(splat(bias[f]), rows.m), 1)
                        if relu:
                            column = rectify(column)
                        if adds:
                            column = column + load_tile(y, here, 2, 3, 1, 1, rows.m, 1)
                        if masks:
                            column = mask_tile(column, positive, here, 2, 3, 1)
                        store_from(y, here, 2, again_i, column)


@njit(**KERNEL)
def toom2d_backward_weight(item, sums, d, v, lines, high, wide, pieces, rows, cols, S, T):
    """sums[n, a, b, c, f] = sum of d[a, b, f] v[a, b, c] over the tiles and the images of a block, for some points.

    sums (N, rows.n, cols.n, C, F in vectors) is overwritten: vector k begins at filter 16k, the last one so far before
    that its filters exist; F >= LANES; v, d as in `input_panel` and `gradient_panel`.  A vector holds LANES filters of
    one image, so that no lanes are to be added up: lines (tiles * LANES images, F in vectors) is scratch for d of a
    point, transposed.  S: 1 x tiles of a panel, the spacing of the channels of v; T: channels x vectors of filters.
    """
    F, C = d.shape[3], v.shape[3]
    n, first, end = piece(item, pieces, rows.n * cols.n)
    for xi in range(first, end):
        for k in range(high * wide):
            for f0 in range(0, F, LANES):
                tile = (n, k // S.cols, xi, min(f0, F - LANES), k % S.cols)
                store_pack(lines, (k * LANES, f0 // LANES), 0, transposed(vectors(d, tile, LANES, 3, 1)))
        for c0 in range(0, C, T.rows):
            c = min(c0, C - T.rows)
            for f0 in range(0, sums.shape[4], T.cols):
                f, acc = min(f0, sums.shape[4] - T.cols), zeros(T.rows, T.cols)
                for k in range(high * wide):
                    for l in range(LANES):
                        here = (n, k // S.cols, xi, c, k % S.cols, l)
                        acc = outer(acc, scalars_apart(v, here, T.rows, S.spacing),
                                    vectors(lines, (k * LANES + l, f), T.cols, 1, 1))
                store_tile(sums, (n, xi % rows.n, xi // rows.n, c, f), 3, 4, 1, acc)


@njit(**KERNEL)
def toom2d_weight_gradient(c, dweight, sums, rows, cols):
    """dweight[f, c] = G^T (the sum of `sums` over its blocks, always in the same order) G, overwritten for channel c.

    dweight (F, C, KH, KW); sums as in `toom2d_backward_weight`, block 0 is overwritten.
    """
    F, by_row, taps = dweight.shape[0], local_tile(rows.n, cols.r), local_tile(rows.r, cols.r)
    for a in range(rows.n):
        for b in range(cols.n):
            for v in range(sums.shape[4]):          # as they lie in memory: for all points at once, up to 3x slower
                total = load(sums, (0, a, b, c, v))
                for n in range(1, sums.shape[0]):
                    total = total + load(sums, (n, a, b, c, v))
                store(sums, (0, a, b, c, v), total)
    for v in range(sums.shape[4]):
        for a in range(rows.n):
            store_pack(by_row, (a, 0), 1, transform(cols.GT, vectors(sums, (0, a, 0, c, v), cols.n, 2, 1)))
        for q in range(cols.r):
            store_pack(taps, (0, q), 0, transform(rows.GT, vectors(by_row, (0, q), rows.n, 0, 1)))
        first = max(0, min(v * LANES, F - LANES))
        for f in range(first, min(first + LANES, F)):
            for p in range(rows.r):
                for q in range(cols.r):
                    dweight[f, c, p, q] = taps[p, q, f - first]
