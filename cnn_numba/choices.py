"""The optimizers, schedules and losses of a recipe: which fields each uses, their defaults, and how it is built."""
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

from cnn_numba.kinds import Name

REQUIRED = inspect.Parameter.empty
MOMENTUM_RANGE = 0.1                # how far the momentum falls in a one-cycle schedule
SMALL = 10_000                      # training images; below, 5 epochs of 64 images per step end too early


@dataclass(frozen=True)
class BySize:
    """A default that depends on the number of training images: `few` for less than SMALL, else `many`."""

    few: Any
    many: Any

    def of(self, images: int) -> Any:
        return self.few if images < SMALL else self.many


@dataclass(frozen=True)
class Choice:
    """An optimizer, a schedule or a loss.

    uses : {field: default}, of the fields that depend on the choice; REQUIRED where there is no default, BySize where
        it depends on the data
    build : function that makes it; see the methods `make_...` of `Recipe` for the arguments
    changes : {field: default}, which replace the defaults of other choices, except those that are 0
    open_ended : whether a schedule does not depend on the number of epochs
    spares : whether an optimizer can leave biases without weight decay
    """

    uses: Mapping[str, Any]
    build: Callable[..., Any]
    changes: Mapping[str, Any] = field(default_factory=dict)
    open_ended: bool = False
    spares: bool = True


def make(path: str, *arguments: Any, **options: Any) -> Any:
    """An object of a class of the package, which is imported when it is needed, because it needs Numba."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(f"cnn_numba.{module}"), name)(*arguments, **options)


def _one_cycle(optimizer: Any, recipe: Any, steps: int) -> Any:
    momentum = optimizer.betas[0] if hasattr(optimizer, "betas") else getattr(optimizer, "momentum", 0.0)
    return make("lr_scheduler.OneCycleLR", optimizer, recipe.lr, epochs=recipe.schedule_epochs, steps_per_epoch=steps,
                pct_start=recipe.warm_up, cycle_momentum=momentum > 0, max_momentum=momentum,
                base_momentum=max(0.0, momentum - MOMENTUM_RANGE))


OPTIMIZERS = {
    "sgd": Choice({"lr": 0.03, "momentum": 0.9, "weight_decay": BySize(5e-3, 1e-4), "nesterov": False},
                  partial(make, "optim.SGD")),
    "rmsprop": Choice({"lr": 1e-3, "momentum": 0.0, "weight_decay": 0.0, "alpha": 0.99, "eps": 1e-8},
                      partial(make, "optim.RMSprop")),
    "adam": Choice({"lr": 1e-3, "weight_decay": 0.0, "betas": (0.9, 0.999), "eps": 1e-8}, partial(make, "optim.Adam")),
    "adamw": Choice({"lr": 1e-3, "weight_decay": 0.01, "betas": (0.9, 0.999), "eps": 1e-8},
                    partial(make, "optim.AdamW")),
}
SCHEDULES = {
    "linear": Choice({}, lambda optimizer, recipe, steps: make(
        "lr_scheduler.LinearLR", optimizer, 1.0, 0.0, recipe.schedule_epochs)),
    "constant": Choice({}, lambda optimizer, recipe, steps: None, open_ended=True),
    "step": Choice({"step_size": 6, "gamma": 0.3}, lambda optimizer, recipe, steps: make(
        "lr_scheduler.StepLR", optimizer, recipe.step_size, recipe.gamma), open_ended=True),
    "exponential": Choice({"gamma": 0.9}, lambda optimizer, recipe, steps: make(
        "lr_scheduler.ExponentialLR", optimizer, recipe.gamma), open_ended=True),
    "plateau": Choice({"patience": 4, "gamma": 0.5}, lambda optimizer, recipe, steps: make(
        "lr_scheduler.ReduceLROnPlateau", optimizer, factor=recipe.gamma, patience=recipe.patience), open_ended=True),
    "cosine": Choice({}, lambda optimizer, recipe, steps: make(
        "lr_scheduler.CosineAnnealingLR", optimizer, recipe.schedule_epochs)),
    "one-cycle": Choice({"warm_up": 0.3}, _one_cycle, changes={"momentum": 0.95, "betas": (0.95, 0.999)}),
}
LOSSES = {
    "cross-entropy": Choice({"label_smoothing": 0.0, "class_weights": None}, partial(make, "losses.CrossEntropyLoss")),
    "mse": Choice({}, partial(make, "losses.MSELoss")),
}
CHOICES = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "loss": LOSSES}
BASES = {"optimizer": ("cnn_numba.optim", "Optimizer"), "loss": ("cnn_numba.losses", "ClassLoss")}


def dependent_fields(choice: str) -> tuple[str, ...]:
    """The fields that some optimizers, schedules or losses use, and others do not."""
    return tuple(dict.fromkeys(name for each in CHOICES[choice].values() for name in each.uses))


def known_classes(choice: str) -> dict[str, type]:
    """The optimizers or losses that are defined outside the package, by their names.

    There are none as long as nothing has imported the base class.
    """
    module, base = BASES.get(choice, ("", ""))
    known = getattr(sys.modules[module], base).known if module in sys.modules else {}
    return {name: kind for name, kind in known.items() if not kind.__module__.startswith("cnn_numba.")}


def argument_of(name: str) -> str:
    """The argument of a constructor that a field is for."""
    return {"class_weights": "weight", "spare_biases": "decay_weights_only"}.get(name, name)


def find_choice(choice: str, name: str) -> Choice:
    """The optimizer, schedule or loss of a name."""
    if name in CHOICES[choice]:
        return CHOICES[choice][name]
    kind = known_classes(choice)[name]
    defaults = {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}
    uses = {name: defaults[argument_of(name)] for name in dependent_fields(choice) if argument_of(name) in defaults}
    return Choice(uses, kind, spares="decay_weights_only" in defaults)


def choice_kind(choice: str) -> Name:
    """The kind of the names of optimizers, schedules or losses."""
    return Name(lambda: [*CHOICES[choice], *known_classes(choice)])
