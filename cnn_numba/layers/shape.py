"""Layers that change the shape of an image, not its numbers."""
import math

import numpy as np

from cnn_numba.errors import InputError, choice, number, whole_number
from cnn_numba.kernels import resize
from cnn_numba.kernels import shape as kernel
from cnn_numba.kernels.program import Call
from cnn_numba.layers.base import Layer, Shape, Wires, image_shape, pair, shape_text

__all__ = ["Flatten", "Identity", "Reshape", "Upsample", "ZeroPad2d"]


class Flatten(Layer):
    """(C, H, W) -> (C * H * W,), as `torch.nn.Flatten`; a view of the same numbers."""

    reshapes = True

    def output_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)

    def calls(self, wires: Wires) -> None:
        """A plan makes y a view of x.  dy is a view of dx, too, unless dx has a margin: then it is copied."""
        if wires.dx is not None and wires.dy.array.base is not wires.dx.array.base:
            wires.backward.append(Call(kernel.reshape, wires.blocks, y=wires.dx.image(), x=wires.dy.image()))

    def textbook(self, x, parameters, run):
        return x.reshape(len(x), -1)

    def extra_repr(self) -> str:
        return "start_dim=1, end_dim=-1"


class Reshape(Layer):
    """The numbers of each image in another shape, in the same order: `torch.reshape` without the axis of the images.

    Parameters
    ----------
    shape : int, (K,) or (C, H, W)
        One of the sizes can be -1; it follows from the others.

    Shapes
    ------
    (K,) or (C, H, W) -> shape, with the same number of elements.

    Raises InputError (a ValueError) when the shape is invalid, or its size differs from that of an image.
    """

    def __init__(self, shape):
        sizes = shape if isinstance(shape, (tuple, list)) else (shape,)
        self.shape = tuple(size if size == -1 else whole_number("Reshape", "each size", size) for size in sizes)
        if len(sizes) not in (1, 3) or sizes.count(-1) > 1:
            raise InputError(f"Reshape: shape must be (features,) or (channels, rows, columns) with at most one -1, "
                             f"got {shape!r}")

    def output_shape(self, shape: Shape) -> Shape:
        known, size = math.prod(s for s in self.shape if s != -1), math.prod(shape)
        if size % known or (-1 not in self.shape and size != known):
            raise InputError(f"Reshape to {self.shape} needs as many numbers, got {shape_text(shape)}")
        return tuple(size // known if s == -1 else s for s in self.shape)

    def calls(self, wires: Wires) -> None:
        wires.forward.append(Call(kernel.reshape, wires.blocks, y=wires.y.image(), x=wires.x.image()))
        if wires.dx is not None:
            wires.backward.append(Call(kernel.reshape, wires.blocks, y=wires.dx.image(), x=wires.dy.image()))

    def textbook(self, x, parameters, run):
        return x.reshape(len(x), *self.output_shape(x.shape[1:]))


class Identity(Layer):
    """The same numbers, as `torch.nn.Identity`; any shape."""

    def calls(self, wires: Wires) -> None:
        wires.forward.append(Call(kernel.reshape, wires.blocks, y=wires.y.image(), x=wires.x.image()))
        if wires.dx is not None:
            wires.backward.append(Call(kernel.reshape, wires.blocks, y=wires.dx.image(), x=wires.dy.image()))

    def textbook(self, x, parameters, run):
        return x


class ZeroPad2d(Layer):
    """Zeros around the image, as `torch.nn.ZeroPad2d`.

    Parameters
    ----------
    padding : int, or (left, right, top, bottom)
        Columns and rows at each side.

    Shapes
    ------
    (C, H, W) -> (C, top + H + bottom, left + W + right).

    Raises InputError (a ValueError) when one is below 0.
    """

    def __init__(self, padding):
        sides = tuple(padding) if isinstance(padding, (tuple, list)) else (padding,) * 4
        if len(sides) != 4:
            raise InputError(f"ZeroPad2d: padding must be a whole number or four of them, got {padding!r}")
        self.padding = tuple(whole_number("ZeroPad2d", "padding", side, 0) for side in sides)

    def output_shape(self, shape: Shape) -> Shape:
        channels, rows, cols = image_shape("ZeroPad2d", shape)
        left, right, top, bottom = self.padding
        return channels, top + rows + bottom, left + cols + right

    def calls(self, wires: Wires) -> None:
        at = dict(top=self.padding[2], left=self.padding[0])
        wires.forward.append(Call(resize.pad_forward, wires.blocks, y=wires.y.inner, x=wires.x.inner, **at))
        if wires.dx is not None:
            wires.backward.append(Call(resize.pad_backward, wires.blocks, dx=wires.dx.inner, dy=wires.dy.inner, **at))

    def textbook(self, x, parameters, run):
        left, right, top, bottom = self.padding
        return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))

    def extra_repr(self) -> str:
        return f"{self.padding}"


class Upsample(Layer):
    """The nearest pixel for each pixel of an image of another size, as `torch.nn.Upsample`.

    Parameters
    ----------
    size : int or (rows, columns), optional
    scale_factor : float or (rows, columns), optional
        Instead of the size: by how much the image grows.
    mode : "nearest" or "nearest-exact"
        Whether the pixel is that at the corner of each new pixel, or at its middle.

    Shapes
    ------
    (C, H, W) -> (C, *size), or (C, floor(H * scale_factor), floor(W * scale_factor)).

    Raises InputError (a ValueError) when an argument is out of range, or unless exactly one of size and scale_factor is
    given.
    """

    def __init__(self, size=None, scale_factor=None, mode="nearest"):
        if (size is None) == (scale_factor is None):
            raise InputError("Upsample needs either size or scale_factor")
        self.size = size if size is None or not isinstance(size, (tuple, list)) else tuple(size)
        if size is not None:
            pair("Upsample", "size", size)
        factors = scale_factor if isinstance(scale_factor, (tuple, list)) else (scale_factor,) * 2
        self.scale_factor = None
        if scale_factor is not None:
            if len(factors) != 2:
                raise InputError(f"Upsample: scale_factor must be a number or a pair of them, got {scale_factor!r}")
            checked = tuple(number("Upsample", "scale_factor", factor, 1e-6, 1e6) for factor in factors)
            self.scale_factor = checked if isinstance(scale_factor, (tuple, list)) else checked[0]
        self.mode = choice("Upsample", "mode", mode, "nearest", "nearest-exact")

    def _factors(self):
        factors = self.scale_factor
        return factors if isinstance(factors, tuple) else (factors, factors)

    def output_shape(self, shape: Shape) -> Shape:
        channels, *sizes = image_shape("Upsample", shape)
        if self.size is not None:
            return channels, *pair("Upsample", "size", self.size)
        after = [math.floor(n * factor) for n, factor in zip(sizes, self._factors(), strict=True)]
        if min(after) < 1:
            raise InputError(f"Upsample by {self.scale_factor} leaves nothing of an image of {shape_text(sizes)}")
        return channels, *after

    def _places(self, before, after):
        """int64 (rows,) and (columns,): the rows and columns that are taken."""
        factors = [n / o for n, o in zip(before, after, strict=True)] if self.size is not None else [
            1 / factor for factor in self._factors()]
        middle = np.float32(0.5 if self.mode == "nearest-exact" else 0)
        return [np.minimum(np.floor((np.arange(o) + middle) * np.float32(factor)).astype(np.int64), n - 1)
                for n, o, factor in zip(before, after, factors, strict=True)]

    def calls(self, wires: Wires) -> None:
        rows, cols = self._places(wires.x.shape[1:], wires.y.shape[1:])
        wires.forward.append(Call(
            resize.nearest_forward, wires.blocks, y=wires.y.inner, x=wires.x.inner, rows=rows, cols=cols))
        if wires.dx is not None:
            wires.backward.append(Call(
                resize.nearest_backward, wires.blocks, dx=wires.dx.inner, dy=wires.dy.inner, rows=rows, cols=cols))

    def textbook(self, x, parameters, run):
        rows, cols = self._places(x.shape[2:], self.output_shape(x.shape[1:])[1:])
        return x[:, :, rows][..., cols]

    def extra_repr(self) -> str:
        what = f"size={self.size}" if self.size is not None else f"scale_factor={self.scale_factor}"
        return f"{what}, mode={self.mode!r}"
