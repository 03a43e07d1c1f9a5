"""Activations."""
from kernels import activation
from kernels.program import Call

from .base import Layer


class ReLU(Layer):
    """max(0, x), element by element, as `torch.nn.ReLU`; any shape."""

    def calls(self, wires):
        wires.forward.append(Call(activation.relu_forward, wires.blocks, wires.y.image(), wires.x.image()))
        if wires.dx is not None:
            self.mask_calls(wires)

    def mask_calls(self, wires):
        """The backward pass alone: after a layer that applied the ReLU, before one that does not mask."""
        wires.backward.append(Call(
            activation.relu_backward, wires.blocks, wires.dx.image(), wires.dy.image(), wires.y.image()))
