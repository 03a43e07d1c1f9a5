"""The log of a training: a file with one JSON object in each line."""
import json
import math
import os
from datetime import datetime

from cnn_numba.errors import InputError
from cnn_numba.files.opening import kind_of


class RunLog:
    """Appends lines to a file.

    Parameters
    ----------
    path : path of the file; an existing file, such as that of a resumed training, keeps its lines

    Raises InputError, here and in `write`, when the file cannot be written.
    """

    def __init__(self, path):
        self.path = path
        _check_kind(path)
        self._append(b"")                       # fail before the training, not after it

    def write(self, **fields):
        """Append {"time": local time with its offset from UTC, **fields}, and hand it to the operating system.

        Values may be NumPy's; NaN and infinity, which JSON lacks, become null.
        """
        line = {"time": datetime.now().astimezone().isoformat(timespec="seconds")} | fields
        self._append(json.dumps(_strict(line), allow_nan=False).encode() + b"\n")

    def _append(self, line):
        try:
            if line and os.path.isfile(self.path) and not _ends_in_newline(self.path):
                line = b"\n" + line             # a killed process or a full disk left part of a line
            with open(self.path, "ab") as file:
                file.write(line)
        except OSError as error:
            raise InputError(f"{self.path} cannot be written ({error.strerror})") from None


def _check_kind(path):
    """InputError unless a file is missing, empty, or begins as a log does."""
    try:
        if kind := kind_of(path):
            raise InputError(f"{path} cannot be written: it is {kind}, not a file")
        with open(path, "rb") as file:
            if file.read(1) not in (b"", b"{"):
                raise InputError(f"{path} is there and is not a log: choose another name")
    except OSError:
        pass                                    # what is wrong is said when it is written


def _ends_in_newline(path):
    """Whether the file is empty or its last line is complete."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read() in (b"", b"\n")


def _strict(value):
    """The value in a form that JSON can express."""
    if isinstance(value, dict):
        return {name: _strict(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(inner) for inner in value]
    if hasattr(value, "tolist"):
        return _strict(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
