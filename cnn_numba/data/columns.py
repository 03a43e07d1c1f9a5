"""What the columns of a CSV file are: which is the label, which are pixels, and which are neither."""

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cnn_numba.data.reading import is_square, shape_of_image
from cnn_numba.errors import InputError

LABEL_NAMES = {"label", "labels", "class", "classes", "target", "targets", "y", "category", "digit", "classlabel",
               "labelid", "classid"}
INDEX_NAMES = {"", "id", "index", "idx", "unnamed0", "imageid", "image", "imagename", "filename", "file", "path",
               "filepath", "row", "rowid", "rownames", "number", "no"}
COUNTED = 17                # columns that are numbered 0, 1, 2, ... at least in a header without names


@dataclass(frozen=True)
class Table:
    """The columns of a file, counted from 0.

    before : number of lines that are blank or the header, before the first image
    columns : number of columns
    label : the column of labels, or None
    named : whether labels are text
    skipped : columns that are neither label nor pixels
    guessed : whether nothing but its place says that the label is one
    shape : (C, H, W)
    description, left_out : how the file is read, and what is left out that could be meant to be read
    """

    path: Path
    separator: bytes
    before: int
    columns: int
    label: int | None
    named: bool
    skipped: tuple[int, ...]
    guessed: bool
    shape: tuple[int, ...]
    description: str
    left_out: str = ""

    @cached_property
    def pixels(self) -> list[int]:
        return [i for i in range(self.columns) if i != self.label and i not in self.skipped]

    @cached_property
    def cut(self) -> tuple[int, int]:
        """How many columns at the beginning and at the end of each line are not numbers for the quick parser."""
        out = {*self.skipped, *([self.label] if self.named else [])}
        front = next(i for i in range(self.columns + 1) if i not in out)
        back = next(i for i in range(self.columns + 1) if self.columns - 1 - i not in out)
        return (front, back) if front < self.columns else (0, 0)


class TableReading:
    """Finds out what the columns of a file are."""

    def __init__(self, path: Path, image_shape: tuple[int, int, int] | None, label_column: str | int | None,
                 labelled: bool, like: tuple[int, ...] | None = None):
        self.path, self.image_shape, self.labelled, self.like = path, image_shape, labelled, like
        self.label_column = label_column

    def table(self, lines: list[tuple[int, bytes]]) -> Table:
        """The columns, by the first two lines that are not blank; InputError when they cannot be told."""
        number, first = lines[0]
        self.where = f"{self.path}, line {number},"
        if b"\0" in first:
            raise InputError(f"{self.where} is {excerpt(first)}, with zero bytes as in UTF-16: expected "
                             "a text in UTF-8")
        self.separator = _separator(first)
        fields = split_line(first, self.separator)
        if len(fields) < 2:
            raise InputError(f"{self.where} is {excerpt(first)}, expected a label and pixels, separated by commas")
        header = _is_header(fields)
        self.names = [name_of(field) for field in fields] if header else []
        second = split_line(lines[1][1], self.separator) if len(lines) > 1 else []
        self.example = second if header and len(second) == len(fields) else fields
        label, skipped, guessed, left_out = self._by_name() if header else self._by_position()
        named = label is not None and not _is_number(self.example[label])
        count = len(fields) - len(skipped) - (label is not None)
        shape = self._shape(count, label)
        where = "no label" if label is None else f"label in column {label + 1} of {len(fields)}" + (
            f", {self.names[label]!r}" if header else ", no header")
        return Table(self.path, self.separator, number if header else number - 1, len(fields), label, named, skipped,
                      guessed, shape, f"CSV, {where}", left_out)

    def _shape(self, count: int, label: int | None) -> tuple[int, ...]:
        columns = [i for i in range(len(self.example)) if i != label]
        text = next((i for i in columns if re.fullmatch(rb"\s*[0-9.]+(\s+[0-9.]+){3,}\s*", self.example[i])), None)
        if text is not None:
            raise InputError(f"{self.where} has the pixels of an image as text in column {text + 1}"
                             f"{self._called(text)}, expected a column for each pixel")
        if count < 1:
            names = f" ({', '.join(self.names[:4])})" if self.names else ""
            raise InputError(f"{self.where} has {len(self.example)} columns{names} and none of pixels: expected "
                             "images, not a list of them")
        return shape_of_image(count, self.image_shape, self.where, self.like)

    def _fits(self, count: int) -> bool:
        if self.image_shape:
            return count == math.prod(self.image_shape)
        return is_square(count) or self.like is not None and count == math.prod(self.like)

    def _called(self, column: int) -> str:
        return f" ({self.names[column]!r})" if self.names else ""

    def _chosen(self) -> int | None:
        """The column that the user chose."""
        wanted, count = self.label_column, len(self.example)
        if wanted is None:
            return None
        named = [i for i, name in enumerate(self.names) if name.lower() == str(wanted).strip().lower()]
        if len(named) == 1:
            return named[0]
        if str(wanted).isdecimal() and 1 <= int(wanted) <= count:
            return int(wanted) - 1
        known = f"a number from 1 to {count}" + (f", or one of {_list(self.names)}" if self.names else "")
        raise InputError(f"{self.path} has no label column {str(wanted)[:100]!r}, expected {known}")

    def _by_name(self) -> tuple[int | None, tuple[int, ...], bool, str]:
        """(label, skipped, guessed, left out) with a header."""
        chosen = self._chosen()
        keys = [re.sub("[^a-z0-9]", "", name.lower()) for name in self.names]
        labels = [i for i, key in enumerate(keys) if key in LABEL_NAMES]
        if chosen is None and len(labels) > 1:
            raise InputError(f"{self.where} has {len(labels)} columns that can be the label, "
                             f"{_list(self.names[i] for i in labels)}: choose one (--label-column)")
        label = chosen if chosen is not None else labels[0] if labels else None
        skipped = [i for i, key in enumerate(keys) if key in INDEX_NAMES and i != label]
        if chosen is not None:
            skipped += [i for i in labels if i != label]
        rest = [i for i in range(len(keys)) if i != label and i not in skipped]
        groups = Counter(re.sub("[0-9]+", "0", keys[i]) for i in rest)
        usual, size = groups.most_common(1)[0] if groups else ("", 0)
        others = [i for i in rest if re.sub("[0-9]+", "0", keys[i]) != usual] if 2 * size > len(rest) else []
        guessed, left_out = False, ""
        if label is None:
            label, guessed = self._unnamed(rest, others)
            others = [i for i in others if i != label]
        count = len(rest) - (label in rest)
        if others and not self._fits(count):
            if not self._fits(count - len(others)):
                raise InputError(f"{self.where} has the columns {_list(self.names[i] for i in others)} beside "
                                 f"{count - len(others)} pixels and the label, expected pixels that are a square or "
                                 "the image shape (--image-shape)")
            skipped += others
            left_out = f"the columns {_list(self.names[i] for i in others)}"
        return label, tuple(sorted(skipped)), guessed, left_out

    def _unnamed(self, rest: list[int], others: list[int]) -> tuple[int | None, bool]:
        """(label, guessed) for a header without a usual name of the label.

        rest : columns that are no index
        others : those of them with another kind of name than most
        """
        if len(others) == 1 and not (not self.labelled and self._fits(len(rest))):
            return others[0], False
        if len(others) > 1:
            raise InputError(f"{self.where} does not say which column is the label, "
                             f"{_list(self.names[i] for i in others)}: choose one (--label-column)")
        if self._fits(len(rest)) and (not self.labelled or not self._fits(len(rest) - 1)):
            if not self.labelled:
                return None, False
            raise InputError(f"{self.path} has no label: its columns are {_list(self.names)}, expected one with a name "
                             "such as label or class (--label-column)")
        return (rest[0], True) if rest else (None, False)

    def _by_position(self) -> tuple[int | None, tuple[int, ...], bool, str]:
        """(label, skipped, guessed, left out) without a header."""
        chosen, count = self._chosen(), len(self.example)
        words = [i for i, field in enumerate(self.example) if field.strip() and not _is_number(field)]
        empty = [i for i in (0, count - 1) if not self.example[i].strip()]
        if chosen is not None:
            skipped = [i for i in {*words, *empty} if i != chosen]
            if not self._fits(count - len(skipped) - 1) and chosen > 0 and self._fits(count - len(skipped) - 2):
                skipped = sorted({0, *skipped})             # an index in front
            return chosen, tuple(sorted(skipped)), False, ""
        if len(words) > 1:
            raise InputError(f"{self.where} has text in {len(words)} columns, {_list(str(i + 1) for i in words)}, and "
                             "no header says which is the label: choose one (--label-column)")
        if words:
            return words[0], tuple(i for i in empty if i not in words), False, ""
        inner = count - len(empty)
        if not self.labelled and self._fits(inner) and not self._fits(inner - 1):
            return None, tuple(empty), False, ""
        first = 1 if empty[:1] == [0] else 0
        if not self._fits(inner - 1):
            if self._fits(inner) and self.image_shape is None:
                raise InputError(f"{self.where} has {inner} columns: an image without a label, or a label and "
                                 f"{inner - 1} pixels, which is not a square: choose the label (--label-column) or "
                                 "give the image shape (--image-shape)")
            if self._fits(inner - 2):
                raise InputError(f"{self.where} has {inner} columns, one more than a label and {inner - 2} pixels: if "
                                 "the first is an index, choose the label (--label-column 2)")
        return first, tuple(empty), True, ""


def _separator(line: bytes) -> bytes:
    """The separator of fields in a line: a tab or a semicolon where there is one, else a comma."""
    unquoted = re.sub(rb'"[^"]*"', b"", line)
    counts = {each: unquoted.count(each) for each in (b"\t", b";", b",")}
    for each in b"\t", b";":
        if counts[each] and 2 * counts[each] >= counts[b","] - 1:      # numbers may have decimal commas
            return each
    return b","


def _is_header(fields: list[bytes]) -> bool:
    """Whether a line holds names of columns: mostly text, or numbers that count the columns."""
    numbers = [field.strip() for field in fields if _is_number(field)]
    words = len([field for field in fields if field.strip()]) - len(numbers)
    if words > len(numbers) or words and len(numbers) < 2:
        return True
    # What pandas writes for columns without names.
    counted = any(numbers == [b"%d" % i for i in range(start, start + len(numbers))] for start in (0, 1))
    repeated = numbers[1:] == [b"%s.%d" % (numbers[0], i) for i in range(1, len(numbers))]
    return (counted or repeated) and (words > 0 or len(fields) >= COUNTED)


def _is_number(field: bytes) -> bool:
    return not math.isnan(number_of(field)) or field.strip().lower() == b"nan"


def name_of(field: bytes) -> str:
    return field.strip().decode("utf-8", "replace")


def _list(names: Iterable[str]) -> str:
    shown = [name[:40] if name.isprintable() else repr(name[:40]) for name in names]
    return ", ".join([*shown[:4], "...", shown[-1]] if len(shown) > 6 else shown)


def split_line(line: bytes, separator: bytes) -> list[bytes]:
    """The fields of a line, without their quotes."""
    if b'"' not in line:
        return line.split(separator)
    try:
        row = next(csv.reader([line.decode("utf-8", "surrogateescape")], delimiter=separator.decode()))
    except (csv.Error, StopIteration):
        return line.replace(b'"', b"").split(separator)
    return [field.encode("utf-8", "surrogateescape") for field in row]


def number_of(field: bytes) -> float:
    try:
        return float(field)
    except ValueError:
        return math.nan


def excerpt(field: bytes) -> str:
    text = field.strip()[:21].decode("utf-8", "replace")
    return repr(text if len(text) < 21 else text[:20] + "...")
