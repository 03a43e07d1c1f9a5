"""CSV files of labelled images, plain or gzip-compressed: each line a label and the pixels of one image."""

import gzip
import math
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cnn_numba.data.reading import (
    MAX_LABEL,
    Arrays,
    Keep,
    Progress,
    StrPath,
    as_pixels,
    file_state,
    keep_nothing,
    no_progress,
    shape_of_image,
)
from cnn_numba.errors import InputError

BLOCK = 1 << 18             # bytes parsed at once: they and what is computed from them stay in the CPU's cache
LONGEST_LINE = 1 << 26      # bytes
UNPACKED = 1 << 26          # bytes to which every gzip file may unpack;
RATIO = 200                 # a larger result may have this many times its size: text of pixels packs 5 to 20 times


def read_csv(path: StrPath, image_shape: tuple[int, int, int] | None = None, keep: Keep = keep_nothing,
             progress: Progress = no_progress) -> Arrays:
    """Read the images and labels of a CSV file.

    A first line whose first field is not a number is a header.  Lines end in LF or CR LF; fields may have double
    quotes; blank lines are skipped.

    Parameters
    ----------
    path : path of the file, plain or gzip-compressed (recognised by its content)
    image_shape : (C, H, W); by default one channel and a square
    keep, progress : see `Format`

    Returns
    -------
    images (N, C, H, W), uint8 when all pixels are whole numbers from 0 to 255, else float32, and int64
    labels (N,).

    Raises
    ------
    InputError : unreadable or corrupt file, lines of different lengths, a field that is not a finite number, a
        label that is not a whole number from 0 to 9999, pixels that do not match the image shape.
    """
    path = Path(path)
    return keep(path, file_state(path), image_shape, lambda: _read(path, image_shape, progress))


def _read(path: Path, image_shape: tuple[int, int, int] | None, progress: Progress) -> Arrays:
    parser = _Parser(path, image_shape)
    try:
        with open(path, "rb") as file, progress(path.name, os.fstat(file.fileno()).st_size) as advance:
            for lines in _whole_lines(path, file, advance):
                parser.parse(lines)
    except (zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is a corrupt gzip file ({error})") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    if not parser.images:
        raise InputError(f"{path} holds no images: expected lines of a label and pixels, separated by commas")
    images = np.concatenate(parser.images)
    return images.reshape(-1, *parser.shape), np.concatenate(parser.labels)


def _whole_lines(path: Path, file: BinaryIO, advance: Callable[[int], object]) -> Iterator[bytes]:
    """The content in blocks that end at the end of a line; calls `advance` with the number of bytes read."""
    compressed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    content = gzip.GzipFile(fileobj=file) if compressed else file
    begun, done, unpacked = bytearray(), 0, 0
    while block := content.read(BLOCK):
        unpacked += len(block)
        if unpacked > max(UNPACKED, RATIO * file.tell()):
            raise InputError(f"{path} unpacks to more than {RATIO} times its size, which images do not do")
        end = block.rfind(b"\n") + 1
        if end:
            yield bytes(begun) + block[:end]
            begun = bytearray(block[end:])
        else:
            begun += block
        if len(begun) > LONGEST_LINE:
            raise InputError(f"{path} has a line of more than {LONGEST_LINE >> 20} MB, expected a line for each image")
        advance(file.tell() - done)
        done = file.tell()
    if begun:
        yield bytes(begun) + b"\n"


class _Parser:
    """Parses blocks of whole lines, collects their images and labels, and counts lines for error messages."""

    def __init__(self, path: Path, image_shape: tuple[int, int, int] | None):
        self.path, self.image_shape = path, image_shape
        self.line, self.columns = 0, 0                      # columns: 0 before the first line that is not blank
        self.shape: tuple[int, ...] = ()
        self.images: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []

    def parse(self, lines: bytes) -> None:
        if self.line == 0:
            lines = lines.removeprefix(b"\xef\xbb\xbf")
        if b"\r" in lines:
            lines = lines.replace(b"\r\n", b"\n")
        while not self.columns and lines:
            first, _, rest = lines.partition(b"\n")
            if self._begin(first):
                lines = rest
        if not lines:
            return
        labels, pixels = self._digits(lines) or self._numbers(lines)
        if len(labels):
            self.labels.append(labels)
            self.images.append(pixels)

    def _begin(self, line: bytes) -> bool:
        """Count the columns of the first line that is not blank; returns whether the line is blank or a header."""
        if not line.strip():
            self.line += 1
            return True
        where = f"{self.path}, line {self.line + 1},"
        fields = _fields(line)
        if len(fields) < 2:
            raise InputError(f"{where} is {_excerpt(line)}, expected a label and pixels, separated by commas")
        shape = shape_of_image(len(fields) - 1, self.image_shape, where)
        try:
            float(fields[0])
            # The header that pandas writes for columns without names; as an image it would have pixels above 255.
            header = len(fields) > 257 and fields == [b"%d" % i for i in range(len(fields))]
        except ValueError:
            if not fields[0].strip():
                raise InputError(f"{where} begins with an empty field, as tables with an index do; expected "
                                 "the label first") from None
            header = True
        self.columns, self.shape = len(fields), shape
        self.line += header
        return header

    def _digits(self, lines: bytes) -> Arrays | None:
        """Labels and pixels when all fields are whole numbers of one to three digits, else None."""
        text = np.frombuffer(lines, np.uint8)
        digits = text - np.uint8(48)
        is_digit = digits < 10
        ends = np.flatnonzero(~is_digit)
        separators, lengths = text[ends], np.diff(ends, prepend=-1) - 1
        rows, rest = divmod(len(ends), self.columns)
        if rest or lengths.min() < 1 or lengths.max() > 3:
            return None
        separators = separators.reshape(rows, self.columns)
        if (separators[:, -1] != 10).any() or (separators[:, :-1] != 44).any():
            return None
        # Separators are set to the digit 0, so that only the hundreds can come from the field before.
        digits *= is_digit
        values = digits[ends - 1].astype(np.uint16)
        values += digits[ends - 2] * np.uint16(10)
        values += digits[ends - 3] * (lengths == 3) * np.uint16(100)
        values = values.reshape(rows, self.columns)
        self.line += rows
        return values[:, 0].astype(np.int64), as_pixels(values[:, 1:])

    def _numbers(self, lines: bytes) -> Arrays:
        """Labels and pixels of all other lines, many times slower: decimals, signs, quotes, blank lines, errors."""
        labels, images = [], []
        for line in lines.split(b"\n")[:-1]:
            self.line += 1
            if not line.strip():
                continue
            where, fields = f"{self.path}, line {self.line},", _fields(line)
            if len(fields) != self.columns:
                raise InputError(f"{where} has {len(fields)} values, expected {self.columns} as in the first "
                                 "line")
            try:
                values = list(map(float, fields))
            except ValueError:
                values = [_number(field) for field in fields]
            with np.errstate(over="ignore"):
                finite = np.isfinite(np.array(values, np.float32))
            if not finite.all():
                column = int(finite.argmin())
                raise InputError(f"{where} column {column + 1} is {_excerpt(fields[column])}, "
                                 "expected a number")
            if not (values[0].is_integer() and 0 <= values[0] <= MAX_LABEL):
                raise InputError(f"{where} begins with {_excerpt(fields[0])}, expected a label, a whole "
                                 f"number from 0 to {MAX_LABEL}")
            labels.append(int(values[0]))
            images.append(as_pixels(np.array(values[1:])))
        return np.array(labels, np.int64), np.stack(images) if images else np.empty(0)


def _fields(line: bytes) -> list[bytes]:
    return line.replace(b'"', b"").split(b",")


def _number(field: bytes) -> float:
    try:
        return float(field)
    except ValueError:
        return math.nan


def _excerpt(field: bytes) -> str:
    text = field.strip()[:21].decode("utf-8", "replace")
    return repr(text if len(text) < 21 else text[:20] + "...")
