"""Checkpoints of a training: a folder with its last two states, from which it continues to the same bits."""
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnn_numba import __version__
from cnn_numba.errors import InputError
from cnn_numba.files import container
from cnn_numba.files.atomic import delete_stale_parts, write
from cnn_numba.files.opening import content_of

FORMAT = "cnn-numba checkpoint"
VERSION = 4             # 2: before the history and the recipe; 3: a fingerprint of the training images only
KIND = "checkpoint"
ORIGINS = "model", "weights"            # settings of a recipe that may name files
NAME = re.compile(r"checkpoint-(\d{1,18})-(\d{1,18})\.npz")       # epochs done, steps done of the next epoch


@dataclass(frozen=True)
class SavedTraining:
    """What a checkpoint holds.

    recipe : the recipe of the command line, as JSON values; empty for a training by another program
    data : {what a training depends on: its fingerprint}
    layers : as from `describe_layers`
    state : as from `Trainer.state`
    path : the file that it was read from
    """

    recipe: dict[str, Any]
    data: dict[str, str]
    layers: list
    state: dict[str, Any]
    path: Path = Path()


def read_checkpoint(path: str | Path) -> SavedTraining:
    """Read one file; InputError when it is damaged or not a checkpoint.  Code in it is never executed."""
    description, arrays = container.read(path, KIND)
    version = description.get("version")
    if description.get("format") != FORMAT:
        raise InputError(f"{path} is not a {FORMAT}")
    if version != VERSION or isinstance(version, bool):
        raise InputError(f"{path} is a {FORMAT} of version {str(version)[:20]}, and this program reads version "
                         f"{VERSION} only")
    parts: list[Any] = [description.get(name) for name in ("recipe", "data", "layers", "state")]
    if not all(isinstance(part, kind) for part, kind in zip(parts, (dict, dict, list, dict), strict=True)):
        raise InputError(f"{path} is not a {FORMAT}: its description lacks a part")
    recipe, data, layers, state = parts
    return SavedTraining(recipe, data, layers, {**state, **arrays}, Path(path))


def list_checkpoints(folder: str | Path) -> list[Path]:
    """The checkpoint files of a folder, newest last; InputError when it cannot be read."""
    try:
        names = [NAME.fullmatch(name) for name in os.listdir(folder)]
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror})") from None
    return [Path(folder) / m[0] for m in sorted(filter(None, names), key=lambda m: (int(m[1]), int(m[2])))]


def newest_checkpoint(folder: str | Path, report: Callable[[str], object]) -> SavedTraining:
    """The newest intact checkpoint of a folder.

    Parameters
    ----------
    folder : path
    report : callable
        Called with a line of text for each damaged file.

    Returns
    -------
    SavedTraining

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
    raise InputError(f"{why}, and no earlier checkpoint is intact")


def checkpoint_name(state: dict[str, Any]) -> str:
    """The name of the file for a state."""
    return f"checkpoint-{state['epochs']:06d}-{state['step']:08d}.npz"


def write_checkpoint(folder: Path, training: SavedTraining, keep: Iterable[Path] = ()) -> Path | None:
    """Write a state to a folder, and delete all older files except those in `keep`.

    Returns the path of the file; None for a state that is not finite, from which no training could continue.
    Raises InputError when the file cannot be written; existing files are then kept.
    """
    state = training.state
    path = folder / checkpoint_name(state)
    arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
    if not all(np.isfinite(part).all() for part in (state["sums"], state["norms"] or 0, *arrays.values())):
        return None
    description = {"format": FORMAT, "version": VERSION, "library": __version__, "recipe": training.recipe,
                   "data": training.data, "layers": training.layers,
                   "state": {name: value for name, value in state.items() if name not in arrays}}
    write(path, container.pack(description, arrays))
    paths = list_checkpoints(folder)
    _delete(set(paths[:paths.index(path)]) - set(keep))
    delete_stale_parts(folder, seconds=0)       # only one training writes here
    return path


def origins(recipe: Mapping[str, Any]) -> dict[str, str]:
    """{setting: hash of the file that it names} for what a training of the command line began with, where it is there.

    The layers and weights of a checkpoint no longer depend on these files, whose places may change.
    """
    paths = {name: recipe.get(name) for name in ORIGINS}
    return {name: content_of(path) for name, path in paths.items() if isinstance(path, str) and os.path.isfile(path)}


def _delete(paths):
    for path in paths:
        with suppress(OSError):         # one file too many does no harm
            path.unlink()
