"""The commands that use a saved model: `evaluate` and `predict`."""
import os
import sys

from cnn_numba.commands.flags import add_data_flags, add_execution_flags, choose_execution, read_data
from cnn_numba.errors import InputError


def add_load_flag(parser):
    parser.add_argument("--load", metavar="FILE", required=True, help="model that train --save wrote (required)")


def load_model(path):
    """A model that was saved, ready to classify: (model, Classifier)."""
    from cnn_numba.files.model_file import load
    from cnn_numba.inference import Classifier

    model = load(path)
    try:
        return model, Classifier(model)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def evaluate(parser):
    """Measure a saved model on a data set: accuracy, precision and recall of each class, confusion matrix."""
    add_load_flag(parser)
    add_data_flags(parser)
    parser.add_argument("--part", choices=("test", "train"), default="test",
                        help="part of the data set (default: %(default)s)")
    add_execution_flags(parser)
    return run_evaluate


def run_evaluate(args, _started):
    choose_execution(args)
    from cnn_numba.inference import confusion_matrix, labels_in, report

    model, classifier = load_model(args.load)
    one = args.dataset[0] if args.dataset and len(args.dataset) == 1 else ""
    options = {}
    if os.path.isdir(one) and args.image_size is None:
        options["image_size"] = model.input_shape[1:]       # as in training
    elif one.lower().endswith((".csv", ".csv.gz")) and args.image_shape is None:
        options["image_shape"] = model.input_shape
    data = read_data(args, print, **options)
    images, labels = getattr(data, f"{args.part}_images"), getattr(data, f"{args.part}_labels")
    labels = labels_in(classifier.classes, labels, data.classes)
    predictions = classifier.logits(images).argmax(axis=1)
    for line in report(confusion_matrix(labels, predictions, len(classifier.classes)), classifier.classes):
        print(line)
    return 0


def predict(parser):
    """Classify image files with a saved model."""
    parser.usage = "%(prog)s predict --load FILE [flags] image.png folder ..."
    parser.add_argument("paths", nargs="+", metavar="PATH", help="image files, and folders of them")
    add_load_flag(parser)
    parser.add_argument("--invert", action="store_true",
                        help="turn dark into bright, for dark drawings on a bright ground (default: no)")
    parser.add_argument("--format", choices=("text", "csv", "jsonl"), default="text",
                        help="of the output (default: %(default)s)")
    add_execution_flags(parser)
    return run_predict


def run_predict(args, _started):
    choose_execution(args)
    import numpy as np

    from cnn_numba.data.folder import pillow, read_image
    from cnn_numba.inference import BATCH, FORMATS, image_paths

    pillow()
    model, classifier = load_model(args.load)
    if len(model.input_shape) != 3 or model.input_shape[0] not in (1, 3):
        raise InputError(f"{args.load} takes no grey or colour images, but inputs of {model.input_shape}")
    head, line = FORMATS[args.format]
    if head:
        print(head)
    code, paths = 0, list(image_paths(args.paths))
    for first in range(0, len(paths), BATCH):
        read, images = [], []
        for path in paths[first:first + BATCH]:
            try:
                images.append(read_image(path, model.input_shape[0], model.input_shape[1:]))
                read.append(path)
            except InputError as error:         # the others are classified all the same
                print(f"error: {error}", file=sys.stderr)
                code = 2
        if read:
            pixels = 255 - np.stack(images) if args.invert else np.stack(images)
            for path, odds in zip(read, classifier.probabilities(pixels), strict=True):
                print(line(path, classifier.classes[odds.argmax()], float(odds.max())))
    return code
