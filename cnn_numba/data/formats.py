"""The table of file formats, which a program can extend."""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from cnn_numba.data.csvfile import read_csv
from cnn_numba.data.folder import read_folder
from cnn_numba.data.idx import read_idx_files
from cnn_numba.data.npy import read_npy
from cnn_numba.data.npz import read_npz
from cnn_numba.data.parquet import read_parquet
from cnn_numba.data.reading import Content
from cnn_numba.errors import InputError

OPTIONS = ("image_shape", "image_layout", "image_size", "label_column", "skip_broken", "labels_path", "like",
           "labelled", "keep", "progress", "report", "note")


@dataclass(frozen=True)
class Format:
    """A format of files or folders for `load_dataset`; `register_format` makes it known.

    A format of your own is one file:

        import numpy as np
        from cnn_numba.commands.main import main
        from cnn_numba.data import Format, register_format

        def read(path):                         # bytes: a label and 28 x 28 pixels for each image
            rows = np.fromfile(path, np.uint8).reshape(-1, 785)
            return rows[:, 1:].reshape(-1, 1, 28, 28), rows[:, 0]

        register_format(Format("bytes", ("*.bytes",), read))
        if __name__ == "__main__":              # python bytes_format.py --dataset my.bytes
            raise SystemExit(main())

    Parameters
    ----------
    name : str
        What error messages call the format.
    patterns : tuple of str
        Shell patterns of the file names, in lower case, such as ("*.csv", "*.csv.gz").  The name of a folder
        ends in "/": ("*.zarr/",).
    read : callable
        `read(path, **options)` gets a Path and returns (images, labels), or for a file with several parts
        {"train": (images, labels), "test": (images, labels)}, where "validation" is a third part.
        Images are numbers (N, C, H, W): uint8 and float32 are used as they are, others are converted.  Labels (N,)
        are whole numbers from 0 to 9999, or strings, the names of the classes.  `read` raises InputError when the
        file is bad.
    options : tuple of str
        The keyword arguments that `read` takes.  `load_dataset` passes these:

        image_shape : (C, H, W) that the user chose, else None
        image_layout : "CHW" or "HWC" that the user chose for images of several channels, else None
        image_size : (rows, columns) that the user chose, else None
        label_column : name of a column, or its number from 1, that the user chose, else None
        skip_broken : whether the user wants broken files to be left out
        labels_path : the second of two paths, else None
        like : (C, H, W) of the training part when `path` is its test part, or of the images of a model, else None
        labelled : whether labels are required; a reader that takes this option may return None for them otherwise
        keep : keep(path, state, options, read) returns `read()`, or what it returned in an earlier run with the same
            arguments; only arrays that took longer than a second are kept
        progress : progress(name, total) gives a context manager, which gives a function(amount) to call whenever
            `read` has read that amount of the total
        report : report(sentence) says what was left out, or what may be a mistake
        note : note(text) says how the file was read

    Raises
    ------
    InputError : patterns that are not a tuple, or an unknown option.
    """

    name: str
    patterns: tuple[str, ...]
    read: Callable[..., Content]
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.patterns, str):
            raise InputError(f"Format {self.name}: patterns must be a tuple of strings, got {self.patterns!r}")
        if unknown := [option for option in self.options if option not in OPTIONS]:
            raise InputError(f"Format {self.name}: options must be some of {', '.join(OPTIONS)}, got {unknown[0]!r}")


ARRAYS = "image_shape", "image_layout", "labelled", "like"
IDX = Format("IDX", ("*idx[1-9]*", "*.idx", "*.idx.gz", "*-ubyte", "*-ubyte.gz"), read_idx_files,
             (*ARRAYS, "labels_path"))
NPY = Format("NPY", ("*.npy",), read_npy, (*ARRAYS, "labels_path", "progress"))
FOLDER = Format("image folder", ("*/",), read_folder, (
    "image_size", "like", "skip_broken", "keep", "progress", "report", "note"))
FORMATS = [
    FOLDER,
    Format("CSV", ("*.csv", "*.csv.gz", "*.tsv", "*.tsv.gz"), read_csv, (
        *ARRAYS, "label_column", "keep", "progress", "report", "note")),
    Format("NPZ", ("*.npz",), read_npz, (*ARRAYS, "keep", "progress", "note")),
    NPY,
    IDX,
    Format("Parquet", ("*.parquet",), read_parquet, (
        *ARRAYS, "image_size", "label_column", "skip_broken", "keep", "progress", "report", "note")),
]


def register_format(format: Format) -> None:
    """Make `load_dataset` and the command line read a format; it has precedence over all earlier ones."""
    FORMATS.insert(0, format)


def format_of(path: Path) -> Format:
    """The format of a file or folder by its name; raises InputError when no pattern matches."""
    name = path.name.lower() + "/" * path.is_dir()
    for format in FORMATS:
        if any(fnmatchcase(name, pattern) for pattern in format.patterns):
            return format
    known = ", ".join(f"{format.name} ({', '.join(format.patterns)})" for format in FORMATS)
    raise InputError(f"{path} is not a data set, expected one of the formats {known}")
