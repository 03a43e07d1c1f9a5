"""The `plot` command."""
import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from cnn_numba.commands.flags import (
    add_execution_flags,
    add_location_flags,
    add_recipe_flags,
    check_data_paths,
    check_exists,
    choice,
    choose_execution,
    given_fields,
)
from cnn_numba.commands.lr_find import add_range_flags, found_range
from cnn_numba.commands.output import printers
from cnn_numba.commands.parser import Parser
from cnn_numba.commands.progress import bar
from cnn_numba.commands.report import data_loader
from cnn_numba.errors import InputError
from cnn_numba.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# {picture: what it needs}
OF_RUN = "curves", "rates", "filters"
OF_MODEL = ("confusion", "precision", "errors", "unsure", "sample", "features", "histograms", "times", "counts", "data",
            "architecture")
OF_RECIPE = "augmentation", "lr-find"
NAMES = *OF_RUN, *OF_MODEL, *OF_RECIPE
IMAGES = 6                  # rows of the picture of an augmentation


def plot(parser: Parser) -> Callable[[argparse.Namespace, float], int]:
    """Draw one picture of a run, a saved model, a network or a data set."""
    parser.usage = "%(prog)s plot PICTURE [RUN] [flags]"
    group = parser.group("picture")
    group.add_argument("picture", type=choice(*NAMES), metavar="PICTURE", help=", ".join(NAMES))
    group.add_argument("run_folder", nargs="?", metavar="RUN", help="folder that train --run made")
    group.add_argument("--load", metavar="FILE",
                       help="saved model, instead of a run (default: none); architecture takes --model, too")
    group.add_argument("--output", metavar="FILE",
                       help="file to write, whose ending, .png, .svg or .pdf, chooses the kind (default: PICTURE.png)")
    add_range_flags(parser)
    add_recipe_flags(parser)
    add_location_flags(parser)
    add_execution_flags(parser)
    return run_plot


def run_plot(args: argparse.Namespace, _started: float) -> int:
    from cnn_numba.pictures import style

    output = args.output or f"{args.picture}.png"
    style.check(output, what="plot")
    check_source(args)
    from cnn_numba.files.atomic import check_writable

    check_writable(output)
    choose_execution(args)
    say, warn = printers(quiet=False, go_on=True)
    style.save(make(args, warn), output)
    say(f"Wrote {output}")
    return 0


def check_source(args: argparse.Namespace) -> None:
    """InputError unless the command line says what the picture is of."""
    for flag, path in ("RUN", args.run_folder), ("--load", args.load):
        if path:
            check_exists(flag, path)
    if args.run_folder and args.load:
        raise InputError("argument --load: is instead of a run folder, got both")
    if args.picture in OF_RUN and not args.run_folder:
        raise InputError(f"{args.picture} is a picture of a training: expected the folder that train --run made")
    free = OF_RECIPE + ("data", "counts") + ("architecture",) * ("model" in vars(args))
    if args.picture not in free and not (args.run_folder or args.load):
        raise InputError(f"{args.picture} is a picture of a trained network: expected the folder that train --run "
                         "made, or --load FILE")
    if args.picture == "augmentation" and not (args.run_folder or "augment" in vars(args)):
        raise InputError("argument --augment: augmentation needs the changes to show, such as shift=2,rotate=10")


def make(args: argparse.Namespace, warn: Callable[[str], None]) -> "Figure":
    """The figure that the command line asks for."""
    import numpy as np

    from cnn_numba import pictures
    from cnn_numba.report import Study
    from cnn_numba.run_folder import RunFolder

    load_data = data_loader(args, warn)
    needs_data = args.picture not in (*OF_RUN, "architecture")
    if args.run_folder and args.picture not in OF_RECIPE:
        study = Study.of_run(RunFolder(args.run_folder), load_data if needs_data else None)
        return study.picture(args.picture)
    given = given_fields(args)
    recipe = Recipe(**given)
    if args.run_folder:
        from cnn_numba.recipe import changed_fields
        from cnn_numba.recipe_file import read_fields

        folder = RunFolder(args.run_folder)
        folder.recipe()                                 # says what is wrong with it
        fields = changed_fields(read_fields(folder.config), given)
        fields.pop("begun", None)
        recipe = Recipe(**fields)
    check_data_paths(recipe)
    if args.picture == "lr-find":
        return pictures.rate_range(found_range(args, recipe, warn))
    if args.picture == "augmentation":
        augment = recipe.make_augment()
        if augment is None:
            raise InputError("argument --augment: the run has no augmentation: expected the changes to show, such as "
                             "shift=2,rotate=10")
        data = load_data(recipe)
        return pictures.augmentation(np.asarray(data.train_images[:IMAGES]), augment, recipe.seed)
    if args.load is None and args.picture == "architecture":
        from cnn_numba.interchange.formats import make_network

        classes, shape = 10, recipe.image_shape or (1, 28, 28)
        if recipe.dataset:
            data = load_data(recipe)
            classes, shape = data.num_classes, data.train_images.shape[1:]
        return pictures.architecture(make_network(recipe.model, shape, classes).layers, shape)
    study = Study(args.load or "the data", recipe)
    if args.load:
        from cnn_numba.inference import Classifier

        study.model = Classifier.load(args.load).model
    if needs_data:
        study.data = recipe.load_data(data_dir=args.data_dir, mirror=args.mirror, report=warn, progress=bar)
    return study.picture(args.picture)
