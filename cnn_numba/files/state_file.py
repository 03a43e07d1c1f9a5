"""Files of a state dict alone: parameters and statistics without the network."""
import os
from typing import Any

import numpy as np

from cnn_numba.errors import InputError, naming
from cnn_numba.files import container
from cnn_numba.files.atomic import write
from cnn_numba.files.model_file import check_format
from cnn_numba.model import Sequential
from cnn_numba.parameter import float32_array

__all__ = ["load_state", "save"]

FORMAT = "cnn-numba state"
VERSION = 1


def save(what: Any, path: str | os.PathLike) -> None:
    """Write a `model.state_dict()`, or a model with its facts, to an .npz file, whole or not at all.

    Parameters
    ----------
    what : {name: array}, or Sequential
    path : path of the file

    Raises InputError when it is something else, or the file cannot be written.
    """
    if isinstance(what, Sequential):
        what.save(path)
        return
    if not isinstance(what, dict) or not all(isinstance(name, str) for name in what):
        raise InputError(f"save: expected a state_dict of a model, or a model, got {type(what).__name__}")
    arrays = {name: float32_array(f"save: {name!r}", value) for name, value in what.items()}
    write(path, container.pack({"format": FORMAT, "version": VERSION}, arrays))


def load_state(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read a state dict that `save` wrote, for `model.load_state_dict`; InputError for any other file."""
    description, state = container.read(path, "file of a state dict")
    with naming(str(path)):
        check_format(description, FORMAT, VERSION)
    return state
