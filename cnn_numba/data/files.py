"""Data sets from users' files: reads the parts, checks that they match, and splits off a test part."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cnn_numba.data.cache import cached
from cnn_numba.data.dataset import Dataset
from cnn_numba.data.formats import IDX, Format, format_of
from cnn_numba.data.parts import PARTS
from cnn_numba.data.reading import (
    MAX_LABEL,
    Arrays,
    Progress,
    Say,
    StrPath,
    as_pixels,
    checked_labels,
    class_order,
    no_progress,
    say_nothing,
    shape_text,
)
from cnn_numba.errors import InputError

SPLIT = 6           # without a test part, every sixth image of each class goes into one


def load_files(paths: Sequence[StrPath], test_paths: Sequence[StrPath], root: StrPath,
               choices: Mapping[str, object] | None = None, *, progress: Progress = no_progress,
               report: Say = say_nothing) -> Dataset:
    """Load a data set from files.

    Parameters
    ----------
    paths : one path in a known format, or two, of images and of their labels
    test_paths : the same for the test part; when empty, it is the test part in `paths`, else every sixth image
        of each class, always the same ones
    root : the data folder, for arrays that took long to read
    choices : the options of `Format` that the user chose
    progress, report : see `load_dataset`

    Raises
    ------
    InputError : a path without a known format, bad files, parts that do not match, an option that the format does
        not take.
    """
    notes: list[str] = []
    tools = {"keep": partial(cached, root), "progress": progress, "report": report, "note": notes.append}
    options = dict(choices or {}) | tools | {"like": None, "labelled": True}
    parts = _read(paths, options)
    where = {part: f"{paths[0]} ({part} part)" for part in parts}
    if "train" not in parts:
        raise InputError(f"{paths[0]} has no training part")
    images, labels = parts["train"]
    if test_paths:
        if "test" in parts:
            raise InputError(f"{paths[0]} has a test part of its own, so {test_paths[0]} cannot be the test part")
        others = _read(test_paths, options | {"like": images.shape[1:]})
        if len(others) > 1:
            raise InputError(f"{test_paths[0]} has the parts {' and '.join(others)}, expected a test part only")
        parts["test"], = others.values()
        where["test"] = f"{test_paths[0]} (test part)"
    classes = class_names(labels)
    num_classes = len(classes) or int(labels.max()) + 1
    if not 2 <= num_classes <= MAX_LABEL + 1:
        raise InputError(f"the number of classes in {where['train']} is {num_classes}, expected 2 to {MAX_LABEL + 1}")
    for part, (part_images, part_labels) in parts.items():
        if part_images.shape[1:] != images.shape[1:]:
            raise InputError(f"{where[part]} holds images of {_shape(part_images)}, but {where['train']} images of "
                             f"{_shape(images)}")
        parts[part] = part_images, _numbers(part_labels, classes, num_classes, where[part])
    if "test" not in parts:
        labels = parts["train"][1]
        held_out = np.zeros(len(labels), bool)
        held_out[np.argsort(labels, kind="stable")[SPLIT - 1::SPLIT]] = True
        if not held_out.any():
            raise InputError(f"{paths[0]} holds {len(labels)} images, too few to split off a test part: give one "
                             "(--test-data)")
        parts |= {"train": (images[~held_out], labels[~held_out]), "test": (images[held_out], labels[held_out])}
    validation = parts.get("validation", (None, None))
    return Dataset(Path(paths[0]).resolve().name, *parts["train"], *parts["test"], num_classes, classes,
                   validation_images=validation[0], validation_labels=validation[1], notes=tuple(notes))


def class_names(labels: np.ndarray) -> tuple[str, ...]:
    """The names of classes that occur, sorted, numbers by value; empty when the labels are numbers."""
    return tuple(sorted(set(labels.tolist()), key=class_order)) if labels.dtype.kind == "U" else ()


def _read(paths: Sequence[StrPath], options: Mapping[str, Any]) -> dict[str, Arrays]:
    """The parts in a file or folder."""
    path = Path(paths[0])
    if not path.exists():
        raise InputError(f"{path} does not exist")
    format = _format(paths)
    for option in "image_shape", "image_layout", "image_size", "label_column", "skip_broken":
        if options.get(option) is not None and option not in format.options:
            raise InputError(f"{path} has the format {format.name}, which takes no {option.replace('_', ' ')}")
    options = {**options, "labels_path": paths[1] if len(paths) == 2 else None}
    content = format.read(path, **{option: options.get(option) for option in format.options})
    parts = content if isinstance(content, dict) else {"train": content}
    if not parts or not set(parts) <= set(PARTS):
        raise InputError(f"{path}: the reader of {format.name} returned the parts {', '.join(parts) or 'none'}, "
                         f"expected some of {', '.join(PARTS)}")
    return {part: _checked(images, labels, str(path)) for part, (images, labels) in parts.items()}


def _format(paths: Sequence[StrPath]) -> Format:
    """The format of one path, or of two."""
    path = Path(paths[0])
    if len(paths) == 1:
        return format_of(path)
    try:
        format = format_of(path)
    except InputError:
        return IDX                                  # under any name
    if "labels_path" not in format.options:
        raise InputError(f"{path} and {paths[1]} are two data sets of the format {format.name}, expected one, and the "
                         "path of its test part elsewhere (--test-data)")
    return format


def _checked(images: np.ndarray, labels: np.ndarray | None, where: str) -> Arrays:
    """What a reader returned, as uint8 or float32 images and as int64 labels or names."""
    images, labels = np.ascontiguousarray(images), np.asarray(labels)
    if images.ndim != 4 or labels.shape != images.shape[:1] or not images.size:
        raise InputError(f"{where} gives images of the shape {images.shape} and labels of the shape {labels.shape}, "
                         "expected (N, C, H, W) and (N,)")
    if images.dtype.kind not in "buif" or labels.dtype.kind not in "uiU":
        raise InputError(f"{where} gives images of the type {images.dtype} and labels of the type {labels.dtype}, "
                         "expected numbers, and whole numbers or names")
    if images.dtype not in (np.uint8, np.float32):
        images = as_pixels(images)
    return images, labels if labels.dtype.kind == "U" else checked_labels(labels, where)


def _numbers(labels: np.ndarray, classes: tuple[str, ...], num_classes: int, where: str) -> np.ndarray:
    """The labels of a part as indices of the classes in the training part, matched by their names or numbers.

    classes : the names in the training part, which are the numbers themselves when it is empty
    """
    names = set(labels.tolist())
    if not classes:
        if not all(str(name).isdecimal() for name in names):
            raise InputError(f"{where} and the training part must both label images with names, as image folders do, "
                             "or both with numbers")
        labels = np.array([int(name) for name in labels.tolist()], np.int64)
        if labels.max() >= num_classes:
            raise InputError(f"{where} holds the label {labels.max()}, but the training part only 0 to "
                             f"{num_classes - 1}")
        return labels
    index = {name: k for k, name in enumerate(classes)}
    if unknown := sorted({str(name) for name in names} - index.keys()):
        raise InputError(f"{where} holds the class {unknown[0]!r}, which the training part lacks")
    return np.array([index[str(name)] for name in labels.tolist()])


def _shape(images: np.ndarray) -> str:
    return shape_text(images.shape[1:])
