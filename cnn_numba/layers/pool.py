"""Pooling."""
from kernels import pool
from kernels.lanes import Tile
from kernels.program import Call

from ..errors import InputError
from .base import Layer, image_shape, pair, shape_text, short


class MaxPool2d(Layer):
    """The maximum over a window, as `torch.nn.MaxPool2d`; the gradient of a tie goes to its first place.

    Parameters
    ----------
    kernel_size : int or (rows, columns)
    stride : int or (rows, columns), optional
        Default: kernel_size.
    padding : int or (rows, columns)
        Places that never win, at each side; at most half the kernel.

    Shapes
    ------
    (C, H, W) -> (C, (H + 2 * padding - kernel_size) // stride + 1, ...)

    Raises InputError (a ValueError) when an argument is out of range.
    """

    masks_relu = True

    def __init__(self, kernel_size, stride=None, padding=0):
        self.kernel_size = pair("MaxPool2d", "kernel_size", kernel_size)
        self.stride = self.kernel_size if stride is None else pair("MaxPool2d", "stride", stride)
        self.padding = pair("MaxPool2d", "padding", padding, 0)
        if any(2 * p > k for p, k in zip(self.padding, self.kernel_size, strict=True)):
            raise InputError(f"MaxPool2d: padding must be at most half the kernel size {self.kernel_size}, "
                             f"got {padding!r}")

    def output_shape(self, shape):
        channels, *size = image_shape("MaxPool2d", shape)
        room = [s + 2 * p - k for s, p, k in zip(size, self.padding, self.kernel_size, strict=True)]
        if min(room) < 0:
            raise InputError(f"MaxPool2d with a {shape_text(self.kernel_size)} window does not fit on an image of "
                             f"{shape_text(size)} with padding {self.padding}")
        return channels, *(r // s + 1 for r, s in zip(room, self.stride, strict=True))

    def calls(self, wires):
        x, y, tile = wires.x, wires.y, Tile(*self.kernel_size)
        wires.forward.append(Call(
            pool.max_pool2d_forward, x.blocks, y.inner, x.inner, *self.stride, *self.padding, tile))
        if wires.dx is not None:
            exact = all(n == o * k for n, o, k in zip(x.shape[1:], y.shape[1:], self.kernel_size, strict=True))
            tiled = self.stride == self.kernel_size and self.padding == (0, 0) and exact
            wires.backward.append(Call(
                pool.max_pool2d_backward, x.blocks, wires.dx.inner, wires.dy.inner, y.inner, x.inner, *self.stride,
                *self.padding, int(tiled), int(wires.relu_before), tile))

    def extra_repr(self):
        text = f"kernel_size={short(self.kernel_size)}, stride={short(self.stride)}"
        return text if self.padding == (0, 0) else text + f", padding={short(self.padding)}"
