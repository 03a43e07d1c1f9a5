"""The `evaluate` command."""
import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cnn_numba.commands.flags import (
    add_execution_flags,
    add_load_flag,
    add_location_flags,
    add_precision_flag,
    add_recipe_flags,
    check_data_paths,
    check_exists,
    choice,
    choose_execution,
    given_fields,
)
from cnn_numba.commands.network import trained_classifier
from cnn_numba.commands.output import count, printers
from cnn_numba.commands.parser import Parser
from cnn_numba.commands.progress import bar
from cnn_numba.errors import InputError, naming
from cnn_numba.escaping import printable
from cnn_numba.recipe import OF_FILES, Recipe
from cnn_numba.table import Table

if TYPE_CHECKING:
    import numpy as np


MOST_CLASSES = 1000         # of a confusion matrix


def evaluate(parser: Parser) -> Callable[[argparse.Namespace, float], int]:
    """Measure a saved model on a data set: accuracy, precision and recall of each class, confusion matrix."""
    add_load_flag(parser)
    add_recipe_flags(parser, "data")
    add_location_flags(parser)
    parser.group("data").add_argument("--part", type=choice("test", "train"), metavar="NAME",
                                      help="part of the data set: test or train (default: test where the data set has "
                                           "parts or is that of the training, else all images)")
    add_execution_flags(parser)
    add_precision_flag(parser, "that of the training")
    return run_evaluate


def run_evaluate(args: argparse.Namespace, _started: float) -> int:
    say, warn = printers(quiet=False)
    given = given_fields(args)
    recipe = Recipe(**given) if given.get("dataset") else None
    if recipe:
        check_data_paths(recipe)
    check_exists("--load", args.load)
    choose_execution(args)
    from cnn_numba.inference import confusion_matrix, labels_in

    classifier = trained_classifier(args)
    usual = None
    if recipe is None:
        trained = classifier.model.recipe or {}
        recipe, usual = remembered(given, trained, args.load), "test" if trained else None  # not what it was trained on
    part = recipe.load_part(args.part or usual, classifier.shape, data_dir=args.data_dir, mirror=args.mirror,
                            report=warn, progress=bar)
    paths = recipe.test_data or recipe.dataset or "mnist"
    name = os.path.basename(os.path.abspath(paths if isinstance(paths, str) else paths[0]))
    images = classifier.fitted(part.images, name, warn)
    labels = labels_in(classifier.classes, part.labels, part.classes)
    predictions = classifier.logits(images).argmax(axis=1)
    which = f"the {part.name} part" if part.name else "all"
    heading = (f"{'Training' if part.name == 'train' else 'Test'} accuracy: ",
               f" of {count(len(labels), 'image')}, {which} of {name}")
    if len(classifier.classes) > MOST_CLASSES:
        say(f"{heading[0]}{100 * (predictions == labels).mean():.2f} %{heading[1]}; tables of classes are left out "
            f"above {MOST_CLASSES:,} classes")
        return 0
    for each in report(confusion_matrix(labels, predictions, len(classifier.classes)), classifier.classes, *heading):
        say(each)
    return 0


def remembered(given: dict[str, Any], trained: dict[str, Any], model: str) -> Recipe:
    """The data that a model was trained on, with what the flags change; the default if its recipe is empty."""
    with naming(f"{model}, the data set of its training"):
        recipe = Recipe.from_json({name: trained[name] for name in ("dataset", *OF_FILES)
                                   if trained.get(name) and name not in given})
    try:
        check_data_paths(recipe)
    except InputError:
        paths = recipe.dataset if isinstance(recipe.dataset, str) else " ".join(recipe.dataset or ())
        raise InputError(f"argument --dataset: required, because {model} was trained on {paths}, which is not here"
                         ) from None
    recipe = replace(recipe, **given)
    check_data_paths(recipe)
    return recipe


def report(matrix: "np.ndarray", classes: Sequence[str], before: str = "Test accuracy: ",
           after: str = "") -> Iterator[str | Table]:
    """Accuracy, precision and recall of each class, and the confusion matrix."""
    right, true, predicted = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    names = [printable(name) for name in classes]

    def percent(part: Any, whole: Any) -> str:
        return f"{100 * part / whole:.2f} %" if whole else "-"

    yield f"{before}{percent(right.sum(), matrix.sum())}{after}"
    yield ""
    yield Table([("class", names.__getitem__), ("precision", lambda k: percent(right[k], predicted[k])),
                 ("recall", lambda k: percent(right[k], true[k])), ("images", lambda k: f"{true[k]:,}")],
                range(len(names)))
    yield ""
    yield "Confusion matrix: a row for each true class, a column for each predicted one, in the same order"
    width, cell = max(map(len, names)), len(str(matrix.max()))
    for name, row in zip(names, matrix, strict=True):
        yield f"{name:<{width}}  {' '.join(f'{n:>{cell}}' for n in row)}"
