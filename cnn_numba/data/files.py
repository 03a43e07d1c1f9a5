"""Data sets from users' files: reads the parts, checks that they match, and splits off a test part."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnn_numba.data.cache import cached
from cnn_numba.data.dataset import Dataset, representative
from cnn_numba.data.finding import data_files
from cnn_numba.data.fitting import count_flat, fitted, in_range
from cnn_numba.data.formats import FOLDER, IDX, Format, format_of
from cnn_numba.data.on_disk import ImagesOnDisk
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
        if len(others) > 1 and "test" not in others:
            raise InputError(f"{test_paths[0]} has the parts {' and '.join(others)}, expected a test part")
        if len(others) > 1:
            report(f"{test_paths[0]}: used its test part only")
        parts["test"] = others["test"] if "test" in others else next(iter(others.values()))
        where["test"] = f"{test_paths[0]} (test part)"
    classes = class_names(labels)
    num_classes = len(classes) or int(labels.max()) + 1
    if not 2 <= num_classes <= MAX_LABEL + 1:
        raise InputError(f"the number of classes in {where['train']} is {num_classes}, expected 2 to {MAX_LABEL + 1}")
    for part, (part_images, part_labels) in parts.items():
        part_images = fitted(part_images, images.shape[1:], where[part], report)
        parts[part] = part_images, _numbers(part_labels, classes, num_classes, where[part])
    if "test" not in parts:
        parts |= dict(zip(("train", "test"), split(*parts["train"], str(paths[0])), strict=True))
        where["test"] = where["train"] = str(paths[0])
        notes.append(f"every {SPLIT}th image of a class is the test part")
    data = Dataset(Path(paths[0]).resolve().name, *parts["train"], *parts["test"], num_classes, classes)
    for part in set(parts) - {"train"}:
        part_images, part_labels = parts[part]
        parts[part] = in_range(part_images, data.mean, data.std, where[part], report), part_labels
    for part, (part_images, _) in parts.items():
        if count := count_flat(part_images):
            report(f"{where[part]}: {count} of {len(part_images)} images {'are' if count > 1 else 'is'} of one colour")
    validation = parts.get("validation", (None, None))
    return replace(data, test_images=parts["test"][0], validation_images=validation[0],
                   validation_labels=validation[1], notes=tuple(notes))


def split(images: np.ndarray, labels: np.ndarray, where: str) -> tuple[Arrays, Arrays]:
    """The images and labels of a training and a test part, always the same ones; InputError when there are too few."""
    held_out = np.zeros(len(labels), bool)
    held_out[np.argsort(labels, kind="stable")[SPLIT - 1::SPLIT]] = True
    if not held_out.any():
        raise InputError(f"{where} holds {len(labels)} images, too few to split off a test part: give one "
                         "(--test-data)")
    return (images[~held_out], labels[~held_out]), (images[held_out], labels[held_out])


class Part(NamedTuple):
    """Images of one part, or of a whole file without parts, for a model that is trained.

    images : (N, C, H, W)
    labels : indices of `classes`, or None
    classes : names; "0", "1", ... where the labels are numbers
    name : "train", "validation", "test", or "" for all images
    """

    images: np.ndarray
    labels: Any
    classes: tuple[str, ...]
    name: str

    def head(self, size: int | None) -> "Part":
        """The part with so many of its images, as `Dataset.head` chooses them; InputError for a size out of range."""
        if size is None:
            return self
        if not 1 <= size <= len(self.images):
            raise InputError(f"must be 1 to {len(self.images)}, got {size}")
        chosen = slice(size) if self.labels is None else representative(self.labels, size)
        return self._replace(images=self.images[chosen], labels=None if self.labels is None else self.labels[chosen])


def load_part(paths: Sequence[StrPath], root: StrPath, choices: Mapping[str, object], *, part: str | None = None,
              like: tuple[int, ...] | None = None, labelled: bool = True, progress: Progress = no_progress,
              report: Say = say_nothing) -> Part:
    """Load what a model is measured on, or classifies.

    Parameters
    ----------
    paths, root, choices, progress, report : see `load_files`
    part : "train" or "test", which is split off a file without parts as in a training; by default the test part of a
        file that has one, else all of its images
    like : (C, H, W) that the images get
    labelled : whether labels are required

    Raises
    ------
    InputError : bad files, or a part that is not there.
    """
    tools = {"keep": partial(cached, root), "progress": progress, "report": report, "note": say_nothing}
    parts: dict[str, tuple[np.ndarray, np.ndarray | None]] = dict(_read(paths, dict(choices) | tools | {
        "like": like, "labelled": labelled}))
    name = part or ("test" if "test" in parts else "")
    if name == "" and len(parts) == 1:
        images, labels = next(iter(parts.values()))
    elif name == "" and set(parts) == {"train", "validation"}:
        images, labels = parts["validation"]
        name = "validation"
    elif part is not None and set(parts) <= {"train", "validation"} and "train" in parts:
        train_images, train_labels = parts["train"]
        if train_labels is None:
            raise InputError(f"{paths[0]} has no labels, which its parts are chosen by")
        images, labels = split(train_images, train_labels, str(paths[0]))[("train", "test").index(part)]
    elif name in parts:
        images, labels = parts[name]
    else:
        raise InputError(f"{paths[0]} has no {name} part, only {', '.join(parts)}")
    images = np.asarray(images)                         # also of a file whose images stay in it in a training
    if like is not None:
        images = fitted(images, like, str(paths[0]), report)
    if labels is None:
        return Part(images, None, (), name)
    classes = class_names(labels)
    if not classes:
        return Part(images, labels, tuple(map(str, range(int(labels.max()) + 1))), name)
    index = {each: k for k, each in enumerate(classes)}
    return Part(images, np.array([index[each] for each in labels.tolist()]), classes, name)


def class_names(labels: np.ndarray) -> tuple[str, ...]:
    """The names of classes that occur, sorted, numbers by value; empty when the labels are numbers."""
    return tuple(sorted(set(labels.tolist()), key=class_order)) if labels.dtype.kind == "U" else ()


def _read(paths: Sequence[StrPath], options: Mapping[str, Any]) -> dict[str, Arrays]:
    """The parts in a file or folder."""
    path = Path(paths[0])
    if not path.exists():
        raise InputError(f"{path} does not exist")
    if len(paths) == 1 and path.is_dir() and format_of(path) is FOLDER and (
            found := data_files(path, options["report"])):
        return _read_several(path, found, options)
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


def _read_several(folder: Path, found: Mapping[str, Sequence[Path]], options: Mapping[str, Any]) -> dict[str, Arrays]:
    """The parts in the files of a folder."""
    parts: dict[str, Arrays] = {}
    for part, paths in found.items():
        options["note"](f"{part or 'data'}: {paths[0].name}")
        inner = _read(paths, options)
        if not part:
            return inner
        if len(inner) > 1:
            raise InputError(f"{paths[0]} has the parts {' and '.join(inner)}, expected the {part} part of {folder}")
        parts[part] = next(iter(inner.values()))
    return parts


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


def _checked(images: np.ndarray, labels: np.ndarray | None, where: str) -> Any:
    """What a reader returned, as uint8 or float32 images and as int64 labels, names or None."""
    images = images if isinstance(images, ImagesOnDisk) else np.ascontiguousarray(images)
    unlabelled = labels is None
    labels = np.zeros(len(images), np.int64) if labels is None else np.asarray(labels)
    if images.ndim != 4 or labels.shape != images.shape[:1] or not images.size:
        raise InputError(f"{where} gives images of the shape {images.shape} and labels of the shape {labels.shape}, "
                         "expected (N, C, H, W) and (N,)")
    if images.dtype.kind not in "buif" or labels.dtype.kind not in "uiU":
        raise InputError(f"{where} gives images of the type {images.dtype} and labels of the type {labels.dtype}, "
                         "expected numbers, and whole numbers or names")
    if images.dtype not in (np.uint8, np.float32):
        images = as_pixels(images)
    if unlabelled:
        return images, None
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
