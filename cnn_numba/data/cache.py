"""Arrays that took long to read, kept as uncompressed .npy files until their sources change."""

import hashlib
import os
import re
import time
from pathlib import Path

import numpy as np

SECONDS = 1         # reading that takes longer is kept
KINDS = "images", "labels"
FORMAT = 1          # of the kept arrays: another number for another meaning of the same files


def cached(root, path, state, options, read):
    """The images and labels that `read()` gives, or that it gave earlier for the same arguments.

    A damaged pair of kept files is as good as none, and so is a folder that cannot be written.

    Parameters
    ----------
    root : Path of the folder of data sets; arrays are kept in `arrays` below it
    path : path of the file or folder that is read
    state : what changes when a file does, such as names, sizes and times of modification
    options : whatever else the arrays depend on
    read : function that gives images (N, C, H, W) and labels (N,), or None for a part that is not there
    """
    path = Path(path).resolve()
    folder = Path(root) / "arrays"
    origin = f"{re.sub(r'[^A-Za-z0-9_.-]', '_', path.name)[:50]}-{_hash(FORMAT, str(path), options)}"
    images_path, labels_path = (folder / f"{origin}-{_hash(state)}-{kind}.npy" for kind in KINDS)
    if kept := _load(images_path, labels_path):
        return kept
    start = time.perf_counter()
    arrays = read()
    if arrays is not None and time.perf_counter() - start > SECONDS:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.glob(f"{origin}-*.npy"):
                old.unlink()
            for array, target in zip(arrays, (images_path, labels_path), strict=True):
                _save(array, target)
        except OSError:     # the next run reads the files again
            pass
    return arrays


def _hash(*values):
    return hashlib.sha256(repr(values).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _load(images_path, labels_path):
    try:
        # Mapped first: a header that promises more than there is is then refused before memory is taken.
        images, labels = (np.load(path, mmap_mode="r") for path in (images_path, labels_path))
    except (OSError, ValueError, EOFError):
        return None
    whole = images.ndim == 4 and labels.ndim == 1 and len(images) == len(labels) > 0
    return (np.array(images), np.array(labels)) if whole and labels.dtype == np.int64 else None


def _save(array, target):
    part = target.with_suffix(f".{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            # Not by np.save, which writes past Python's file and does not hear that the disk is full.
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
            file.write(np.ascontiguousarray(array).data)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
