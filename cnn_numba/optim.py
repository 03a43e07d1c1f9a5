"""Optimizers: PyTorch's update rules, one kernel each over the model's flat vectors."""
import math

import numpy as np

from kernels import optimizer as kernels
from kernels.lanes import LANES, aligned
from kernels.program import Call, Program, at_once

from .errors import InputError
from .model import Sequential

CHUNK = 256             # vectors that one item of an update covers


MOST = float(np.finfo(np.float32).max)


def _number(name, value):
    if not (isinstance(value, (int, float, np.number)) and 0 <= value <= MOST):
        raise InputError(f"SGD: {name} must be a number from 0 to {MOST:.2g}, got {value!r}")
    return float(value)


class SGD:
    """Stochastic gradient descent with momentum and L2 penalty, as `torch.optim.SGD`:

        velocity = momentum * velocity + (grad + weight_decay * value);  value -= lr * velocity

    Parameters
    ----------
    model : Sequential
    lr, momentum, weight_decay : float, at least 0

    Raises InputError (a ValueError) when one is negative, infinite or NaN.
    """

    def __init__(self, model, lr, momentum=0.0, weight_decay=0.0):
        if not isinstance(model, Sequential):
            raise InputError(f"SGD: expected the model itself, got {type(model).__name__}")
        self._hyper = np.zeros(3, np.float32)
        self.model, self.velocity = model, aligned(model.values.shape)
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self._step = Program(at_once(self.calls()))

    lr = property(lambda self: self._lr)
    momentum = property(lambda self: self._momentum)
    weight_decay = property(lambda self: self._weight_decay)

    @lr.setter
    def lr(self, value):
        self._lr = self._hyper[0] = _number("lr", value)

    @momentum.setter
    def momentum(self, value):
        self._momentum = self._hyper[1] = _number("momentum", value)

    @weight_decay.setter
    def weight_decay(self, value):
        self._weight_decay = self._hyper[2] = _number("weight_decay", value)

    def calls(self):
        """The kernel calls of one update."""
        flat = [v.reshape(-1, LANES) for v in (self.model.values, self.velocity, self.model.grads)]
        return [Call(kernels.sgd, math.ceil(len(flat[0]) / CHUNK), *flat, self._hyper, CHUNK)]

    def step(self):
        """Update all parameters from their gradients."""
        self._step()

    def state_dict(self):
        """{name: number or array}: the rates, and a copy of the velocity of all parameters."""
        return {"lr": self.lr, "momentum": self.momentum, "weight_decay": self.weight_decay,
                "velocity": self.velocity.copy()}

    def load_state_dict(self, state):
        """Take over what `state_dict` gave; InputError when a name is missing or unknown, or a value does not fit."""
        names = self.state_dict().keys()
        if not isinstance(state, dict) or state.keys() != names:
            raise InputError(f"SGD: expected a state with exactly {', '.join(names)}")
        velocity = state["velocity"]
        if not isinstance(velocity, np.ndarray) or velocity.shape != self.velocity.shape:
            raise InputError(f"SGD: the velocity must be an array of shape {self.velocity.shape}")
        self.lr, self.momentum, self.weight_decay = state["lr"], state["momentum"], state["weight_decay"]
        self.velocity[:] = velocity

    def zero_grad(self):
        """Set all gradients to zero.  A backward pass overwrites them, so no training loop needs this call."""
        self.model.grads[:] = 0
