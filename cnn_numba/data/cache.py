"""Arrays that took long to read, kept as uncompressed .npy files until their sources change.

A checksum follows the array, which NumPy's own reader does not look at.
"""

import hashlib
import io
import math
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from cnn_numba.data.npy import layout_of, read_header
from cnn_numba.data.reading import Arrays, StrPath, as_labels
from cnn_numba.errors import InputError
from cnn_numba.files.atomic import delete_stale_parts, writing
from cnn_numba.files.opening import open_regular

NO_FOLDER = Path(os.devnull)         # a data folder that holds nothing, and in which nothing is kept
SECONDS = 1         # arrays that took longer to read are kept
KINDS = "images", "labels"
VERSION = 3         # of the kept arrays; it changes when the same file gives other arrays
DIGEST = 32         # bytes of SHA-256 over all before them


def cached(root: StrPath, path: StrPath, state: object, options: object, read: Callable[[], Arrays]) -> Arrays:
    """What `read()` returns, or what it returned earlier for the same arguments.

    Kept files that are damaged are ignored, and a folder that cannot be written keeps nothing.

    Parameters
    ----------
    root : the data folder; arrays are kept in its folder `arrays`
    path : the file or folder that is read
    state : value that changes when the file or folder does, such as the checksum of its content
    options : everything else that the arrays depend on
    read : function that returns images (N, C, H, W) and labels (N,), int64 or names
    """
    path = Path(path).resolve()
    folder = Path(root) / "arrays"
    origin = f"{re.sub(r'[^A-Za-z0-9_.-]', '_', path.name)[:50]}-{_hash(VERSION, str(path), options)}"
    images_path, labels_path = (folder / f"{origin}-{_hash(state)}-{kind}.npy" for kind in KINDS)
    if kept := read_kept(images_path, labels_path):
        return kept
    start = time.perf_counter()
    arrays = read()
    if time.perf_counter() - start > SECONDS:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            delete_stale_parts(folder)
            for old in folder.glob(f"{origin}-*.npy"):
                old.unlink()
            for array, target in zip(arrays, (images_path, labels_path), strict=True):
                save_kept(array, target)
        except (OSError, InputError):       # the next run reads the source again
            pass
    return arrays


def _hash(*values: object) -> str:
    return hashlib.sha256(repr(values).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read_kept(images_path: Path, labels_path: Path) -> Arrays | None:
    """Images (N, C, H, W), uint8 or float32, and labels (N,); None unless the two files hold what a reader gives."""
    with suppress(OSError, InputError):
        images, labels = _load(images_path), as_labels(_load(labels_path), str(labels_path))
        if images.ndim == 4 and images.dtype in (np.uint8, np.float32) and len(images) == len(labels) and (
                images.dtype == np.uint8 or np.isfinite(images).all()):
            return images, labels
    return None


def _load(path: Path) -> np.ndarray:
    """The array in a file; InputError when it is damaged.  It takes no more memory than the file has bytes."""
    with open_regular(path) as file:
        header = read_header(file, str(path))
        shape, fortran, dtype = layout_of(header, str(path))
        size = math.prod(shape) * dtype.itemsize
        if not size or len(header) + size + DIGEST != os.fstat(file.fileno()).st_size or fortran or dtype.hasobject:
            raise InputError(f"{path} is not a kept array")
        content = bytearray(size)
        whole = file.readinto(content) == size and _digest(header, content) == file.read()
    if not whole:
        raise InputError(f"{path} is damaged")
    return np.frombuffer(content, dtype).reshape(shape)


def save_kept(array: np.ndarray, target: Path) -> None:
    """Write an array so that `read_kept` accepts it."""
    array = np.ascontiguousarray(array)
    with writing(target) as file:
        # np.save writes past Python's file and does not notice a full disk.
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
        for part in header.getvalue(), array.data, _digest(header.getvalue(), array.data):
            file.write(part)


def _digest(header: bytes, content: bytes | bytearray | memoryview) -> bytes:
    digest = hashlib.sha256(header)
    digest.update(content)
    return digest.digest()
