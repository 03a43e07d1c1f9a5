"""IDX, the file format of MNIST and similar data sets: a magic number, the size of each dimension, then numbers."""

import math
import os
import re
import sys
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cnn_numba.data.npy import finite_pixels
from cnn_numba.data.reading import MAX_LABEL, Arrays, Content, StrPath, as_labels, in_channels
from cnn_numba.errors import InputError
from cnn_numba.files.opening import open_regular

# Large, so that unpacking in a thread beside a busy thread takes the interpreter lock ten times, not hundreds.
CHUNK = 1 << 20
TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}         # by the third byte


def read_idx(path: StrPath, *ndim: int) -> np.ndarray:
    """Read an IDX file, plain or gzip-compressed (recognised by its content).

    It takes memory for what the file holds, not for what its header promises, and unpacks a compressed file to at
    most one byte more than the promise.

    Parameters
    ----------
    path : path of the file
    ndim : numbers of dimensions that it may have, the usual one first

    Returns
    -------
    array of the type in the file, writable and C-contiguous.

    Raises
    ------
    InputError : unreadable, corrupt, truncated or overlong file, wrong magic number, or a dimension of 0.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            magic = _content(file, 4)
            if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or magic[3] not in ndim:
                raise InputError(f"{path} starts with the bytes '{magic.hex()}', but an IDX file of "
                                 f"{' or '.join(map(str, ndim))} dimensions starts with "
                                 f"'{bytes((0, 0, 8, ndim[0])).hex()}', or another type than 08")
            dtype, header_size = np.dtype(TYPES[magic[2]]), 4 + 4 * magic[3]
            header = _content(file, header_size)
            if len(header) < header_size:
                raise InputError(f"{path} ends within its header, after {len(header)} of {header_size} bytes")
            shape = tuple(int.from_bytes(header[i:i + 4], "big") for i in range(4, header_size, 4))
            promised = header_size + math.prod(shape) * dtype.itemsize
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
    values = np.frombuffer(content, dtype, offset=header_size).reshape(shape)
    return values if values.dtype.isnative else values.astype(dtype.newbyteorder("="))


def read_idx_pair(images_path: StrPath, labels_path: StrPath | None = None, num_classes: int = MAX_LABEL + 1,
                  image_shape: tuple[int, int, int] | None = None, image_layout: str | None = None,
                  like: tuple[int, int, int] | None = None) -> Arrays:
    """Read a pair of IDX files: images (N, C, H, W), uint8 or float32, and their int64 labels (N,).

    Parameters
    ----------
    images_path : path of the images: (N, H, W), (N, pixels), (N, C, H, W) or (N, H, W, C)
    labels_path : by default the images' name with "labels" for "images" and "idx1" for "idx3"
    num_classes : labels are 0 to num_classes - 1
    image_shape, image_layout, like : see `in_channels`

    Raises InputError when a file is bad, when the counts differ, or when a label is out of range.
    """
    if labels_path is None:
        labels_path = labels_beside(Path(images_path))
    images, labels = read_idx_images(images_path, image_shape, image_layout, like), as_labels(
        read_idx(labels_path, 1, 2), str(labels_path))
    if len(images) != len(labels):
        raise InputError(f"{labels_path} holds {len(labels)} labels, but {images_path} holds {len(images)} images")
    if labels.max() >= num_classes:
        raise InputError(f"{labels_path} holds the label {labels.max()}, expected 0 to {num_classes - 1}")
    return images, labels


def read_idx_images(path: StrPath, image_shape: tuple[int, int, int] | None = None,
                    image_layout: str | None = None, like: tuple[int, int, int] | None = None) -> np.ndarray:
    """Read the images of an IDX file as in `read_idx_pair`."""
    values = read_idx(path, 3, 2, 4)
    return in_channels(values if values.dtype == np.uint8 else finite_pixels(values, str(path)), image_shape,
                       image_layout, str(path), like)


def read_idx_files(path: StrPath, labels_path: StrPath | None = None,
                   image_shape: tuple[int, int, int] | None = None, image_layout: str | None = None,
                   labelled: bool = True, like: tuple[int, int, int] | None = None) -> Content:
    """Read IDX images and their labels, or (images, None) when labels are not required and not there."""
    if labels_path is None and not labelled and not labels_beside(Path(path)).exists():
        return read_idx_images(path, image_shape, image_layout, like), None
    return read_idx_pair(path, labels_path, image_shape=image_shape, image_layout=image_layout, like=like)


def labels_beside(path: Path) -> Path:
    """The path of the labels of IDX images, by the usual names."""
    name = re.sub("idx[0-9]", "idx1", path.name.replace("images", "labels"))
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
