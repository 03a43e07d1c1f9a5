"""Pooling."""
from functools import reduce

import numpy as np

from cnn_numba.errors import InputError, truth_value, whole_number
from cnn_numba.kernels import pool
from cnn_numba.kernels.lanes import Tile
from cnn_numba.kernels.program import Call
from cnn_numba.layers.base import Layer, Shape, Wires, both, image_shape, one_or_pair, pair, shape_text
from cnn_numba.layers.windows import pool_windows, windows

__all__ = ["AdaptiveAvgPool2d", "AvgPool2d", "MaxPool2d"]

MOST_PIXELS = 1 << 24           # pixels of a channel whose indices float32 can hold


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

    def output_shape(self, shape: Shape) -> Shape:
        name = type(self).__name__
        channels, *size = image_shape(name, shape)
        positions = []
        for s, (kernel, stride, padding, dilation) in zip(size, self._axes(), strict=True):
            room = s + 2 * padding - dilation * (kernel - 1) - 1
            last = room // stride
            if self.ceil_mode:                  # a window may extend past the image, but not start there
                last = min(-(-room // stride), (s + padding - 1) // stride)
            positions.append(last + 1)
        if min(positions) < 1:
            extent = [d * (k - 1) + 1 for k, _, _, d in self._axes()]
            raise InputError(f"{name} with a {shape_text(extent)} window does not fit on an image of "
                             f"{shape_text(size)} with padding {self.padding}")
        return channels, *positions


class MaxPool2d(_Window):
    """The maximum over a window, as `torch.nn.MaxPool2d`; in a tie, the first maximum gets the gradient.

    Parameters
    ----------
    kernel_size : int or (rows, columns)
    stride : int or (rows, columns), optional
        Default: kernel_size.
    padding : int or (rows, columns)
        Pixels of -inf at each side; at most half the kernel size.
    dilation : int or (rows, columns)
    return_indices : bool
        Whether `model(images)` returns (output, int64 indices), with row * W + column for each maximum.  Only the last
        layer of a network can do this.
    ceil_mode : bool
        Whether to keep windows that only partly cover the image; they must start on it or in the padding before it.

    Shapes
    ------
    (C, H, W) -> (C, (H + 2 * padding - dilation * (kernel_size - 1) - 1) // stride + 1, ...), with ceil_mode rounded up

    Raises InputError (a ValueError) when an argument is out of range.
    """

    aliases = "MaxPool", "MaxPooling", "MaxPooling2d"

    def __init__(self, kernel_size, stride=None, padding=0, dilation=1, return_indices=False, ceil_mode=False):
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.dilation = one_or_pair("MaxPool2d", "dilation", dilation)
        self.return_indices = truth_value("MaxPool2d", "return_indices", return_indices)

    gives_indices = property(lambda self: self.return_indices)

    def tiles(self, shape: Shape) -> bool:
        return not self.return_indices and all(
            size % kernel == 0 and (stride, padding, dilation) == (kernel, 0, 1)
            for size, (kernel, stride, padding, dilation) in zip(shape[1:], self._axes(), strict=True))

    def output_shape(self, shape: Shape) -> Shape:
        after = super().output_shape(shape)
        if self.return_indices and shape[1] * shape[2] > MOST_PIXELS:
            raise InputError(f"MaxPool2d: return_indices=True takes images of at most {MOST_PIXELS:,} pixels, got "
                             f"{shape_text(shape)}")
        return after

    def calls(self, wires: Wires) -> None:
        x, y, ((rows, *of_rows), (cols, *of_cols)) = wires.x, wires.y, self._axes()
        (stride_h, top, dilation_h), (stride_w, left, dilation_w) = of_rows, of_cols
        geometry = dict(stride_h=stride_h, stride_w=stride_w, top=top, left=left, dilation_h=dilation_h,
                        T=Tile(rows, cols, dilation_w))
        of_channels = wires.pieces(x.shape[0])
        wires.forward.append(Call(
            pool.max_pool2d_forward, of_channels, y=y.inner, x=x.inner, cut=dict(y=1, x=1), **geometry))
        if self.return_indices:
            if wires.indices is None:
                raise InputError("MaxPool2d: return_indices=True gives two results, but the next layer takes one; "
                                 "put it last, or use cnn_numba.functional.max_pool2d")
            wires.forward.append(Call(
                pool.max_pool2d_indices, x.blocks, index=wires.indices.inner, x=x.inner, **geometry))
        if wires.dx is not None:
            exact = all(n == o * k for n, o, k in zip(x.shape[1:], y.shape[1:], (rows, cols), strict=True))
            plain = (stride_h, stride_w, top, left, dilation_h, dilation_w) == (rows, cols, 0, 0, 1, 1)
            wires.backward.append(Call(
                pool.max_pool2d_backward, of_channels, dx=wires.dx.inner, dy=wires.dy.inner, y=y.inner, x=x.inner,
                cut=dict(dx=1, dy=1, y=1, x=1), **geometry, tiled=int(exact and plain), relu=int(wires.relu_before)))

    def textbook(self, x, parameters, run):
        seen = pool_windows(x, self, -np.inf)
        y = reduce(np.maximum, (seen[..., p, q] for p, q in np.ndindex(seen.shape[4:])))
        if seen[0, 0, 0, 0].size > 1:
            run.decide(x, lambda: y[..., None, None] - seen)
        return y

    def extra_repr(self) -> str:
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
        Zeros at each side; at most half the kernel size.
    ceil_mode : bool
        As in MaxPool2d.
    count_include_pad : bool
        Whether the zeros count in the average.
    divisor_override : int, optional
        Divisor of the sum, instead of the size of the window.

    Shapes
    ------
    (C, H, W) -> (C, (H + 2 * padding - kernel_size) // stride + 1, ...), with ceil_mode rounded up

    Raises InputError (a ValueError) when an argument is out of range.
    """

    aliases = "AvgPool", "AveragePool", "AveragePool2d", "AveragePooling", "AveragePooling2d"

    def __init__(self, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True,
                 divisor_override=None):
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.count_include_pad = truth_value("AvgPool2d", "count_include_pad", count_include_pad)
        self.divisor_override = (
            None if divisor_override is None else whole_number("AvgPool2d", "divisor_override", divisor_override))

    def calls(self, wires: Wires) -> None:
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

    def textbook(self, x, parameters, run):
        """The divisor counts the pixels of a window on the image, or also those on the padding, but none beyond it."""
        rows, cols = both(self.padding)
        inside = np.pad(np.ones((1, 1, *x.shape[2:])), ((0, 0), (0, 0), (rows, rows), (cols, cols)),
                        constant_values=float(self.count_include_pad))
        size = self.output_shape(x.shape[1:])[1:]
        count = windows(inside, self, (0, 0, 0, 0), *size).sum(axis=(4, 5))
        return pool_windows(x, self, 0.0).sum(axis=(4, 5)) / (self.divisor_override or count)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AdaptiveAvgPool2d(Layer):
    """Averages over windows that divide the image, as `torch.nn.AdaptiveAvgPool2d`; `AdaptiveAvgPool2d(1)`
    averages each channel.

    Parameters
    ----------
    output_size : int or (rows, columns)
        None instead of a number: the size of the image.

    Shapes
    ------
    (C, H, W) -> (C, rows, columns); row i averages the rows floor(i * H / rows) to ceil((i + 1) * H / rows) - 1

    Raises InputError (a ValueError) when an argument is out of range.
    """

    masks_relu = True
    aliases = ("AdaptiveAvgPool", "GlobalAvgPool", "GlobalAvgPool2d", "GlobalAveragePooling",
               "GlobalAveragePooling2d")
    written_defaults = {"output_size": 1}

    def __init__(self, output_size):
        sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * 2
        pair("AdaptiveAvgPool2d", "output_size", [1 if size is None else size for size in sizes])
        self.output_size = tuple(output_size) if isinstance(output_size, list) else output_size

    def output_shape(self, shape: Shape) -> Shape:
        channels, *sizes = image_shape("AdaptiveAvgPool2d", shape)
        return channels, *(size if o is None else o for size, o in zip(sizes, both(self.output_size), strict=True))

    def calls(self, wires: Wires) -> None:
        spans = []
        for size, count in zip(wires.x.shape[1:], wires.y.shape[1:], strict=True):
            i = np.arange(count)
            spans.append(np.stack([i * size // count, -(-(i + 1) * size // count)], axis=1))
        _average_calls(wires, spans, 1 / np.outer(*(np.diff(span) for span in spans)), Tile(0, 0))

    def textbook(self, x, parameters, run):
        size = self.output_shape(x.shape[1:])[1:]
        y = np.empty((*x.shape[:2], *size))
        for i, j in np.ndindex(*size):
            rows, cols = (slice(k * n // out, -(-(k + 1) * n // out))
                          for k, n, out in zip((i, j), x.shape[2:], size, strict=True))
            y[:, :, i, j] = x[:, :, rows, cols].mean(axis=(2, 3))
        return y


def _average_calls(wires, spans, scale, tile):
    """Append the calls that sum x over the rows and columns `spans` and multiply by `scale`, (OH, OW)."""
    of_channels = wires.pieces(wires.x.shape[0])
    windows = dict(rows=spans[0], cols=spans[1], scale=scale.astype(np.float32))
    wires.forward.append(Call(
        pool.avg_pool2d_forward, of_channels, y=wires.y.inner, x=wires.x.inner, **windows, T=tile,
        cut=dict(y=1, x=1)))
    if wires.dx is not None:
        tiled = all(span[0, 0] == 0 and span[-1, 1] == size and np.array_equal(span[1:, 0], span[:-1, 1])
                    for span, size in zip(spans, wires.x.shape[1:], strict=True))
        wires.backward.append(Call(
            pool.avg_pool2d_backward, of_channels, dx=wires.dx.inner, dy=wires.dy.inner, x=wires.masked.inner,
            **windows, tiled=int(tiled), relu=int(wires.relu_before), cut=dict(dx=1, dy=1, x=1)))
