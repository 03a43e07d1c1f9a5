"""Dropout."""
import numpy as np

from cnn_numba.errors import number
from cnn_numba.kernels import dropout, shape
from cnn_numba.kernels.program import Call
from cnn_numba.layers.base import Layer, Shape, Wires, image_shape

__all__ = ["Dropout", "Dropout2d"]


class Dropout(Layer):
    """In training, each number becomes 0 with probability p, and the others are multiplied by 1 / (1 - p), as
    `torch.nn.Dropout`; with `model.eval()`, nothing changes.  Srivastava et al., "Dropout" (2014).

    The mask derives from the seed, the pass (in a Trainer, the number of the epoch), the position of the image in the
    pass and that of the layer in the network.  It depends neither on the batch size nor on threads.

    Parameters
    ----------
    p : float, 0 to 1

    Shapes
    ------
    Any -> the same.

    Raises InputError (a ValueError) when p is out of range.
    """

    masks_relu = True

    def __init__(self, p=0.5):
        self.p = number(type(self).__name__, "p", p, 0, 1)

    def _drawn(self, wires):
        """(the probability in this plan, the arguments that draw the mask)"""
        p = self.p if wires.setup.trains(self) else 0.0
        rates = np.array([p, 1 / (1 - p) if p < 1 else 0], np.float32)
        return p, dict(batch=wires.setup.batch, draw=wires.setup.draw, rates=rates, layer=wires.index)

    def calls(self, wires: Wires) -> None:
        p, drawn = self._drawn(wires)
        x, y = wires.x.image(), wires.y.image()
        wires.forward.append(Call(dropout.dropout_forward, wires.blocks, y=y, x=x, **drawn) if p else
                             Call(shape.reshape, wires.blocks, y=y, x=x))
        if wires.dx is not None:
            wires.backward.append(Call(dropout.dropout_backward, wires.blocks, dx=wires.dx.image(), dy=wires.dy.image(),
                                       x=x, **drawn, relu=int(wires.relu_before)))

    def textbook(self, x, parameters, run):
        return (run.batches(x) * run.masks[self]).reshape(x.shape)


class Dropout2d(Dropout):
    """In training, each channel of each image becomes 0 with probability p, and the others are multiplied by
    1 / (1 - p), as `torch.nn.Dropout2d`: Tompson et al., "Efficient Object Localization" (2015).  Otherwise as Dropout.

    Shapes
    ------
    (C, H, W) -> the same.
    """

    masks_relu = False

    def output_shape(self, shape: Shape) -> Shape:
        return image_shape("Dropout2d", shape)

    def calls(self, wires: Wires) -> None:
        _, drawn = self._drawn(wires)
        wires.forward.append(Call(
            dropout.dropout_channels, wires.blocks, y=wires.y.image(), x=wires.x.image(), **drawn))
        if wires.dx is not None:
            wires.backward.append(Call(
                dropout.dropout_channels, wires.blocks, y=wires.dx.image(), x=wires.dy.image(), **drawn))
