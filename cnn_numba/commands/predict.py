"""The `predict` command."""
import argparse
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import cnn_numba.kinds as kinds
from cnn_numba.commands.flags import (
    IMAGE_SHAPE,
    add_execution_flags,
    add_load_flag,
    add_precision_flag,
    check_exists,
    check_target,
    choice,
    choose_execution,
    reader,
)
from cnn_numba.commands.network import trained_classifier
from cnn_numba.commands.output import count, fail, put, warning
from cnn_numba.commands.parser import Parser
from cnn_numba.commands.progress import bar
from cnn_numba.errors import InputError
from cnn_numba.escaping import csv_row, json_line, printable

if TYPE_CHECKING:
    import numpy as np

    from cnn_numba.inference import Classifier

Named = tuple[list[str], "np.ndarray"]          # names of images, and the images (N, C, H, W)


def predict(parser: Parser) -> Callable[[argparse.Namespace, float], int]:
    """Classify images with a saved model: image files, or CSV, NPZ, NPY and IDX files with or without labels."""
    parser.usage = "%(prog)s predict --load FILE [flags] image.png folder test.csv ..."
    group = parser.group("images")
    group.add_argument("paths", nargs="+", metavar="PATH", help="image files, folders of them, and data files")
    group.add_argument("--invert", action="store_true",
                       help="invert the pixels, for dark drawings on a bright background (default: no)")
    group.add_argument("--like-mnist", action="store_true",
                       help="prepare drawings as MNIST was made: light on dark, in a box of 20 pixels, with the centre "
                            "of mass in the middle (default: no)")
    group.add_argument("--image-shape", type=IMAGE_SHAPE, metavar="CxHxW",
                       help="shape of flat images in a data file (default: that of the model, or a square)")
    group.add_argument("--image-layout", type=choice("CHW", "HWC"), metavar="NAME",
                       help="whether channels come first or last in a data file (default: as it looks)")
    group.add_argument("--label-column", type=reader(kinds.COLUMN), metavar="NAME|N",
                       help="column of a CSV file that is no pixel (default: as it looks)")
    add_load_flag(parser)
    group = parser.group("output")
    group.add_argument("--format", type=choice(*FORMATS), metavar="NAME",
                       help=f"{', '.join(FORMATS)} (default: that of --output, or text)")
    group.add_argument("--output", metavar="FILE", help="write to a .csv or .jsonl file (default: print)")
    add_execution_flags(parser)
    add_precision_flag(parser, "that of the training")
    return run_predict


def run_predict(args: argparse.Namespace, _started: float) -> int:
    check_exists("--load", args.load)
    name = args.format or format_of_output(args.output)
    if args.output:
        check_target("--output", args.output, (args.load, args.paths))
    choose_execution(args)
    classifier = trained_classifier(args)
    shape = classifier.shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise InputError(f"{args.load} takes inputs of shape {shape}, expected greyscale or colour images")
    if args.like_mnist and shape != (1, 28, 28):
        raise InputError(f"argument --like-mnist: {args.load} takes images of {'x'.join(map(str, shape))}, expected "
                         "1x28x28")
    head, line = FORMATS[name]
    once, errors, number = Once(), list[str](), 0
    with opened(args.output) as write:
        if head:
            write(head)
        for names, images in batches(args, shape, errors, once):
            pixels = prepared(args, classifier, images, once)
            for each, probabilities in zip(names, classifier.probabilities(pixels), strict=True):
                number += 1
                write(line(number, each, classifier.classes[probabilities.argmax()], float(probabilities.max())))
    if args.output:
        put(f"Wrote {count(number, 'prediction')} to {args.output}")
    return 2 if errors else 0


class Once:
    """Prints a warning the first time only that something of its kind is found."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, sentence: str) -> None:
        kind = sentence.rpartition(": ")[2]
        if kind not in self._said:
            self._said.add(kind)
            warning(sentence)


# ---- reading --------------------------------------------------------------------------------------------------------
def batches(args: argparse.Namespace, shape: tuple[int, ...], errors: list[str], once: Once) -> Iterator[Named]:
    """The images of all paths, some at a time; images that cannot be read are appended to `errors`."""
    from cnn_numba.data.image import ENDINGS
    from cnn_numba.inference import BATCH, image_paths

    paths = list(args.paths)
    while paths:
        path = paths.pop(0)
        if os.path.isdir(path) or path.lower().endswith(ENDINGS) or not is_data_file(path):
            files = image_paths([path])
            while names := list(islice(files, BATCH)):
                yield from image_files(names, args.like_mnist, shape, errors, once)
        else:
            yield data_file(args, path, shape, once)


def is_data_file(path: str) -> bool:
    from pathlib import Path

    from cnn_numba.data.formats import format_of

    try:
        return bool(os.path.exists(path) and format_of(Path(path)))
    except InputError:
        return False


def data_file(args: argparse.Namespace, path: str, shape: tuple[int, ...], once: Once) -> Named:
    from cnn_numba.data import load_images

    part = load_images(path, like=None if args.like_mnist else shape, labelled=False, image_shape=args.image_shape,
                       image_layout=args.image_layout, label_column=args.label_column, report=once, progress=bar)
    return [f"{path}:{k}" for k in range(1, len(part.images) + 1)], part.images


def image_files(paths: list[str], like_mnist: bool, shape: tuple[int, ...], errors: list[str],
                once: Once) -> Iterator[Named]:
    """Image files in the shape of the model or, for MNIST, as they are."""
    import numpy as np

    from cnn_numba.data.image import open_image, pillow

    pillow()
    read, images = [], []
    for path in paths:
        try:
            with warnings.catch_warnings(action="ignore"):          # of Pillow, before a sentence of our own
                images.append(open_image(path, shape[0], None if like_mnist else shape[1:]))
            read.append(path)
        except InputError as error:         # the other images are classified all the same
            fail(str(error))
            errors.append(str(error))
    deepest = max((image.bits for image in images), default=0)
    images = [open_image(path, shape[0], None if like_mnist else shape[1:], deepest)
              if 0 < image.bits < deepest else image for path, image in zip(read, images, strict=True)]
    for what in "size", "colour":
        if changed := [path for path, image in zip(read, images, strict=True) if what in image.converted]:
            once(f"{changed[0]}{f' and {len(changed) - 1} more' * (len(changed) > 1)} had to be converted: the model "
                 f"takes another {what}")
    if like_mnist:
        for path, image in zip(read, images, strict=True):
            yield [path], image.pixels[None]
    elif read:
        yield read, np.stack([image.pixels for image in images])


# ---- bringing images into the form of the model ---------------------------------------------------------------------
def prepared(args: argparse.Namespace, classifier: "Classifier", images: "np.ndarray", once: Once) -> "np.ndarray":
    """Images in the form that the model knows, with a warning when they are unlike those of its training."""
    import numpy as np

    from cnn_numba.data.drawing import dark_on_light, is_of_mnist, like_mnist, off_centre
    from cnn_numba.data.fitting import count_flat, grey

    if args.invert:
        images = (255 if images.max() > 1 else 1) - images
    if args.like_mnist:
        images = grey(images) if images.shape[1] == 3 else images
        images = np.stack([like_mnist(image[0]) for image in images])[:, None]
    images = classifier.fitted(images, "the images", once)
    if flat := count_flat(images):
        once(f"{flat} of {count(len(images), 'image')} {'have' if flat > 1 else 'has'} nothing to classify: "
             f"{'they are' if flat > 1 else 'it is'} of one colour")
    elif not args.like_mnist:
        if dark_on_light(images, classifier.mean):
            once("the images are dark on light, those of the training light on dark, or the other way round: use "
                 "--invert" + (" or --like-mnist" if classifier.shape == (1, 28, 28) else ""))
        elif is_of_mnist(classifier.shape, classifier.mean, classifier.std) and off_centre(images):
            once("the drawings are not in the middle, or of another size than those of MNIST: use --like-mnist")
    return images


# ---- writing --------------------------------------------------------------------------------------------------------
def format_of_output(path: str | None) -> str:
    """The format for the ending of a file."""
    if path is None:
        return "text"
    ending = os.path.splitext(path)[1].lower().removeprefix(".")
    if ending not in ("csv", "jsonl"):
        raise InputError(f"argument --output: expected a .csv or .jsonl file, got {path}")
    return ending


def opened(path: str | None) -> AbstractContextManager[Callable[[str], Any]]:
    """Gives a function that prints a line, or writes it to a file, which is there when all is written."""
    @contextmanager
    def printing() -> Iterator[Callable[[str], Any]]:
        yield put

    @contextmanager
    def writing_lines() -> Iterator[Callable[[str], Any]]:
        from cnn_numba.files.atomic import writing

        with writing(str(path)) as file:
            yield lambda line: file.write(f"{line}\n".encode())
    return writing_lines() if path else printing()


def text_line(_number: int, path: str, name: str, probability: float) -> str:
    return f"{printable(path)}: {printable(name)} ({100 * probability:.2f} %)"


def csv_line(_number: int, path: str, name: str, probability: float) -> str:
    return csv_row(path, name, f"{probability:.6f}")


def kaggle_line(number: int, _path: str, name: str, _probability: float) -> str:
    return csv_row(number, name)


def jsonl_line(_number: int, path: str, name: str, probability: float) -> str:
    return json_line({"file": path, "class": name, "probability": round(probability, 6)})


# {name: (first line, function that gives the line of an image)}
FORMATS = {"text": (None, text_line), "csv": ("file,class,probability", csv_line), "jsonl": (None, jsonl_line),
           "kaggle": ("ImageId,Label", kaggle_line)}
