"""NumPy's .npy files of images and labels, read so that a header cannot promise more than the file holds."""

import math
import os
import re
from pathlib import Path
from typing import IO, Any

import numpy as np

from cnn_numba.data.on_disk import LEAST_BYTES, ImagesOnDisk
from cnn_numba.data.reading import Content, Progress, StrPath, as_labels, as_pixels, in_channels, no_progress
from cnn_numba.errors import InputError
from cnn_numba.files.opening import open_regular

LONGEST_HEADER = 10_000     # bytes; the header of a plain array has 128
# Exactly what NumPy writes for a plain array; the header is never evaluated as Python.
LAYOUT = re.compile(rb"\{'descr': '(?P<dtype>[<>|=](b1|[iu][1248]|f[248]|c8|c16|O|[SUV][0-9]{1,6}))', "
                    rb"'fortran_order': (?P<fortran>True|False), "
                    rb"'shape': \((?P<shape>([0-9]{1,18}, ?){0,32}[0-9]{0,18})\), ?\} *\n?")


def read_npy(path: StrPath, labels_path: StrPath | None = None, image_shape: tuple[int, int, int] | None = None,
             image_layout: str | None = None, labelled: bool = True, like: tuple[int, int, int] | None = None,
             progress: Progress = no_progress) -> Content:
    """Read a .npy file of images, shaped as in an .npz file, and another one of their labels.

    The images of a large file of uint8 or float32 stay in it: see `on_disk`.

    Parameters
    ----------
    path, labels_path : paths of the files
    image_shape, image_layout : see `in_channels`
    labelled : whether labels are required; without them the result is (images, None)
    like : (C, H, W) that the images probably have
    progress : see `Format`

    Raises
    ------
    InputError : unreadable or corrupt file, no file of labels, other shapes or types, numbers that are not finite.
    """
    if labels_path is None and labelled:
        raise InputError(f"{path} holds images only: give the file of their labels after it")
    images = on_disk(Path(path), image_shape, image_layout, like)
    if images is not None:
        return images, labels_of(images, labels_path, path, progress)
    images = read_array(Path(path), progress)
    if images.dtype.kind not in "buif":
        raise InputError(f"{path} holds {images.dtype.name}, expected numbers")
    pixels = in_channels(finite_pixels(images, str(path)), image_shape, image_layout, str(path), like)
    return pixels, labels_of(pixels, labels_path, path, progress)


def labels_of(images: Any, labels_path: StrPath | None, path: StrPath, progress: Progress) -> Any:
    """The labels of images in another file, if there is one; InputError when it holds more or fewer."""
    if labels_path is None:
        return None
    labels = as_labels(read_array(Path(labels_path), progress), str(labels_path))
    if len(labels) != len(images):
        raise InputError(f"{labels_path} holds {len(labels)} labels, but {path} holds {len(images)} images")
    return labels


def on_disk(path: Path, image_shape: tuple[int, int, int] | None, image_layout: str | None,
            like: tuple[int, int, int] | None) -> Any:
    """The images of a large file of uint8 or float32, as `ImagesOnDisk`; None for any other file.

    Arguments and errors are those of `read_npy`.
    """
    try:
        if path.stat().st_size < LEAST_BYTES or not hasattr(os, "preadv"):
            return None
        with open_regular(path) as file:
            header = read_header(file, str(path))
            shape, fortran, dtype = checked_layout(header, path, os.fstat(file.fileno()).st_size)
        if fortran or dtype not in (np.uint8, np.float32):
            return None
        # One image whose pixels are numbered shows where `in_channels` moves them.
        numbers = np.arange(math.prod(shape[1:])).reshape(1, *shape[1:])
        image = in_channels(numbers, image_shape, image_layout, str(path), like)[0]
        moved = bool((np.diff(image.ravel()) != 1).any())
        stored = (*image.shape[1:], image.shape[0]) if moved else image.shape
        images = ImagesOnDisk(path, len(header), dtype, shape[0], stored, moved)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    if dtype.kind == "f" and not all(np.isfinite(block).all() for block in images.blocks()):
        raise InputError(f"{path} holds NaN or infinity, expected finite numbers")
    return images


def finite_pixels(values: np.ndarray, where: str) -> np.ndarray:
    """The numbers as uint8 or float32; InputError when one is not finite."""
    pixels = as_pixels(values)
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise InputError(f"{where} holds NaN or infinity, expected finite numbers")
    return pixels


def read_array(path: Path, progress: Progress) -> np.ndarray:
    """The array of a .npy file; InputError when the file is bad, or holds pickled objects, which are never loaded."""
    try:
        with open_regular(path) as file:
            header = read_header(file, str(path))
            shape, fortran, dtype = checked_layout(header, path, os.fstat(file.fileno()).st_size)
            there = math.prod(shape) * dtype.itemsize
            with progress(path.name, there) as advance:
                content = file.read(there)
                advance(there)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    if len(content) != there:
        raise InputError(f"{path} ends {there - len(content)} bytes too early")
    values = np.frombuffer(content, dtype)
    return values.reshape(shape[::-1]).T if fortran else values.reshape(shape)


def checked_layout(header: bytes, path: Path, size: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    """`layout_of` a file of `size` bytes; InputError unless that is what the header promises."""
    shape, fortran, dtype = layout_of(header, str(path))
    if dtype.kind == "O":
        raise InputError(f"{path} holds pickled objects, which are never loaded")
    promised, there = math.prod(shape) * dtype.itemsize, size - len(header)
    if promised != there or not promised:
        raise InputError(f"{path} promises {promised} bytes ({' x '.join(map(str, shape))} of {dtype}), but has "
                         f"{there}")
    return shape, fortran, dtype


def read_header(stream: IO[bytes], where: str) -> bytes:
    """The bytes of a .npy file before its numbers."""
    start = stream.read(12)
    version = start[6:7]
    before = 10 if version == b"\1" else 12
    length = before + int.from_bytes(start[8:before], "little")
    if start[:6] != b"\x93NUMPY" or version not in (b"\1", b"\2", b"\3") or len(start) < 12:
        raise InputError(f"{where} starts with the bytes '{start[:6].hex()}', expected a .npy file")
    if length > LONGEST_HEADER:
        raise InputError(f"{where} has a header of {length} bytes, expected at most {LONGEST_HEADER}")
    return start + stream.read(max(0, length - 12))


def layout_of(header: bytes, where: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the order is Fortran's, and dtype."""
    text = header[10 if header[6:7] == b"\1" else 12:]
    fields = LAYOUT.fullmatch(text)
    if fields is None:
        excerpt = text[:100].decode("latin-1").strip()
        raise InputError(f"{where} has the header {excerpt!r}, expected the header of an array of numbers")
    shape = tuple(int(size) for size in fields["shape"].split(b",") if size.strip())
    return shape, fields["fortran"] == b"True", np.dtype(fields["dtype"].decode())
