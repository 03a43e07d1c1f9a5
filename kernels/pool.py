"""Max pooling on lanes."""
from numba import njit

from .lanes import ZERO, load, maximum, splat, store, where
from .program import KERNEL


@njit(**KERNEL)
def max_pool2d_forward(n, call):
    """y[c, i, j] = the maximum of x over the window T.rows x T.cols at (i*stride - top, j*stride - left); places
    outside of x never win.  Block n; y (N, C, OH, OW) is overwritten."""
    y, x, stride_h, stride_w, top, left, T = call[0]
    _, C, H, W = x.shape[:4]
    for c in range(C):
        for i in range(y.shape[2]):
            for j in range(y.shape[3]):
                row, col = i * stride_h - top, j * stride_w - left
                best = load(x, (n, c, max(row, 0), max(col, 0)))
                for p in range(T.rows):
                    for q in range(T.cols):
                        if 0 <= row + p < H and 0 <= col + q < W:
                            best = maximum(best, load(x, (n, c, row + p, col + q)))
                store(y, (n, c, i, j), best)


@njit(**KERNEL)
def max_pool2d_backward(n, call):
    """dx at the first place of each window that holds its maximum gets dy; a place that several windows choose, the
    sum.

    Block n; dx (N, C, H, W) is overwritten; `tiled`: every place lies in exactly one window; `relu`: 0 where x is not
    positive.
    """
    dx, dy, y, x, stride_h, stride_w, top, left, tiled, relu, T = call[0]
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
                        if 0 <= row + p < H and 0 <= col + q < W:
                            place = (n, c, row + p, col + q)
                            here = load(x, place) == best
                            given = where(here, left_over, none)
                            if not tiled:
                                given = given + load(dx, place)
                            store(dx, place, given)
                            left_over = where(here, none, left_over)
