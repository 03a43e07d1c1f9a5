"""Data sets from users' files: reads the parts, checks that they match, and splits off a test part."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from cnn_numba.data.cache import cached
from cnn_numba.data.dataset import Dataset
from cnn_numba.data.formats import IDX, format_of
from cnn_numba.data.reading import (
    MAX_LABEL,
    Arrays,
    Progress,
    StrPath,
    as_pixels,
    checked_labels,
    class_order,
    no_progress,
)
from cnn_numba.errors import InputError

PARTS = "train", "validation", "test"
SPLIT = 6           # without a test part, every sixth image of each class goes into one


def load_files(paths: Sequence[StrPath], test_paths: Sequence[StrPath], root: StrPath, *,
               image_shape: tuple[int, int, int] | None = None, image_size: tuple[int, int] | None = None,
               progress: Progress = no_progress) -> Dataset:
    """Load a data set from files.

    Parameters
    ----------
    paths : one path in a known format, or two (IDX images, IDX labels)
    test_paths : the same for the test part; when empty, it is the test part in `paths`, else every sixth image
        of each class, always the same ones
    root : the data folder, for arrays that took long to read
    image_shape, image_size, progress : see `load_dataset`

    Raises
    ------
    InputError : a path without a known format, bad files, parts that do not match, an option that the format does
        not take.
    """
    choices = {"image_shape": image_shape, "image_size": image_size}
    tools = {"keep": partial(cached, root), "progress": progress}
    parts = _read(paths, choices | tools | {"like": None})
    where = {part: f"{paths[0]} ({part} part)" for part in parts}
    if "train" not in parts:
        raise InputError(f"{paths[0]} has no training part")
    images, labels = parts["train"]
    if test_paths:
        if "test" in parts:
            raise InputError(f"{paths[0]} has a test part of its own, so {test_paths[0]} cannot be the test part")
        others = _read(test_paths, choices | tools | {"like": images.shape[1:]})
        if len(others) > 1:
            raise InputError(f"{test_paths[0]} has the parts {' and '.join(others)}, expected a test part only")
        parts["test"], = others.values()
        where["test"] = f"{test_paths[0]} (test part)"
    classes = tuple(sorted(set(labels.tolist()), key=class_order)) if labels.dtype.kind == "U" else ()
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
    return Dataset(Path(paths[0]).resolve().name, *parts["train"], *parts["test"], num_classes, classes,
                   *parts.get("validation", ()))


def _read(paths: Sequence[StrPath], options: Mapping[str, object]) -> dict[str, Arrays]:
    """The parts in a file or folder."""
    path = Path(paths[0])
    if not path.exists():
        raise InputError(f"{path} does not exist")
    format, labels_path = (IDX, paths[1]) if len(paths) == 2 else (format_of(path), None)
    for option in "image_shape", "image_size":
        if options[option] is not None and option not in format.options:
            raise InputError(f"{path} has the format {format.name}, which takes no {option.replace('_', ' ')}")
    options = {**options, "labels_path": labels_path}
    content = format.read(path, **{option: options[option] for option in format.options})
    parts = content if isinstance(content, dict) else {"train": content}
    if not parts or not set(parts) <= set(PARTS):
        raise InputError(f"{path}: the reader of {format.name} returned the parts {', '.join(parts) or 'none'}, "
                         f"expected some of {', '.join(PARTS)}")
    return {part: _checked(*arrays, str(path)) for part, arrays in parts.items()}


def _checked(images: np.ndarray, labels: np.ndarray, where: str) -> Arrays:
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
    """The labels of a part as indices of the classes in the training part, which has no names if `classes` is empty."""
    if (labels.dtype.kind == "U") != bool(classes):
        raise InputError(f"{where} and the training part must both label images with names, as image folders do, or "
                         "both with numbers")
    if classes:
        index = {name: k for k, name in enumerate(classes)}
        if unknown := sorted(set(labels.tolist()) - index.keys()):
            raise InputError(f"{where} holds the class {unknown[0]!r}, which the training part lacks")
        return np.array([index[name] for name in labels.tolist()])
    if labels.max() >= num_classes:
        raise InputError(f"{where} holds the label {labels.max()}, but the training part only 0 to {num_classes - 1}")
    return labels


def _shape(images: np.ndarray) -> str:
    return "x".join(map(str, images.shape[1:]))
