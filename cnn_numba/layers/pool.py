"""Pooling."""
import numpy as np

from cnn_numba.errors import InputError, truth_value, whole_number
from cnn_numba.kernels import pool
from cnn_numba.kernels.lanes import Tile
from cnn_numba.kernels.program import Call
from cnn_numba.layers.base import Layer, both, image_shape, one_or_pair, pair, shape_text

MOST_PLACES = 1 << 24           # of a channel whose places are numbered in float32


class _Window(Layer):
    """A window that moves over the image."""

    masks_relu = True
    dilation = 1

    def __init__(self, kernel_size, stride, padding, ceil_mode):
        name = type(self).__name__
        self.kernel_size = one_or_pair(name, "kernel_size", kernel_size)
        self.stride = self.kernel_size if stride is None else one_or_pair(name, "stride", stride)
        self.padding = one_or_pair(name, "padding", padding, 0)
        self.ceil_mode = truth_value(name, "ceil_mode", ceil_mode)
        if any(2 * p > k for p, k in zip(both(self.padding), both(self.kernel_size), strict=True)):
            raise InputError(f"{name}: padding must be at most half the kernel size {self.kernel_size}, "
                             f"got {padding!r}")

    def _axes(self):
        """(kernel size, stride, padding, dilation) of the rows and of the columns."""
        return list(zip(*map(both, (self.kernel_size, self.stride, self.padding, self.dilation)), strict=True))

    def output_shape(self, shape):
        name = type(self).__name__
        channels, *size = image_shape(name, shape)
        places = []
        for s, (kernel, stride, padding, dilation) in zip(size, self._axes(), strict=True):
            room = s + 2 * padding - dilation * (kernel - 1) - 1
            last = room // stride
            if self.ceil_mode:                  # a window may stick out, but not start past the image
                last = min(-(-room // stride), (s + padding - 1) // stride)
            places.append(last + 1)
        if min(places) < 1:
            extent = [d * (k - 1) + 1 for k, _, _, d in self._axes()]
            raise InputError(f"{name} with a {shape_text(extent)} window does not fit on an image of "
                             f"{shape_text(size)} with padding {self.padding}")
        return channels, *places


class MaxPool2d(_Window):
    """The maximum over a window, as `torch.nn.MaxPool2d`; the gradient of a tie goes to its first place.

    Parameters
    ----------
    kernel_size : int or (rows, columns)
    stride : int or (rows, columns), optional
        Default: kernel_size.
    padding : int or (rows, columns)
        Places that never win, at each side; at most half the kernel.
    dilation : int or (rows, columns)
    return_indices : bool
        Also tell where the maxima stand: as the last layer, so that `model(images)` is (output, int64 indices), each of
        these row * W + column; a layer between others cannot.
    ceil_mode : bool
        Also where only a part of the window lies on the image, if it starts there or in the padding before.

    Shapes
    ------
    (C, H, W) -> (C, (H + 2 * padding - dilation * (kernel_size - 1) - 1) // stride + 1, ...), with ceil_mode rounded up

    Raises InputError (a ValueError) when an argument is out of range.
    """

    def __init__(self, kernel_size, stride=None, padding=0, dilation=1, return_indices=False, ceil_mode=False):
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.dilation = one_or_pair("MaxPool2d", "dilation", dilation)
        self.return_indices = truth_value("MaxPool2d", "return_indices", return_indices)

    gives_indices = property(lambda self: self.return_indices)

    def output_shape(self, shape):
        after = super().output_shape(shape)
        if self.return_indices and shape[1] * shape[2] > MOST_PLACES:
            raise InputError(f"MaxPool2d: return_indices=True takes images of at most {MOST_PLACES:,} pixels, got "
                             f"{shape_text(shape)}")
        return after

    def calls(self, wires):
        x, y, ((rows, *of_rows), (cols, *of_cols)) = wires.x, wires.y, self._axes()
        (stride_h, top, dilation_h), (stride_w, left, dilation_w) = of_rows, of_cols
        tile, geometry = Tile(rows, cols, dilation_w), (stride_h, stride_w, top, left, dilation_h)
        wires.forward.append(Call(pool.max_pool2d_forward, x.blocks, y.inner, x.inner, *geometry, tile))
        if self.return_indices:
            if wires.indices is None:
                raise InputError("MaxPool2d: return_indices=True gives two results, and the next layer takes one; "
                                 "put it last, or use cnn_numba.functional.max_pool2d")
            wires.forward.append(Call(
                pool.max_pool2d_indices, x.blocks, wires.indices.inner, x.inner, *geometry, tile))
        if wires.dx is not None:
            exact = all(n == o * k for n, o, k in zip(x.shape[1:], y.shape[1:], (rows, cols), strict=True))
            tiled = exact and geometry == (rows, cols, 0, 0, 1) and dilation_w == 1
            wires.backward.append(Call(
                pool.max_pool2d_backward, x.blocks, wires.dx.inner, wires.dy.inner, y.inner, x.inner, *geometry,
                int(tiled), int(wires.relu_before), tile))

    def extra_repr(self):
        return (f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
                f"dilation={self.dilation}, ceil_mode={self.ceil_mode}")


class AvgPool2d(_Window):
    """The average over a window, as `torch.nn.AvgPool2d`.

    Parameters
    ----------
    kernel_size : int or (rows, columns)
    stride : int or (rows, columns), optional
        Default: kernel_size.
    padding : int or (rows, columns)
        Zeros at each side; at most half the kernel.
    ceil_mode : bool
        Also where only a part of the window lies on the image, if it starts there or in the padding before.
    count_include_pad : bool
        Whether the zeros count in the average.
    divisor_override : int, optional
        What the sum is divided by instead of the size of the window.

    Shapes
    ------
    (C, H, W) -> (C, (H + 2 * padding - kernel_size) // stride + 1, ...), with ceil_mode rounded up

    Raises InputError (a ValueError) when an argument is out of range.
    """

    def __init__(self, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True,
                 divisor_override=None):
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.count_include_pad = truth_value("AvgPool2d", "count_include_pad", count_include_pad)
        self.divisor_override = (
            None if divisor_override is None else whole_number("AvgPool2d", "divisor_override", divisor_override))

    def calls(self, wires):
        spans, counts = [], []
        for size, count, (kernel, stride, padding, _) in zip(
                wires.x.shape[1:], wires.y.shape[1:], self._axes(), strict=True):
            first = np.arange(count) * stride - padding
            end = np.minimum(first + kernel, size + padding)
            inside = np.stack([np.maximum(first, 0), np.minimum(end, size)], axis=1)
            spans.append(inside)
            counts.append(end - first if self.count_include_pad else inside[:, 1] - inside[:, 0])
        divisor = self.divisor_override or np.outer(*counts)
        _average_calls(wires, spans, np.broadcast_to(1 / divisor, wires.y.shape[1:]), Tile(*both(self.kernel_size)))

    def extra_repr(self):
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AdaptiveAvgPool2d(Layer):
    """Averages over windows that share out the image, as `torch.nn.AdaptiveAvgPool2d`; `AdaptiveAvgPool2d(1)`
    averages each channel.

    Parameters
    ----------
    output_size : int or (rows, columns)
        None in place of a number: that of the image.

    Shapes
    ------
    (C, H, W) -> (C, rows, columns); row i averages the rows floor(i * H / rows) to ceil((i + 1) * H / rows) - 1

    Raises InputError (a ValueError) when an argument is out of range.
    """

    masks_relu = True

    def __init__(self, output_size):
        sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * 2
        pair("AdaptiveAvgPool2d", "output_size", [1 if size is None else size for size in sizes])
        self.output_size = tuple(output_size) if isinstance(output_size, list) else output_size

    def output_shape(self, shape):
        channels, *sizes = image_shape("AdaptiveAvgPool2d", shape)
        return channels, *(size if o is None else o for size, o in zip(sizes, both(self.output_size), strict=True))

    def calls(self, wires):
        spans = []
        for size, count in zip(wires.x.shape[1:], wires.y.shape[1:], strict=True):
            i = np.arange(count)
            spans.append(np.stack([i * size // count, -(-(i + 1) * size // count)], axis=1))
        _average_calls(wires, spans, 1 / np.outer(*(np.diff(span) for span in spans)), Tile(0, 0))

    def extra_repr(self):
        return f"output_size={self.output_size}"


def _average_calls(wires, spans, scale, tile):
    """The calls that average x over the rows and columns `spans`, and multiply by `scale`, (OH, OW)."""
    scale = scale.astype(np.float32)
    wires.forward.append(Call(pool.avg_pool2d_forward, wires.blocks, wires.y.inner, wires.x.inner, *spans, scale, tile))
    if wires.dx is not None:
        tiled = all(span[0, 0] == 0 and span[-1, 1] == size and np.array_equal(span[1:, 0], span[:-1, 1])
                    for span, size in zip(spans, wires.x.shape[1:], strict=True))
        wires.backward.append(Call(
            pool.avg_pool2d_backward, wires.blocks, wires.dx.inner, wires.dy.inner, wires.x.inner, *spans, scale,
            int(tiled), int(wires.relu_before)))
