"""The kinds of values that flags take: each refuses others with what was expected."""
import argparse
import math
import os
import re

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
