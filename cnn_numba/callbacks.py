"""Callbacks of a training: progress bar, log, checkpoints, early stopping."""
from __future__ import annotations

import hashlib
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn_numba.data import Dataset
from cnn_numba.errors import InputError, shortened, whole_number
from cnn_numba.files.checkpoints import (
    SavedTraining,
    checkpoint_name,
    list_checkpoints,
    newest_checkpoint,
    origins,
    write_checkpoint,
)
from cnn_numba.files.folder_lock import FolderLock
from cnn_numba.files.layers_json import build_layers, describe_layers
from cnn_numba.files.run_log import RunLog
from cnn_numba.notebook import notebook_bars

if TYPE_CHECKING:
    from cnn_numba.history import EpochResult
    from cnn_numba.training import Trainer

LEAST_BAR = 5               # columns
HASHED = 1 << 24            # bytes at a time

__all__ = ["Callback", "Checkpoint", "EarlyStopping", "Log", "ProgressBar", "TimeLimit"]


class Callback:
    """Base class of callbacks for `Trainer.fit`: override the methods that you need.

    A callback may read all of the trainer, and ends the training with `trainer.stop()`.
    """

    def on_train_begin(self, trainer: Trainer) -> None:
        """Before the first batch of a call of `fit`."""

    def on_batch_end(self, trainer: Trainer) -> None:
        """After every few batches: compiled code runs dozens of short ones at a time."""

    def on_epoch_end(self, trainer: Trainer, result: EpochResult) -> None:
        """After every epoch; its result is already part of `trainer.history`."""

    def on_train_end(self, trainer: Trainer) -> None:
        """When `fit` ends, also by an exception."""


class Notifier:
    """Calls one hook of all callbacks, in their order; a function is called as `on_epoch_end`."""

    def __init__(self, trainer: Trainer, callbacks: Callback | Callable | Iterable):
        several = list(callbacks) if isinstance(callbacks, Iterable) and not callable(callbacks) else [callbacks]
        self._trainer, self._callbacks = trainer, several
        for callback in several:
            if not isinstance(callback, Callback) and (not callable(callback) or isinstance(callback, type)):
                raise InputError(f"fit: a callback must be a Callback or a function, got {callback!r}")

    def __call__(self, hook: str, *args: Any) -> None:
        for callback in self._callbacks:
            if isinstance(callback, Callback):
                getattr(callback, hook)(self._trainer, *args)
            elif hook == "on_epoch_end":
                callback(self._trainer, *args)


class ProgressBar(Callback):
    """A bar on stderr with the epoch, the loss so far, images per second and the remaining time of the epoch.

    In a notebook it is a bar of tqdm for each epoch, which stays.  It draws nothing where stderr is something else.
    """

    def __init__(self):
        self._bar = self._bars = None

    def on_train_begin(self, trainer):
        self._bars = notebook_bars()
        self._begin(trainer)
        self.on_batch_end(trainer)

    def on_batch_end(self, trainer):
        with suppress(OSError):             # the terminal is gone; the training goes on
            self._draw(trainer)

    def on_epoch_end(self, trainer, result):
        if self._bar is not None and self._bars:
            self._fill(result.images, result.loss, f", accuracy {result.accuracy:.2f} %")
        self.on_train_end(trainer)
        self._begin(trainer)

    def on_train_end(self, trainer):
        with suppress(OSError):
            self._close()

    def _begin(self, trainer):
        self._began, self._first = time.perf_counter(), trainer.images_done

    def _draw(self, trainer):
        if self._bars:
            self._bar = self._bar or self._bars(
                desc=f"Epoch {trainer.epochs + 1}", total=len(trainer.data.train_images), unit=" images")
            self._fill(trainer.images_done, trainer.running_loss)
            return
        if not sys.stderr.isatty():
            return
        from progress.bar import Bar

        done, images, elapsed = trainer.images_done, len(trainer.data.train_images), time.perf_counter() - self._began
        rate = (done - self._first) / elapsed if elapsed > 0 else 0.0
        message, facts = f"Epoch {trainer.epochs + 1}", []
        if rate:
            facts = [f"loss {trainer.running_loss:.4f}", f"{_duration((images - done) / rate)} left",
                     f"{rate:,.0f} images/s"]
        room = os.get_terminal_size(sys.stderr.fileno()).columns - len(message) - 5
        while facts and len("  ".join(facts)) > room - LEAST_BAR:
            facts.pop()
        self._bar = self._bar or Bar(message, max=images, file=sys.stderr, hide_cursor=False)
        self._bar.suffix = "  ".join(facts)
        self._bar.width = max(LEAST_BAR, min(20, room - len(self._bar.suffix)))
        self._bar.goto(done)

    def _fill(self, images, loss, more=""):
        """Fill the bar of a notebook up to a number of images."""
        self._bar.set_postfix_str(f"loss {loss:.4f}{more}", refresh=False)
        self._bar.update(images - self._bar.n)

    def _close(self):
        if self._bar is not None and self._bars:
            self._bar.close()
        elif self._bar is not None:
            sys.stderr.write("\r\x1b[K")       # the next line of output replaces the bar
            sys.stderr.flush()
        self._bar = None


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


class Log(Callback):
    """Appends the numbers of every epoch to a file, one JSON object per line.

    Parameters
    ----------
    path : path of the file; an existing file keeps its lines
    report : callable, optional
        Called with a sentence when a line cannot be written; the training continues.  Default: a warning.

    Raises InputError when the file cannot be written at the start.
    """

    def __init__(self, path: str | Path, report: Callable[[str], object] = warnings.warn):
        self._log, self._report = RunLog(path), report

    def on_epoch_end(self, trainer, result):
        fields = {name: value for name, value in vars(result).items()
                  if value is not None or not name.startswith(("validation", "test"))}
        try:
            self._log.write(**fields, images_per_second=result.images_per_second)
        except InputError as error:
            self._report(f"{error}; training goes on without this line of the log")


class Checkpoint(Callback):
    """Keeps the last two states of a training in a folder, so that it can continue after any failure.

    Parameters
    ----------
    folder : path; made if missing
    recipe : dict of JSON values, optional
        Stored in every file, for a program that resumes the training.
    minutes, steps : number, optional
        A state is written after every epoch, and when so many minutes or steps have passed since the last one.
    report : callable, optional
        Called with a sentence when a file cannot be written; the training continues.  Default: a warning.

    Attributes
    ----------
    last : Path of the last file that was completely written, or None

    Raises InputError when the folder cannot be made, and from `fit` when the folder holds another training, or another
    training runs in it.
    """

    def __init__(self, folder: str | Path, recipe: dict[str, Any] | None = None, minutes: float = 10,
                 steps: int | None = None, report: Callable[[str], object] = warnings.warn):
        self.folder, self.recipe, self.minutes, self.steps = Path(folder), recipe or {}, minutes, steps
        self.last: Path | None = None
        self._report = report
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder} cannot be made ({error.strerror})") from None
        self._data: dict[str, str] = {}
        self._lock = FolderLock(self.folder)        # from `resume`, or the start of `fit`, to its end

    def resume(self, trainer: Trainer, saved: SavedTraining | None = None) -> None:
        """Set a trainer to the newest state in the folder (or to `saved`); `fit` then continues from it.

        Raises InputError when there is none, when its network, images, batch size or seed differ, when another training
        uses the folder, or has gone on from `saved`.
        """
        self._lock.acquire()
        if saved is None:
            saved = newest_checkpoint(self.folder, self._report)
        elif saved.path.parent == self.folder:              # read before the lock was there
            newest = newest_checkpoint(self.folder, lambda _: None).path
            if newest != saved.path:
                raise InputError(f"{newest} is newer than {saved.path.name}, which was read: resume again")
        _check_same_training(trainer, saved)
        self._data = saved.data
        try:
            trainer.load_state(saved.state)
        except InputError as error:
            raise InputError(shortened(f"{saved.path}: {error}")) from None
        self.last, self._saved_steps, self._saved_at = saved.path, _steps_done(trainer), time.monotonic()

    def lock(self) -> None:
        """Keep other trainings out of the folder, until `fit` ends or this object is gone.

        Raises InputError when another training runs in it.
        """
        self._lock.acquire()

    def check_unused(self) -> None:
        """InputError when the folder holds checkpoints: a new training must not mix them with its own."""
        if found := list_checkpoints(self.folder):
            raise InputError(f"{self.folder} holds the checkpoint {found[-1].name} of another training: resume "
                             "that, or choose another folder")

    def on_train_begin(self, trainer):
        self._handled = sys.exception()     # `fit` may run while an exception is handled
        self._lock.acquire()
        if self.last is None:
            self.check_unused()
            self.save(trainer)

    def on_batch_end(self, trainer):
        passed = _steps_done(trainer) - self._saved_steps
        due = self.steps and passed >= self.steps or time.monotonic() - self._saved_at >= 60 * self.minutes
        if due and passed:
            self._try_to_save(trainer)

    def on_epoch_end(self, trainer, result):
        self._try_to_save(trainer)

    def on_train_end(self, trainer):
        if sys.exception() is self._handled:        # after an exception, the state may be that of half a step
            self._try_to_save(trainer)
        self._lock.release()

    def _try_to_save(self, trainer):
        try:
            self.save(trainer)
        except InputError as error:
            self._report(f"{error}; training goes on without this checkpoint")

    def save(self, trainer: Trainer) -> None:
        """Write the state of a trainer if it is finite, and delete all files but the last two.

        Raises InputError when it cannot be written; existing files are then kept.
        """
        self._saved_steps, self._saved_at = _steps_done(trainer), time.monotonic()      # also after a failure
        state = trainer.state()
        if self.last is not None and self.last.name == checkpoint_name(state):
            return
        self._data = self._data or fingerprint(trainer.data) | origins(self.recipe)
        saved = SavedTraining(self.recipe, self._data, describe_layers(trainer.model.layers), state)
        self.last = write_checkpoint(self.folder, saved, [self.last] if self.last else []) or self.last


def _steps_done(trainer):
    return trainer.epochs * trainer.steps + trainer.step


class EarlyStopping(Callback):
    """Ends a training after `patience` epochs without improvement over `trainer.best`.

    With a validation part, the measure is the accuracy on it, otherwise the training loss.
    Raises InputError unless patience is a whole number of at least 1.
    """

    def __init__(self, patience: int):
        self.patience = whole_number("EarlyStopping", "patience", patience)

    def on_train_begin(self, trainer):
        self._stop_if_enough(trainer)

    def on_epoch_end(self, trainer, result):
        self._stop_if_enough(trainer)

    def _stop_if_enough(self, trainer):
        if trainer.best and trainer.epochs - trainer.best["epoch"] >= self.patience:
            trainer.stop()


class TimeLimit(Callback):
    """Ends a training after some seconds, counted from the construction.

    reached : whether it has ended the training
    """

    def __init__(self, seconds: float):
        self.reached, self._end = False, time.monotonic() + seconds

    def on_batch_end(self, trainer):
        if time.monotonic() >= self._end:
            self.reached = True
            trainer.stop()

    def on_epoch_end(self, trainer, result):
        self.on_batch_end(trainer)


def _check_same_training(trainer, saved):
    """InputError, which names the difference, when a checkpoint has another network or other images."""
    try:
        others = describe_layers(build_layers(saved.layers))        # adds arguments that are newer than the file
    except InputError as error:
        raise InputError(f"{saved.path}: {error}") from None
    for k, (mine, other) in enumerate(zip_longest(describe_layers(trainer.model.layers), others)):
        if mine != other:
            raise InputError(shortened(f"{saved.path} is a checkpoint of another network: its layer {k} is "
                                       f"{_difference(other, mine)}, expected {_difference(mine, other)}"))
    mine = fingerprint(trainer.data)
    for part in "training", "validation", "test":
        if saved.data.get(part) != mine.get(part):
            raise InputError(f"{saved.path} is a checkpoint of other {part} images than those of {trainer.data.name}")


def _difference(layer, other):
    """A layer's type, and those of its parameters that differ from another layer's."""
    params, others = (entry.get("params") if isinstance(entry, dict) else None for entry in (layer, other))
    if not isinstance(params, dict):
        return "none" if layer is None else repr(layer)
    odd = params.items() if not isinstance(others, dict) else (
        (name, value) for name, value in params.items() if name not in others or others[name] != value)
    return f"{layer.get('type')}({', '.join(f'{name}={value!r}' for name, value in odd)})"


def fingerprint(data: Dataset) -> dict[str, str]:
    """{part: hash of its images and labels}, with the normalisation in that of the training part."""
    parts = {"training": (data.train_images, data.train_labels, data.mean, data.std),
             "validation": (data.validation_images, data.validation_labels),
             "test": (data.test_images, data.test_labels)}
    return {part: _hash(map(np.asarray, arrays)) for part, arrays in parts.items() if arrays[0] is not None}


def _hash(arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype.str} ".encode())
        block = max(1, HASHED // max(1, array[:1].nbytes))
        for start in range(0, len(array), block):
            digest.update(np.ascontiguousarray(array[start:start + block]).data)
    return digest.hexdigest()
