"""CSV files of images, plain or gzip-compressed: each line a label and the pixels of one image."""

import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cnn_numba.data.columns import Table, TableReading, excerpt, name_of, number_of, split_line
from cnn_numba.data.reading import (
    MAX_LABEL,
    Arrays,
    Content,
    Keep,
    Progress,
    Say,
    StrPath,
    as_pixels,
    in_channels,
    keep_nothing,
    no_progress,
    say_nothing,
)
from cnn_numba.errors import InputError
from cnn_numba.files.opening import content_of, open_regular

BLOCK = 1 << 18             # bytes parsed at once: they and what is computed from them stay in the CPU's cache
LONGEST_LINE = 1 << 26      # bytes
UNPACKED = 1 << 26          # bytes to which every gzip file may unpack;
RATIO = 200                 # a larger result may have this many times its size: text of pixels packs 5 to 20 times
FEW = 100                   # more different values than these are no classes, where a column is only guessed


def read_csv(path: StrPath, image_shape: tuple[int, int, int] | None = None, image_layout: str | None = None,
             label_column: str | int | None = None, labelled: bool = True, like: tuple[int, int, int] | None = None,
             keep: Keep = keep_nothing, progress: Progress = no_progress, report: Say = say_nothing,
             note: Say = say_nothing) -> Content:
    """Read the images and labels of a CSV file.

    Fields are separated by commas, semicolons or tabs, and may have double quotes; lines end in LF, CR LF or CR; blank
    lines are skipped.  With a header, the label is the column with a name such as "label" or "class", and columns such
    as "id" are skipped.  Without one, the label comes first.

    Parameters
    ----------
    path : path of the file, plain or gzip-compressed (recognised by its content)
    image_shape, image_layout : see `in_channels`
    label_column : name of the column of labels, or its number from 1
    labelled : whether labels are required; without them the result is (images, None)
    like : (C, H, W) that the images probably have
    keep, progress, report, note : see `Format`

    Returns
    -------
    images (N, C, H, W), uint8 when all pixels are whole numbers from 0 to 255, else float32, and labels (N,): int64,
    or names when the first is not a number.

    Raises
    ------
    InputError : unreadable or corrupt file, lines of different lengths, a field that is not a finite number, a
        label that is not a whole number from 0 to 9999, pixels that do not match the image shape, a column of labels
        that cannot be told.
    """
    path = Path(path)
    table = TableReading(path, image_shape, label_column, labelled, like).table(_first_lines(path))
    if table.left_out:
        report(f"{path}: left out {table.left_out}")
    note(table.description)

    def read() -> Arrays:
        images, labels = _read(table, progress)
        return in_channels(images, table.shape, image_layout, str(path)), labels
    if table.label is None:
        return in_channels(_read(table, progress)[0], table.shape, image_layout, str(path)), None
    return keep(path, content_of(path), (image_shape, image_layout, table.shape, table.label, table.skipped), read)


# ---- lines ----------------------------------------------------------------------------------------------------------
def _first_lines(path: Path) -> list[tuple[int, bytes]]:
    """(number, content) of the first two lines that are not blank, or of one; InputError without any."""
    found: list[tuple[int, bytes]] = []
    with _opening(path), open_regular(path) as file:
        number = 0
        for lines in _whole_lines(path, file, lambda amount: None):
            for line in lines.removeprefix(b"\xef\xbb\xbf" if number == 0 else b"").split(b"\n")[:-1]:
                number += 1
                if line.strip():
                    found.append((number, line.rstrip(b"\r")))
                if len(found) == 2:
                    return found
    if not found:
        raise InputError(f"{path} holds no images: expected lines of a label and pixels, separated by commas")
    return found


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    """The exceptions of a bad file become InputError."""
    try:
        yield
    except (zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is a corrupt gzip file ({error})") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None


def _read(table: Table, progress: Progress) -> Arrays:
    """Flat images and labels."""
    parser = _Parser(table)
    path = table.path
    with _opening(path), open_regular(path) as file:
        with progress(path.name, os.fstat(file.fileno()).st_size) as advance:
            for lines in _whole_lines(path, file, advance):
                parser.parse(lines)
    if not parser.images:
        raise InputError(f"{path} holds no images: expected lines of a label and pixels, separated by commas")
    images, labels = np.concatenate(parser.images), np.concatenate(parser.labels)
    if table.guessed:
        _check_guess(table, images, labels)
    return images, labels


def _check_guess(table: Table, images: np.ndarray, labels: np.ndarray) -> None:
    """InputError when a first column that nothing calls the label can be a pixel or the number of the row."""
    last, count = images[:, -1], len(labels)
    values, counts = np.unique(labels, return_counts=True)
    advice = "choose the label (--label-column 1 or "
    if count > FEW and len(values) == count:
        raise InputError(f"{table.path} has another number in the first column of every line, as row numbers are: "
                         f"{advice}another one)")
    others, other_counts = np.unique(last, return_counts=True)
    if count < 20 or not 2 <= len(others) <= min(FEW, count // 3) or others[0] < 0 or (others % 1).any():
        return
    beyond = others[-1] > max(labels.max(), images[:, :-1].max(initial=0))
    duller = counts.max() > 0.8 * count >= other_counts.max()
    if beyond or duller or len(others) < len(values):
        raise InputError(f"{table.path} does not say which column is the label: the first has {len(values)} different "
                         f"values, and the last {len(others)}: {advice}{table.pixels[-1] + 1})")


def _whole_lines(path: Path, file: BinaryIO, advance: Callable[[int], object]) -> Iterator[bytes]:
    """The content in blocks that end at the end of a line; calls `advance` with the number of bytes read."""
    compressed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    content = gzip.GzipFile(fileobj=file) if compressed else file
    begun, done, unpacked, old_mac = bytearray(), 0, 0, None
    while block := content.read(BLOCK):
        if old_mac is None and (b"\n" in block or b"\r" in block[:-1]):
            old_mac = b"\n" not in block                # lines end in CR
        if old_mac:
            block = block.replace(b"\r", b"\n")
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
    """Parses blocks of whole lines, collects their flat images and labels, and counts lines for error messages."""

    def __init__(self, table: Table):
        self.table, self.line = table, 0
        self.images: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []

    def parse(self, lines: bytes) -> None:
        if self.line == 0:
            lines = lines.removeprefix(b"\xef\xbb\xbf")
        if b"\r" in lines:
            lines = lines.replace(b"\r\n", b"\n")
        while self.line < self.table.before and lines:
            lines = lines.partition(b"\n")[2]
            self.line += 1
        if not lines:
            return
        labels, pixels = self._quick(lines) or self._numbers(lines)
        if len(labels):
            self.labels.append(labels)
            self.images.append(pixels)

    def _quick(self, lines: bytes) -> Arrays | None:
        """Labels and pixels when all fields that matter are whole numbers of one to three digits, else None."""
        front, back = self.table.cut
        label, columns = self.table.label or 0, self.table.columns
        if self.table.named and front <= label < columns - back:       # text between the pixels
            return None
        if not front and not back:
            return self._digits(lines, [])
        separator, numbers, names = self.table.separator, [], []
        if b'"' in lines:
            return None
        for line in lines.split(b"\n")[:-1]:
            before = line.split(separator, front)
            after = before.pop().rsplit(separator, back) if len(before) == front + 1 else []
            if len(after) != back + 1:
                return None
            numbers.append(after[0])
            if self.table.named:
                names.append(before[label] if label < front else after[1 + label - columns + back])
        return self._digits(b"\n".join([*numbers, b""]), names)

    def _digits(self, lines: bytes, names: list[bytes]) -> Arrays | None:
        table = self.table
        text = np.frombuffer(lines, np.uint8)
        digits = text - np.uint8(48)
        is_digit = digits < 10
        ends = np.flatnonzero(~is_digit)
        separators, lengths = text[ends], np.diff(ends, prepend=-1) - 1
        rows, rest = divmod(len(ends), table.columns - sum(table.cut))
        if rest or lengths.min() < 1 or lengths.max() > 3:
            return None
        separators = separators.reshape(rows, -1)
        if (separators[:, -1] != 10).any() or (separators[:, :-1] != table.separator[0]).any():
            return None
        # Separators are set to the digit 0, so that only the hundreds can come from the field before.
        digits *= is_digit
        values = digits[ends - 1].astype(np.uint16)
        values += digits[ends - 2] * np.uint16(10)
        values += digits[ends - 3] * (lengths == 3) * np.uint16(100)
        values = values.reshape(rows, -1)
        if table.named and not all(name.strip() for name in names):
            return None
        self.line += rows
        columns = [i - table.cut[0] for i in table.pixels]
        inner = slice(columns[0], columns[-1] + 1)
        pixels = values[:, inner] if len(columns) == columns[-1] + 1 - columns[0] else values[:, columns]
        if table.named:
            labels = np.array([name_of(name) for name in names], np.str_)
        elif table.label is None:
            labels = np.zeros(rows, np.int64)
        else:
            labels = values[:, table.label - table.cut[0]].astype(np.int64)
        return labels, as_pixels(pixels)

    def _numbers(self, lines: bytes) -> Arrays:
        """Labels and pixels of all other lines, many times slower: decimals, signs, quotes, blank lines, errors."""
        table, labels, images = self.table, list[int | str](), []
        for line in lines.split(b"\n")[:-1]:
            self.line += 1
            if not line.strip():
                continue
            where, fields = f"{table.path}, line {self.line},", split_line(line, table.separator)
            if len(fields) != table.columns:
                raise InputError(f"{where} has {len(fields)} values, expected {table.columns} as in the first "
                                 "line")
            if table.separator == b";":
                fields = [field.replace(b",", b".") if i != table.label else field for i, field in enumerate(fields)]
            number = None if table.named else table.label
            columns = table.pixels if number is None else sorted([number, *table.pixels])
            try:
                values = [float(fields[i]) for i in columns]
            except ValueError:
                values = [number_of(fields[i]) for i in columns]
            with np.errstate(over="ignore"):
                finite = np.isfinite(np.array(values, np.float32))
            if not finite.all():
                column = columns[int(finite.argmin())]
                raise InputError(f"{where} column {column + 1} is {excerpt(fields[column])}, "
                                 "expected a number")
            labels.append(self._label(fields, where))
            if number is not None:
                del values[columns.index(number)]
            images.append(as_pixels(np.array(values)))
        kind = np.str_ if table.named else np.int64
        return np.array(labels, kind), np.stack(images) if images else np.empty(0)

    def _label(self, fields: list[bytes], where: str) -> int | str:
        column = self.table.label
        if column is None:
            return 0
        if self.table.named:
            if not (name := name_of(fields[column])):
                raise InputError(f"{where} has no label in column {column + 1}")
            return name
        value = float(fields[column])
        if not (value.is_integer() and 0 <= value <= MAX_LABEL):
            place = f"begins with {excerpt(fields[0])}" if column == 0 else (
                f"has {excerpt(fields[column])} in column {column + 1}")
            raise InputError(f"{where} {place}, expected a label, a whole number from 0 to {MAX_LABEL}")
        return int(value)
