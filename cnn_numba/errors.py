"""The exceptions, and checks of arguments that several modules share."""
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any

__all__ = ["Diverged", "InputError"]

MOST = 3.4028234663852886e38            # the largest float32 number


class InputError(ValueError):
    """An input of the user cannot be used; the message is one sentence: what was given, and what was expected."""


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Put `where`, the source of an InputError, in front of its sentence."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


class Diverged(ArithmeticError):
    """The loss, a gradient or a weight is no longer finite; `Trainer.fit` restores an earlier state.

    epoch, step : from 1; the step of the epoch in which it was noticed
    """

    def __init__(self, epoch: int, step: int, what: str):
        super().__init__(f"{what} at step {step} of epoch {epoch}")
        self.epoch, self.step = epoch, step


MOST_SEED = 2**63 - 1                   # seeds go to kernels as int64


def seed_number(owner: str, value: Any) -> int:
    """The value as an int; InputError unless it is a whole number from 0 to MOST_SEED."""
    value = whole_number(owner, "seed", value, 0)
    if value > MOST_SEED:
        raise InputError(f"{owner}: seed must be at most 2**63 - 1, got {value}")
    return value


def whole_number(owner: str, name: str, value: Any, least: int = 1) -> int:
    """The value as an int; InputError unless it is a whole number (not a bool) of at least `least`."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
        raise InputError(f"{owner}: {name} must be a whole number of at least {least}, got {value!r}")
    return value.__index__()


def number(owner: str, name: str, value: Any, least: float = 0.0, most: float = MOST) -> float:
    """The value as a float; InputError unless it is a number (not a bool) from least to most."""
    if isinstance(value, bool) or not isinstance(value, Real) or not least <= float(value) <= most:
        raise InputError(f"{owner}: {name} must be a number from {least:.3g} to {most:.3g}, got {value!r}")
    return float(value)


def choice(owner: str, name: str, value: Any, *choices: Any) -> Any:
    """The value; InputError unless it is one of the choices."""
    if value not in choices:
        raise InputError(f"{owner}: {name} must be {' or '.join(map(repr, choices))}, got {value!r}")
    return value


def truth_value(owner: str, name: str, value: Any) -> bool:
    """The value; InputError unless it is True or False."""
    if not isinstance(value, bool):
        raise InputError(f"{owner}: {name} must be True or False, got {value!r}")
    return value


def register(known: dict[str, type], cls: type) -> None:
    """Put a class into {name: class}; InputError when another module has one of that name: files would be ambiguous."""
    other = known.get(cls.__name__)
    if other is not None and other.__module__ != cls.__module__:
        raise InputError(f"{other.__module__} has a class {cls.__name__} already: choose another name")
    known[cls.__name__] = cls


def shortened(sentence: str, longest: int = 300) -> str:
    """The sentence, cut off after `longest` characters: it may quote an untrusted file."""
    return sentence if len(sentence) <= longest else f"{sentence[:longest]}..."
