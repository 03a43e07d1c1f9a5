"""IDX, the file format of MNIST and similar data sets: a magic number, the size of each dimension, then bytes."""

import math
import os
import sys
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cnn_numba.data.reading import MAX_LABEL, Arrays, StrPath
from cnn_numba.errors import InputError

# Large, so that unpacking in a thread beside a busy thread takes the interpreter lock ten times, not hundreds.
CHUNK = 1 << 20


def read_idx(path: StrPath, ndim: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes, plain or gzip-compressed (recognised by its content).

    It takes memory for what the file holds, not for what its header promises, and unpacks a compressed file to at
    most one byte more than the promise.

    Parameters
    ----------
    path : path of the file
    ndim : number of dimensions that it must have

    Returns
    -------
    uint8 array of `ndim` dimensions, writable and C-contiguous.

    Raises
    ------
    InputError : unreadable, corrupt, truncated or overlong file, wrong magic number, or a dimension of 0.
    """
    path = Path(path)
    magic, header_size = bytes((0, 0, 8, ndim)), 4 + 4 * ndim
    try:
        with open(path, "rb") as file:
            header = _content(file, header_size)
            if header[:4] != magic:
                raise InputError(f"{path} starts with the bytes '{header[:4].hex()}', "
                                 f"but an IDX file of {ndim} dimensions starts with '{magic.hex()}'")
            if len(header) < header_size:
                raise InputError(f"{path} ends within its header, after {len(header)} of {header_size} bytes")
            shape = tuple(int.from_bytes(header[i:i + 4], "big") for i in range(4, header_size, 4))
            promised = header_size + math.prod(shape)
            content = _content(file, promised + 1)
    except zlib.error as error:
        raise InputError(f"{path} is a corrupt gzip file ({error})") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    sizes = " x ".join(map(str, shape))
    if promised == header_size:
        raise InputError(f"{path} is empty: its header says {sizes}")
    if len(content) != promised:
        count = "fewer" if len(content) < promised else "more"
        raise InputError(f"{path} holds {count} bytes than the {promised} that its header promises ({sizes})")
    return np.frombuffer(content, np.uint8, offset=header_size).reshape(shape)


def read_idx_pair(images_path: StrPath, labels_path: StrPath | None = None,
                  num_classes: int = MAX_LABEL + 1) -> Arrays:
    """Read a pair of IDX files: uint8 images (N, 1, H, W) and their int64 labels (N,), 0 to num_classes - 1.

    By default, the file of labels has the name of the images with "labels" for "images" and "idx1" for "idx3".
    Raises InputError when a file is bad, when the counts differ, or when a label is out of range.
    """
    if labels_path is None:
        labels_path = _labels_beside(Path(images_path))
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise InputError(f"{labels_path} holds {len(labels)} labels, but {images_path} holds {len(images)} images")
    if labels.max() >= num_classes:
        raise InputError(f"{labels_path} holds the label {labels.max()}, expected 0 to {num_classes - 1}")
    return images[:, None], labels.astype(np.int64)


def _labels_beside(path: Path) -> Path:
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    plain = path.with_name(name.removesuffix(".gz"))
    return plain if plain.exists() else path.with_name(f"{plain.name}.gz")


def _content(file: BinaryIO, limit: int) -> bytearray:
    """The first `limit` bytes of a plain or gzip file, or all when it has fewer; verifies the gzip checksum."""
    file.seek(0)
    compressed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    if not compressed:
        return bytearray(file.read(min(limit, os.fstat(file.fileno()).st_size)))
    content, stream = bytearray(), zlib.decompressobj(wbits=31)
    while len(content) < limit and not stream.eof:
        chunk = file.read(CHUNK)
        if not chunk:
            raise zlib.error("it ends too early")
        content += stream.decompress(chunk, min(limit - len(content), sys.maxsize))
    return content
