"""A run folder: all that a training leaves, under names that do not change."""
from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn_numba.callbacks import Callback
from cnn_numba.errors import InputError, shortened
from cnn_numba.files import container
from cnn_numba.files.atomic import write
from cnn_numba.files.checkpoints import list_checkpoints
from cnn_numba.files.opening import open_regular
from cnn_numba.files.strict_json import loads
from cnn_numba.history import COLUMNS, WHOLE, History
from cnn_numba.recipe import Recipe
from cnn_numba.recipe_file import read_fields, write_recipe

if TYPE_CHECKING:
    from cnn_numba.model import Sequential
    from cnn_numba.training import Trainer

LARGEST = 1 << 26           # bytes of a table or a result that is read
FILTERS = "filters over the epochs"
ENDS = "finished", "early stopping", "time limit", "interrupted", "diverged"


class RunFolder:
    """The files of a run, by name.

    Attributes
    ----------
    path : Path of the folder
    config, log, metrics, model, last, filters, result, info, report, pictures : Path
        The recipe (JSON, for `--config`); the numbers of each epoch (JSON lines, and CSV); the best model and the last
        one; the filters of the first convolution after each epoch; how the training ended and what the test gave; the
        machine and the command; the page; and the folder of its pictures.  Checkpoints are in the folder itself.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.config, self.log, self.metrics = (self.path / name for name in ("config.json", "log.jsonl", "metrics.csv"))
        self.model, self.last, self.filters = (self.path / name for name in ("model.npz", "last.npz", "filters.npz"))
        self.result, self.info = self.path / "result.json", self.path / "info.txt"
        self.report, self.pictures = self.path / "report.html", self.path / "pictures"

    def is_run(self) -> bool:
        """Whether the folder holds a run, and not checkpoints only, or nothing."""
        return self.config.is_file()

    def check_unused(self) -> None:
        """InputError when the folder holds a run, or a file that a run would overwrite."""
        if not self.path.is_dir():
            return
        names = {path.name for path in vars(self).values() if path != self.path}
        found = sorted(names & set(os.listdir(self.path))) or [path.name for path in list_checkpoints(self.path)]
        if self.is_run():
            raise InputError(f"{self.path} holds another run: --resume {self.path} goes on with it, or choose another "
                             "folder")
        if found:
            raise InputError(f"{self.path} holds {found[0]}, which the run would overwrite: choose another folder")

    # ---- what is in it ----------------------------------------------------------------------------------------------
    def recipe(self) -> Recipe:
        """The recipe; InputError when the folder holds none that can be used."""
        if not self.is_run():
            raise InputError(f"{self.path} is not a run folder: it has no {self.config.name}, which train --run writes")
        return Recipe(**read_fields(self.config))

    def begin(self, recipe: Recipe, info: str) -> None:
        """Write the recipe, append to the text about the machine, and forget how an earlier part of the run ended."""
        before = _read(self.info) + b"\n" if self.info.exists() else b""
        write(self.info, before + info.encode("utf-8", "backslashreplace"))
        self.result.unlink(missing_ok=True)
        write_recipe(self.config, recipe)

    def write_history(self, history: History) -> None:
        """Write the numbers of all epochs as CSV, with the names of the fields of EpochResult in the first line."""
        text = io.StringIO(newline="")
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(COLUMNS)
        for result in history:
            values = (getattr(result, name) for name in COLUMNS)
            rows.writerow(["" if value is None else repr(value) for value in values])
        write(self.metrics, text.getvalue().encode())

    def history(self) -> History:
        """The results of all epochs; empty before the first is done.  InputError for a file that is no such table."""
        if not self.metrics.exists():
            return History()
        rows = list(csv.reader(io.StringIO(_read(self.metrics).decode("utf-8", "replace"))))
        try:
            return History.from_state([{
                name: None if text == "" else int(text) if name in WHOLE else float(text)
                for name, text in zip(rows[0], row, strict=True)} for row in rows[1:]])
        except (ValueError, IndexError, OverflowError):
            raise InputError(f"{self.metrics} is not the table of a run: expected the columns {', '.join(COLUMNS)}, "
                             "with numbers in every line") from None

    def write_result(self, end: str, **facts: Any) -> None:
        """Write how the training ended, one of ENDS, and such facts as `test_accuracy`."""
        facts = {name: None if isinstance(value, float) and not math.isfinite(value) else value
                 for name, value in facts.items()}
        write(self.result, json.dumps({"end": end, **facts}, indent=1).encode() + b"\n")

    def read_result(self) -> dict[str, Any]:
        """What `write_result` wrote; {} for a training that is running or was killed."""
        if not self.result.exists():
            return {}
        try:
            value = loads(_read(self.result))
        except InputError as error:
            raise InputError(shortened(f"{self.result}: {error}")) from None
        if not isinstance(value, dict) or value.get("end") not in ENDS:
            raise InputError(f"{self.result} does not say how the training ended")
        return value

    def weights(self) -> Path | None:
        """The model file to look at: the best model, or None before the first epoch is done."""
        return next((path for path in (self.model, self.last) if path.exists()), None)

    def write_filters(self, epochs: list[int], filters: list[np.ndarray]) -> None:
        """Write the weights (F, C, kh, kw) of the first convolution after some epochs."""
        write(self.filters, container.pack({"format": FILTERS, "epochs": epochs}, {"filters": np.array(filters)}))

    def read_filters(self) -> tuple[list[int], np.ndarray]:
        """(epochs, float32 (len(epochs), F, C, kh, kw)); of a network without convolutions, ([], an empty array)."""
        if not self.filters.exists():
            return [], np.empty((0, 0, 0, 0, 0), np.float32)
        description, arrays = container.read(self.filters, "file of filters")
        epochs, filters = description.get("epochs"), arrays.get("filters")
        if (description.get("format") != FILTERS or filters is None or filters.ndim != 5
                or not isinstance(epochs, list) or not all(isinstance(epoch, int) for epoch in epochs)
                or len(epochs) != len(filters)):
            raise InputError(f"{self.filters} does not hold the filters of a run")
        return epochs, filters


class RunFiles(Callback):
    """Keeps the files of a run folder up to date: metrics, best and last model, filters.

    Parameters
    ----------
    run : RunFolder
    report : callable, optional
        Called with a sentence when a file cannot be written; the training continues.  Default: a warning.
    seconds : float
        Files are written at the end of an epoch when so much time has passed since the last time, and at the end.
    """

    def __init__(self, run: RunFolder, report: Callable[[str], object] = warnings.warn, seconds: float = 1.0):
        self.run, self._report, self._interval = run, report, seconds
        self.epochs: list[int] = []
        self._filters: list[np.ndarray] = []

    @property
    def filters(self) -> np.ndarray:
        """float32 (len(epochs), F, C, kh, kw): the filters of the first convolution after the `epochs`."""
        return np.array(self._filters) if self._filters else np.empty((0, 0, 0, 0, 0), np.float32)

    def on_train_begin(self, trainer):
        self._handled = sys.exception()     # `fit` may run while an exception is handled
        self._due = time.monotonic() + self._interval
        epochs, filters = self.run.read_filters() if trainer.epochs else ([], ())
        before = sum(epoch < trainer.epochs for epoch in epochs)
        self.epochs, self._filters = epochs[:before], list(filters[:before])
        self._remember_filters(trainer)

    def on_epoch_end(self, trainer, result):
        self._remember_filters(trainer)
        if time.monotonic() >= self._due:
            self._try_to_write(trainer)
            self._due = time.monotonic() + self._interval

    def on_train_end(self, trainer):
        if sys.exception() is self._handled:        # after an exception, the weights may be those of half a step
            self._try_to_write(trainer)

    def _remember_filters(self, trainer):
        if (weights := first_filters(trainer.model)) is not None:
            self.epochs.append(trainer.epochs)
            self._filters.append(weights.copy())

    def _try_to_write(self, trainer):
        try:
            self.run.write_history(trainer.history)
            if self._filters:
                self.run.write_filters(self.epochs, self._filters)
            trainer.model.save(self.run.last)
            if trainer.epochs:
                with best_weights(trainer):
                    trainer.model.save(self.run.model)
        except InputError as error:
            self._report(f"{error}; training goes on")


@contextmanager
def best_weights(trainer: Trainer) -> Iterator[None]:
    """A context in which the model has the weights that were best on the validation images, if there are any."""
    now = trainer.model.state_dict()
    trainer.restore_best()
    try:
        yield
    finally:
        trainer.model.load_state_dict(now)


def first_filters(model: Sequential) -> np.ndarray | None:
    """The weights (F, C, kh, kw) of the first convolution, also where it is inside a container; None without one."""
    return next((p.value for p in model.parameters() if p.value.ndim == 4), None)


def _read(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    if len(content) > LARGEST:
        raise InputError(f"{path} has more than {LARGEST:,} bytes, which no run writes")
    return content
