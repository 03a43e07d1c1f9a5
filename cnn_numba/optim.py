"""Optimizers: PyTorch's update rules, one kernel each over the model's flat vectors; and the norm of the gradients."""
import math
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from cnn_numba.errors import InputError, number, register, truth_value, whole_number
from cnn_numba.kernels import optimizer as kernels
from cnn_numba.kernels.lanes import LANES, aligned
from cnn_numba.kernels.program import Call, Program, in_order
from cnn_numba.model import Sequential

__all__ = ["Adam", "AdamW", "GradientNorm", "Optimizer", "RMSprop", "SGD", "clip_grad_norm_"]

CHUNK = 256             # vectors that one item of an update covers


def _checked_model(owner, model):
    if not isinstance(model, Sequential):
        raise InputError(f"{owner}: expected the model itself, got {type(model).__name__}")
    return model


def _steps(owner, name, value):
    steps = whole_number(owner, name, value, 0)
    if steps >= 2**63:
        raise InputError(f"{owner}: {name} must be less than 2**63, got {steps}")
    return steps


def _betas(owner, name, value):
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise InputError(f"{owner}: {name} must be two numbers, got {value!r}")
    betas = tuple(number(owner, name, beta, 0, 1) for beta in value)
    if max(betas) == 1:
        raise InputError(f"{owner}: {name} must be less than 1, got {value!r}")
    return betas


def _share(owner, name, value):
    return number(owner, name, value, 0, 1)


def _hyperparameter(name, place, doc):
    """A setting that lives in the array that kernels read whenever they run."""
    def get(self):
        return float(self._hyper[place])

    def set_checked(self, value):
        self._hyper[place] = self._checked(name, value)

    return property(get, set_checked, doc=doc)


class Optimizer:
    """What the optimizers share.  Settings can be changed between steps, and between replays of a table of calls.

    settings : {name: its check}, the numbers that `state_dict` holds
    flags : names of what is chosen when the optimizer is made, and stays
    """

    settings: ClassVar[dict[str, Callable]] = {}
    flags: ClassVar[tuple[str, ...]] = ("decay_weights_only",)
    known: ClassVar[dict[str, type["Optimizer"]]] = {}          # every optimizer class by its name

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        register(Optimizer.known, cls)

    def __init__(self, model, arrays, decay_weights_only, **settings):
        self.model = _checked_model(type(self).__name__, model)
        self.decay_weights_only = truth_value(type(self).__name__, "decay_weights_only", decay_weights_only)
        self._hyper = np.zeros(4)
        parameters, vectors = model.parameters(), len(model.values) // LANES
        if decay_weights_only:
            self._decays = np.zeros(vectors, np.float32)
            self._decayed = np.zeros(vectors, bool)
            self._decayed[:] = np.repeat([p.value.ndim > 1 for p in parameters],
                                         [len(p.grad_vectors) for p in parameters])
        else:                                       # a single number, all vectors': it costs no memory traffic
            self._decays = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (vectors,), (0,))
            self._decayed = slice(None)
        self._arrays = {name: aligned(model.values.shape) for name in arrays}
        for name, value in (self._arrays | settings).items():
            setattr(self, name, value)
        self._step = Program(in_order(self.calls()))

    def _checked(self, name, value):
        return self.settings[name](type(self).__name__, name, value)

    lr = _hyperparameter("lr", 0, "The learning rate.")

    @property
    def weight_decay(self):
        """The factor of the L2 penalty, or, in AdamW, of the decay."""
        return self._weight_decay

    @weight_decay.setter
    def weight_decay(self, value):
        self._weight_decay = self._checked("weight_decay", value)
        self._decays[self._decayed] = value

    def calls(self):
        """The kernel calls of one update, in order; all gradients are known before them."""
        raise NotImplementedError

    def _flat(self, **arrays):
        """How many items cover the model's vectors, and the arguments that the kernels of all optimizers have."""
        arrays |= {"value": self.model.values, "grad": self.model.grads}
        vectors = {name: array.reshape(-1, LANES) for name, array in arrays.items()}
        return math.ceil(len(vectors["value"]) / CHUNK), vectors | {"decays": self._decays, "chunk": CHUNK}

    def rate_call(self, rates, batch, batch_size):
        """A kernel call, to run before those of `calls`, that sets the rates of one step.

        Parameters
        ----------
        rates : float64 (steps, 2)
            Learning rate and momentum (Adam: first beta) of every step; see `lr_scheduler.LRScheduler.rates`.
        batch : int64 (2,)
            first, count: the images of this step, which is number first // batch_size.
        batch_size : int
        """
        return Call(kernels.set_rates, 1, hyper=self._hyper, rates=rates, batch=batch, batch_size=batch_size)

    def step(self):
        """Update all parameters from their gradients."""
        self._step()

    def zero_grad(self):
        """Set all gradients to zero.  A backward pass overwrites them, so no training loop needs this call."""
        self.model.grads[:] = 0

    def state_dict(self):
        """{name: number, bool, tuple of numbers, or copy of a float32 array}: settings and what the past has left."""
        return ({name: getattr(self, name) for name in (*self.settings, *self.flags)}
                | {name: array.copy() for name, array in self._arrays.items()})

    def load_state_dict(self, state):
        """Take over what `state_dict` gave; the next steps are then the same to the bit.

        Raises InputError, and changes nothing, when a name is missing or unknown, a value does not fit, or the
        optimizer was made with other flags.
        """
        owner, names = type(self).__name__, self.state_dict().keys()
        if not isinstance(state, dict) or state.keys() != names:
            raise InputError(f"{owner}: expected a state with exactly {', '.join(names)}")
        for name, array in self._arrays.items():
            value = state[name]
            if not isinstance(value, np.ndarray) or (value.shape, value.dtype) != (array.shape, array.dtype):
                raise InputError(f"{owner}: the {name} must be a float32 array of shape {array.shape}")
        for name in self.flags:
            if state[name] is not getattr(self, name):
                raise InputError(f"{owner}: the state has {name} {state[name]!r}, expected {getattr(self, name)}")
        for name, value in {name: self._checked(name, state[name]) for name in self.settings}.items():
            setattr(self, name, value)
        for name, array in self._arrays.items():
            array[:] = state[name]


class SGD(Optimizer):
    """Stochastic gradient descent with momentum and L2 penalty, as `torch.optim.SGD`:

        g = grad + weight_decay * value;  velocity = momentum * velocity + g;  value -= lr * velocity

    Parameters
    ----------
    model : Sequential
    lr, momentum, weight_decay : float, at least 0
    nesterov : bool
        value -= lr * (g + momentum * velocity) instead.
    decay_weights_only : bool
        Weight decay spares all parameters of one axis: biases, and the scales and shifts of batch norms.

    Raises InputError (a ValueError) when a number is negative, infinite or NaN, or for nesterov without momentum.
    """

    settings = {"lr": number, "momentum": number, "weight_decay": number}
    flags = ("nesterov", "decay_weights_only")

    def __init__(self, model, lr, momentum=0.0, weight_decay=0.0, nesterov=False, decay_weights_only=False):
        self.nesterov = truth_value("SGD", "nesterov", nesterov)
        super().__init__(model, ["velocity"], decay_weights_only, lr=lr, momentum=momentum, weight_decay=weight_decay)
        if nesterov and not self.momentum:
            raise InputError("SGD: nesterov needs a momentum above 0, got momentum 0")

    momentum = _hyperparameter("momentum", 1, "The share of the velocity that a step keeps.")

    def calls(self):
        items, flat = self._flat(velocity=self.velocity)
        return [Call(kernels.sgd, items, **flat, hyper=self._hyper, nesterov=int(self.nesterov))]


class RMSprop(Optimizer):
    """Gradients divided by the root of their mean square, as `torch.optim.RMSprop` (Hinton, Coursera lecture 6e, 2012):

        g = grad + weight_decay * value;  square_avg = alpha * square_avg + (1 - alpha) * g**2
        velocity = momentum * velocity + g / (sqrt(square_avg) + eps);  value -= lr * velocity

    Parameters
    ----------
    model : Sequential
    lr, eps, weight_decay, momentum : float, at least 0
    alpha : float, 0 to 1
    centered : bool
        Divide by the standard deviation sqrt(square_avg - grad_avg**2) (Graves, arXiv:1308.0850, 2013).
    decay_weights_only : bool
        As in SGD.

    Raises InputError (a ValueError) when a number is out of range, infinite or NaN.
    """

    settings = {"lr": number, "alpha": _share, "eps": number, "weight_decay": number, "momentum": number}
    flags = ("centered", "decay_weights_only")

    def __init__(self, model, lr=0.01, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False,
                 decay_weights_only=False):
        self.centered = truth_value("RMSprop", "centered", centered)
        super().__init__(model, ["square_avg", "velocity"] + ["grad_avg"] * centered, decay_weights_only,
                         lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum)

    momentum = _hyperparameter("momentum", 1, "The share of the velocity that a step keeps.")
    alpha = _hyperparameter("alpha", 2, "The share of the mean square that a step keeps.")
    eps = _hyperparameter("eps", 3, "What is added to the root.")

    def calls(self):
        grad_avg = self.grad_avg if self.centered else aligned(0)
        items, flat = self._flat(square=self.square_avg, mean=grad_avg, velocity=self.velocity)
        return [Call(kernels.rmsprop, items, **flat, hyper=self._hyper, centered=int(self.centered))]


class Adam(Optimizer):
    """Means of the gradients divided by the root of their mean square, both without the bias of their start, as
    `torch.optim.Adam` (Kingma and Ba, arXiv:1412.6980, 2014): with g = grad + weight_decay * value, in step t,

        exp_avg = beta1 * exp_avg + (1 - beta1) * g;  exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g**2
        value -= lr * exp_avg / (1 - beta1**t) / (sqrt(exp_avg_sq / (1 - beta2**t)) + eps)

    Parameters
    ----------
    model : Sequential
    lr, eps, weight_decay : float, at least 0
    betas : two floats, 0 to less than 1
    decay_weights_only : bool
        As in SGD.

    Raises InputError (a ValueError) when a number is out of range, infinite or NaN.
    """

    settings = {"lr": number, "betas": _betas, "eps": number, "weight_decay": number, "steps": _steps}
    decoupled = False

    def __init__(self, model, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decay_weights_only=False):
        self._count, self._factors = np.zeros(1, np.int64), np.zeros(6, np.float32)
        super().__init__(model, ["exp_avg", "exp_avg_sq"], decay_weights_only,
                         lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    eps = _hyperparameter("eps", 3, "What is added to the root.")

    @property
    def betas(self):
        """The shares of the means, of the gradient and of its square, that a step keeps."""
        return tuple(self._hyper[1:3].tolist())

    @betas.setter
    def betas(self, value):
        self._hyper[1:3] = self._checked("betas", value)

    @property
    def steps(self):
        """How many updates there were."""
        return int(self._count[0])

    @steps.setter
    def steps(self, value):
        self._count[0] = self._checked("steps", value)

    def calls(self):
        items, flat = self._flat(mean=self.exp_avg, square=self.exp_avg_sq)
        return [Call(kernels.adam_factors, 1, factors=self._factors, steps=self._count, hyper=self._hyper),
                Call(kernels.adam, items, **flat, factors=self._factors, decoupled=int(self.decoupled))]


class AdamW(Adam):
    """Adam with a weight decay that bypasses the means, as `torch.optim.AdamW` (Loshchilov and Hutter,
    arXiv:1711.05101, 2017): value -= lr * weight_decay * value, then Adam's step with g = grad.

    Parameters and errors are Adam's.
    """

    decoupled = True

    def __init__(self, model, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, decay_weights_only=False):
        super().__init__(model, lr, betas, eps, weight_decay, decay_weights_only)


class GradientNorm:
    """The 2-norm of all gradients together, as kernel calls; with max_norm, gradients longer than that are scaled down.

    Parameters
    ----------
    model : Sequential
    max_norm : float, at least 0 (infinity too), optional
        All gradients are multiplied by min(1, max_norm / (norm + 1e-6)), as `torch.nn.utils.clip_grad_norm_` does.

    Attributes
    ----------
    norms : float64 (4,)
        Of the gradients before any scaling: the last norm, the sum over the steps since `reset`, the largest of them,
        and how many these are.

    Raises InputError (a ValueError) for a max_norm that is negative or NaN.
    """

    def __init__(self, model, max_norm=None):
        self.model = _checked_model("GradientNorm", model)
        self.max_norm = None if max_norm is None else number("GradientNorm", "max_norm", max_norm, most=math.inf)
        self.norms = np.zeros(4)

    def calls(self):
        """The kernel calls, in order: for `in_order`, between the gradients and the update."""
        grad = self.model.grads.reshape(-1, LANES)
        items = math.ceil(len(grad) / CHUNK)
        sums, factor = np.zeros(items), np.ones(1, np.float32)
        limit = np.array([math.inf if self.max_norm is None else self.max_norm])
        calls = [Call(kernels.squared_norm, items, sums=sums, grad=grad, chunk=CHUNK),
                 Call(kernels.norm, 1, norms=self.norms, factor=factor, sums=sums, limit=limit)]
        if self.max_norm is not None:
            calls.append(Call(kernels.scale, items, grad=grad, factor=factor, chunk=CHUNK))
        return calls

    def reset(self):
        """Forget the steps so far."""
        self.norms[:] = 0


def clip_grad_norm_(model, max_norm):
    """Scale the gradients of the model's parameters down to a total 2-norm, as `torch.nn.utils.clip_grad_norm_`.

    Parameters
    ----------
    model : Sequential
    max_norm : float, at least 0, or infinity

    Returns
    -------
    float : the norm that they had

    Raises InputError (a ValueError) for a max_norm that is negative, NaN or no number.
    """
    norm = GradientNorm(model, number("clip_grad_norm_", "max_norm", max_norm, most=math.inf))
    Program(in_order(norm.calls()))()
    return float(norm.norms[0])
