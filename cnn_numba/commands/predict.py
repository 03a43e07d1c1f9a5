"""The `predict` command."""
import argparse
import csv
import io
import json
from collections.abc import Callable

from cnn_numba.commands.flags import add_execution_flags, add_load_flag, check_exists, choice, choose_execution
from cnn_numba.commands.output import fail, safe
from cnn_numba.commands.parser import Parser
from cnn_numba.errors import InputError


def predict(parser: Parser) -> Callable[[argparse.Namespace, float], int]:
    """Classify image files with a saved model."""
    parser.usage = "%(prog)s predict --load FILE [flags] image.png folder ..."
    parser.group("images").add_argument("paths", nargs="+", metavar="PATH", help="image files, and folders of them")
    parser.group("images").add_argument(
        "--invert", action="store_true",
        help="invert the pixels, for dark drawings on a bright background (default: no)")
    add_load_flag(parser)
    parser.group("output").add_argument("--format", type=choice(*FORMATS), default="text", metavar="NAME",
                                        help=f"{', '.join(FORMATS)} (default: %(default)s)")
    add_execution_flags(parser)
    return run_predict


def run_predict(args: argparse.Namespace, _started: float) -> int:
    check_exists("--load", args.load)
    choose_execution(args)
    import numpy as np

    from cnn_numba.data.image import pillow, read_image
    from cnn_numba.inference import BATCH, Classifier, image_paths

    pillow()
    classifier = Classifier.load(args.load)
    shape = classifier.shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise InputError(f"{args.load} takes inputs of shape {shape}, expected greyscale or colour images")
    head, line = FORMATS[args.format]
    if head:
        print(head)
    code, paths = 0, list(image_paths(args.paths))
    for first in range(0, len(paths), BATCH):
        read, images = [], []
        for path in paths[first:first + BATCH]:
            try:
                images.append(read_image(path, shape[0], shape[1:]))
                read.append(path)
            except InputError as error:         # the other images are classified all the same
                fail(str(error))
                code = 2
        if read:
            pixels = 255 - np.stack(images) if args.invert else np.stack(images)
            for path, probabilities in zip(read, classifier.probabilities(pixels), strict=True):
                print(line(path, classifier.classes[probabilities.argmax()], float(probabilities.max())))
    return code


def text_line(path: str, name: str, probability: float) -> str:
    return f"{safe(path)}: {safe(name)} ({100 * probability:.2f} %)"


def csv_line(path: str, name: str, probability: float) -> str:
    row = io.StringIO()
    csv.writer(row, lineterminator="").writerow((path, name, f"{probability:.6f}"))
    return row.getvalue()


def json_line(path: str, name: str, probability: float) -> str:
    return json.dumps({"file": path, "class": name, "probability": round(probability, 6)}, ensure_ascii=False)


# {name: (first line, function that gives the line of an image)}
FORMATS = {"text": (None, text_line), "csv": ("file,class,probability", csv_line), "jsonl": (None, json_line)}
