"""Convolutions and dense layers with factors rounded to bf16 and sums in float32, as products of tiles (see `matrix`).

    v[i, j, c]      = pixels of the channels 2c and 2c + 1 beside each other, for 16 images: a row of a right tile
    u[p, q, f, c]   = the weights of these channels for filter f: a number pair in row f of a left tile
    y[f, i, j]      = bias[f] + sum of u[p, q, f, c] v[i + p, j + q, c] over p, q, c
    dx[c, i, j]     = the same sum with the roles of filters and channels exchanged, over the taps that connect them
    dweight[f, c, p, q] = sum over images and pixels: g holds dy, t holds x, both with pairs of images

A tile of sums is `rows` filters x 16 images; the tiles of a block follow `down` filters apart, and the last block is
shifted back to fit.  With parts = 2, v, u, g and t hold what the rounding left in a second part, and three products,
high x high, high x low, low x high, come close to float32.  In dense layers, the columns of tiles are blocks of images,
which share the weights that are loaded.
"""
from numba import njit

from .compiled import INLINE, KERNEL
from .conv import taps_to
from .lanes import ZERO, load, maximum, splat, store, where
from .matrix import (
    begin,
    clear,
    configure,
    multiply,
    neighbours,
    pair,
    release,
    remainder,
    store_exchanged,
    store_images,
    store_pair,
    store_products,
    store_transposed,
)
from .pieces import piece


@njit(**KERNEL)
def bf16_weights(f, u, weight, parts):
    """u[p, q, f, c] = the pair (weight[f, 2c, p, q], weight[f, 2c + 1, p, q]) in bf16, and what rounding left of it.

    Filter f; weight (F, C, KH, KW); u uint32 (KH, KW, F, parts * P), P >= C / 2, is overwritten except for the padding.
    """
    _, C, KH, KW = weight.shape
    P = u.shape[3] // parts
    whole = C - C % 32 if KH * KW == 1 else 0                       # pairs that are neighbours, sixteen at a time
    for c in range(0, whole, 32):
        first, second = neighbours(weight, (f, c, 0, 0))
        store_pair(u, (0, 0, f, c // 2), first, second)
        if parts == 2:
            store_pair(u, (0, 0, f, P + c // 2), remainder(first), remainder(second))
    for p in range(KH):
        for q in range(KW):
            for c in range(whole, C, 2):
                a = weight[f, c, p, q]
                b = weight[f, c + 1, p, q] if c + 1 < C else ZERO
                u[p, q, f, c // 2] = pair(a, b)
                if parts == 2:
                    u[p, q, f, P + c // 2] = pair(remainder(a), remainder(b))


@njit(**KERNEL)
def bf16_exchanged_weights(item, u, weight, parts):
    """u[m, f] = the pair (weight[2f, m], weight[2f + 1, m]) in bf16, and what rounding left of it; m = (c, p, q).

    An item is 16 numbers m; weight (F, M), M >= 16; u uint32 (M, parts * P), P >= F / 2, is overwritten except for the
    padding.
    """
    F, M = weight.shape
    P, m0 = u.shape[1] // parts, min(16 * item, M - 16)
    whole = F - F % 32
    for f in range(0, whole, 32):
        store_exchanged(u, (m0, f // 2), weight, (f, m0), 0)
        if parts == 2:
            store_exchanged(u, (m0, P + f // 2), weight, (f, m0), 1)
    for f in range(whole, F, 2):
        for m in range(m0, m0 + 16):
            a = weight[f, m]
            b = weight[f + 1, m] if f + 1 < F else ZERO
            u[m, f // 2] = pair(a, b)
            if parts == 2:
                u[m, P + f // 2] = pair(remainder(a), remainder(b))


@njit(**KERNEL)
def bf16_bias(f, start, bias):
    """start[f] = bias[f] for every image; start (F, LANES) is overwritten."""
    store(start, (f,), splat(bias[f]))


@njit(**KERNEL)
def bf16_pixels(n, v, x, parts):
    """v[i, j, c] = the pair (x[2c, i, j], x[2c + 1, i, j]) in bf16, and what rounding left of it.

    Block n; x (N, C, H, W); v uint32 (N, H, W, parts * P), P >= C / 2, is overwritten except for the padding.
    """
    _, C, H, W, _ = x.shape
    P = v.shape[3] // parts
    for i in range(H):
        for j in range(W):
            for c in range(0, C, 2):
                first = load(x, (n, c, i, j))
                second = load(x, (n, c + 1, i, j)) if c + 1 < C else splat(ZERO)
                store_pair(v, (n, i, j, c // 2), first, second)
                if parts == 2:
                    store_pair(v, (n, i, j, P + c // 2), remainder(first), remainder(second))


@njit(**KERNEL)
def bf16_forward(item, y, u, v, start, stride_h, stride_w, dilation_h, dilation_w, rows, down, pairs, parts, relu,
                 pieces, T):
    """y[f, i, j] = start[f] + sum of u[p, q, f, c] v[i*stride + p*dilation, j*stride + q*dilation, c] over p, q, c.

    An item is some blocks of filters of a block of images; v (N, H, W, parts * P) includes the padding of the image;
    y (N, F, OH, OW) is overwritten; `relu` applies max(0, .).  A product adds up `pairs` pairs of channels.
    T: filters x columns, in tiles.
    """
    KH, KW, F, _ = u.shape
    OH, OW = y.shape[2], y.shape[3]
    n, first, end = piece(item, pieces, -(-F // (T.rows * rows)))
    U, P = u.shape[3] // parts, v.shape[3] // parts
    sums = configure(T, rows, pairs)
    for i in range(OH):
        for j0 in range(0, OW, T.cols):
            j = min(j0, OW - T.cols)
            for block in range(first, end):
                f = min(block * T.rows * rows, F - rows - (T.rows - 1) * down)
                begin(sums, start, f, down)
                for p in range(KH):
                    for q in range(KW):
                        row, col = i * stride_h + p * dilation_h, j * stride_w + q * dilation_w
                        for product in range(2 * parts - 1):
                            a, b = product // 2 * U, product % 2 * P
                            for c in range(0, U, pairs):
                                multiply(sums, u, (p, q, f, a + c), 2, down, v,
                                         (n, row, col, b + c), (n, row, col + stride_w, b + c))
                store_products(sums, y, (n, f, i, j), (n, f, i, j + 1), 1, down)
                if relu:
                    for r in range(f, f + rows + (T.rows - 1) * down):
                        for k in range(j, j + T.cols):
                            store(y, (n, r, i, k), maximum(splat(ZERO), load(y, (n, r, i, k))))
    release(sums)


@njit(**KERNEL)
def bf16_backward_input(item, dx, u, d, x, stride_h, stride_w, dilation_h, dilation_w, top, left, margin, rows, down,
                        pairs, parts, relu, pieces, T):
    """dx[c, i, j] = sum of u[p, q, c, f] d[a, b, f] over the f, p, q for which a*stride + p*dilation - top = i and
    b*stride + q*dilation - left = j; `relu`: 0 where x is not positive; dx (N, C, H, W) is overwritten.

    An item: some blocks of channels of a block of images.  u: weights with the roles of filters and channels exchanged;
    d: dy by `bf16_pixels`, (N, OH, margin + OW + margin, parts * P) with zeros in the margins.  T: channels x columns.
    """
    KH, KW, C, _ = u.shape
    H, W = dx.shape[2], dx.shape[3]
    OH, OW = d.shape[1], d.shape[2] - 2 * margin
    U, P = u.shape[3] // parts, d.shape[3] // parts
    n, first, end = piece(item, pieces, -(-C // (T.rows * rows)))
    none = splat(ZERO)
    sums = configure(T, rows, pairs)
    for i in range(H):
        p0, p_end, p_every, a0, a_fall = taps_to(i + top, KH, stride_h, dilation_h, 0, OH)
        for offset in range(min(stride_w, W)):                      # columns a stride apart share their taps
            count = (W - 1 - offset) // stride_w + 1
            gap = min(T.cols, count) - 1                            # 0: the second column of tiles repeats the first
            for k in range(0, count, T.cols):
                j = offset + min(k, count - 1 - gap) * stride_w
                beside = j + gap * stride_w
                q0, q_end, q_every, b0, b_fall = taps_to(j + left, KW, stride_w, dilation_w, 1 - T.cols, OW)
                for block in range(first, end):
                    c = min(block * T.rows * rows, C - rows - (T.rows - 1) * down)
                    clear(sums)
                    a = a0
                    for p in range(p0, p_end, p_every):
                        b = b0 + margin
                        for q in range(q0, q_end, q_every):
                            for product in range(2 * parts - 1):
                                high, low = product // 2 * U, product % 2 * P
                                for f in range(0, U, pairs):
                                    multiply(sums, u, (p, q, c, high + f), 2, down, d,
                                             (n, a, b, low + f), (n, a, b + gap, low + f))
                            b -= b_fall
                        a -= a_fall
                    store_products(sums, dx, (n, c, i, j), (n, c, i, beside), 1, down)
                    if relu:
                        for r in range(c, c + rows + (T.rows - 1) * down):
                            for col in range(j, beside + 1, stride_w):
                                masked = where(load(x, (n, r, i, col)) > none, load(dx, (n, r, i, col)), none)
                                store(dx, (n, r, i, col), masked)
    release(sums)


@njit(**INLINE)
def add_features(sums, u, row, down, v, n, other, pairs, parts):
    """Add sum of u[row, k] v[n, k] over k to the tiles of a block of rows and the columns n and `other`.

    u uint32 (rows, parts * U), v uint32 (N, parts * P), with pairs of features.
    """
    U, P = u.shape[1] // parts, v.shape[1] // parts
    for product in range(2 * parts - 1):
        a, b = product // 2 * U, product % 2 * P
        for k in range(0, U, pairs):
            multiply(sums, u, (row, a + k), 0, down, v, (n, b + k), (other, b + k))


@njit(**KERNEL)
def bf16_linear_forward(item, y, u, v, start, rows, down, pairs, parts, relu, T):
    """y[n, o] = start[o] + sum of u[o, k] v[n, k] over k; `relu` applies max(0, .).

    An item is a block of units, for all images; u uint32 (O, parts * U), v uint32 (N, parts * P), with pairs of
    features; y (N, O) is overwritten.  T: units x blocks of images, in tiles.
    """
    N, O, _ = y.shape
    o = min(item * T.rows * rows, O - rows - (T.rows - 1) * down)
    sums = configure(T, rows, pairs)
    for n0 in range(0, N, T.cols):
        n = min(n0, N - T.cols)
        other = n + T.cols - 1
        begin(sums, start, o, down)
        add_features(sums, u, o, down, v, n, other, pairs, parts)
        store_products(sums, y, (n, o), (other, o), 1, down)
        if relu:
            for block in range(n, other + 1):
                for r in range(o, o + rows + (T.rows - 1) * down):
                    store(y, (block, r), maximum(splat(ZERO), load(y, (block, r))))
    release(sums)


@njit(**KERNEL)
def bf16_linear_backward_input(item, dx, u, d, x, rows, down, pairs, parts, relu, T):
    """dx[n, k] = sum of u[k, o] d[n, o] over o; `relu`: 0 where x is not positive.

    An item is a block of features, for all images; u uint32 (K, parts * U), d uint32 (N, parts * P), with pairs of
    units; dx (N, K) is overwritten.  T: features x blocks of images, in tiles.
    """
    N, K, _ = dx.shape
    k = min(item * T.rows * rows, K - rows - (T.rows - 1) * down)
    none = splat(ZERO)
    sums = configure(T, rows, pairs)
    for n0 in range(0, N, T.cols):
        n = min(n0, N - T.cols)
        other = n + T.cols - 1
        clear(sums)
        add_features(sums, u, k, down, d, n, other, pairs, parts)
        store_products(sums, dx, (n, k), (other, k), 1, down)
        if relu:
            for block in range(n, other + 1):
                for r in range(k, k + rows + (T.rows - 1) * down):
                    masked = where(load(x, (block, r)) > none, load(dx, (block, r)), none)
                    store(dx, (block, r), masked)
    release(sums)


@njit(**KERNEL)
def bf16_gradient_images(n, g, d, parts):
    """g[f, i, j] = d[i, j, f] with images in pairs: 8 pairs for each filter f and pixel.

    Block n; d (N, OH, OW, parts * P) by `bf16_pixels`, without margins; g uint32 (N, parts, OH, 2 * P or more, OW or
    more, 8) is overwritten except for the padding.
    """
    P = d.shape[3] // parts
    for part in range(parts):
        for i in range(d.shape[1]):
            for j in range(d.shape[2]):
                for f in range(P):
                    store_images(g, (n, part, i, 2 * f, j, 0), 3, d, (n, i, j, part * P + f))


@njit(**KERNEL)
def bf16_input_images(n, t, v, stride_w, parts):
    """t[c, i, j % stride, j // stride] = v[i, j, c] with images in pairs: 8 pairs x 16 channels for each pixel.

    Block n; v (N, H, W, parts * P); t uint32 (N, parts, C / 16, H, stride, columns, 8) is overwritten except for the
    padding.  Columns that the windows of neighbouring outputs see become neighbours.
    """
    _, _, groups, H, _, columns, _, _ = t.shape
    W, P = v.shape[2], v.shape[3] // parts
    for part in range(parts):
        for c in range(groups):
            for i in range(H):
                for j in range(min(W, columns * stride_w)):
                    store_transposed(t, (n, part, c, i, j % stride_w, j // stride_w, 0), v,
                                     (n, i, j, part * P + c * 8))


@njit(**KERNEL)
def bf16_backward_weight(item, dweight, g, t, scratch, kernel_rows, kernel_cols, stride_h, stride_w, dilation_h,
                         dilation_w, rows, down, parts, pieces, T):
    """dweight[n, f, (c, p, q)] = sum of dy[f, i, j] x[c, i*stride + p*dilation, j*stride + q*dilation] over i, j and
    the images of block n; an item is some blocks of filters of it; dweight (N, F, C * KH * KW) is overwritten.

    g, t: dy and x with images in pairs.  A product adds up two pixels of 16 images; a column of tiles is one tap of 16
    channels.  scratch (items, T.cols, 16 * T.rows): products on their way to dweight.  T: filters x taps, in tiles.
    """
    F, window = dweight.shape[1], kernel_rows * kernel_cols
    C, columns = dweight.shape[2] // window, t.shape[2] * window
    n, first, end = piece(item, pieces, -(-F // (T.rows * rows)))
    sums = configure(T, rows, 16)
    for block in range(first, end):
        f = min(block * T.rows * rows, F - rows - (T.rows - 1) * down)
        for e0 in range(0, columns, T.cols):
            e = min(e0, columns - T.cols)
            other = e + T.cols - 1
            k, p, q = e // window, e // kernel_cols % kernel_rows, e % kernel_cols
            k2, p2, q2 = other // window, other // kernel_cols % kernel_rows, other % kernel_cols
            col, phase = q * dilation_w // stride_w, q * dilation_w % stride_w
            col2, phase2 = q2 * dilation_w // stride_w, q2 * dilation_w % stride_w
            clear(sums)
            for product in range(2 * parts - 1):
                a, b = product // 2, product % 2
                for i in range(g.shape[2]):
                    for j in range(0, g.shape[4], 2):
                        multiply(sums, g, (n, a, i, f, j, 0), 3, down, t,
                                 (n, b, k, i * stride_h + p * dilation_h, phase, j + col, 0),
                                 (n, b, k2, i * stride_h + p2 * dilation_h, phase2, j + col2, 0))
            if window == 1 and 16 * other + 16 <= C:
                store_products(sums, dweight, (n, f, 16 * e), (n, f, 16 * other), 1, down)
                continue
            store_products(sums, scratch, (item, 0, 0), (item, 1, 0), 2, 16)
            for c in range(T.cols):
                k, tap = (e + c) // window, (e + c) % window
                for r in range(T.rows):
                    for m in range(rows):
                        for l in range(min(16, C - 16 * k)):
                            dweight[n, f + r * down + m, (16 * k + l) * window + tap] = scratch[item, c, 16 * r + m, l]
    release(sums)
