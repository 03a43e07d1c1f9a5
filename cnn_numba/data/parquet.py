"""Parquet files of images and labels, as the Hugging Face Hub has them, read with pyarrow."""

import json
import os
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from cnn_numba.data.image import keep_images
from cnn_numba.data.parts import role_of
from cnn_numba.data.reading import (
    Content,
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
from cnn_numba.files.opening import content_of, open_regular

UNPACKED = 1 << 26          # bytes to which every file may unpack;
RATIO = 200                 # a larger result may have this many times the size of the file


def read_parquet(path: StrPath, image_shape: tuple[int, int, int] | None = None, image_layout: str | None = None,
                 image_size: tuple[int, int] | None = None, label_column: str | int | None = None,
                 labelled: bool = True, like: tuple[int, ...] | None = None, skip_broken: bool | None = None,
                 keep: Keep = keep_nothing, progress: Progress = no_progress, report: Say = say_nothing,
                 note: Say = say_nothing) -> Content:
    """Read a Parquet file with a column of images and one of labels.

    An image is the content of an image file, alone or as the `bytes` of a structure as the Hugging Face Hub has it, or
    a list of numbers, which may be nested.  Columns are called as arrays in `data.parts`: image, img, x and label, y,
    ...  Where the file names the classes of the numbers in the column of labels (ClassLabel), the labels are the names.

    Parameters
    ----------
    path : path of the file
    image_shape, image_layout : of lists of numbers: see `in_channels`
    image_size : (rows, columns) to which encoded images are resized
    label_column : name of the column of labels, or its number from 1
    labelled : whether labels are required; without them the result is (images, None)
    like : (C, H, W) that the images get or, for lists of numbers, probably have
    skip_broken : whether encoded images that cannot be read are left out
    keep, progress, report, note : see `Format`

    Returns
    -------
    images (N, C, H, W), uint8 or float32, and labels (N,): int64 or names

    Raises
    ------
    InputError : pyarrow is missing, an unreadable or corrupt file, a missing column, other types, an image or a label
        that is missing.
    """
    path, pq = Path(path), _pyarrow()
    try:
        with open_regular(path) as file, pq.ParquetFile(file) as table:
            schema, metadata = table.schema_arrow, table.metadata
            unpacked = sum(metadata.row_group(k).total_byte_size for k in range(metadata.num_row_groups))
            if unpacked > max(UNPACKED, RATIO * os.fstat(file.fileno()).st_size):
                raise InputError(f"{path} unpacks to {unpacked:,} bytes, more than {RATIO} times its size")
            images, labels = _columns(schema.names, label_column, labelled, path)
            found = table.read([images] + ([labels] if labels else []))
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or first_line(error)})") from None
    except Exception as error:          # pyarrow has a dozen classes of its own for what a damaged file can hold
        raise InputError(f"{path} cannot be read as a Parquet file ({first_line(error)})") from None
    if not found.num_rows:
        raise InputError(f"{path} holds no images")
    kind = str(schema.field(images).type)
    kind = kind if len(kind) < 60 else f"{kind[:57]}..."
    note(f"images {images} of {kind}" + (f", labels {labels}" if labels else ""))
    known = _labels(found.column(labels), _class_names(schema, labels), f"{path}, {labels}") if labels else None
    encoded = _encoded(found.column(images))
    if encoded is None:
        values = _numbers(found.column(images), f"{path}, {images}")
        return in_channels(as_pixels(values), image_shape, image_layout, str(path), like), known
    for option, value in ("image shape", image_shape), ("image layout", image_layout):
        if value is not None:
            raise InputError(f"{path} holds encoded images, which take no {option}")
    names = [f"{path}, row {k}" for k in range(1, len(encoded) + 1)]
    contents = dict(zip(names, encoded, strict=True))

    def content(name: str) -> bytes:
        if (found := contents[name]) is None:
            raise InputError(f"{name} holds no image")
        return found

    kept = partial(keep, path, content_of(path), (image_size, like, images, labels))
    labels_or_zeros = np.zeros(len(names), np.int64) if known is None else known
    pixels, of_pixels = keep_images(names, path, labels_or_zeros, kept, image_size, like, skip_broken, progress, report,
                                    content, "images")
    return pixels, None if known is None else of_pixels


def _pyarrow() -> ModuleType:
    try:
        import pyarrow.parquet
    except ImportError:
        raise InputError("Parquet files are read by pyarrow, which is missing: pip install pyarrow") from None
    return pyarrow.parquet


def _columns(names: list[str], label_column: str | int | None, labelled: bool, path: Path) -> tuple[str, str | None]:
    """The names of the columns of images and of labels."""
    listing = ", ".join(names[:10]) + ", ..." * (len(names) > 10)
    roles = {role: [name for name in names if role_of(name) == ("", role)] for role in ("images", "labels")}
    if label_column is not None:
        wanted = str(label_column)
        if wanted not in names and wanted.isdecimal() and 1 <= int(wanted) <= len(names):
            wanted = names[int(wanted) - 1]
        if names.count(wanted) != 1:
            raise InputError(f"{path} has no label column {wanted[:100]!r}, expected one of {listing}")
        roles["labels"] = [wanted]
        roles["images"] = [name for name in roles["images"] if name != wanted]
    for role, found in roles.items():
        if len(found) > 1:
            raise InputError(f"{path} has several columns that can be the {role}, {', '.join(found)}" + (
                ": choose one (--label-column)" if role == "labels" else ", expected one of them"))
    if not roles["images"] or labelled and not roles["labels"]:
        missing = "labels, with a name such as label or class (--label-column)" if roles["images"] else (
            "images, with a name such as image or img")
        raise InputError(f"{path} has the columns {listing}, expected one of {missing}")
    return roles["images"][0], roles["labels"][0] if roles["labels"] else None


def _class_names(schema: Any, column: str) -> list[str]:
    """The names of the classes in the metadata that the library `datasets` writes; empty without them."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (TypeError, KeyError, ValueError, RecursionError):
        return []
    usable = isinstance(names, list) and all(isinstance(name, str) and name for name in names)
    return names if usable and len(set(names)) == len(names) else []


def _labels(column: Any, classes: list[str], where: str) -> np.ndarray:
    try:
        values = column.to_pylist()
        if None in values:
            raise InputError(f"{where}: the label of row {values.index(None) + 1} is missing")
        labels = as_labels(np.array(values), where)
    except UnicodeDecodeError:
        raise InputError(f"{where} holds text that is not UTF-8") from None
    except (ValueError, OverflowError) as error:                # lists of several lengths, dates that do not exist
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where} holds {str(column.type)[:100]}, expected whole numbers or names") from None
    if labels.dtype.kind != "U" and classes and labels.max() < len(classes):
        return np.array(classes)[labels]
    return labels


def _encoded(column: Any) -> list[bytes | None] | None:
    """The contents of image files in a column; None for a column of numbers."""
    kind = str(column.type)
    if kind.startswith("struct"):
        fields = {column.type.field(k).name: k for k in range(column.type.num_fields)}
        if "bytes" in fields and str(column.type.field(fields["bytes"]).type) in ("binary", "large_binary"):
            return [None if value is None else value["bytes"] for value in column.to_pylist()]
    return column.to_pylist() if kind in ("binary", "large_binary") else None


def _numbers(column: Any, where: str) -> np.ndarray:
    """The array in a column of lists of numbers, of one shape."""
    try:
        values = np.array(column.to_pylist())
    except (ValueError, OverflowError):
        values = np.empty(0, object)
    if values.dtype.kind not in "buif" or values.ndim < 2:
        raise InputError(f"{where} holds {str(column.type)[:100]}, expected the bytes of image files or numbers, as "
                         "many for each image")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"{where} holds NaN or infinity, expected finite numbers")
    if values.ndim > 4:
        raise InputError(f"{where} holds images of the shape {shape_text(values.shape[1:])}, expected up to three axes")
    return values
