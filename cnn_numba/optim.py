"""Optimizers, as in PyTorch, each a kernel over the model's flat vectors; and the norm of the gradients."""
import math
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cnn_numba.errors import InputError, number, register, truth_value, whole_number
from cnn_numba.kernels import optimizer as kernels
from cnn_numba.kernels.lanes import LANES, aligned
from cnn_numba.kernels.program import Call, Program, by_one, in_order
from cnn_numba.layers.module import Module
from cnn_numba.model import Sequential
from cnn_numba.parameter import Parameter, Run, float32_array, runs

__all__ = ["Adam", "AdamW", "GradientNorm", "Optimizer", "RMSprop", "SGD", "clip_grad_norm_",
           "clip_grad_value_"]

CHUNK = 256             # vectors per item of an update


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


class Setting:
    """A setting of an optimizer.  As an attribute of the optimizer it is that of the first group of parameters, and
    changes in all groups when it is assigned."""

    def __init__(self, name: str, doc: str = ""):
        self.name, self.__doc__ = name, doc

    def __get__(self, optimizer: Any, owner: Any = None) -> Any:
        return self if optimizer is None else self.get(optimizer.param_groups[0])

    def __set__(self, optimizer: Any, value: Any) -> None:
        value = optimizer.checked(self.name, value)
        for group in optimizer.param_groups:
            self.set(group, value)

    def get(self, group: "ParameterGroup") -> Any:
        """The value for a group."""
        raise NotImplementedError

    def set(self, group: "ParameterGroup", value: Any) -> None:
        """Store a checked value for a group."""
        raise NotImplementedError


class hyperparameter(Setting):                  # reads as a declaration: lr = hyperparameter("lr", 0)
    """A setting that kernels read from `hyper` at every run.

    first, count : its elements there; a setting of several elements is a tuple
    """

    def __init__(self, name: str, first: int, count: int = 1, doc: str = ""):
        super().__init__(name, doc)
        self.first, self.count = first, count

    def get(self, group: "ParameterGroup") -> Any:
        values = group.hyper[self.first:self.first + self.count].tolist()
        return values[0] if self.count == 1 else tuple(values)

    def set(self, group: "ParameterGroup", value: Any) -> None:
        group.hyper[self.first:self.first + self.count] = value


class _WeightDecay(Setting):
    def get(self, group):
        return group.decay

    def set(self, group, value):
        group.decay = value
        group.decays[group.decayed] = value


class _Steps(Setting):
    def get(self, group):
        return int(group.steps[0])

    def set(self, group, value):
        group.steps[0] = value


@dataclass
class Part(Run):
    """Parameters of a group that lie side by side in memory: what one kernel call updates.

    first : where they begin in the optimizer's own vectors
    """

    group: "ParameterGroup"
    first: int

    @property
    def items(self) -> int:
        """The number of items that cover the part."""
        return math.ceil((self.end - self.start) / LANES / CHUNK)

    def vectors(self, **arrays: np.ndarray) -> dict[str, Any]:
        """The arguments that all optimizer kernels have in common.

        These are value, grad and the optimizer's own given arrays as (vectors, LANES); decays (vectors,), the weight
        decay of each vector; and chunk, the number of vectors per item.
        """
        first, size = self.first, self.end - self.start
        shaped = {name: array[first:first + size].reshape(-1, LANES) for name, array in arrays.items()}
        begin = (first - self.group.first) // LANES
        return {**shaped, "value": self.values.reshape(-1, LANES), "grad": self.grads.reshape(-1, LANES),
                "decays": self.group.decays[begin:begin + size // LANES], "chunk": CHUNK}


class ParameterGroup(MutableMapping):
    """Parameters with the settings of their own, as an item of `torch.optim.Optimizer.param_groups`: a mapping of
    "params" and the names of the settings, which can be changed.

    hyper : float64 (4,), the learning rate, the momentum or first beta if there is one, and two more
    steps : int64 (1,), the number of updates, for optimizers that count them
    factors : float32 (6,), scratch of Adam
    """

    def __init__(self, optimizer: "Optimizer", parameters: Sequence[Parameter], first: int):
        # Not the optimizer itself: a cycle would keep its vectors, and the model, until a garbage collection.
        self.kind, self.flags = type(optimizer), {name: getattr(optimizer, name) for name in optimizer.flags}
        self.parameters, self.first = list(parameters), first
        self.size = sum(p.end - p.start for p in self.parameters)
        self.hyper, self.steps, self.factors = np.zeros(4), np.zeros(1, np.int64), np.zeros(6, np.float32)
        self.decay = 0.0
        self.decayed: Any = slice(None)
        if optimizer.decay_weights_only:
            self.decayed = np.repeat(np.array([p.ndim > 1 for p in self.parameters], bool),
                                     [(p.end - p.start) // LANES for p in self.parameters])
        self.make_decays()

    def make_decays(self) -> None:
        """Make `decays`: one number for all vectors, which costs no memory traffic, unless some are exempt."""
        count = self.size // LANES
        self.decays = (np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (count,), (0,))
                       if isinstance(self.decayed, slice) else np.zeros(count, np.float32))
        self.decays[self.decayed] = self.decay

    def __getstate__(self) -> dict[str, Any]:
        """The state for a copy, without `decays`, whose copy would be many numbers."""
        return {name: value for name, value in vars(self).items() if name != "decays"}

    def parts(self) -> list[Part]:
        """The parameters that are not frozen, as parts that are as large as possible."""
        found: list[Part] = []
        first = self.first
        for p in self.parameters:
            if p.requires_grad:
                before = found[-1] if found else None
                if before and before.memory is p.memory and before.end == p.start and (
                        before.first + before.end - before.start == first):
                    before.end = p.end
                    before.parameters.append(p)
                else:
                    found.append(Part(p.memory, p.start, p.end, [p], self, first))
            first += p.end - p.start
        return found

    def rate_call(self, rates: np.ndarray, batch: np.ndarray, batch_size: int) -> Call:
        """A kernel call that sets the rates of a step; it runs before the update.

        Parameters
        ----------
        rates : float64 (steps, 2)
            Learning rate and momentum (Adam: first beta) of every step; see `lr_scheduler.LRScheduler.rates`.
        batch : int64 (2,)
            first, count: the images of the step, whose number is first // batch_size.
        batch_size : int
        """
        return Call(kernels.set_rates, 1, hyper=self.hyper, rates=rates, batch=batch, batch_size=batch_size)

    def _names(self):
        return "params", *self.kind.settings, *self.flags

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def __getitem__(self, name: str) -> Any:
        if name == "params":
            return self.parameters
        if name not in self._names():
            raise KeyError(name)
        setting = getattr(self.kind, name, None)
        return setting.get(self) if isinstance(setting, Setting) else self.flags[name]

    def __setitem__(self, name: str, value: Any) -> None:
        setting = getattr(self.kind, name, None)
        if not isinstance(setting, Setting) or name not in self.kind.settings:
            raise InputError(f"{self.kind.__name__}: a group of parameters has the settings "
                             f"{', '.join(self.kind.settings)}, got {name!r}")
        setting.set(self, self.kind.checked(name, value))

    def __delitem__(self, name: str) -> None:
        raise InputError(f"{self.kind.__name__}: the setting {name!r} cannot be deleted")

    def __repr__(self) -> str:
        shown = [f"{name}={self[name]!r}" for name in self if name != "params"]
        return f"ParameterGroup({len(self.parameters)} parameters, {', '.join(shown)})"


def _groups(owner, given):
    """[({"lr": ...}, [Parameter])] for what an optimizer is given; InputError for anything else."""
    if isinstance(given, Module):
        return [({}, given.parameters())]
    if isinstance(given, (Parameter, str, dict)) or not hasattr(given, "__iter__"):
        raise InputError(f"{owner}: expected the model itself or its parameters(), got {type(given).__name__}")
    entries = list(given)
    if not entries:
        raise InputError(f"{owner}: expected parameters, got an empty list")
    if not all(isinstance(entry, dict) for entry in entries):
        entries = [{"params": entries}]
    groups = []
    for entry in entries:
        if "params" not in entry:
            raise InputError(f"{owner}: a group of parameters needs 'params', got {', '.join(map(str, entry))}")
        params = entry["params"]
        params = [params] if isinstance(params, Parameter) else params
        params = params.parameters() if isinstance(params, Module) else [
            p[1] if isinstance(p, tuple) and len(p) == 2 else p for p in params]
        for p in params:
            if not isinstance(p, Parameter) or p.statistic:
                what = repr(p) if isinstance(p, Parameter) else type(p).__name__
                raise InputError(f"{owner}: expected the model itself or its parameters(), got {what}")
        groups.append(({name: value for name, value in entry.items() if name != "params"}, params))
    every = [id(p) for _, params in groups for p in params]
    if len(set(every)) < len(every):
        raise InputError(f"{owner}: a parameter occurs twice")
    return groups


class Optimizer:
    """Base class of all optimizers.  Settings can be changed between steps, and between replays of a program.

    A subclass names its settings and their checks, declares them with `hyperparameter`, passes `__init__` the names of
    the vectors that it keeps between steps, and defines `group_calls`.  docs/extending.md builds one from scratch.

    Parameters
    ----------
    params : Sequential, or parameters as from `model.parameters()`, or a list of groups of them
        A group is a dict of "params" and settings of its own: `[{"params": model[0].parameters(), "lr": 0.01}, ...]`.
    arrays : names of vectors of the size of the parameters, which start as zeros and become attributes
    decay_weights_only : bool
        Exempt all parameters of one axis from weight decay: biases, and scales and shifts of batch normalisation.
    **settings : the values of `settings`

    Attributes
    ----------
    model : the Sequential that was given, or None
    param_groups : list of ParameterGroup
    settings : {name: its check}, the numbers that `state` holds
    flags : names of options that cannot change after the optimizer is made
    in_pytorch : {name of a vector: its name in PyTorch's state_dict, where it differs}
    """

    settings: ClassVar[dict[str, Callable]] = {}
    flags: ClassVar[tuple[str, ...]] = ("decay_weights_only",)
    in_pytorch: ClassVar[dict[str, str]] = {}
    known: ClassVar[dict[str, type["Optimizer"]]] = {}          # every optimizer class by its name

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        register(Optimizer.known, cls)

    def __init__(self, params: Any, arrays: Sequence[str], decay_weights_only: bool, **settings: Any):
        owner = type(self).__name__
        self.decay_weights_only = truth_value(owner, "decay_weights_only", decay_weights_only)
        self.model = params if isinstance(params, Sequential) else None
        self.param_groups: list[ParameterGroup] = []
        own, size = [], 0
        for options, parameters in _groups(owner, params):
            self.param_groups.append(ParameterGroup(self, parameters, size))
            size += self.param_groups[-1].size
            own.append(options)
        self._arrays = {name: aligned(size) for name in arrays}
        for name, value in (self._arrays | settings).items():
            setattr(self, name, value)
        for group, options in zip(self.param_groups, own, strict=True):
            group.update(options)
        self._program: tuple[Any, Any] = (None, None)
        self._update()

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
        return {name: value for name, value in vars(self).items() if name != "_program"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._program = None, None
        for group in self.param_groups:
            group.make_decays()

    @classmethod
    def checked(cls, name: str, value: Any) -> Any:
        """The value of a setting; InputError when it is out of range."""
        return cls.settings[name](cls.__name__, name, value)

    lr = hyperparameter("lr", 0, doc="The learning rate.")
    weight_decay = _WeightDecay("weight_decay", doc="The factor of the L2 penalty or, in AdamW, of the decay.")

    @property
    def parameters(self) -> list[Parameter]:
        """All parameters, in the order of the groups."""
        return [p for group in self.param_groups for p in group.parameters]

    def trained(self) -> tuple[bool, ...]:
        """For each parameter, whether it is trained: what `calls` depends on."""
        return tuple(p.requires_grad for p in self.parameters)

    def group_calls(self, group: ParameterGroup) -> list[Call]:
        """The kernel calls of one update of a group, in order; they run when all gradients are known."""
        raise NotImplementedError(f"{type(self).__name__}.group_calls")

    def calls(self) -> list[Call]:
        """The kernel calls of one update, in order, of all parameters that are not frozen."""
        return [call for group in self.param_groups for call in self.group_calls(group)]

    def _update(self):
        """The program of an update."""
        if self._program[0] != (trained := self.trained()):
            self._program = trained, Program(in_order(self.calls()))
        return self._program[1]

    def __repr__(self):
        chosen = {name: getattr(self, name) for name in (*self.settings, *self.flags)}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in chosen.items())})"

    def step(self) -> None:
        """Update all parameters that are not frozen from their gradients."""
        self._update()()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set all gradients to zero, whatever `set_to_none` says: gradients are arrays that are never missing."""
        for p in self.parameters:
            p.zero_grad()

    # ---- state ------------------------------------------------------------------------------------------------------
    def state(self) -> dict[str, Any]:
        """{name: number, bool, tuple of numbers, or copy of a float32 array}: settings and vectors, for checkpoints.

        With several groups, a setting is a list of its values.
        """
        several = len(self.param_groups) > 1
        return ({name: [group[name] for group in self.param_groups] if several else getattr(self, name)
                 for name in self.settings} | {name: getattr(self, name) for name in self.flags}
                | {name: array.copy() for name, array in self._arrays.items()})

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore a `state`; the next steps are then the same to the bit.

        Raises InputError, and changes nothing, when a name is missing or unknown, a value does not fit, or the
        optimizer was made with other flags.
        """
        owner, names = type(self).__name__, self.state().keys()
        if not isinstance(state, dict) or state.keys() != names:
            raise InputError(f"{owner}: expected a state with exactly {', '.join(names)}")
        for name, array in self._arrays.items():
            value = state[name]
            if not isinstance(value, np.ndarray) or (value.shape, value.dtype) != (array.shape, array.dtype):
                raise InputError(f"{owner}: the {name} must be a float32 array of shape {array.shape}")
        for name in self.flags:
            if state[name] is not getattr(self, name):
                raise InputError(f"{owner}: the state has {name} {state[name]!r}, expected {getattr(self, name)}")
        groups, settings = self.param_groups, {}
        for name in self.settings:
            values = state[name] if len(groups) > 1 else [state[name]]
            if not isinstance(values, list) or len(values) != len(groups):
                raise InputError(f"{owner}: {name} must be a list of {len(groups)} values, one for each group")
            settings[name] = [self.checked(name, value) for value in values]
        for name, values in settings.items():
            for group, value in zip(groups, values, strict=True):
                group[name] = value
        for name, array in self._arrays.items():
            array[:] = state[name]

    def state_dict(self) -> dict[str, Any]:
        """{"state": {number of the parameter: {name: array or number}}, "param_groups": [{...}]}, as in PyTorch."""
        state: dict[int, dict[str, Any]] = {}
        packed, k = [], 0
        for group in self.param_groups:
            packed.append({name: group[name] for name in (*self.settings, *self.flags) if name != "steps"})
            packed[-1]["params"] = list(range(k, k + len(group.parameters)))
            offset = group.first
            for p in group.parameters:
                of_one: dict[str, Any] = {"step": group["steps"]} if "steps" in self.settings else {}
                for name in self._arrays:
                    if name != "velocity" or group["momentum"]:
                        view = self._arrays[name][offset:offset + p.numel()].reshape(p.shape)
                        of_one[self.in_pytorch.get(name, name)] = view.copy()
                if of_one:
                    state[k] = of_one
                offset, k = offset + p.end - p.start, k + 1
        return {"state": state, "param_groups": packed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a `state_dict` of this optimizer or of PyTorch's; the next steps are then the same.

        Raises InputError, and changes nothing, when groups, shapes or values do not fit.
        """
        owner = type(self).__name__
        if not isinstance(state_dict, dict) or not {"state", "param_groups"} <= set(state_dict):
            raise InputError(f"{owner}: expected a state_dict with 'state' and 'param_groups'")
        packed, state = state_dict["param_groups"], state_dict["state"]
        sizes = [len(group.parameters) for group in self.param_groups]
        if [len(group["params"]) for group in packed] != sizes:
            raise InputError(f"{owner}: the state has {[len(group['params']) for group in packed]} parameters in its "
                             f"groups, expected {sizes}")
        arrays = {name: np.zeros_like(array) for name, array in self._arrays.items()}
        names = {self.in_pytorch.get(name, name): name for name in arrays}
        settings: list[dict[str, Any]] = []
        for group, of_group in zip(self.param_groups, packed, strict=True):
            settings.append({name: self.checked(name, of_group[name]) for name in self.settings if name in of_group})
            for name, value in of_group.items():
                ours = getattr(self, "decoupled", False) if name == "decoupled_weight_decay" else (
                    getattr(self, name, None) if name in self.flags else None)
                known = name in self.settings or name in ("params", "initial_lr")
                if not known and bool(value) != bool(ours):
                    raise InputError(f"{owner}: the state has {name}={value!r}, expected {ours}")
            offset, steps = group.first, 0
            for k, p in zip(of_group["params"], group.parameters, strict=True):
                for name, value in state.get(k, {}).items():
                    if name == "step":
                        steps = max(steps, int(value))
                    elif value is not None and name in names:
                        value = float32_array(f"{owner}: the {name} of {p.name}", value)
                        if value.shape != p.shape:
                            raise InputError(f"{owner}: the {name} of {p.name} has shape {value.shape}, expected "
                                             f"{p.shape}")
                        arrays[names[name]][offset:offset + p.numel()] = value.reshape(-1)
                offset += p.end - p.start
            if "steps" in self.settings:
                settings[-1]["steps"] = steps
        for group, values in zip(self.param_groups, settings, strict=True):
            group.update(values)
        for name, array in arrays.items():
            self._arrays[name][:] = array


class SGD(Optimizer):
    """Stochastic gradient descent with momentum and L2 penalty, as `torch.optim.SGD`:

        g = grad + weight_decay * value;  velocity = momentum * velocity + g;  value -= lr * velocity

    Parameters
    ----------
    params : Sequential, or its `parameters()`, or a list of groups of them; see `Optimizer`
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

    def __init__(self, params: Any, lr: float = 1e-3, momentum: float = 0.0, weight_decay: float = 0.0,
                 nesterov: bool = False, decay_weights_only: bool = False):
        self.nesterov = truth_value("SGD", "nesterov", nesterov)
        super().__init__(params, ["velocity"], decay_weights_only, lr=lr, momentum=momentum, weight_decay=weight_decay)
        if nesterov and not self.momentum:
            raise InputError("SGD: nesterov needs a momentum above 0, got momentum 0")

    momentum = hyperparameter("momentum", 1, doc="The fraction of the previous update that is added.")

    in_pytorch = {"velocity": "momentum_buffer"}

    def group_calls(self, group: ParameterGroup) -> list[Call]:
        return [Call(kernels.sgd, part.items, **part.vectors(velocity=self.velocity), hyper=group.hyper,
                     nesterov=int(self.nesterov)) for part in group.parts()]


class RMSprop(Optimizer):
    """Gradients divided by their root mean square, as `torch.optim.RMSprop` (Hinton, Coursera lecture 6e, 2012):

        g = grad + weight_decay * value;  square_avg = alpha * square_avg + (1 - alpha) * g**2
        velocity = momentum * velocity + g / (sqrt(square_avg) + eps);  value -= lr * velocity

    Parameters
    ----------
    params : Sequential, or its `parameters()`, or a list of groups of them; see `Optimizer`
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

    def __init__(self, params: Any, lr: float = 0.01, alpha: float = 0.99, eps: float = 1e-8,
                 weight_decay: float = 0.0, momentum: float = 0.0, centered: bool = False,
                 decay_weights_only: bool = False):
        self.centered = truth_value("RMSprop", "centered", centered)
        super().__init__(params, ["square_avg", "velocity"] + ["grad_avg"] * centered, decay_weights_only,
                         lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum)

    momentum = hyperparameter("momentum", 1, doc="The fraction of the previous update that is added.")
    alpha = hyperparameter("alpha", 2, doc="The fraction of the mean square that a step keeps.")
    eps = hyperparameter("eps", 3, doc="Added to the root.")

    in_pytorch = {"velocity": "momentum_buffer"}

    def group_calls(self, group: ParameterGroup) -> list[Call]:
        own = dict(square=self.square_avg, mean=self.grad_avg if self.centered else aligned(0), velocity=self.velocity)
        return [Call(kernels.rmsprop, part.items, **part.vectors(**own), hyper=group.hyper, centered=int(self.centered))
                for part in group.parts()]


class Adam(Optimizer):
    """The mean gradient divided by the root of the mean square, both corrected for their start at zero, as
    `torch.optim.Adam` (Kingma and Ba, arXiv:1412.6980, 2014): with g = grad + weight_decay * value, in step t,

        exp_avg = beta1 * exp_avg + (1 - beta1) * g;  exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g**2
        value -= lr * exp_avg / (1 - beta1**t) / (sqrt(exp_avg_sq / (1 - beta2**t)) + eps)

    Parameters
    ----------
    params : Sequential, or its `parameters()`, or a list of groups of them; see `Optimizer`
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

    def __init__(self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0.0, decay_weights_only: bool = False):
        super().__init__(params, ["exp_avg", "exp_avg_sq"], decay_weights_only,
                         lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    betas = hyperparameter("betas", 1, 2, "The fractions of the mean gradient and the mean square that a step keeps.")
    eps = hyperparameter("eps", 3, doc="Added to the root.")

    steps = _Steps("steps", doc="Number of updates so far.")

    def group_calls(self, group: ParameterGroup) -> list[Call]:
        own = dict(mean=self.exp_avg, square=self.exp_avg_sq)
        return [Call(kernels.adam_factors, 1, factors=group.factors, steps=group.steps, hyper=group.hyper),
                *(Call(kernels.adam, part.items, **part.vectors(**own), factors=group.factors,
                       decoupled=int(self.decoupled)) for part in group.parts())]


class AdamW(Adam):
    """Adam with a weight decay that bypasses the means, as `torch.optim.AdamW` (Loshchilov and Hutter,
    arXiv:1711.05101, 2017): value -= lr * weight_decay * value, then Adam's step with g = grad.

    Parameters and errors are Adam's.
    """

    decoupled = True

    def __init__(self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0.01, decay_weights_only: bool = False):
        super().__init__(params, lr, betas, eps, weight_decay, decay_weights_only)


class GradientNorm:
    """The 2-norm of all gradients together, as kernel calls; with max_norm, larger gradients are scaled down to it.

    Parameters
    ----------
    params : Sequential, or its `parameters()`; frozen ones do not count
    max_norm : float, at least 0, or infinity, optional
        All gradients are multiplied by min(1, max_norm / (norm + 1e-6)), as `torch.nn.utils.clip_grad_norm_` does.

    Attributes
    ----------
    norms : float64 (4,)
        Of the gradients before scaling: the last norm; since `reset`, the sum, the largest and the number of norms.

    Raises InputError (a ValueError) for a max_norm that is negative or NaN.
    """

    def __init__(self, params: Any, max_norm: float | None = None):
        self.parameters = [p for _, group in _groups("GradientNorm", params) for p in group]
        self.max_norm = None if max_norm is None else number("GradientNorm", "max_norm", max_norm, most=math.inf)
        self.norms = np.zeros(4)

    def calls(self) -> list[Call]:
        """The kernel calls, for `in_order`, between the gradients and the update."""
        grads = [part.grads.reshape(-1, LANES) for part in runs(p for p in self.parameters if p.requires_grad)]
        items = [math.ceil(len(grad) / CHUNK) for grad in grads]
        sums, factor = np.zeros(sum(items)), np.ones(1, np.float32)
        limit = np.array([math.inf if self.max_norm is None else self.max_norm])
        ends = np.cumsum([0, *items])
        calls = [Call(kernels.squared_norm, count, sums=sums[end:end + count], grad=grad, chunk=CHUNK)
                 for count, end, grad in zip(items, ends, grads, strict=False)]
        calls.append(Call(kernels.norm, 1, norms=self.norms, factor=factor, sums=sums, limit=limit))
        if self.max_norm is not None:
            calls += [Call(kernels.scale, count, grad=grad, factor=factor, chunk=CHUNK)
                      for count, grad in zip(items, grads, strict=True)]
        return calls

    def reset(self) -> None:
        """Start new sums."""
        self.norms[:] = 0


def clip_grad_norm_(parameters: Any, max_norm: float, norm_type: float = 2.0) -> float:
    """Scale the gradients of parameters down to a total 2-norm, as `torch.nn.utils.clip_grad_norm_`.

    Parameters
    ----------
    parameters : Sequential, or its `parameters()`
    max_norm : float, at least 0, or infinity
    norm_type : 2

    Returns
    -------
    float : the norm before scaling

    Raises InputError (a ValueError) when max_norm is negative, NaN or not a number, or for another norm.
    """
    if norm_type != 2:
        raise InputError(f"clip_grad_norm_: the norm must be the 2-norm, got norm_type={norm_type!r}")
    if isinstance(parameters, Parameter):
        parameters = [parameters]
    norm = GradientNorm(parameters, number("clip_grad_norm_", "max_norm", max_norm, most=math.inf))
    Program(by_one(norm.calls()))()
    return float(norm.norms[0])


def clip_grad_value_(parameters: Any, clip_value: float) -> None:
    """Clip every element of the gradients to -clip_value ... clip_value, as `torch.nn.utils.clip_grad_value_`.

    Raises InputError (a ValueError) when clip_value is negative, NaN or not a number.
    """
    limit = number("clip_grad_value_", "clip_value", clip_value)
    for part in runs(p for _, group in _groups("clip_grad_value_", parameters) for p in group if p.requires_grad):
        np.clip(part.grads, -limit, limit, out=part.grads)


def __getattr__(name: str) -> Any:
    """`optim.lr_scheduler`, as in PyTorch."""
    if name == "lr_scheduler":
        from cnn_numba import lr_scheduler

        return lr_scheduler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
