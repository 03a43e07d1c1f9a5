"""NumPy archives of images and labels, read so that a small file cannot take much memory or run code."""

import math
import os
import re
import struct
import zipfile
import zlib
from contextlib import contextmanager

import numpy as np

from cnn_numba.data.reading import as_pixels, checked_labels, shape_of_image, shown
from cnn_numba.errors import InputError

BLOCK = 1 << 20             # bytes of a member that are converted at once
LONGEST_HEADER = 10_000     # bytes; that of a plain array has 128
UNPACKED = 1 << 26          # bytes that a member may unpack to however small it is,
RATIO = 200                 # and above them this many times its size: pixels are packed 2 to 20 times
# As NumPy writes it for a plain array, and nothing else: the header is no program text to be evaluated.
LAYOUT = re.compile(rb"\{'descr': '(?P<dtype>[<>|=](b1|[iu][1248]|f[248]|c8|c16|O|[SUV][0-9]{1,6}))', "
                    rb"'fortran_order': (?P<fortran>True|False), "
                    rb"'shape': \((?P<shape>([0-9]{1,18}, ?){0,32}[0-9]{0,18})\), ?\} *\n?")
CHANNELS = 1, 3, 4          # sizes of a last axis that is taken for colours


def parts_of_npz(path):
    """The parts of which an .npz file holds images or labels: "train", "test" or both.

    Raises InputError when the file is bad, or holds neither.
    """
    with _opened(path) as members:
        parts = [part for part in ("train", "test") if members.keys() & {f"x_{part}", f"y_{part}"}]
        if not parts:
            raise InputError(f"{path} holds {_list(members)}, expected x_train, y_train, x_test and y_test")
        return parts


def read_npz(path, part, image_shape=None):
    """Read the images `x_PART` and the labels `y_PART` of an .npz file; members are never unpickled.

    Parameters
    ----------
    path : path of the file
    part : "train" or "test"
    image_shape : (C, H, W), for images that are flat; by default one channel and a square

    Returns
    -------
    images (N, C, H, W), uint8 when all pixels are whole numbers from 0 to 255, else float32, and int64
    labels (N,).  In the file, images may be (N, pixels), (N, H, W), (N, C, H, W) or (N, H, W, C).

    Raises
    ------
    InputError : unreadable or corrupt file, a missing member, other shapes or types, numbers that are not
        finite.
    """
    with _opened(path) as members:
        names = f"x_{part}", f"y_{part}"
        if not members.keys() >= set(names):
            raise InputError(f"{path} holds {_list(members)}, expected {' and '.join(names)}")
        return _read(*(_Member(path, *members[name], name) for name in names), image_shape)


@contextmanager
def _opened(path):
    """The members of an archive, name -> (ZipFile, ZipInfo); what a bad archive raises becomes InputError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield {info.filename.removesuffix(".npy"): (archive, info) for info in archive.infolist()}
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None
    # Past the end, a wrong checksum, an unknown version or method, a bad name, an offset that is no offset.
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError,
            OverflowError, ValueError, IndexError) as error:
        raise InputError(f"{path} is a corrupt .npz file ({_first_line(error)})") from None


def _read(images, labels, image_shape):
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
    pixels = images.array()
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
    return pixels, checked_labels(labels.array(exact=True), labels.where)


class _Member:
    """An array of an archive: its header is read at once, its numbers by `array`."""

    def __init__(self, path, archive, info, name):
        self.where, self.archive, self.info = f"{name} of {path}", archive, info
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{self.where} is encrypted or packed in a way that NumPy does not write")
        with archive.open(info) as stream:
            self.header = _header(stream, self.where)
        self.shape, self.fortran, self.dtype = _layout(self.header, self.where)
        promised, there = math.prod(self.shape) * self.dtype.itemsize, info.file_size - len(self.header)
        if self.dtype.kind != "O" and promised != there:
            raise InputError(f"{self.where} promises {promised} bytes ({' x '.join(map(str, self.shape))} of "
                             f"{self.dtype}), but has {there}")
        if info.file_size > max(UNPACKED, RATIO * min(info.compress_size, os.path.getsize(path))):
            raise InputError(f"{self.where} unpacks to more than {RATIO} times its size, which images do not")

    @property
    def kind(self):
        return "pickled objects, which are never loaded" if self.dtype.kind == "O" else self.dtype.name

    def array(self, exact=False):
        """The numbers: as they are, or, unless `exact`, as pixels."""
        convert = np.copy if exact else as_pixels
        numbers = math.prod(self.shape)
        block = max(1, BLOCK // self.dtype.itemsize) * self.dtype.itemsize
        left, converted = numbers * self.dtype.itemsize, []
        with self.archive.open(self.info) as stream, shown(self.where, left, left) as advance:
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
            stream.read(1)      # at the end the checksum is verified
        values = np.concatenate(converted)
        if self.fortran:
            return np.ascontiguousarray(values.reshape(self.shape[::-1]).T)
        return values.reshape(self.shape)


def _header(stream, where):
    """The bytes of a .npy file up to its numbers."""
    start = stream.read(12)
    version = start[6:7]
    before = 10 if version == b"\1" else 12
    length = before + int.from_bytes(start[8:before], "little")
    if start[:6] != b"\x93NUMPY" or version not in (b"\1", b"\2", b"\3") or len(start) < 12:
        raise InputError(f"{where} starts with the bytes '{start[:6].hex()}', which is no .npy file")
    if length > LONGEST_HEADER:
        raise InputError(f"{where} has a header of {length} bytes, expected at most {LONGEST_HEADER}")
    return start + stream.read(length - 12)


def _layout(header, where):
    """Shape, whether in Fortran order, and dtype."""
    text = header[10 if header[6:7] == b"\1" else 12:]
    fields = LAYOUT.fullmatch(text)
    if fields is None:
        excerpt = text[:100].decode("latin-1").strip()
        raise InputError(f"{where} has the header {excerpt!r}, expected that of an array of numbers")
    shape = tuple(int(size) for size in fields["shape"].split(b",") if size.strip())
    return shape, fields["fortran"] == b"True", np.dtype(fields["dtype"].decode())


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0][:100]


def _list(names):
    names = ["".join(c if c.isprintable() else "?" for c in name) for name in sorted(names)]
    return (", ".join(names[:8]) + (", ..." if len(names) > 8 else "")) or "nothing"
