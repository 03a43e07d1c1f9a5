"""Max and average pooling on lanes."""
import numpy as np
from numba import njit

from .compiled import KERNEL
from .lanes import ZERO, load, maximum, splat, store, where

LEAST = np.float32(-np.inf)


@njit(**KERNEL)
def max_pool2d_forward(n, y, x, stride_h, stride_w, top, left, dilation_h, T):
    """y[c, i, j] = the maximum of x[c, i*stride - top + p*dilation, j*stride - left + q*dilation] over the p, q of the
    window whose pixels lie in x; -inf if none do.

    Block n; x (N, C, H, W); y (N, C, OH, OW) is overwritten.  T: the window, T.spacing = dilation along a row.
    """
    _, C, H, W = x.shape[:4]
    for c in range(C):
        for i in range(y.shape[2]):
            for j in range(y.shape[3]):
                row, col = i * stride_h - top, j * stride_w - left
                best = splat(LEAST)
                for p in range(T.rows):
                    for q in range(T.cols):
                        r, s = row + p * dilation_h, col + q * T.spacing
                        if 0 <= r < H and 0 <= s < W:
                            best = maximum(best, load(x, (n, c, r, s)))
                store(y, (n, c, i, j), best)


@njit(**KERNEL)
def max_pool2d_backward(n, dx, dy, y, x, stride_h, stride_w, top, left, dilation_h, tiled, relu, T):
    """dx at the first maximum of each window is dy; a pixel that is the maximum of several windows gets their sum.

    Block n; dx (N, C, H, W) is overwritten; `tiled`: every pixel lies in exactly one window; `relu`: 0 where x is not
    positive.
    """
    _, C, H, W = x.shape[:4]
    none = splat(ZERO)
    for c in range(C):
        if not tiled:
            for i in range(H):
                for j in range(W):
                    store(dx, (n, c, i, j), none)
        for i in range(dy.shape[2]):
            for j in range(dy.shape[3]):
                row, col = i * stride_h - top, j * stride_w - left
                best, left_over = load(y, (n, c, i, j)), load(dy, (n, c, i, j))
                if relu:
                    left_over = where(best > none, left_over, none)
                for p in range(T.rows):
                    for q in range(T.cols):
                        r, s = row + p * dilation_h, col + q * T.spacing
                        if 0 <= r < H and 0 <= s < W:
                            index = (n, c, r, s)
                            here = load(x, index) == best
                            given = where(here, left_over, none)
                            if not tiled:
                                given = given + load(dx, index)
                            store(dx, index, given)
                            left_over = where(here, none, left_over)


@njit(**KERNEL)
def max_pool2d_indices(n, index, x, stride_h, stride_w, top, left, dilation_h, T):
    """index[c, i, j] = row * W + column of the first maximum of the window, as a float32; that of the last NaN if it
    has one; -1 if none of its pixels lies in x.

    Arguments as in max_pool2d_forward; index (N, C, OH, OW) is overwritten.
    """
    _, C, H, W = x.shape[:4]
    for c in range(C):
        for i in range(index.shape[2]):
            for j in range(index.shape[3]):
                row, col = i * stride_h - top, j * stride_w - left
                best, found, empty = splat(LEAST), splat(np.float32(-1)), True
                for p in range(T.rows):
                    for q in range(T.cols):
                        r, s = row + p * dilation_h, col + q * T.spacing
                        if 0 <= r < H and 0 <= s < W:
                            v, here = load(x, (n, c, r, s)), splat(np.float32(r * W + s))
                            if empty:
                                found, empty = here, False
                            found = where(v > best, here, where(v == v, found, here))
                            best = maximum(best, v)
                store(index, (n, c, i, j), found)


@njit(**KERNEL)
def avg_pool2d_forward(n, y, x, rows, cols, scale, T):
    """y[c, i, j] = scale[i, j] * the sum of x[c] over the window rows[i, 0] <= row < rows[i, 1], columns likewise.

    Block n; y (N, C, OH, OW) is overwritten.  T: the size of most windows; their loops are unrolled.
    """
    for c in range(x.shape[1]):
        for i in range(y.shape[2]):
            for j in range(y.shape[3]):
                acc = splat(ZERO)
                if rows[i, 1] - rows[i, 0] == T.rows and cols[j, 1] - cols[j, 0] == T.cols:
                    for p in range(T.rows):
                        for q in range(T.cols):
                            acc = acc + load(x, (n, c, rows[i, 0] + p, cols[j, 0] + q))
                else:
                    for row in range(rows[i, 0], rows[i, 1]):
                        for col in range(cols[j, 0], cols[j, 1]):
                            acc = acc + load(x, (n, c, row, col))
                store(y, (n, c, i, j), acc * splat(scale[i, j]))


@njit(**KERNEL)
def avg_pool2d_backward(n, dx, dy, x, rows, cols, scale, tiled, relu):
    """dx[c, row, col] = the sum of scale[i, j] * dy[c, i, j] over the windows that contain the pixel.

    Block n; dx (N, C, H, W) is overwritten; `tiled`: every pixel lies in exactly one window; `relu`: 0 where x is not
    positive; other arguments as in avg_pool2d_forward.
    """
    _, C, H, W = x.shape[:4]
    none = splat(ZERO)
    for c in range(C):
        if not tiled:
            for row in range(H):
                for col in range(W):
                    store(dx, (n, c, row, col), none)
        for i in range(dy.shape[2]):
            for j in range(dy.shape[3]):
                share = load(dy, (n, c, i, j)) * splat(scale[i, j])
                for row in range(rows[i, 0], rows[i, 1]):
                    for col in range(cols[j, 0], cols[j, 1]):
                        index, given = (n, c, row, col), share
                        if relu:
                            given = where(load(x, index) > none, given, none)
                        if not tiled:
                            given = given + load(dx, index)
                        store(dx, index, given)
