"""The data sets that have a name, and the folders in which they are looked for."""

import os
from dataclasses import dataclass
from pathlib import Path

from cnn_numba.data.dataset import Dataset
from cnn_numba.data.download import DownloadError, PublishedFile, download
from cnn_numba.data.files import load_files
from cnn_numba.data.idx import read_labelled
from cnn_numba.errors import InputError
from cnn_numba.kernels.cache import user_cache


@dataclass(frozen=True)
class IdxSet:
    """A data set that its publishers offer as four IDX files, compressed with gzip.

    files : training images, training labels, test images, test labels
    mirrors : URLs of folders that hold all of them
    """

    name: str
    files: tuple[PublishedFile, ...]
    mirrors: tuple[str, ...]
    classes: tuple[str, ...]

    def load(self, root, mirror=None):
        """Read the files in the folder `root / name`, and fetch those that are missing, from `mirror` first.

        An unzipped file counts as there, and is preferred.  Files in the folder are checked by what they hold
        and not by their MD5: those that somebody unzipped or compressed again are as good as the publisher's.
        """
        folder = Path(root) / self.name
        missing = [file for file in self.files if not os.path.isfile(_place(folder, file))]
        if missing:
            download(missing, folder, ([mirror] if mirror else []) + list(self.mirrors))
        paths = [_place(folder, file) for file in self.files]
        num_classes = len(self.classes)
        train, test = read_labelled(*paths[:2], num_classes), read_labelled(*paths[2:], num_classes)
        if train[0].shape[1:] != test[0].shape[1:]:
            raise InputError(f"{paths[2]} holds images of {test[0].shape[2]} x {test[0].shape[3]} pixels, "
                             f"but {paths[0]} of {train[0].shape[2]} x {train[0].shape[3]}")
        return Dataset(self.name, *train, *test, num_classes, self.classes)


def _place(folder, file):
    unzipped = folder / file.name.removesuffix(".gz")
    return unzipped if os.path.isfile(unzipped) else folder / file.name


def load_digits(root=None, mirror=None):
    """The 1,797 digits of 8 x 8 pixels (0 to 16) of the package, the last 360 of them as the test part."""
    folder = Path(__file__).parent / "digits"
    images, labels = read_labelled(folder / "images-idx3-ubyte.gz", folder / "labels-idx1-ubyte.gz", 10)
    return Dataset("digits", images[:1437], labels[:1437], images[1437:], labels[1437:], 10)


MNIST = IdxSet(
    "mnist",
    files=(PublishedFile("train-images-idx3-ubyte.gz", 9912422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
           PublishedFile("train-labels-idx1-ubyte.gz", 28881, "d53e105ee54ea40749a09fcbcd1e9432"),
           PublishedFile("t10k-images-idx3-ubyte.gz", 1648877, "9fb629c4189551a2d022fa330f9573f3"),
           PublishedFile("t10k-labels-idx1-ubyte.gz", 4542, "ec29112dd5afa0611ce80d1b7f02629c")),
    mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"),
    classes=tuple("0123456789"))

FASHION_MNIST = IdxSet(
    "fashion-mnist",
    files=(PublishedFile("train-images-idx3-ubyte.gz", 26421880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
           PublishedFile("train-labels-idx1-ubyte.gz", 29515, "25c81989df183df01b3e8a0aad5dffbe"),
           PublishedFile("t10k-images-idx3-ubyte.gz", 4422102, "bef4ecab320f06d8554ea6380940ec79"),
           PublishedFile("t10k-labels-idx1-ubyte.gz", 5148, "bb300cfdad3c16e7a12a480ee83cd310")),
    mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
             "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"),
    classes=("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
             "Ankle boot"))

KMNIST = IdxSet(
    "kmnist",
    files=(PublishedFile("train-images-idx3-ubyte.gz", 18165135, "bdb82020997e1d708af4cf47b453dcf7"),
           PublishedFile("train-labels-idx1-ubyte.gz", 29497, "e144d726b3acfaa3e44228e80efcd344"),
           PublishedFile("t10k-images-idx3-ubyte.gz", 3041136, "5c965bf0a639b31b8f53240b1b52f4d7"),
           PublishedFile("t10k-labels-idx1-ubyte.gz", 5120, "7320c461ea6c1c855c0b718fb2a4b134")),
    mirrors=("https://codh.rois.ac.jp/kmnist/dataset/kmnist", "http://codh.rois.ac.jp/kmnist/dataset/kmnist"),
    classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"))

# name -> function(root folder of the data sets, first mirror or None) that gives the Dataset
SOURCES = {source.name: source.load for source in (MNIST, FASHION_MNIST, KMNIST)} | {"digits": load_digits}


def data_folder(data_dir=None):
    """The folder that holds one folder per data set.

    It is `data_dir`, else the environment variable CNN_NUMBA_DATA_DIR, else a folder in the user's cache.
    """
    try:
        if chosen := data_dir or os.environ.get("CNN_NUMBA_DATA_DIR"):
            return Path(chosen).expanduser()
        return user_cache() / "data"
    except RuntimeError as error:
        raise InputError(f"no folder for data sets ({error}): set CNN_NUMBA_DATA_DIR") from None


def load_dataset(name=None, *, test_data=None, image_shape=None, image_size=None, data_dir=None, mirror=None,
                 train_size=None, test_size=None, report=print):
    """Load a data set by its name, or from files.

    Parameters
    ----------
    name : "mnist", "fashion-mnist", "kmnist", "digits", a path, two paths, or None
        A path is that of a CSV file (label first, plain or gzip-compressed), an .npz file with x_train,
        y_train, x_test and y_test, an IDX file of images (and a second path of its labels), or a folder with
        a folder of image files for each class, or with two of those, `train` and `test`.
        None is MNIST or, when that is neither in the data folder nor can be downloaded, the digits that come
        with the package, which is said in one line.
    test_data : path or two paths, optional
        The test part, where `name` is a path of a training part.  By default every sixth image of each class,
        always the same ones.
    image_shape : (C, H, W), optional
        Of the lines of a CSV file or of flat images in an .npz file; by default one channel and a square.
    image_size : (rows, columns), optional
        Resizes image files; by default they must have one size.
    data_dir : path, optional
        Holds one folder per data set, and in `arrays` what took longer than a second to read from a path; see
        `data_folder` for the default.
    mirror : str, optional
        http or https URL of a folder to download from before the public ones.
    train_size, test_size : int, optional
        Keep only the first images of a part.
    report : callable
        Gets that one line.

    Returns
    -------
    Dataset

    Raises
    ------
    InputError (a ValueError) : unknown name, files that are bad or cannot be had, a size out of range.
    """
    if mirror and not mirror.startswith(("http://", "https://")):
        raise InputError(f"the mirror must be a URL that starts with http:// or https://, got {mirror!r}")
    root = data_folder(data_dir)
    paths, test_paths = _paths(name), _paths(test_data)
    if name is None or name in tuple(SOURCES):
        options = {"test_data": test_data, "image_shape": image_shape, "image_size": image_size}
        for option in (option for option, value in options.items() if value is not None):
            raise InputError(f"{option} is for data sets from files, not for {name or 'mnist, the default'}")
        data = _load_named(name, root, mirror, report)
    elif not 1 <= len(paths) <= 2 or not os.path.exists(paths[0]):
        raise InputError(f"the data set must be one of {', '.join(SOURCES)}, or the path of a file or "
                         f"folder, got {' '.join(map(str, paths))!r}")
    else:
        try:
            data = load_files(paths, test_paths, root, image_shape=image_shape, image_size=image_size)
        except MemoryError:
            raise InputError(f"{paths[0]} holds more than fits into memory") from None
    return data.head(train_size, test_size)


def _paths(value):
    if value is None:
        return ()
    return (value,) if isinstance(value, str | os.PathLike) else tuple(value)


def _load_named(name, root, mirror, report):
    try:
        return SOURCES[name or "mnist"](root, mirror)
    except DownloadError as error:
        if name is not None:
            raise
        report(f"MNIST is not in {root} and cannot be fetched: {error.reason}; "
               "using the 8 x 8 digits that come with the program")
        return load_digits()
