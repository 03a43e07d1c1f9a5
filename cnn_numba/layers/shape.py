"""Layers that change the shape of an image, not its numbers."""
import math

from cnn_numba.errors import InputError, whole_number
from cnn_numba.kernels import shape as kernel
from cnn_numba.kernels.program import Call
from cnn_numba.layers.base import Layer, Shape, Wires, shape_text

__all__ = ["Flatten", "Reshape"]


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
