"""The numbers of a training, epoch by epoch."""
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from math import isfinite
from typing import Any, overload

from cnn_numba.errors import InputError
from cnn_numba.table import Column, Table

__all__ = ["EpochResult", "History"]


@dataclass(frozen=True)
class EpochResult:
    """What an epoch of training gave.

    epoch : its number, from 1
    loss, accuracy : mean over the images, and per cent, each image judged when it was trained on
    seconds : of the training, without the validation and the test
    images, steps : how many
    learning_rate : of the last step
    gradient_norm : mean over the steps at which it was measured, before clipping; None where it was not
    validation_loss, validation_accuracy : on the validation part; None without one
    test_loss, test_accuracy : on the test part; None where it was not measured
    """

    epoch: int
    loss: float
    accuracy: float
    seconds: float
    images: int
    steps: int
    learning_rate: float
    gradient_norm: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    test_loss: float | None = None
    test_accuracy: float | None = None

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds > 0 else 0.0


COLUMNS = tuple(field.name for field in fields(EpochResult))
WHOLE = "epoch", "images", "steps"
OPTIONAL = "gradient_norm", "validation_loss", "validation_accuracy", "test_loss", "test_accuracy"


class History(Sequence[EpochResult]):
    """The results of all epochs so far, also of those before a training was resumed.

    `history[-1]` is the last EpochResult, `history["loss"]` the list of all losses; columns are named as the fields of
    EpochResult.  A notebook shows a table.
    """

    def __init__(self, results: Sequence[EpochResult] = ()):
        self._results = list(results)

    @overload
    def __getitem__(self, key: int) -> EpochResult: ...
    @overload
    def __getitem__(self, key: slice) -> "History": ...
    @overload
    def __getitem__(self, key: str) -> list[Any]: ...

    def __getitem__(self, key):
        if isinstance(key, str):
            if key not in COLUMNS:
                raise KeyError(f"{key}: the columns are {', '.join(COLUMNS)}")
            return [getattr(result, key) for result in self._results]
        return History(self._results[key]) if isinstance(key, slice) else self._results[key]

    def __len__(self) -> int:
        return len(self._results)

    def __iter__(self) -> Iterator[EpochResult]:
        return iter(self._results)

    def append(self, result: EpochResult) -> None:
        self._results.append(result)

    def state(self) -> list[dict[str, Any]]:
        """The results as JSON values."""
        return [asdict(result) for result in self._results]

    @classmethod
    def from_state(cls, state: Any) -> "History":
        """The history that gave a `state`; InputError when the state is not one."""
        if not isinstance(state, list) or not all(map(_is_result, state)):
            raise InputError("the history is not a list of the numbers of each epoch")
        return cls([EpochResult(**entry) for entry in state])

    def _table(self) -> Table:
        """A row for each epoch; columns without numbers are left out."""
        names = [name for name in COLUMNS if any(value is not None for value in self[name])] or ["epoch"]
        columns: list[Column] = [(name.replace("_", " "), partial(_cell, name)) for name in names]
        return Table(columns, self._results, left=0)

    def __repr__(self) -> str:
        return str(self._table()) if self._results else "History of 0 epochs"

    def _repr_html_(self) -> str:
        return self._table()._repr_html_()


def _is_result(entry: Any) -> bool:
    return isinstance(entry, dict) and set(COLUMNS) - set(OPTIONAL) <= set(entry) <= set(COLUMNS) and all(
        value is None if value is None and name in OPTIONAL
        else isinstance(value, int if name in WHOLE else (int, float)) and not isinstance(value, bool)
        and isfinite(value) for name, value in entry.items())


def _cell(name: str, result: EpochResult) -> str:
    value = getattr(result, name)
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.6g}"
