"""The kinds of values that flags take, each of which refuses others with what was expected, and the flags that several
commands share."""
import argparse
import math
import os
import re

from cnn_numba.commands.progress import bar
from cnn_numba.errors import InputError
from cnn_numba.presets import PRESETS


def bounded(convert, accepts, expected):
    """An argparse type: the converted text if `accepts` it, else the sentence with what was `expected`."""
    def read(text):
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or not accepts(value):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return value
    return read


def sizes(text):
    """The numbers in "3x32x32", each from 1 to 99999."""
    if not re.fullmatch("[1-9][0-9]{0,4}(x[1-9][0-9]{0,4})*", text):
        raise ValueError
    return tuple(map(int, text.split("x")))


COUNT = bounded(int, lambda n: n >= 1, "a whole number of at least 1")
COUNT_OR_NONE = bounded(int, lambda n: n >= 0, "a whole number of at least 0")
SEED = bounded(int, lambda n: 0 <= n < 2**63, "a whole number from 0 to 2**63 - 1")
POSITIVE = bounded(float, lambda x: 0 < x < math.inf, "a number above 0")
FROM_ZERO = bounded(float, lambda x: 0 <= x < math.inf, "a number of at least 0")
DATASETS = "mnist", "fashion-mnist", "kmnist", "digits"
DATASET = bounded(str, lambda name: name in DATASETS or os.path.exists(name),
                  f"one of {', '.join(DATASETS)}, or the path of a file or folder")
PLACE = bounded(str, os.path.exists, "the path of a file or folder")
IMAGE_SHAPE = bounded(sizes, lambda shape: len(shape) == 3, "CHANNELSxROWSxCOLUMNS, such as 3x32x32")
IMAGE_SIZE = bounded(sizes, lambda size: len(size) == 2, "ROWSxCOLUMNS, such as 28x28")
BELOW_ONE = bounded(float, lambda x: 0 <= x < 1, "a number of at least 0 and below 1")


def share_or_count(text):
    """0.1 as a float, 1000 as an int."""
    return int(text) if text.isdecimal() else float(text)


PART = bounded(share_or_count, lambda x: x >= 1 if isinstance(x, int) else 0 < x < 1,
               "a whole number of at least 1, or a share between 0 and 1")
MODEL = bounded(str, lambda name: name in PRESETS or name.lower().endswith(".json"),
                f"one of {', '.join(PRESETS)}, or the path of a .json file")
NETWORK = bounded(str, lambda name: name in PRESETS or name.lower().endswith((".json", ".npz")),
                  f"one of {', '.join(PRESETS)}, or the path of a .json or .npz file")
CLASSES = bounded(int, lambda n: 1 <= n < 100_000, "a whole number from 1 to 99999")


def add_data_flags(parser):
    group = parser.add_argument_group("data")
    group.add_argument("--dataset", nargs="+", type=DATASET, metavar="NAME|PATH",
                       help=f"{', '.join(DATASETS)}, or a path: a .csv, .csv.gz or .npz file, IDX images and their "
                            "labels, or a folder with a folder of images for each class "
                            "(default: mnist, or digits when it cannot be had)")
    group.add_argument("--test-data", nargs="+", type=PLACE, metavar="PATH",
                       help="test part, when the data set is a path (default: its own, or every sixth image)")
    group.add_argument("--image-shape", type=IMAGE_SHAPE, metavar="CxHxW",
                       help="channels, rows and columns of an image in a CSV file (default: a grey square)")
    group.add_argument("--image-size", type=IMAGE_SIZE, metavar="HxW",
                       help="rows and columns to which image files are resized (default: as they are)")
    group.add_argument("--data-dir", metavar="DIR",
                       help="folder of the data sets (default: $CNN_NUMBA_DATA_DIR, or a cache folder)")
    group.add_argument("--mirror", metavar="URL", help="where to download from first (default: none)")
    group.add_argument("--train-size", type=COUNT, metavar="N",
                       help="use the first N training images (default: all)")
    group.add_argument("--test-size", type=COUNT, metavar="N",
                       help="use the first N test images (default: all)")


def add_execution_flags(parser):
    group = parser.add_argument_group("execution")
    pair = group.add_mutually_exclusive_group()
    pair.add_argument("--jit", action="store_true", default=None,
                      help="compile the kernels (default: yes, unless NUMBA_DISABLE_JIT=1)")
    pair.add_argument("--no-jit", action="store_false", dest="jit",
                      help="run the same kernels as plain Python, for a debugger: very slow")
    pair = group.add_mutually_exclusive_group()
    pair.add_argument("--parallel", action="store_const", const="parallel", default="parallel", dest="mode",
                      help="use several threads (default)")
    pair.add_argument("--serial", action="store_const", const="serial", dest="mode", help="use one thread")
    group.add_argument("--threads", type=COUNT, metavar="N", help="number of threads (default: one per CPU)")


def choose_execution(args):
    """Set how kernels run, before they are imported."""
    if args.mode == "serial" and args.threads not in (None, 1):
        raise InputError(f"argument --threads: expected 1 or nothing beside --serial, got {args.threads}")
    if args.jit is not None:
        os.environ["NUMBA_DISABLE_JIT"] = "0" if args.jit else "1"  # read when the kernels are imported
    from cnn_numba.execution import set_execution

    set_execution(args.mode, threads=args.threads)


def read_data(args, report, **options):
    from cnn_numba.data import load_dataset

    name = args.dataset[0] if args.dataset and len(args.dataset) == 1 else args.dataset
    options = {"image_shape": args.image_shape, "image_size": args.image_size} | options
    return load_dataset(name, test_data=args.test_data, data_dir=args.data_dir, mirror=args.mirror,
                        train_size=args.train_size, test_size=args.test_size, report=report, progress=bar, **options)
