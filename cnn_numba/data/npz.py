"""NumPy archives of images and labels, read so that a small file cannot take much memory or run code."""

import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO
from zipfile import ZipFile, ZipInfo

import numpy as np

from cnn_numba.data.reading import (
    Arrays,
    Keep,
    Progress,
    StrPath,
    as_pixels,
    checked_labels,
    file_state,
    first_line,
    keep_nothing,
    no_progress,
    shape_of_image,
)
from cnn_numba.errors import InputError

BLOCK = 1 << 20             # bytes of a member that are converted at once
LONGEST_HEADER = 10_000     # bytes; the header of a plain array has 128
UNPACKED = 1 << 26          # bytes to which every member may unpack;
RATIO = 200                 # a larger result may have this many times the member's size: pixels pack 2 to 20 times
# Exactly what NumPy writes for a plain array; the header is never evaluated as Python.
LAYOUT = re.compile(rb"\{'descr': '(?P<dtype>[<>|=](b1|[iu][1248]|f[248]|c8|c16|O|[SUV][0-9]{1,6}))', "
                    rb"'fortran_order': (?P<fortran>True|False), "
                    rb"'shape': \((?P<shape>([0-9]{1,18}, ?){0,32}[0-9]{0,18})\), ?\} *\n?")
CHANNELS = 1, 3, 4          # sizes of a last axis that holds colours


def read_npz(path: StrPath, image_shape: tuple[int, int, int] | None = None, keep: Keep = keep_nothing,
             progress: Progress = no_progress) -> dict[str, Arrays]:
    """Read x_train and y_train, x_test and y_test, or all four arrays of an .npz file; arrays are never unpickled.

    In the file, images may be (N, pixels), (N, H, W), (N, C, H, W) or (N, H, W, C).

    Parameters
    ----------
    path : path of the file
    image_shape : (C, H, W) of flat images; by default one channel and a square
    keep, progress : see `Format`

    Returns
    -------
    For "train", "test" or both: images (N, C, H, W), uint8 when all pixels are whole numbers from 0 to 255, else
    float32, and int64 labels (N,).

    Raises
    ------
    InputError : unreadable or corrupt file, a missing array, other shapes or types, numbers that are not finite.
    """
    path, parts = Path(path), {}
    with _opened(path) as members:
        for part in "train", "test":
            names = f"x_{part}", f"y_{part}"
            if members.keys() >= set(names):
                images, labels = (_Member(path, *members[name], name) for name in names)
                read = partial(_read, images, labels, image_shape, progress)
                parts[part] = keep(path, file_state(path), (part, image_shape), read)
            elif members.keys() & set(names):
                raise InputError(f"{path} holds {_list(members)}, expected {' and '.join(names)}")
        if not parts:
            raise InputError(f"{path} holds {_list(members)}, expected x_train, y_train, x_test and y_test")
    return parts


@contextmanager
def _opened(path: Path) -> Iterator[dict[str, tuple[ZipFile, ZipInfo]]]:
    """The members of an archive by name; the exceptions of a bad archive become InputError."""
    try:
        with ZipFile(path) as archive:
            yield {info.filename.removesuffix(".npy"): (archive, info) for info in archive.infolist()}
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None
    # A read past the end, a wrong checksum, an unknown version or method, a bad name, a bad offset.
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError,
            OverflowError, ValueError, IndexError) as error:
        raise InputError(f"{path} is a corrupt .npz file ({first_line(error)})") from None


def _read(images: "_Member", labels: "_Member", image_shape: tuple[int, int, int] | None, progress: Progress) -> Arrays:
    if images.dtype.kind not in "buif":
        raise InputError(f"{images.where} holds {images.kind}, expected numbers")
    if labels.dtype.kind not in "ui":
        raise InputError(f"{labels.where} holds {labels.kind}, expected whole numbers")
    if len(labels.shape) == 2 and labels.shape[1] == 1:
        labels.shape = labels.shape[:1]
    if len(labels.shape) != 1:
        raise InputError(f"{labels.where} has the shape {labels.shape}, expected one label per image")
    if not 2 <= len(images.shape) <= 4 or 0 in images.shape:
        raise InputError(f"{images.where} has the shape {images.shape}, expected (N, H, W), (N, C, H, W), "
                         "(N, H, W, C) or (N, pixels)")
    if labels.shape[0] != images.shape[0]:
        raise InputError(f"{labels.where} holds {labels.shape[0]} labels, but {images.where} "
                         f"{images.shape[0]} images")
    pixels = images.array(as_pixels, progress)
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise InputError(f"{images.where} holds NaN or infinity, expected finite numbers")
    if pixels.ndim == 2:
        pixels = pixels.reshape(-1, *shape_of_image(pixels.shape[1], image_shape, images.where))
    elif pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.shape[3] in CHANNELS and pixels.shape[1] not in CHANNELS:
        pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    if image_shape is not None and pixels.shape[1:] != tuple(image_shape):
        shapes = ["x".join(map(str, shape)) for shape in (pixels.shape[1:], image_shape)]
        raise InputError(f"{images.where} holds images of {shapes[0]}, but the image shape is {shapes[1]}")
    return pixels, checked_labels(labels.array(np.copy, progress), labels.where)


class _Member:
    """An array of an archive: the constructor reads its header, `array` its numbers."""

    def __init__(self, path: Path, archive: ZipFile, info: ZipInfo, name: str):
        self.where, self.archive, self.info = f"{name} of {path}", archive, info
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{self.where} is encrypted, or packed by a method that NumPy does not use")
        with archive.open(info) as stream:
            self.header = _header(stream, self.where)
        self.shape, self.fortran, self.dtype = _layout(self.header, self.where)
        promised, there = math.prod(self.shape) * self.dtype.itemsize, info.file_size - len(self.header)
        if self.dtype.kind != "O" and promised != there:
            raise InputError(f"{self.where} promises {promised} bytes ({' x '.join(map(str, self.shape))} of "
                             f"{self.dtype}), but has {there}")
        if info.file_size > max(UNPACKED, RATIO * min(info.compress_size, os.path.getsize(path))):
            raise InputError(f"{self.where} unpacks to more than {RATIO} times its size, which images do not do")

    @property
    def kind(self) -> str:
        return "pickled objects, which are never loaded" if self.dtype.kind == "O" else self.dtype.name

    def array(self, convert: Callable[[np.ndarray], np.ndarray], progress: Progress) -> np.ndarray:
        """The numbers, after `convert` was called on each block of them."""
        numbers = math.prod(self.shape)
        block = max(1, BLOCK // self.dtype.itemsize) * self.dtype.itemsize
        left, converted = numbers * self.dtype.itemsize, []
        with self.archive.open(self.info) as stream, progress(self.where, left) as advance:
            stream.read(len(self.header))
            while left:
                content = bytearray()
                while len(content) < min(block, left):
                    piece = stream.read(min(block, left) - len(content))
                    if not piece:
                        raise InputError(f"{self.where} ends {left - len(content)} bytes too early")
                    content += piece
                converted.append(convert(np.frombuffer(content, self.dtype)))
                left -= len(content)
                advance(len(content))
            stream.read(1)      # reading at the end verifies the checksum
        values = np.concatenate(converted)
        if self.fortran:
            return np.ascontiguousarray(values.reshape(self.shape[::-1]).T)
        return values.reshape(self.shape)


def _header(stream: IO[bytes], where: str) -> bytes:
    """The bytes of a .npy file before its numbers."""
    start = stream.read(12)
    version = start[6:7]
    before = 10 if version == b"\1" else 12
    length = before + int.from_bytes(start[8:before], "little")
    if start[:6] != b"\x93NUMPY" or version not in (b"\1", b"\2", b"\3") or len(start) < 12:
        raise InputError(f"{where} starts with the bytes '{start[:6].hex()}', expected a .npy file")
    if length > LONGEST_HEADER:
        raise InputError(f"{where} has a header of {length} bytes, expected at most {LONGEST_HEADER}")
    return start + stream.read(length - 12)


def _layout(header: bytes, where: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the order is Fortran's, and dtype."""
    text = header[10 if header[6:7] == b"\1" else 12:]
    fields = LAYOUT.fullmatch(text)
    if fields is None:
        excerpt = text[:100].decode("latin-1").strip()
        raise InputError(f"{where} has the header {excerpt!r}, expected the header of an array of numbers")
    shape = tuple(int(size) for size in fields["shape"].split(b",") if size.strip())
    return shape, fields["fortran"] == b"True", np.dtype(fields["dtype"].decode())


def _list(names: Iterable[str]) -> str:
    shown = ["".join(c if c.isprintable() else "?" for c in name) for name in sorted(names)]
    return (", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "")) or "nothing"
