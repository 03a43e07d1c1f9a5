"""Data sets of the user's own: a CSV file, an .npz file, a pair of IDX files, or a folder of images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnn_numba.data.cache import cached
from cnn_numba.data.csvfile import read_csv
from cnn_numba.data.dataset import Dataset
from cnn_numba.data.folder import class_names, list_images, read_images
from cnn_numba.data.idx import read_labelled
from cnn_numba.data.npz import parts_of_npz, read_npz
from cnn_numba.data.reading import MAX_LABEL
from cnn_numba.errors import InputError

SPLIT = 6           # where there is no test part, every sixth image of each class becomes one


@dataclass(frozen=True)
class Part:
    """The training or the test part of a data set in files.

    read : function(root) that gives images (N, C, H, W) and labels (N,); a folder of images takes two more
        arguments, the image shape and the classes of a training part, and follows them
    classes : names, where there are any: for folders of images
    """

    where: str
    read: Callable
    classes: tuple[str, ...] = ()


def load_files(paths, test_paths, root, *, image_shape=None, image_size=None):
    """Load a data set from files.

    Parameters
    ----------
    paths : one path (CSV, .npz, IDX images, folder of images), or two (IDX images, IDX labels)
    test_paths : the same for the test part; when empty it is what `paths` hold of one, else every sixth image
        of each class, the same ones every time
    root : Path of the folder of data sets, for arrays that took long to read
    image_shape : (C, H, W) of the lines of a CSV file or of flat images in an .npz file
    image_size : (rows, columns) to which image files are resized

    Returns
    -------
    Dataset

    Raises
    ------
    InputError : a path that is no data set, bad files, parts that do not match, an option that means nothing
        for such files.
    """
    parts = _parts(paths, image_shape, image_size)
    if "train" not in parts:
        raise InputError(f"{paths[0]} holds a test part only, expected x_train and y_train")
    if test_paths:
        if "test" in parts:
            raise InputError(f"{paths[0]} has a test part of its own, so that {test_paths[0]} cannot be one")
        others = _parts(test_paths, image_shape, image_size)
        if len(others) > 1:
            raise InputError(f"{test_paths[0]} has a training and a test part, expected a test part only")
        parts["test"] = next(iter(others.values()))
    train = parts["train"]
    images, labels = train.read(root)
    num_classes = len(train.classes) or int(labels.max()) + 1
    if num_classes < 2:
        raise InputError(f"{train.where} holds a single class, expected at least two")
    if "test" in parts:
        test = parts["test"]
        if bool(test.classes) != bool(train.classes):
            raise InputError(f"{test.where} and {train.where} must be both folders of images, or neither")
        model = (images.shape[1:], train.classes) if train.classes else ()
        test_images, test_labels = test.read(root, *model)
        if test_images.shape[1:] != images.shape[1:]:
            raise InputError(f"{test.where} holds images of {_text(test_images)}, but {train.where} of "
                             f"{_text(images)}")
        if test_labels.max() >= num_classes:
            raise InputError(f"{test.where} holds the label {test_labels.max()}, but {train.where} only 0 to "
                             f"{num_classes - 1}")
    else:
        held_back = np.zeros(len(labels), bool)
        held_back[np.argsort(labels, kind="stable")[SPLIT - 1::SPLIT]] = True
        if not held_back.any():
            raise InputError(f"{train.where} holds {len(labels)} images, too few to hold back a test part: "
                             "give one (--test-data)")
        test_images, test_labels = images[held_back], labels[held_back]
        images, labels = images[~held_back], labels[~held_back]
    name = Path(paths[0]).resolve().name
    return Dataset(name, images, labels, test_images, test_labels, num_classes, train.classes)


def _text(images):
    return "x".join(map(str, images.shape[1:]))


def _parts(paths, image_shape, image_size):
    """What files or a folder hold: {"train": Part}, with "test" beside it or, for an .npz file, instead."""
    path = Path(paths[0])
    name, folder = path.name.lower(), path.is_dir()
    if image_size is not None and not folder:
        raise InputError(f"{path} is no folder of images, so that no image size can be chosen for it")
    if len(paths) == 1 and folder:
        if image_shape is not None:
            raise InputError(f"{path} is a folder of images, which need no image shape")
        return _folder_parts(path, image_size)
    if len(paths) == 1 and name.endswith(".npz"):
        return {part: _npz_part(path, part, image_shape) for part in parts_of_npz(path)}
    if len(paths) == 1 and name.endswith((".csv", ".csv.gz")):
        def read(root):
            return cached(root, path, _state(path), image_shape, lambda: read_csv(path, image_shape))
        return {"train": Part(str(path), read)}
    if len(paths) == 1 and "idx3" not in name:
        raise InputError(f"{path} is no data set: expected a .csv, .csv.gz or .npz file, IDX files (images "
                         "with idx3 in their name), or a folder with a folder of images for each class")
    if image_shape is not None:
        raise InputError(f"{path} tells the size of its images, expected no image shape")
    labels_path = Path(paths[1]) if len(paths) == 2 else _labels_beside(path)
    return {"train": Part(str(path), lambda root: read_labelled(path, labels_path, MAX_LABEL + 1))}


def _npz_part(path, part, image_shape):
    def read(root):
        options = part, image_shape
        return cached(root, path, _state(path), options, lambda: read_npz(path, *options))
    return Part(f"{path} ({part} part)", read)


def _folder_parts(path, image_size):
    folders = {part: path / part for part in ("train", "test")}
    if not all(folder.is_dir() for folder in folders.values()):
        folders = {"train": path}
    return {part: _folder_part(folder, image_size) for part, folder in folders.items()}


def _folder_part(folder, image_size):
    names = class_names(folder)

    def read(root, shape=None, classes=names):
        if strange := [name for name in names if name not in classes]:
            raise InputError(f"{folder} holds the class {strange[0]!r}, which the training part lacks")
        files = list_images(folder, names)
        # Mixed, always in the same way, so that the first images are some of every class.
        order = np.random.default_rng(0).permutation(len(files))
        channels, size = (shape[0], tuple(shape[1:])) if shape else (None, image_size)

        def read_all():
            mixed = [files[i] for i in order]
            images = read_images(folder, mixed, channels, size, resize=image_size is not None)
            return images, np.array([classes.index(names[file.label]) for file in mixed])
        state = [tuple(file) for file in files]
        return cached(root, folder, state, (channels, size, image_size, classes), read_all)
    return Part(str(folder), read, names)


def _labels_beside(path):
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    plain = path.with_name(name.removesuffix(".gz"))
    return plain if plain.exists() else path.with_name(f"{plain.name}.gz")


def _state(path):
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    return status.st_size, status.st_mtime_ns
