"""Checkpoints of a training: a folder with its last two states, from which it goes on to the same bits."""
import hashlib
import math
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnn_numba import __version__
from cnn_numba.errors import InputError, shortened
from cnn_numba.files import container

FORMAT = "cnn-numba checkpoint"
VERSION = 2             # 1: before schedules, validation and best weights
KIND = "checkpoint"
NAME = re.compile(r"checkpoint-(\d{1,18})-(\d{1,18})\.npz")       # epochs, steps of the one after
PART = re.compile(r"\.checkpoint-\d+-\d+\.npz\.\d+\.part")      # what a killed process was writing


@dataclass(frozen=True)
class Checkpoint:
    """A file that was read.

    settings : what the caller of `Checkpoints` stored
    data : fingerprint of the training images
    layers : as `describe_layers` gives them
    state : as `Trainer.state` gives it
    """

    path: Path
    settings: dict
    data: str
    layers: list
    state: dict


def read_checkpoint(path):
    """Read one file; InputError when it is damaged or no checkpoint.  Nothing in it is ever executed."""
    description, arrays = container.read(path, KIND)
    version = description.get("version")
    if description.get("format") != FORMAT or version != VERSION or isinstance(version, bool):
        raise InputError(f"{path} is no {FORMAT} of version {VERSION}")
    parts = [description.get(name) for name in ("settings", "data", "layers", "state")]
    if not all(isinstance(part, kind) for part, kind in zip(parts, (dict, str, list, dict), strict=True)):
        raise InputError(f"{path} is no {FORMAT}: its description lacks a part")
    return Checkpoint(Path(path), *parts[:3], {**parts[3], **arrays})


def list_checkpoints(folder):
    """The checkpoint files of a folder, the newest last; InputError when it cannot be read."""
    try:
        names = [NAME.fullmatch(name) for name in os.listdir(folder)]
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror})") from None
    return [Path(folder) / m[0] for m in sorted(filter(None, names), key=lambda m: (int(m[1]), int(m[2])))]


def newest_checkpoint(folder, report=print):
    """The newest checkpoint of a folder that is whole.

    Parameters
    ----------
    folder : path
    report : callable
        Gets a line for each damaged file.

    Returns
    -------
    Checkpoint

    Raises InputError when there is none.
    """
    paths = list_checkpoints(folder)
    if not paths:
        raise InputError(f"{folder} holds no checkpoint")
    for path in reversed(paths):
        try:
            return read_checkpoint(path)
        except InputError as error:
            why = error
            if path != paths[0]:
                report(f"{error}; trying the one before")
    raise InputError(f"{why}, and there is no whole one before")


class Checkpoints:
    """Writes the states of a trainer to a folder and keeps the last two.

    Parameters
    ----------
    folder : path, made when it is missing
    trainer : Trainer
    settings : dict of JSON values, optional
        Kept in every file, for whoever starts the program again.
    minutes, steps : number, optional
        `save_if_due` saves when one of them has passed since the last file.

    Raises InputError when the folder cannot be made.
    """

    def __init__(self, folder, trainer, settings=None, minutes=10, steps=None):
        from cnn_numba.files.layers_json import describe_layers

        self.folder, self.trainer, self.settings, self.minutes, self.steps = (
            Path(folder), trainer, settings or {}, minutes, steps)
        self._layers, self._data = describe_layers(trainer.model.layers), fingerprint(trainer.data)
        self.last = None                            # Path of the last file that is whole
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder} cannot be made ({error.strerror})") from None

    def start(self):
        """Write the first file; InputError when that fails, or the folder holds those of another training."""
        if found := list_checkpoints(self.folder):
            raise InputError(f"{self.folder} holds the checkpoint {found[-1].name} of another training: resume that, "
                             "or choose another folder")
        self.save()

    def resume(self, checkpoint):
        """Set the trainer to a state, after which it goes on in this folder.

        Raises InputError when that was another network, other images, or another batch size or seed.
        """
        from cnn_numba.files.layers_json import build_layers, describe_layers

        try:
            others = describe_layers(build_layers(checkpoint.layers))   # with the arguments that are new since then
        except InputError as error:
            raise InputError(f"{checkpoint.path}: {error}") from None
        for k in range(max(len(self._layers), len(others))):
            mine, other = ((layers[k:] or [None])[0] for layers in (self._layers, others))
            if mine != other:
                raise InputError(shortened(f"{checkpoint.path} is of another network: its layer {k} is "
                                           f"{_text(other, mine)}, expected {_text(mine, other)}"))
        if checkpoint.data != self._data:
            raise InputError(f"{checkpoint.path} is of other training images than those of {self.trainer.data.name}")
        try:
            self.trainer.load_state(checkpoint.state)
        except InputError as error:
            raise InputError(shortened(f"{checkpoint.path}: {error}")) from None
        self._note(checkpoint.path)

    def save_if_due(self):
        """Save when the minutes or steps have passed; whether it did."""
        passed = self._steps_done() - self._saved_steps
        due = self.steps and passed >= self.steps or time.monotonic() - self._saved_at >= 60 * self.minutes
        if not due or not passed:
            return False
        self.save()
        return True

    def save(self):
        """Write the state of the trainer, and delete all but the last two files.

        Raises InputError when it cannot be written; the files that are there then stay.  A state that is no longer
        finite, with which nobody could go on, is not written.
        """
        state = self.trainer.state()
        path = self.folder / f"checkpoint-{state['epochs']:06d}-{state['step']:08d}.npz"
        arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
        self._saved_steps, self._saved_at = self._steps_done(), time.monotonic()     # after a failure, too
        if path == self.last or not all(np.isfinite(part).all() for part in (
                state["sums"], state["norms"] or 0, *arrays.values())):
            return
        description = {"format": FORMAT, "version": VERSION, "library": __version__, "settings": self.settings,
                       "data": self._data, "layers": self._layers,
                       "state": {name: value for name, value in state.items() if name not in arrays}}
        container.write(path, container.pack(description, arrays))
        before, self.last = self.last, path
        paths = list_checkpoints(self.folder)
        self._delete(set(paths[:paths.index(path)]) - {before})
        self._delete(self.folder / name for name in os.listdir(self.folder) if PART.fullmatch(name))

    @staticmethod
    def _delete(paths):
        for path in paths:
            with suppress(OSError):         # one file too many does no harm
                path.unlink()

    def _note(self, path):
        self.last, self._saved_steps, self._saved_at = path, self._steps_done(), time.monotonic()

    def _steps_done(self):
        trainer = self.trainer
        return trainer.epochs * math.ceil(len(trainer.data.train_images) / trainer.batch_size) + trainer.step


def _text(layer, other):
    """A layer's type, and those of its parameters that another one does not have."""
    params, others = (entry.get("params") if isinstance(entry, dict) else None for entry in (layer, other))
    if not isinstance(params, dict):
        return "none" if layer is None else repr(layer)
    odd = params.items() if not isinstance(others, dict) else (
        (name, value) for name, value in params.items() if name not in others or others[name] != value)
    return f"{layer.get('type')}({', '.join(f'{name}={value!r}' for name, value in odd)})"


def fingerprint(data):
    """A hash of the images and labels of the training part."""
    digest = hashlib.sha256()
    for array in data.train_images, data.train_labels:
        digest.update(f"{array.shape} {array.dtype.str} ".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
