"""Optimizers, as in PyTorch, each a kernel over the model's flat vectors; and the norm of the gradients."""
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from cnn_numba.errors import InputError, number, register, truth_value, whole_number
from cnn_numba.kernels import optimizer as kernels
from cnn_numba.kernels.lanes import LANES, aligned
from cnn_numba.kernels.program import Call, Program, in_order
from cnn_numba.model import Sequential

__all__ = ["Adam", "AdamW", "GradientNorm", "Optimizer", "RMSprop", "SGD", "clip_grad_norm_"]

CHUNK = 256             # vectors per item of an update


def _checked_model(owner: str, model: Any) -> Sequential:
    if not isinstance(model, Sequential):
        raise InputError(f"{owner}: expected the model itself, got {type(model).__name__}")
    return model


# ---- checks of settings: check(owner, name, value) returns the value or raises InputError ---------------------------
def fraction(owner: str, name: str, value: Any) -> float:
    """A number from 0 to 1."""
    return number(owner, name, value, 0, 1)


def two_fractions(owner: str, name: str, value: Any) -> tuple[float, float]:
    """Two numbers from 0 to less than 1, such as Adam's betas."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise InputError(f"{owner}: {name} must be two numbers, got {value!r}")
    first, second = (number(owner, name, beta, 0, 1) for beta in value)
    if max(first, second) == 1:
        raise InputError(f"{owner}: {name} must be less than 1, got {value!r}")
    return first, second


def _count(owner, name, value):
    count = whole_number(owner, name, value, 0)
    if count >= 2**63:
        raise InputError(f"{owner}: {name} must be less than 2**63, got {count}")
    return count


def hyperparameter(name: str, first: int, count: int = 1, doc: str = "") -> property:
    """A property for a setting that kernels read from `Optimizer.hyper` at every run.

    first, count : its elements there; a setting of several elements is a tuple
    """
    def get(self):
        values = self.hyper[first:first + count].tolist()
        return values[0] if count == 1 else tuple(values)

    def set_checked(self, value):
        self.hyper[first:first + count] = self._checked(name, value)

    return property(get, set_checked, doc=doc)


class Optimizer:
    """Base class of all optimizers.  Settings can be changed between steps, and between replays of a program.

    A subclass names its settings and their checks, declares them with `hyperparameter`, passes `__init__` the names of
    the vectors that it keeps between steps, and defines `calls`.  docs/extending.md builds one from scratch.

    Parameters
    ----------
    model : Sequential
    arrays : names of vectors of the size of the parameters, which start as zeros and become attributes
    decay_weights_only : bool
        Exempt all parameters of one axis from weight decay: biases, and scales and shifts of batch normalisation.
    **settings : the values of `settings`

    Attributes
    ----------
    settings : {name: its check}, the numbers that `state_dict` holds
    flags : names of options that cannot change after the optimizer is made
    hyper : float64 (4,), the learning rate, the momentum or first beta if there is one, and two more
    """

    settings: ClassVar[dict[str, Callable]] = {}
    flags: ClassVar[tuple[str, ...]] = ("decay_weights_only",)
    known: ClassVar[dict[str, type["Optimizer"]]] = {}          # every optimizer class by its name

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        register(Optimizer.known, cls)

    def __init__(self, model: Sequential, arrays: Sequence[str], decay_weights_only: bool, **settings: Any):
        self.model = _checked_model(type(self).__name__, model)
        self.decay_weights_only = truth_value(type(self).__name__, "decay_weights_only", decay_weights_only)
        self.hyper = np.zeros(4)
        parameters, count = model.parameters(), len(model.values) // LANES
        self._decayed: Any = slice(None)
        if decay_weights_only:
            self._decays = np.zeros(count, np.float32)
            self._decayed = np.repeat(np.array([p.value.ndim > 1 for p in parameters], bool),
                                      [math.ceil(p.value.size / LANES) for p in parameters])
        else:                                       # one number for all vectors costs no memory traffic
            self._decays = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (count,), (0,))
        self._arrays = {name: aligned(model.values.shape) for name in arrays}
        for name, value in (self._arrays | settings).items():
            setattr(self, name, value)
        self._step = Program(in_order(self.calls()))

    def __setattr__(self, name: str, value: Any) -> None:
        """Copy values that are assigned to a vector that kernels read; InputError when the shape differs."""
        array = vars(self).get("_arrays", {}).get(name)
        if array is None or name not in vars(self):
            object.__setattr__(self, name, value)
        elif np.shape(value) != array.shape:
            raise InputError(f"{type(self).__name__}: {name} has shape {array.shape}, got {np.shape(value)}")
        else:
            array[...] = value

    def __getstate__(self) -> dict[str, Any]:
        """The state for a copy: all except the program, which holds addresses of this optimizer's arrays."""
        return {name: value for name, value in vars(self).items() if name != "_step"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._step = Program(in_order(self.calls()))

    def _checked(self, name, value):
        return self.settings[name](type(self).__name__, name, value)

    lr = hyperparameter("lr", 0, doc="The learning rate.")

    @property
    def weight_decay(self) -> float:
        """The factor of the L2 penalty or, in AdamW, of the decay."""
        return self._weight_decay

    @weight_decay.setter
    def weight_decay(self, value: float) -> None:
        self._weight_decay = self._checked("weight_decay", value)
        self._decays[self._decayed] = value

    def calls(self) -> list[Call]:
        """The kernel calls of one update, in order; they run when all gradients are known."""
        raise NotImplementedError(f"{type(self).__name__}.calls")

    def vectors(self, **arrays: np.ndarray) -> tuple[int, dict[str, Any]]:
        """The number of items that cover the parameters, and the arguments that all optimizer kernels have in common.

        These are value, grad and the given arrays as (vectors, LANES); decays (vectors,), the weight decay of each
        vector; and chunk, the number of vectors per item.
        """
        arrays |= {"value": self.model.values, "grad": self.model.grads}
        shaped = {name: array.reshape(-1, LANES) for name, array in arrays.items()}
        return math.ceil(len(shaped["value"]) / CHUNK), {**shaped, "decays": self._decays, "chunk": CHUNK}

    def rate_call(self, rates: np.ndarray, batch: np.ndarray, batch_size: int) -> Call:
        """A kernel call that sets the rates of a step; it runs before those of `calls`.

        Parameters
        ----------
        rates : float64 (steps, 2)
            Learning rate and momentum (Adam: first beta) of every step; see `lr_scheduler.LRScheduler.rates`.
        batch : int64 (2,)
            first, count: the images of the step, whose number is first // batch_size.
        batch_size : int
        """
        return Call(kernels.set_rates, 1, hyper=self.hyper, rates=rates, batch=batch, batch_size=batch_size)

    def __repr__(self):
        chosen = {name: getattr(self, name) for name in (*self.settings, *self.flags)}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in chosen.items())})"

    def step(self) -> None:
        """Update all parameters from their gradients."""
        self._step()

    def zero_grad(self) -> None:
        """Set all gradients to zero.  A backward pass overwrites them, so no training loop needs this call."""
        self.model.grads[:] = 0

    def state_dict(self) -> dict[str, Any]:
        """{name: number, bool, tuple of numbers, or copy of a float32 array}: settings and vectors."""
        return ({name: getattr(self, name) for name in (*self.settings, *self.flags)}
                | {name: array.copy() for name, array in self._arrays.items()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`; the next steps are then the same to the bit.

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
        Whether value -= lr * (g + momentum * velocity) instead.
    decay_weights_only : bool
        Exempt all parameters of one axis from weight decay: biases, and scales and shifts of batch normalisation.

    Raises InputError (a ValueError) when a number is negative, infinite or NaN, or for nesterov without momentum.
    """

    velocity: np.ndarray
    settings = {"lr": number, "momentum": number, "weight_decay": number}
    flags = ("nesterov", "decay_weights_only")

    def __init__(self, model: Sequential, lr: float, momentum: float = 0.0, weight_decay: float = 0.0,
                 nesterov: bool = False, decay_weights_only: bool = False):
        self.nesterov = truth_value("SGD", "nesterov", nesterov)
        super().__init__(model, ["velocity"], decay_weights_only, lr=lr, momentum=momentum, weight_decay=weight_decay)
        if nesterov and not self.momentum:
            raise InputError("SGD: nesterov needs a momentum above 0, got momentum 0")

    momentum = hyperparameter("momentum", 1, doc="The fraction of the previous update that is added.")

    def calls(self) -> list[Call]:
        items, vectors = self.vectors(velocity=self.velocity)
        return [Call(kernels.sgd, items, **vectors, hyper=self.hyper, nesterov=int(self.nesterov))]


class RMSprop(Optimizer):
    """Gradients divided by their root mean square, as `torch.optim.RMSprop` (Hinton, Coursera lecture 6e, 2012):

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

    square_avg: np.ndarray
    velocity: np.ndarray
    grad_avg: np.ndarray
    settings = {"lr": number, "alpha": fraction, "eps": number, "weight_decay": number, "momentum": number}
    flags = ("centered", "decay_weights_only")

    def __init__(self, model: Sequential, lr: float = 0.01, alpha: float = 0.99, eps: float = 1e-8,
                 weight_decay: float = 0.0, momentum: float = 0.0, centered: bool = False,
                 decay_weights_only: bool = False):
        self.centered = truth_value("RMSprop", "centered", centered)
        super().__init__(model, ["square_avg", "velocity"] + ["grad_avg"] * centered, decay_weights_only,
                         lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum)

    momentum = hyperparameter("momentum", 1, doc="The fraction of the previous update that is added.")
    alpha = hyperparameter("alpha", 2, doc="The fraction of the mean square that a step keeps.")
    eps = hyperparameter("eps", 3, doc="Added to the root.")

    def calls(self) -> list[Call]:
        grad_avg = self.grad_avg if self.centered else aligned(0)
        items, vectors = self.vectors(square=self.square_avg, mean=grad_avg, velocity=self.velocity)
        return [Call(kernels.rmsprop, items, **vectors, hyper=self.hyper, centered=int(self.centered))]


class Adam(Optimizer):
    """The mean gradient divided by the root of the mean square, both corrected for their start at zero, as
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

    exp_avg: np.ndarray
    exp_avg_sq: np.ndarray
    settings = {"lr": number, "betas": two_fractions, "eps": number, "weight_decay": number, "steps": _count}
    decoupled = False

    def __init__(self, model: Sequential, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0.0, decay_weights_only: bool = False):
        self._count, self._factors = np.zeros(1, np.int64), np.zeros(6, np.float32)
        super().__init__(model, ["exp_avg", "exp_avg_sq"], decay_weights_only,
                         lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    betas = hyperparameter("betas", 1, 2, "The fractions of the mean gradient and the mean square that a step keeps.")
    eps = hyperparameter("eps", 3, doc="Added to the root.")

    @property
    def steps(self) -> int:
        """Number of updates so far."""
        return int(self._count[0])

    @steps.setter
    def steps(self, value):
        self._count[0] = self._checked("steps", value)

    def calls(self) -> list[Call]:
        items, vectors = self.vectors(mean=self.exp_avg, square=self.exp_avg_sq)
        return [Call(kernels.adam_factors, 1, factors=self._factors, steps=self._count, hyper=self.hyper),
                Call(kernels.adam, items, **vectors, factors=self._factors, decoupled=int(self.decoupled))]


class AdamW(Adam):
    """Adam with a weight decay that bypasses the means, as `torch.optim.AdamW` (Loshchilov and Hutter,
    arXiv:1711.05101, 2017): value -= lr * weight_decay * value, then Adam's step with g = grad.

    Parameters and errors are Adam's.
    """

    decoupled = True

    def __init__(self, model: Sequential, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0.01, decay_weights_only: bool = False):
        super().__init__(model, lr, betas, eps, weight_decay, decay_weights_only)


class GradientNorm:
    """The 2-norm of all gradients together, as kernel calls; with max_norm, larger gradients are scaled down to it.

    Parameters
    ----------
    model : Sequential
    max_norm : float, at least 0, or infinity, optional
        All gradients are multiplied by min(1, max_norm / (norm + 1e-6)), as `torch.nn.utils.clip_grad_norm_` does.

    Attributes
    ----------
    norms : float64 (4,)
        Of the gradients before scaling: the last norm; since `reset`, the sum, the largest and the number of norms.

    Raises InputError (a ValueError) for a max_norm that is negative or NaN.
    """

    def __init__(self, model: Sequential, max_norm: float | None = None):
        self.model = _checked_model("GradientNorm", model)
        self.max_norm = None if max_norm is None else number("GradientNorm", "max_norm", max_norm, most=math.inf)
        self.norms = np.zeros(4)

    def calls(self) -> list[Call]:
        """The kernel calls, for `in_order`, between the gradients and the update."""
        grad = self.model.grads.reshape(-1, LANES)
        items = math.ceil(len(grad) / CHUNK)
        sums, factor = np.zeros(items), np.ones(1, np.float32)
        limit = np.array([math.inf if self.max_norm is None else self.max_norm])
        calls = [Call(kernels.squared_norm, items, sums=sums, grad=grad, chunk=CHUNK),
                 Call(kernels.norm, 1, norms=self.norms, factor=factor, sums=sums, limit=limit)]
        if self.max_norm is not None:
            calls.append(Call(kernels.scale, items, grad=grad, factor=factor, chunk=CHUNK))
        return calls

    def reset(self) -> None:
        """Start new sums."""
        self.norms[:] = 0


def clip_grad_norm_(model: Sequential, max_norm: float) -> float:
    """Scale the gradients of the model's parameters down to a total 2-norm, as `torch.nn.utils.clip_grad_norm_`.

    Parameters
    ----------
    model : Sequential
    max_norm : float, at least 0, or infinity

    Returns
    -------
    float : the norm before scaling

    Raises InputError (a ValueError) when max_norm is negative, NaN or not a number.
    """
    norm = GradientNorm(model, number("clip_grad_norm_", "max_norm", max_norm, most=math.inf))
    Program(in_order(norm.calls()))()
    return float(norm.norms[0])
