"""The windows of a convolution or pooling layer, as views of NumPy arrays."""
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from cnn_numba.layers.base import Sides, both


def windows(x: np.ndarray, layer: Any, sides: Sides, rows: int, cols: int, fill: float = 0.0) -> np.ndarray:
    """Every window that a layer sees: (N, C, rows, cols, kernel rows, kernel columns) for x (N, C, H, W).

    sides : rows and columns of `fill` around x, (top, bottom, left, right)

    A window can reach beyond these when a size was rounded up; it sees `fill` there, too.
    """
    top, bottom, left, right = sides
    (kh, kw), (sh, sw), (dh, dw) = map(both, (layer.kernel_size, layer.stride, layer.dilation))
    high, wide = (rows - 1) * sh + dh * (kh - 1) + 1, (cols - 1) * sw + dw * (kw - 1) + 1
    bottom, right = max(bottom, high - x.shape[2] - top), max(right, wide - x.shape[3] - left)
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    every = sliding_window_view(x, (dh * (kh - 1) + 1, dw * (kw - 1) + 1), axis=(2, 3))
    return every[:, :, ::sh, ::sw, ::dh, ::dw][:, :, :rows, :cols]


def pool_windows(x: np.ndarray, layer: Any, fill: float) -> np.ndarray:
    """The windows of a pooling layer, with `fill` as padding."""
    rows, cols = both(layer.padding)
    _, rows_out, cols_out = layer.output_shape(x.shape[1:])
    return windows(x, layer, (rows, rows, cols, cols), rows_out, cols_out, fill)
