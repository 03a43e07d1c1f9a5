"""The data sets that have a name, and the folder that holds them."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TypeGuard

from cnn_numba.data.cache import NO_FOLDER
from cnn_numba.data.dataset import Dataset
from cnn_numba.data.download import DownloadError, PublishedFile, download
from cnn_numba.data.files import Part, load_files, load_part
from cnn_numba.data.fitting import fitted
from cnn_numba.data.idx import read_idx_pair
from cnn_numba.data.npz import read_npz
from cnn_numba.data.reading import LAYOUTS, Progress, StrPath, channels_last, no_progress
from cnn_numba.errors import InputError
from cnn_numba.kernels.cache import user_cache
from cnn_numba.notebook import notebook_progress


@dataclass(frozen=True)
class IdxSet:
    """A data set that is published as four IDX files, compressed with gzip.

    files : training images, training labels, test images, test labels
    mirrors : URLs of folders that hold these files
    classes : names of the classes in the order of their labels
    other_name : what torchvision calls the folder
    """

    name: str
    files: tuple[PublishedFile, ...]
    mirrors: tuple[str, ...]
    classes: tuple[str, ...]
    other_name: str = ""

    def load(self, root: StrPath, mirror: str | None = None, progress: Progress = no_progress) -> Dataset:
        """Read the files below `root`, and download the missing ones into `root / name`, from `mirror` first.

        Files may lie as torchvision, Kaggle or Keras leave them: see `find`.  Files in the folder are checked by their
        content and not by their MD5, so that files which were unzipped or compressed again are accepted.

        Raises InputError for bad files, and DownloadError when a missing file cannot be downloaded.
        """
        paths = self.find(Path(root))
        if len(paths) == 1:
            parts = read_npz(paths[0])
            if not {"train", "test"} <= set(parts):
                raise InputError(f"{paths[0]} has the parts {', '.join(parts)}, expected train and test")
            train, test = parts["train"], parts["test"]
        else:
            folder = Path(root) / self.name
            if not paths:
                missing = [file for file in self.files if path_of(file.name, folder) is None]
                download(missing, folder, [*([mirror] if mirror else ()), *self.mirrors], progress)
                paths = [path_of(file.name, folder) or folder / file.name for file in self.files]
            train, test = (read_idx_pair(paths[k], paths[k + 1], len(self.classes)) for k in (0, 2))
        if train[0].shape[1:] != test[0].shape[1:]:
            raise InputError(f"{paths[len(paths) // 2]} holds test images of {test[0].shape[2]} x {test[0].shape[3]} "
                             f"pixels, but {paths[0]} images of {train[0].shape[2]} x {train[0].shape[3]}")
        notes = f"files in {paths[0].parent}",
        return Dataset(self.name, *train, *test, len(self.classes), self.classes, notes=notes)

    def find(self, root: Path) -> list[Path]:
        """The paths of all four files, or of an .npz file, in a folder below `root`, or in `root` if it is called so.

        Empty when no folder has all of them.
        """
        names = [name for name in (self.name, self.other_name) if name]
        folders = [root / name / inner for name in names for inner in ("", "raw")]
        last = root.absolute().parts[-1:] + root.absolute().parent.parts[-1:]
        if {part.lower() for part in last} & {name.lower() for name in names}:
            folders += [root, root / "raw"]
        for folder in folders:
            paths = [path for file in self.files if (path := path_of(file.name, folder))]
            if len(paths) == len(self.files):
                return paths
        archives = [folder / f"{self.name}.npz" for folder in (root, root / self.name)]
        return [path for path in archives if path.is_file()][:1]


def path_of(name: str, folder: Path) -> Path | None:
    """The path of a published file, unzipped before packed, also as "x.idx" for "x-idx" and in a folder of its name."""
    plain = name.removesuffix(".gz")
    for stem in plain, plain.replace("-idx", ".idx"):
        for path in folder / stem, folder / f"{stem}.gz", folder / stem / stem:
            if path.is_file():
                return path
    return None


def load_digits() -> Dataset:
    """The 1,797 digits of 8 x 8 pixels (0 to 16) in this package, the last 360 of them as the test part."""
    folder = Path(__file__).parent / "digits"
    images, labels = read_idx_pair(folder / "images-idx3-ubyte.gz", folder / "labels-idx1-ubyte.gz", 10)
    return Dataset("digits", images[:1437], labels[:1437], images[1437:], labels[1437:], 10)


MNIST = IdxSet(
    "mnist",
    files=(PublishedFile("train-images-idx3-ubyte.gz", 9912422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
           PublishedFile("train-labels-idx1-ubyte.gz", 28881, "d53e105ee54ea40749a09fcbcd1e9432"),
           PublishedFile("t10k-images-idx3-ubyte.gz", 1648877, "9fb629c4189551a2d022fa330f9573f3"),
           PublishedFile("t10k-labels-idx1-ubyte.gz", 4542, "ec29112dd5afa0611ce80d1b7f02629c")),
    mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"),
    classes=tuple("0123456789"),
    other_name="MNIST")

FASHION_MNIST = IdxSet(
    "fashion-mnist",
    files=(PublishedFile("train-images-idx3-ubyte.gz", 26421880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
           PublishedFile("train-labels-idx1-ubyte.gz", 29515, "25c81989df183df01b3e8a0aad5dffbe"),
           PublishedFile("t10k-images-idx3-ubyte.gz", 4422102, "bef4ecab320f06d8554ea6380940ec79"),
           PublishedFile("t10k-labels-idx1-ubyte.gz", 5148, "bb300cfdad3c16e7a12a480ee83cd310")),
    mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
             "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"),
    classes=("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
             "Ankle boot"),
    other_name="FashionMNIST")

KMNIST = IdxSet(
    "kmnist",
    files=(PublishedFile("train-images-idx3-ubyte.gz", 18165135, "bdb82020997e1d708af4cf47b453dcf7"),
           PublishedFile("train-labels-idx1-ubyte.gz", 29497, "e144d726b3acfaa3e44228e80efcd344"),
           PublishedFile("t10k-images-idx3-ubyte.gz", 3041136, "5c965bf0a639b31b8f53240b1b52f4d7"),
           PublishedFile("t10k-labels-idx1-ubyte.gz", 5120, "7320c461ea6c1c855c0b718fb2a4b134")),
    mirrors=("https://codh.rois.ac.jp/kmnist/dataset/kmnist", "http://codh.rois.ac.jp/kmnist/dataset/kmnist"),
    classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    other_name="KMNIST")

PUBLISHED = {published.name: published for published in (MNIST, FASHION_MNIST, KMNIST)}
NAMES = *PUBLISHED, "digits"


def data_folder(data_dir: StrPath | None = None) -> Path:
    """The folder that holds a folder for each data set.

    It is `data_dir`, else the environment variable CNN_NUMBA_DATA_DIR, else a folder in the user's cache.  Raises
    InputError when the user has no home folder.
    """
    try:
        if chosen := data_dir or os.environ.get("CNN_NUMBA_DATA_DIR"):
            return Path(chosen).expanduser()
        return user_cache() / "data"
    except RuntimeError as error:
        raise InputError(f"there is no data folder ({error}): set CNN_NUMBA_DATA_DIR") from None


def load_dataset(name: StrPath | Sequence[StrPath] | None = None, *,
                 test_data: StrPath | Sequence[StrPath] | None = None,
                 image_shape: tuple[int, int, int] | None = None, image_layout: str | None = None,
                 image_size: tuple[int, int] | None = None, label_column: str | int | None = None,
                 skip_broken: bool | None = None,
                 data_dir: StrPath | None = None, mirror: str | None = None,
                 train_size: int | None = None, test_size: int | None = None,
                 report: Callable[[str], object] | None = None, progress: Progress | None = None) -> Dataset:
    """Load a data set by its name, or from files.

    Parameters
    ----------
    name : "mnist", "fashion-mnist", "kmnist", "digits", a path, two paths, or None
        A path of a CSV file, an .npz file, an IDX or .npy file of images (and a second path of their labels), a
        folder with a folder of image files for each class, or a path in a format that `register_format` added.
        docs/data.md says how each is read.
        None is MNIST or, when it cannot be downloaded and no data folder was given, "digits".
    test_data : path or two paths, optional
        The test part, when `name` is the path of a training part.  By default that in `name`, else every sixth image
        of each class, always the same ones.
    image_shape : (C, H, W) or (H, W, C), optional
        Shape of the lines of a CSV file or of flat images in other files; by default one channel and a square.
    image_layout : "CHW" or "HWC", optional
        Whether the channels of an image come first or last, where a file does not show it.
    label_column : str or int, optional
        The column of labels in a CSV file: its name, or its number from 1.
    image_size : (rows, columns), optional
        Resizes image files; by default all must have one size.
    skip_broken : bool, optional
        Leave broken image files out, instead of refusing them.
    data_dir : path, optional
        The data folder.  It holds a folder for each named data set, and in `arrays` what took longer than a second to
        read from a path.  See `data_folder` for the default.
    mirror : str, optional
        http or https URL of a folder to download from before the public mirrors.
    train_size, test_size : int, optional
        Keep only so many images of a part: see `Dataset.head`.
    report : callable, optional
        Called with one sentence for everything that was left out or may be a mistake, and when "digits" replaces
        MNIST; by default a UserWarning.
    progress : callable, optional
        Shows the progress of slow reading and downloads: progress(name, total) gives a context manager, which gives
        a function(amount).  By default it is shown in notebooks only.

    Returns
    -------
    Dataset

    Raises
    ------
    InputError (a ValueError) : unknown name, bad files, failed download, size out of range.
    """
    _check_mirror(mirror)
    root = _root(name, data_dir)
    progress = progress or notebook_progress
    report = report or partial(warnings.warn, stacklevel=3)
    choices = _choices(image_shape, image_layout, image_size, label_column, skip_broken)
    paths, test_paths = _paths(name), _paths(test_data)
    if _is_named(name):
        _check_no_files(name, {"test_data": test_data} | choices)
        data = _load_named(name, root, mirror, report, progress, name is None and data_dir is None)
    else:
        _check_paths(paths)
        try:
            data = load_files(paths, test_paths, root, choices, progress=progress, report=report)
        except MemoryError:
            raise InputError(f"{paths[0]} does not fit into memory") from None
    return data.head(train_size, test_size)


def load_images(name: StrPath | Sequence[StrPath] | None = None, *, part: str | None = None,
                like: tuple[int, ...] | None = None, labelled: bool = True,
                test_data: StrPath | Sequence[StrPath] | None = None,
                image_shape: tuple[int, int, int] | None = None, image_layout: str | None = None,
                image_size: tuple[int, int] | None = None, label_column: str | int | None = None,
                skip_broken: bool | None = None,
                data_dir: StrPath | None = None, mirror: str | None = None,
                report: Callable[[str], object] | None = None, progress: Progress | None = None) -> Part:
    """Load images for a model that is trained: to measure it, or to classify them.

    Parameters
    ----------
    name, test_data, image_shape, ..., progress : see `load_dataset`; `test_data` comes before `name`
    part : "train" or "test"; by default all images of a file, but only the test part where there is one
    like : (C, H, W) that the images get
    labelled : whether labels are required

    Returns
    -------
    Part

    Raises
    ------
    InputError (a ValueError) : unknown name, bad files, failed download, no such part.
    """
    _check_mirror(mirror)
    root = _root(name, data_dir)
    progress = progress or notebook_progress
    report = report or partial(warnings.warn, stacklevel=3)
    choices = _choices(image_shape, image_layout, image_size, label_column, skip_broken)
    if _is_named(name):
        _check_no_files(name, {"test_data": test_data} | choices)
        data = _load_named(name, root, mirror, report, progress, name is None and data_dir is None)
        images, labels = (data.train_images, data.train_labels) if part == "train" else (
            data.test_images, data.test_labels)
        images = images if like is None else fitted(images, like, data.name, report)
        return Part(images, labels, data.classes, part or "test")
    paths = _paths(test_data if test_data is not None and part != "train" else name)
    _check_paths(paths)
    try:
        return load_part(paths, root, choices, part=None if test_data is not None else part, like=like,
                         labelled=labelled, progress=progress, report=report)
    except MemoryError:
        raise InputError(f"{paths[0]} does not fit into memory") from None


def _root(name: StrPath | Sequence[StrPath] | None, data_dir: StrPath | None) -> Path:
    """The data folder.  The digits, which are in the package, and files of the user need none: see `NO_FOLDER`."""
    try:
        return NO_FOLDER if name == "digits" else data_folder(data_dir)
    except InputError:
        if _is_named(name):
            raise
        return NO_FOLDER


def _check_mirror(mirror: str | None) -> None:
    if mirror and not mirror.startswith(("http://", "https://")):
        raise InputError(f"the mirror must be a URL that starts with http:// or https://, got {mirror!r}")


def _is_named(name: object) -> TypeGuard[str | None]:
    return name is None or isinstance(name, str) and name in NAMES


def _check_no_files(name: object, options: Mapping[str, object]) -> None:
    for option in (option for option, value in options.items() if value is not None):
        raise InputError(f"{option} is for data sets from files, not for {name or 'mnist, the default'}")


def _check_paths(paths: Sequence[StrPath]) -> None:
    if len(paths) in (1, 2) and (os.path.exists(paths[0]) or _looks_like_path(paths[0])):
        return
    given = " ".join(map(str, paths))
    similar = get_close_matches(given, NAMES, 1)
    raise InputError(f"the data set must be one of {', '.join(NAMES)}, or the path of a file or folder, got "
                     f"{given!r}" + (f": did you mean {similar[0]!r}?" if similar else ""))


def _choices(image_shape: tuple[int, int, int] | None, image_layout: str | None, image_size: tuple[int, int] | None,
             label_column: str | int | None, skip_broken: bool | None) -> dict[str, object]:
    """The options of formats that a user chose."""
    shape, layout = _channels_first(image_shape, image_layout)
    return {"image_shape": shape, "image_layout": layout, "image_size": image_size, "label_column": label_column,
            "skip_broken": skip_broken or None}


def _channels_first(shape: tuple[int, int, int] | None,
                    layout: str | None) -> tuple[tuple[int, int, int] | None, str | None]:
    """(C, H, W) and the layout, for a shape that may be (H, W, C)."""
    if layout not in (None, *LAYOUTS):
        raise InputError(f"the image layout must be {' or '.join(LAYOUTS)}, got {layout!r}")
    if shape and layout is None and channels_last(shape):
        return (shape[2], shape[0], shape[1]), "HWC"
    return shape, layout


def _paths(value: StrPath | Sequence[StrPath] | None) -> tuple[StrPath, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str | os.PathLike) else tuple(value)


def _looks_like_path(path: StrPath) -> bool:
    return bool(os.path.dirname(path) or os.path.splitext(path)[1])


def _load_named(name: str | None, root: Path, mirror: str | None, report: Callable[[str], object],
                progress: Progress, replaceable: bool) -> Dataset:
    """A named data set; replaceable : whether "digits" may take its place."""
    if name == "digits":
        return load_digits()
    try:
        return PUBLISHED[name or "mnist"].load(root, mirror, progress)
    except DownloadError as error:
        if not replaceable:
            raise
        report(f"MNIST is not in {root} and cannot be downloaded ({error.reason}): the 8 x 8 digits of the package are "
               "used instead")
        return load_digits()
