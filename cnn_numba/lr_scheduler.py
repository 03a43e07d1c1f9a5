"""Learning-rate schedules, with PyTorch's names, arguments and defaults.

The rate is a function of the number of steps and the rate at the start, so that kernels can read a table of the next
rates (`LRScheduler.rates`).  Therefore the factors of two schedulers of one optimizer do not multiply.
"""
import inspect
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnn_numba.errors import InputError, choice, number, truth_value, whole_number
from cnn_numba.optim import Optimizer

__all__ = ["CosineAnnealingLR", "ExponentialLR", "LRScheduler", "LinearLR", "MultiStepLR", "OneCycleLR",
           "ReduceLROnPlateau", "StepLR"]


def _checked_optimizer(owner, optimizer):
    if not isinstance(optimizer, Optimizer):
        raise InputError(f"{owner}: expected an optimizer, got {type(optimizer).__name__}")
    return optimizer


def _checked_state(owner, state, names):
    if not isinstance(state, dict) or state.keys() != set(names):
        raise InputError(f"{owner}: expected a state with exactly {', '.join(names)}")
    return state


def _arguments(scheduler):
    """{name: value} of the constructor's arguments that the scheduler keeps."""
    return {name: vars(scheduler)[name] for name in inspect.signature(type(scheduler)).parameters
            if name != "optimizer" and name in vars(scheduler)}


def _check_arguments(scheduler, state, *names):
    """InputError unless a state_dict has these names, and the arguments in it are the scheduler's."""
    owner = type(scheduler).__name__
    if not isinstance(state, dict) or not {"last_epoch", *names} <= set(state):
        raise InputError(f"{owner}: expected a state_dict with {', '.join(('last_epoch', *names))}")
    for name, mine in _arguments(scheduler).items():
        other = state.get(name, mine)
        other = sorted(other.elements()) if isinstance(other, Counter) else other       # PyTorch's milestones
        if other != mine:
            raise InputError(f"{owner}: the state is that of a scheduler with {name}={other!r}, expected {mine!r}")


def _get_momentum(group):
    """The momentum, or the first beta."""
    return group["betas"][0] if "betas" in group else group["momentum"]


def _set_momentum(group, value):
    if "betas" in group:
        group["betas"] = value, group["betas"][1]
    else:
        group["momentum"] = value


class LRScheduler:
    """A schedule whose rate follows from the number of steps.  The constructor sets the optimizer to the first rate.

    Attributes
    ----------
    per : "epoch" or "step"
        When to call `step`: after every epoch, or after every update.
    last_epoch : int
        Number of calls of `step`.
    base_lrs : list of float
        The optimizer's rate for each group of parameters when the scheduler was made.
    total_steps : int or infinity
        Number of steps of the schedule.

    Raises InputError (a ValueError) when `optimizer` is not an optimizer, or an argument is out of range.
    """

    per = "epoch"
    total_steps: float = math.inf
    names = ("last_epoch", "base_lr")       # of `state`

    def __init__(self, optimizer: Optimizer):
        self.optimizer = _checked_optimizer(self._owner, optimizer)
        self.base_lrs, self.last_epoch = [group["lr"] for group in optimizer.param_groups], 0
        self._set()

    @property
    def base_lr(self) -> float:
        """The rate of the first group of parameters when the scheduler was made."""
        return self.base_lrs[0]

    _owner = property(lambda self: type(self).__name__)

    def lr(self, step: int, group: int = 0) -> float:
        """The learning rate of a group of parameters after `step` steps."""
        raise NotImplementedError

    def momentum(self, step: int, group: int = 0) -> float:
        """The momentum, or Adam's first beta, after `step` steps; here it does not change."""
        return _get_momentum(self.optimizer.param_groups[group])

    def _set(self):
        for k, group in enumerate(self.optimizer.param_groups):
            group["lr"] = self.lr(self.last_epoch, k)

    def step(self) -> None:
        """Set the optimizer to the rate of the next epoch, or update."""
        self.advance(1)

    def advance(self, count: int) -> None:
        """`step`, `count` times."""
        self.last_epoch = self._after(count)
        self._set()

    def _after(self, count):
        step = self.last_epoch + whole_number(self._owner, "count", count, 0)
        if step > self.total_steps:
            raise InputError(f"{self._owner}: the schedule has {self.total_steps} steps, got step {step}")
        return step

    def rates(self, count: int, group: int = 0) -> np.ndarray:
        """The rates of the next updates, for `ParameterGroup.rate_call`; the scheduler does not advance.

        Parameters
        ----------
        count : int, at least 0
        group : the number of the group of parameters

        Returns
        -------
        float64 (count, 2) : learning rate, and momentum or first beta
        """
        steps = range(self.last_epoch, self._after(count))
        return np.array([(self.lr(k, group), self.momentum(k, group)) for k in steps], np.float64).reshape(count, 2)

    def __repr__(self):
        return f"{self._owner}(lr={self.lr(self.last_epoch):g} after {self.last_epoch} steps, base_lr={self.base_lr:g})"

    def get_last_lr(self) -> list[float]:
        """The rate that was set last, for each group of parameters."""
        return [self.lr(self.last_epoch, k) for k in range(len(self.base_lrs))]

    def state(self) -> dict[str, Any]:
        """{name: number, or list of one for each group of parameters}: the state of the schedule, for checkpoints."""
        return {"last_epoch": self.last_epoch, "base_lr": self.base_lrs if len(self.base_lrs) > 1 else self.base_lr}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore a `state`; the learning rate is part of the optimizer's own state.

        Raises InputError, and changes nothing, when a name is missing or unknown, or a value does not fit.
        """
        state = _checked_state(self._owner, state, self.names)
        last_epoch = whole_number(self._owner, "last_epoch", state["last_epoch"], 0)
        if last_epoch > self.total_steps:
            raise InputError(f"{self._owner}: the schedule has {self.total_steps} steps, got a state of {last_epoch}")
        rates = state["base_lr"] if len(self.base_lrs) > 1 else [state["base_lr"]]
        self.base_lrs, self.last_epoch = self._checked_rates(rates), last_epoch

    def _checked_rates(self, rates):
        if not isinstance(rates, (list, tuple)) or len(rates) != len(self.base_lrs):
            raise InputError(f"{self._owner}: expected {len(self.base_lrs)} base rates, got {rates!r}")
        return [number(self._owner, "base_lr", rate) for rate in rates]

    def state_dict(self) -> dict[str, Any]:
        """{name: value}, as in PyTorch: the arguments, base_lrs, last_epoch, _step_count and _last_lr."""
        return {**_arguments(self), "base_lrs": list(self.base_lrs), "last_epoch": self.last_epoch,
                "_step_count": self.last_epoch + 1, "_last_lr": self.get_last_lr()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a `state_dict` of this scheduler or of PyTorch's.

        Raises InputError, and changes nothing, when something is missing, or the scheduler has other arguments.
        """
        _check_arguments(self, state_dict, "base_lrs")
        rates = self._checked_rates(state_dict["base_lrs"])
        self.load_state({"last_epoch": state_dict["last_epoch"], "base_lr": rates if len(rates) > 1 else rates[0]})


class LinearLR(LRScheduler):
    """From start_factor to end_factor times the optimizer's rate in total_iters steps, then constant.

    Parameters
    ----------
    optimizer : Optimizer
    start_factor : float, more than 0 to 1
    end_factor : float, 0 to 1
    total_iters : int, at least 1
    """

    def __init__(self, optimizer: Optimizer, start_factor: float = 1 / 3, end_factor: float = 1.0,
                 total_iters: int = 5):
        self.start_factor = number(self._owner, "start_factor", start_factor, 0, 1)
        if not self.start_factor:
            raise InputError("LinearLR: start_factor must be more than 0, got 0")
        self.end_factor = number(self._owner, "end_factor", end_factor, 0, 1)
        self.total_iters = whole_number(self._owner, "total_iters", total_iters)
        super().__init__(optimizer)

    def lr(self, step: int, group: int = 0) -> float:
        share = min(step, self.total_iters) / self.total_iters
        return self.base_lrs[group] * (self.start_factor + (self.end_factor - self.start_factor) * share)


class StepLR(LRScheduler):
    """The rate times gamma after every step_size steps.

    Parameters
    ----------
    optimizer : Optimizer
    step_size : int, at least 1
    gamma : float, at least 0
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1):
        self.step_size = whole_number(self._owner, "step_size", step_size)
        self.gamma = number(self._owner, "gamma", gamma)
        super().__init__(optimizer)

    def lr(self, step: int, group: int = 0) -> float:
        return self.base_lrs[group] * self.gamma ** (step // self.step_size)


class MultiStepLR(LRScheduler):
    """The rate times gamma at each of the milestones.

    Parameters
    ----------
    optimizer : Optimizer
    milestones : list of int, at least 0
        Numbers of steps, in any order; a repeated one counts twice.
    gamma : float, at least 0
    """

    def __init__(self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1):
        if not isinstance(milestones, (list, tuple)):
            raise InputError(f"MultiStepLR: milestones must be a list of whole numbers, got {milestones!r}")
        self.milestones = sorted(whole_number(self._owner, "a milestone", step, 0) for step in milestones)
        self.gamma = number(self._owner, "gamma", gamma)
        super().__init__(optimizer)

    def lr(self, step: int, group: int = 0) -> float:
        return self.base_lrs[group] * self.gamma ** bisect_right(self.milestones, step)


class ExponentialLR(LRScheduler):
    """The rate times gamma after every step.

    Parameters
    ----------
    optimizer : Optimizer
    gamma : float, at least 0
    """

    def __init__(self, optimizer: Optimizer, gamma: float):
        self.gamma = number(self._owner, "gamma", gamma)
        super().__init__(optimizer)

    def lr(self, step: int, group: int = 0) -> float:
        return self.base_lrs[group] * self.gamma**step


class CosineAnnealingLR(LRScheduler):
    """Half a cosine wave from the optimizer's rate down to eta_min in T_max steps, then up again.

    Loshchilov and Hutter, arXiv:1608.03983, 2016.

    Parameters
    ----------
    optimizer : Optimizer
    T_max : int, at least 1
    eta_min : float, at least 0
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0):
        self.T_max = whole_number(self._owner, "T_max", T_max)
        self.eta_min = number(self._owner, "eta_min", eta_min)
        super().__init__(optimizer)

    def lr(self, step: int, group: int = 0) -> float:
        return self.eta_min + (self.base_lrs[group] - self.eta_min) * (1 + math.cos(math.pi * step / self.T_max)) / 2


def _cosine(start, end, share):
    return end + (start - end) / 2 * (math.cos(math.pi * share) + 1)


def _linear(start, end, share):
    return (end - start) * share + start


class OneCycleLR(LRScheduler):
    """Once per training, the rate rises from start = max_lr / div_factor to max_lr and falls to start /
    final_div_factor, while the momentum falls and rises: Smith and Topin, arXiv:1708.07120 (2017).
    Call `step` after every update.

    The rates are PyTorch's, with two exceptions.  If a phase has no steps (total_steps=10, pct_start=0.1), PyTorch's
    rate is 0 / 0; here it is that of the phase's end.  After the last update, PyTorch's rate turns back; here it
    stays.

    Parameters
    ----------
    optimizer : Optimizer
    max_lr : float, at least 0
    total_steps, or epochs and steps_per_epoch : int, at least 1
    pct_start : float, 0 to 1
        The share of the steps in which the rate rises.
    anneal_strategy : "cos" or "linear"
    cycle_momentum : bool
        Whether the momentum (Adam: the first beta) changes from max_momentum to base_momentum and back.
    base_momentum, max_momentum : float, 0 to less than 1
    div_factor, final_div_factor : float, more than 0
    three_phase : bool
        Whether the rate falls to the start in as many steps as it rises, and further in the remaining steps.
    """

    per = "step"

    def __init__(self, optimizer: Optimizer, max_lr: float, total_steps: int | None = None, epochs: int | None = None,
                 steps_per_epoch: int | None = None, pct_start: float = 0.3, anneal_strategy: str = "cos",
                 cycle_momentum: bool = True, base_momentum: float = 0.85, max_momentum: float = 0.95,
                 div_factor: float = 25.0, final_div_factor: float = 1e4, three_phase: bool = False):
        owner = self._owner
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise InputError("OneCycleLR needs total_steps, or epochs and steps_per_epoch")
            total_steps = (whole_number(owner, "epochs", epochs)
                           * whole_number(owner, "steps_per_epoch", steps_per_epoch))
        self.total_steps = total = whole_number(owner, "total_steps", total_steps)
        pct_start = number(owner, "pct_start", pct_start, 0, 1)
        self._anneal = {"cos": _cosine, "linear": _linear}[
            choice(owner, "anneal_strategy", anneal_strategy, "cos", "linear")]
        self.cycle_momentum = truth_value(owner, "cycle_momentum", cycle_momentum)
        momenta = {"base_momentum": base_momentum, "max_momentum": max_momentum}
        for name, value in momenta.items():
            if number(owner, name, value, 0, 1) == 1:
                raise InputError(f"{owner}: {name} must be less than 1, got {value!r}")
        for name, value in (("div_factor", div_factor), ("final_div_factor", final_div_factor)):
            if not number(owner, name, value):
                raise InputError(f"{owner}: {name} must be more than 0, got {value!r}")
        top = number(owner, "max_lr", max_lr)
        start, low, high = top / div_factor, base_momentum, max_momentum
        end = start / final_div_factor
        warm_up, last = (pct_start * total - 1, start, top, high, low), total - 1
        if truth_value(owner, "three_phase", three_phase):
            self._phases = [warm_up, (2 * pct_start * total - 2, top, start, low, high),
                            (last, start, end, high, high)]
        else:
            self._phases = [warm_up, (last, top, end, low, high)]
        super().__init__(optimizer)

    def _phase_at(self, step):
        """The phase of a step, and the share of the phase that is done."""
        step, begin = min(step, self.total_steps - 1), 0.0
        for phase in self._phases:
            end = phase[0]
            if step <= end or phase is self._phases[-1]:
                return phase, (step - begin) / (end - begin) if end != begin else 1.0
            begin = end

    def lr(self, step: int, group: int = 0) -> float:
        (_, start, end, *_), share = self._phase_at(step)
        return self._anneal(start, end, share)

    def momentum(self, step: int, group: int = 0) -> float:
        if not self.cycle_momentum:
            return super().momentum(step, group)
        (*_, start, end), share = self._phase_at(step)
        return self._anneal(start, end, share)

    def _set(self):
        super()._set()
        for k, group in enumerate(self.optimizer.param_groups):
            _set_momentum(group, self.momentum(self.last_epoch, k))


class ReduceLROnPlateau:
    """The rate times factor when a metric has not improved for more than `patience` epochs.

    Parameters
    ----------
    optimizer : Optimizer
    mode : "min" or "max"
        Whether less or more is better.
    factor : float, 0 to less than 1
    patience : int, at least 0
    threshold : float, at least 0
        Smallest improvement that counts: relative to the best metric ("rel") or absolute ("abs").
    threshold_mode : "rel" or "abs"
    cooldown : int, at least 0
        Number of epochs after a reduction that do not count.
    min_lr : float, at least 0
    eps : float, at least 0
        Smallest change of the rate; smaller ones are not made.

    Raises InputError (a ValueError) when `optimizer` is not an optimizer, or an argument is out of range.
    """

    per = "epoch"
    names = ("last_epoch", "best", "num_bad_epochs", "cooldown_counter")

    def __init__(self, optimizer: Optimizer, mode: str = "min", factor: float = 0.1, patience: int = 10,
                 threshold: float = 1e-4, threshold_mode: str = "rel", cooldown: int = 0, min_lr: float = 0.0,
                 eps: float = 1e-8):
        owner = type(self).__name__
        self.optimizer = _checked_optimizer(owner, optimizer)
        self.mode = choice(owner, "mode", mode, "min", "max")
        self.factor = number(owner, "factor", factor, 0, 1)
        if self.factor == 1:
            raise InputError(f"{owner}: factor must be less than 1, got {factor!r}")
        self.patience = whole_number(owner, "patience", patience, 0)
        self.threshold = number(owner, "threshold", threshold)
        self.threshold_mode = choice(owner, "threshold_mode", threshold_mode, "rel", "abs")
        self.cooldown = whole_number(owner, "cooldown", cooldown, 0)
        self.min_lr, self.eps = number(owner, "min_lr", min_lr), number(owner, "eps", eps)
        self.last_epoch = self.num_bad_epochs = self.cooldown_counter = 0
        self.best: float | None = None          # None: no metric was finite yet

    def _better(self, metric):
        if self.best is None:
            return math.isfinite(metric)
        relative = self.threshold_mode == "rel"
        if self.mode == "min":
            return metric < (self.best * (1 - self.threshold) if relative else self.best - self.threshold)
        return metric > (self.best * (1 + self.threshold) if relative else self.best + self.threshold)

    def step(self, metric: float) -> None:
        """Take the metric of an epoch and set the optimizer's rate; InputError unless it is a number (NaN is one)."""
        if isinstance(metric, bool) or not isinstance(metric, (int, float, np.number)):
            raise InputError(f"ReduceLROnPlateau: the metric must be a number, got {metric!r}")
        self.last_epoch += 1
        if self._better(float(metric)):
            self.best, self.num_bad_epochs = float(metric), 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            for group in self.optimizer.param_groups:
                rate = max(group["lr"] * self.factor, self.min_lr)
                if group["lr"] - rate > self.eps:
                    group["lr"] = rate
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0

    def __repr__(self):
        return f"{type(self).__name__}(lr={self.optimizer.lr:g} after {self.last_epoch} epochs, best={self.best})"

    def get_last_lr(self) -> list[float]:
        """The optimizer's rate for each group of parameters."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state(self) -> dict[str, Any]:
        """{name: number or None}: the state of the schedule, for checkpoints."""
        return {name: getattr(self, name) for name in self.names}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore a `state`; the learning rate is part of the optimizer's own state.

        Raises InputError, and changes nothing, when a name is missing or unknown, or a value does not fit.
        """
        owner = type(self).__name__
        state = _checked_state(owner, state, self.names)
        best = state["best"]
        if best is not None:
            best = number(owner, "best", best, -math.inf, math.inf)
        counts = [whole_number(owner, name, state[name], 0)
                  for name in ("last_epoch", "num_bad_epochs", "cooldown_counter")]
        self.best = best
        self.last_epoch, self.num_bad_epochs, self.cooldown_counter = counts

    def state_dict(self) -> dict[str, Any]:
        """{name: value}, as in PyTorch: the arguments, best, the counts and _last_lr."""
        best = {"min": math.inf, "max": -math.inf}[self.mode] if self.best is None else self.best
        return _arguments(self) | self.state() | {"best": best, "_last_lr": self.get_last_lr()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a `state_dict` of this scheduler or of PyTorch's.

        Raises InputError, and changes nothing, when something is missing, or the scheduler has other arguments.
        """
        _check_arguments(self, state_dict, *self.names)
        state = {name: state_dict[name] for name in self.names}
        if isinstance(state["best"], float) and math.isinf(state["best"]):
            state["best"] = None
        self.load_state(state)
