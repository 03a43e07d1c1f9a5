"""Kinds of values: what each accepts, how it is read from text, and the words for what was expected.

Modules with names that need NumPy are imported when a name is needed, so that `--help` is fast.
"""
import math
import operator
import os
import re
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

from cnn_numba.errors import InputError, shortened
from cnn_numba.presets import PRESETS

LONGEST_NAME = 40           # for which a similar one is looked up


class Kind:
    """A kind of value.

    Parameters
    ----------
    expected : str
        The words for what it accepts.
    convert : callable
        convert(text) gives a value, or raises ValueError.
    checked : callable
        checked(value) gives the value in its usual form, or raises ValueError or TypeError.
    write : callable
        write(value) gives the text that `read` takes.
    """

    def __init__(self, expected: str, convert: Callable[[str], Any], checked: Callable[[Any], Any],
                 write: Callable[[Any], str] = str):
        self._expected, self._convert, self._checked, self.write = expected, convert, checked, write

    @property
    def expected(self) -> str:
        return self._expected

    def read(self, text: str) -> Any:
        """The value that a text means; InputError when it means none."""
        try:
            return self._checked(self._convert(text))
        except (ValueError, TypeError, OverflowError):
            raise self.refusal(text) from None

    def check(self, value: Any) -> Any:
        """The value in its usual form; InputError unless it is of this kind."""
        try:
            return self._checked(value)
        except (ValueError, TypeError, OverflowError):
            raise self.refusal(value) from None

    def refusal(self, value: Any) -> InputError:
        """The error for a value that is not of this kind."""
        return InputError(f"expected {self.expected}, got {shortened(repr(value), 100)}")


# ---- names ----------------------------------------------------------------------------------------------------------
class Name(Kind):
    """One of some names, in any case and with hyphens or underscores; the error for a wrong one has the most similar.

    Parameters
    ----------
    names : iterable of str, or a function that gives one
    otherwise : str
        The words for what is accepted besides the names.
    fits : callable
        Whether a text that is not one of the names is accepted, as it is.
    """

    def __init__(self, names: Iterable[str] | Callable[[], Iterable[str]], otherwise: str = "",
                 fits: Callable[[str], bool] = lambda text: False):
        super().__init__(otherwise, str, self._known)
        self._names, self._fits = names, fits

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._names() if callable(self._names) else self._names)

    @property
    def listing(self) -> str:
        """The names, and the words for what else is accepted."""
        return ", ".join(self.names) + self._expected

    @property
    def expected(self) -> str:
        return f"one of {self.listing}"

    def _known(self, value: Any) -> Any:
        spellings = {plain(name): name for name in self.names}
        if not isinstance(value, str) or plain(value) not in spellings and not self._fits(value):
            raise ValueError
        return spellings.get(plain(value), value)

    def refusal(self, value: Any) -> InputError:
        similar = nearest(value, self.names) if isinstance(value, str) else None
        return InputError(f"unknown name {value!r}: did you mean {similar}?") if similar else super().refusal(value)


class DataName(Name):
    """The name of a data set, or a path, or several paths as a tuple.

    A file or folder that exists comes before a name in another spelling.
    """

    def __init__(self) -> None:
        super().__init__(_data_names, ", or the path of a file or folder", bool)
        self.write = _write_paths

    def _known(self, value: Any) -> Any:
        return _one_or_several(self._name_or_path, value)

    def _name_or_path(self, value: str) -> str:
        return value if value not in self.names and os.path.exists(value) else super()._known(value)


def plain(name: str) -> str:
    """A name without case, spaces, hyphens and underscores."""
    return re.sub("[_ -]", "", name).lower()


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The most similar of some names, or None when none is similar."""
    import difflib

    spellings = {plain(each): each for each in names}
    found = difflib.get_close_matches(plain(name), spellings, 1, 0.7) if len(name) <= LONGEST_NAME else []
    return spellings[found[0]] if found else None


def _data_names() -> Iterable[str]:
    from cnn_numba.data.catalogue import NAMES

    return NAMES


def _inits() -> Iterable[str]:
    from cnn_numba.init import INITS

    return INITS


def _normalizations() -> Iterable[str]:
    from cnn_numba.data.dataset import NORMALIZE

    return NORMALIZE


def _precisions() -> Iterable[str]:
    from cnn_numba.execution import PARTS

    return PARTS


# ---- numbers --------------------------------------------------------------------------------------------------------
def whole(accepts: Callable[[int], bool], expected: str) -> Kind:
    """Whole numbers."""
    def checked(value: Any) -> int:
        if isinstance(value, bool) or not accepts(number := operator.index(value)):
            raise ValueError
        return number
    return Kind(expected, int, checked)


def real(accepts: Callable[[float], bool], expected: str) -> Kind:
    """Numbers."""
    def checked(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, Real) or not accepts(number := float(value)):
            raise ValueError
        return number
    return Kind(expected, float, checked, "{:.15g}".format)


def several(kind: Kind, separator: str, expected: str, count: int | None = None) -> Kind:
    """Values of one kind as a tuple, in text with a separator between them."""
    def checked(values: Any) -> tuple:
        if not isinstance(values, (list, tuple)) or not values or count not in (None, len(values)):
            raise ValueError
        return tuple(map(kind.check, values))
    return Kind(expected, lambda text: tuple(map(kind.read, text.split(separator))), checked,
                lambda values: separator.join(map(kind.write, values)))


def _fraction_or_count(value: Any) -> int | float:
    return BETWEEN.check(value) if isinstance(value, float) else COUNT.check(value)


def _balanced_or_weights(value: Any) -> str | tuple[float, ...]:
    if value == "balanced":
        return value
    if not any(weights := WEIGHTS.check(value)):
        raise ValueError
    return weights


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


# ---- text -----------------------------------------------------------------------------------------------------------
def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _one_or_several(check: Callable[[str], str], value: Any) -> str | tuple[str, ...]:
    """A checked path, or several as a tuple."""
    if isinstance(value, (str, os.PathLike)):
        return check(_text(os.fspath(value)))
    found = tuple(check(_text(os.fspath(path))) for path in value)
    if not found:
        raise ValueError
    return found[0] if len(found) == 1 else found


def _write_paths(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else " ".join(value)


def _column(value: Any) -> str:
    return _text(value if isinstance(value, str) else str(COUNT.check(value)))


class AugmentText(Kind):
    """The text of an Augment, in its usual form; None where it changes nothing."""

    def __init__(self) -> None:
        super().__init__("augmentations such as shift=2,rotate=10", str, str)

    def check(self, value: Any) -> Any:
        from cnn_numba.augment import Augment

        if not isinstance(value, (str, Augment)):
            raise self.refusal(value)
        try:
            augment = Augment.parse(str(value))
        except InputError as error:
            raise InputError(str(error).partition(": ")[2]) from None
        return str(augment) if augment else None

    def read(self, text: str) -> Any:
        return self.check(text)


def _layer_numbers(value: Any) -> tuple[int, ...]:
    """Sorted numbers of layers."""
    found = sorted({operator.index(number) for number in value})
    if not found or found[0] < 0 or any(isinstance(number, bool) for number in value):
        raise ValueError
    return tuple(found)


def _read_layer_numbers(text: str) -> tuple[int, ...]:
    """The numbers in a text such as 0-3,6."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if max(len(first), len(last)) > 4:
            raise ValueError
        numbers = range(int(first), int(last or first) + 1)
        if not numbers:
            raise ValueError
        found += numbers
    return tuple(found)


def _write_layer_numbers(numbers: tuple[int, ...]) -> str:
    """As `_read_layer_numbers` takes it."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


COUNT = whole(lambda n: n >= 1, "a whole number of at least 1")
COUNT_OR_NONE = whole(lambda n: n >= 0, "a whole number of at least 0")
SEED = whole(lambda n: 0 <= n < 2**63, "a whole number from 0 to 2**63 - 1")
SIZE = whole(lambda n: 1 <= n < 100_000, "a whole number from 1 to 99999")
NUMBER = real(math.isfinite, "a finite number")
POSITIVE = real(lambda x: 0 < x < math.inf, "a number above 0")
FROM_ZERO = real(lambda x: 0 <= x < math.inf, "a number of at least 0")
BELOW_ONE = real(lambda x: 0 <= x < 1, "a number of at least 0 and below 1")
BETWEEN = real(lambda x: 0 < x < 1, "a number between 0 and 1")
IMAGE_SHAPE = several(SIZE, "x", "CHANNELSxROWSxCOLUMNS, such as 3x32x32", 3)
IMAGE_SIZE = several(SIZE, "x", "ROWSxCOLUMNS, such as 28x28", 2)
BETAS = several(BELOW_ONE, ",", "two numbers of at least 0 and below 1, such as 0.9,0.999", 2)
OF_CHANNELS = several(NUMBER, ",", "a number, or one for each channel, such as 125.3,123,113.9")
POSITIVE_OF_CHANNELS = several(POSITIVE, ",", "a number above 0, or one for each channel")
WEIGHTS = several(FROM_ZERO, ",", "numbers such as 1,1,2.5")
CLASS_WEIGHTS = Kind("balanced, or numbers such as 1,1,2.5",
                     lambda text: text if text == "balanced" else WEIGHTS.read(text), _balanced_or_weights,
                     lambda value: value if value == "balanced" else WEIGHTS.write(value))
VALIDATION = Kind("a whole number of at least 1, or a fraction between 0 and 1",
                  lambda text: int(text) if text.isdecimal() else float(text), _fraction_or_count)
COLUMN = Kind("the name of a column, or its number from 1", str, _column)
TRUTH = Kind("true or false", str, _truth, lambda value: "yes" if value else "no")
PRECISION = Name(_precisions)
LAYERS = Kind("numbers of layers such as 0-3 or 0,2,5-7", _read_layer_numbers, _layer_numbers, _write_layer_numbers)
PATH = Kind("a path", str, lambda value: _text(os.fspath(value)))
PATHS = Kind("a path", str, lambda value: _one_or_several(_text, value), _write_paths)
FILE_NAMES = Kind("a list of names of files", str, lambda value: tuple(map(_text, value)), ", ".join)
DATA = DataName()
NETWORK = Name(PRESETS, ", a .json file, or a trained model",
               lambda text: text.lower().endswith((".json", ".npz", ".onnx", ".safetensors")))
INIT, NORMALIZATION = Name(_inits), Name(_normalizations)
