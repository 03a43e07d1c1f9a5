"""Arrays that took long to read, kept as uncompressed .npy files until their sources change."""

import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cnn_numba.data.reading import Arrays, StrPath
from cnn_numba.errors import InputError
from cnn_numba.files.atomic import writing

SECONDS = 1         # arrays that took longer to read are kept
KINDS = "images", "labels"
VERSION = 2         # of the kept arrays; it changes when the same file gives other arrays


def cached(root: StrPath, path: StrPath, state: object, options: object, read: Callable[[], Arrays]) -> Arrays:
    """What `read()` returns, or what it returned earlier for the same arguments.

    Kept files that are damaged are ignored, and a folder that cannot be written keeps nothing.

    Parameters
    ----------
    root : the data folder; arrays are kept in its folder `arrays`
    path : the file or folder that is read
    state : value that changes when the file or folder does, such as its size and time of modification
    options : everything else that the arrays depend on
    read : function that returns images (N, C, H, W) and labels (N,), int64 or names
    """
    path = Path(path).resolve()
    folder = Path(root) / "arrays"
    origin = f"{re.sub(r'[^A-Za-z0-9_.-]', '_', path.name)[:50]}-{_hash(VERSION, str(path), options)}"
    images_path, labels_path = (folder / f"{origin}-{_hash(state)}-{kind}.npy" for kind in KINDS)
    if kept := _load(images_path, labels_path):
        return kept
    start = time.perf_counter()
    arrays = read()
    if time.perf_counter() - start > SECONDS:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.glob(f"{origin}-*.npy"):
                old.unlink()
            for array, target in zip(arrays, (images_path, labels_path), strict=True):
                _save(array, target)
        except (OSError, InputError):       # the next run reads the source again
            pass
    return arrays


def _hash(*values: object) -> str:
    return hashlib.sha256(repr(values).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _load(images_path: Path, labels_path: Path) -> Arrays | None:
    try:
        # Mapped first, so that a header that promises more than the file holds is refused before it takes memory.
        images, labels = (np.load(path, mmap_mode="r") for path in (images_path, labels_path))
    except (OSError, ValueError, EOFError):
        return None
    whole = images.ndim == 4 and labels.ndim == 1 and len(images) == len(labels) > 0
    return (np.array(images), np.array(labels)) if whole and labels.dtype.kind in "iU" else None


def _save(array: np.ndarray, target: Path) -> None:
    with writing(target) as file:
        # np.save writes past Python's file and does not notice a full disk.
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(np.ascontiguousarray(array).data)
