"""NumPy archives of images and labels, read so that a small file cannot take much memory or run code."""

import math
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import numpy as np

from cnn_numba.data.npy import layout_of, read_header
from cnn_numba.data.parts import pairs
from cnn_numba.data.reading import (
    Arrays,
    Keep,
    Progress,
    Say,
    StrPath,
    as_labels,
    as_pixels,
    first_line,
    in_channels,
    keep_nothing,
    no_progress,
    say_nothing,
    shape_text,
)
from cnn_numba.errors import InputError
from cnn_numba.files.opening import open_regular

BLOCK = 1 << 20             # bytes of a member that are converted at once
UNPACKED = 1 << 26          # bytes to which every member may unpack;
RATIO = 200                 # a larger result may have this many times the member's size: pixels pack 2 to 20 times


def read_npz(path: StrPath, image_shape: tuple[int, int, int] | None = None, image_layout: str | None = None,
             labelled: bool = True, like: tuple[int, int, int] | None = None,
             keep: Keep = keep_nothing, progress: Progress = no_progress, note: Say = say_nothing) -> dict[str, Arrays]:
    """Read the images and labels of an .npz file, of all parts that it has; arrays are never unpickled.

    The arrays are called as in `data.parts`: x_train and y_train, train_images and train_labels, images and labels, ...
    Images may be (N, pixels), (N, H, W), (N, C, H, W) or (N, H, W, C), and labels as in `as_labels`.

    Parameters
    ----------
    path : path of the file
    image_shape, image_layout : see `in_channels`
    labelled : whether labels are required; without them, a part is (images, None)
    like : (C, H, W) that the images probably have
    keep, progress, note : see `Format`

    Returns
    -------
    For "train", "validation", "test" or several: images (N, C, H, W), uint8 when all pixels are whole numbers from 0
    to 255, else float32, and labels (N,), int64 or names.  Arrays that belong to no part are "train".

    Raises
    ------
    InputError : unreadable or corrupt file, a missing array, other shapes or types, numbers that are not finite.
    """
    path, parts = Path(path), {}
    with _opened(path) as members:
        found = list(pairs(members, str(path)))
        if len(found) > 1 and not found[0][0]:
            raise InputError(f"{path} holds {_list(members)}: arrays with and without the name of a part")
        for part, images_name, labels_name in found:
            if images_name is None or labels_name is None and labelled:
                present, absent = (images_name, "labels") if images_name else (labels_name, "images")
                raise InputError(f"{path} holds {_list(members)}: {present} has no {absent}, which are called "
                                 f"{'y_train or train_labels' if images_name else 'x_train or train_images'}, say")
            images = _Member(path, *members[images_name], images_name)
            labels = _Member(path, *members[labels_name], labels_name) if labels_name else None
            read = partial(_read, images, labels, image_shape, image_layout, like, progress)
            note(f"images {images_name} {shape_text(images.shape)} of {images.dtype}"
                 + (f", labels {labels_name} {shape_text(labels.shape)} of {labels.dtype}" if labels else ""))
            options = part, image_shape, image_layout, like
            parts[part or "train"] = keep(path, [images.state, labels.state], options, read) if labels else read()
        if not parts:
            raise InputError(f"{path} holds {_list(members)}, expected x_train, y_train, x_test and y_test, or "
                             "images and labels under other usual names")
    return parts


@contextmanager
def _opened(path: Path) -> Iterator[dict[str, tuple[ZipFile, ZipInfo]]]:
    """The members of an archive by name; the exceptions of a bad archive become InputError."""
    try:
        with open_regular(path) as file, ZipFile(file) as archive:
            yield {info.filename.removesuffix(".npy"): (archive, info) for info in archive.infolist()}
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None
    # A read past the end, a wrong checksum, an unknown version or method, a bad name, a bad offset.
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError,
            OverflowError, ValueError, IndexError) as error:
        raise InputError(f"{path} is a corrupt .npz file ({first_line(error)})") from None


def _read(images: "_Member", labels: "_Member | None", image_shape: tuple[int, int, int] | None,
          image_layout: str | None, like: tuple[int, int, int] | None, progress: Progress) -> Any:
    if images.dtype.kind not in "buif":
        raise InputError(f"{images.where} holds {images.kind}, expected numbers")
    if labels and labels.dtype.kind not in "buifSU":
        raise InputError(f"{labels.where} holds {labels.kind}, expected whole numbers or names")
    if not 2 <= len(images.shape) <= 4 or 0 in images.shape:
        raise InputError(f"{images.where} has the shape {images.shape}, expected (N, H, W), (N, C, H, W), "
                         "(N, H, W, C) or (N, pixels)")
    if labels and labels.shape[:1] != images.shape[:1]:
        raise InputError(f"{labels.where} holds {labels.shape[0] if labels.shape else 1} labels, but {images.where} "
                         f"{images.shape[0]} images")
    pixels = images.array(as_pixels, progress)
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise InputError(f"{images.where} holds NaN or infinity, expected finite numbers")
    pixels = in_channels(pixels, image_shape, image_layout, images.where, like)
    return pixels, as_labels(labels.array(np.copy, progress), labels.where) if labels else None


class _Member:
    """An array of an archive: the constructor reads its header, `array` its numbers."""

    def __init__(self, path: Path, archive: ZipFile, info: ZipInfo, name: str):
        self.where, self.archive, self.info = f"{name} of {path}", archive, info
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{self.where} is encrypted, or packed by a method that NumPy does not use")
        with archive.open(info) as stream:
            self.header = read_header(stream, self.where)
        self.shape, self.fortran, self.dtype = layout_of(self.header, self.where)
        promised, there = math.prod(self.shape) * self.dtype.itemsize, info.file_size - len(self.header)
        if self.dtype.itemsize == 0:
            raise InputError(f"{self.where} holds text without characters")
        if self.dtype.kind != "O" and promised != there:
            raise InputError(f"{self.where} promises {promised} bytes ({' x '.join(map(str, self.shape))} of "
                             f"{self.dtype}), but has {there}")
        if info.file_size > max(UNPACKED, RATIO * min(info.compress_size, os.path.getsize(path))):
            raise InputError(f"{self.where} unpacks to more than {RATIO} times its size, which images do not do")

    @property
    def kind(self) -> str:
        return "pickled objects, which are never loaded" if self.dtype.kind == "O" else self.dtype.name

    @property
    def state(self) -> tuple[str, int, int]:
        """What changes when the array does: the archive has a checksum of each member."""
        return self.info.filename, self.info.file_size, self.info.CRC

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


def _list(names: Iterable[str]) -> str:
    shown = ["".join(c if c.isprintable() else "?" for c in name) for name in sorted(names)]
    return (", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "")) or "nothing"
