"""Activations."""
import numpy as np

from cnn_numba.errors import MOST, InputError
from cnn_numba.kernels import activation
from cnn_numba.kernels.lanes import aligned
from cnn_numba.kernels.program import Call
from cnn_numba.layers.base import Layer, Shape, Wires, shape_text

__all__ = ["LeakyReLU", "LogSoftmax", "ReLU", "Sigmoid", "Softmax", "Tanh"]


class ReLU(Layer):
    """max(0, x), element by element, as `torch.nn.ReLU`; any shape."""

    is_relu = True

    def calls(self, wires: Wires) -> None:
        _calls(wires, activation.relu_forward, activation.relu_backward)

    def textbook(self, x, parameters, run):
        run.decide(x, lambda: np.abs(x))
        return np.maximum(x, 0)


class LeakyReLU(Layer):
    """x where it is positive, negative_slope * x elsewhere, as `torch.nn.LeakyReLU`; any shape.

    Parameters
    ----------
    negative_slope : float

    Raises InputError (a ValueError) when it is not a finite number.
    """

    aliases = ("LReLU",)

    def __init__(self, negative_slope=0.01):
        if not (isinstance(negative_slope, (int, float, np.number)) and abs(negative_slope) <= MOST):
            raise InputError(f"LeakyReLU: negative_slope must be a finite number, got {negative_slope!r}")
        self.negative_slope = float(negative_slope)

    def calls(self, wires: Wires) -> None:
        slope, x = aligned(1), wires.x.image()
        slope[0] = self.negative_slope
        wires.forward.append(Call(activation.leaky_relu_forward, wires.blocks, y=wires.y.image(), x=x, slope=slope))
        if wires.dx is not None:
            wires.backward.append(Call(
                activation.leaky_relu_backward, wires.blocks, dx=wires.dx.image(), dy=wires.dy.image(), x=x,
                slope=slope))

    def textbook(self, x, parameters, run):
        run.decide(x, lambda: np.abs(x))
        return np.where(x < 0, self.negative_slope * x, x)


class Tanh(Layer):
    """The hyperbolic tangent, element by element, as `torch.nn.Tanh`; any shape."""

    def calls(self, wires: Wires) -> None:
        _calls(wires, activation.tanh_forward, activation.tanh_backward)

    def textbook(self, x, parameters, run):
        return np.tanh(x)


class Sigmoid(Layer):
    """1 / (1 + exp(-x)), element by element, as `torch.nn.Sigmoid`; any shape."""

    def calls(self, wires: Wires) -> None:
        _calls(wires, activation.sigmoid_forward, activation.sigmoid_backward)

    def textbook(self, x, parameters, run):
        return (1 + np.tanh(x / 2)) / 2


class Softmax(Layer):
    """exp(x) over its sum along the features, or along the channels of each pixel, as `torch.nn.Softmax`.

    It gives probabilities.  `CrossEntropyLoss` expects logits, so a `Trainer` with that loss leaves out a Softmax at
    the end of the network; a loop with `model(images)` has to do so itself.

    Parameters
    ----------
    dim : 1, or -1 for features
        The axis of the features or channels; axis 0 is that of the images.

    Shapes
    ------
    (K,) or (C, H, W) -> the same.

    Raises InputError (a ValueError) for another axis.
    """

    takes_logits = True

    def __init__(self, dim=1):
        if isinstance(dim, bool) or dim not in (1, -1):
            raise InputError(f"{type(self).__name__}: dim must be 1, the features or channels, or -1 for features, "
                             f"got {dim!r}")
        self.dim = int(dim)

    def output_shape(self, shape: Shape) -> Shape:
        if self.dim == -1 and len(shape) != 1:
            raise InputError(f"{type(self).__name__} with dim=-1 expects features, got {shape_text(shape)}; "
                             f"the channels are dim=1")
        return shape

    def calls(self, wires: Wires) -> None:
        _calls(wires, activation.softmax_forward, activation.softmax_backward)

    def textbook(self, x, parameters, run):
        return np.exp(_log_softmax(x))


class LogSoftmax(Softmax):
    """The logarithm of `Softmax`, as `torch.nn.LogSoftmax`; finite also where the softmax underflows float32.

    Arguments, shapes and errors are those of Softmax.
    """

    def calls(self, wires: Wires) -> None:
        _calls(wires, activation.log_softmax_forward, activation.log_softmax_backward)

    def textbook(self, x, parameters, run):
        return _log_softmax(x)


def _calls(wires, forward, backward):
    """Append the calls of an activation whose gradient follows from its output."""
    y = wires.y.image()
    wires.forward.append(Call(forward, wires.blocks, y=y, x=wires.x.image()))
    if wires.dx is not None:
        wires.backward.append(Call(backward, wires.blocks, dx=wires.dx.image(), dy=wires.dy.image(), y=y))


def _log_softmax(x):
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))
