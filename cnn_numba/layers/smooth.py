"""Smooth activations."""
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from cnn_numba.errors import choice, number
from cnn_numba.kernels import smooth
from cnn_numba.kernels.program import Call
from cnn_numba.layers.base import Layer, Wires

__all__ = ["ELU", "GELU", "SiLU", "Softplus"]


class GELU(Layer):
    """x times the probability that a standard normal number is below x, as `torch.nn.GELU`; any shape.
    Hendrycks and Gimpel, arXiv:1606.08415 (2016).

    Parameters
    ----------
    approximate : "none" or "tanh"
        Whether a hyperbolic tangent stands for the probability.

    Raises InputError (a ValueError) for another approximation.
    """

    def __init__(self, approximate="none"):
        self.approximate = choice("GELU", "approximate", approximate, "none", "tanh")

    def calls(self, wires: Wires) -> None:
        if self.approximate == "tanh":
            _calls(wires, smooth.gelu_tanh_forward, smooth.gelu_tanh_backward)
        else:
            _calls(wires, smooth.gelu_forward, smooth.gelu_backward)

    def textbook(self, x, parameters, run):
        if self.approximate == "tanh":
            return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
        return x * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2))) / 2


class SiLU(Layer):
    """x / (1 + exp(-x)), as `torch.nn.SiLU`, also called swish; any shape."""

    aliases = ("Swish",)

    def calls(self, wires: Wires) -> None:
        _calls(wires, smooth.silu_forward, smooth.silu_backward)

    def textbook(self, x, parameters, run):
        return x * (1 + np.tanh(x / 2)) / 2


class ELU(Layer):
    """x where it is positive, else alpha * (exp(x) - 1), as `torch.nn.ELU`; any shape.
    Clevert et al., arXiv:1511.07289 (2015).

    Parameters
    ----------
    alpha : float, at least 0

    Raises InputError (a ValueError) when it is out of range.
    """

    def __init__(self, alpha=1.0):
        self.alpha = number("ELU", "alpha", alpha)

    def calls(self, wires: Wires) -> None:
        _calls(wires, smooth.elu_forward, smooth.elu_backward, alpha=np.array([self.alpha], np.float32))

    def textbook(self, x, parameters, run):
        run.decide(x, lambda: np.abs(x))
        return np.where(x > 0, x, self.alpha * np.expm1(np.minimum(x, 0)))


class Softplus(Layer):
    """log(1 + exp(beta * x)) / beta, and x where beta * x is above the threshold, as `torch.nn.Softplus`; any shape.

    Parameters
    ----------
    beta : float, more than 0
    threshold : float

    Raises InputError (a ValueError) when one is out of range.
    """

    def __init__(self, beta=1.0, threshold=20.0):
        self.beta = number("Softplus", "beta", beta, 1e-6, 1e6)
        self.threshold = number("Softplus", "threshold", threshold, -1e6, 1e6)

    def calls(self, wires: Wires) -> None:
        beta = np.array([self.beta, self.threshold], np.float32)
        _calls(wires, smooth.softplus_forward, smooth.softplus_backward, beta=beta)

    def textbook(self, x, parameters, run):
        run.decide(x, lambda: np.abs(self.beta * x - self.threshold))
        return np.where(self.beta * x > self.threshold, x, np.logaddexp(0, self.beta * x) / self.beta)


def _calls(wires: Wires, forward: Callable, backward: Callable, **options: Any) -> None:
    """Append the calls of an activation whose gradient follows from its input."""
    x = wires.x.image()
    wires.forward.append(Call(forward, wires.blocks, y=wires.y.image(), x=x, **options))
    if wires.dx is not None:
        wires.backward.append(Call(backward, wires.blocks, dx=wires.dx.image(), dy=wires.dy.image(), x=x, **options))
