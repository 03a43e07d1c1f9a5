"""Layers that change the shape of an image and not its numbers."""
import math

from kernels import activation
from kernels.program import Call

from .base import Layer


class Flatten(Layer):
    """(C, H, W) -> (C * H * W,), as `torch.nn.Flatten`; a view of the same numbers."""

    reshapes = True

    def output_shape(self, shape):
        return (math.prod(shape),)

    def calls(self, wires):
        """A plan makes y a view of x.  dy is a view of dx too, unless dx has a margin: then it is copied."""
        if wires.dx is not None and wires.dy.array.base is not wires.dx.array.base:
            dx = wires.dx.inner
            wires.backward.append(Call(activation.copy, wires.blocks, dx, wires.dy.array.reshape(dx.shape)))

    def extra_repr(self):
        return "start_dim=1, end_dim=-1"
