"""The `lr-find` command."""
import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from cnn_numba.commands.flags import (
    COUNT,
    POSITIVE,
    add_execution_flags,
    add_location_flags,
    add_recipe_flags,
    check_data_paths,
    choose_execution,
    given_fields,
)
from cnn_numba.commands.output import data_line, printers
from cnn_numba.commands.parser import Parser
from cnn_numba.commands.progress import bar
from cnn_numba.recipe import Recipe

if TYPE_CHECKING:
    from cnn_numba.lr_range import RateRange


def lr_find(parser: Parser) -> Callable[[argparse.Namespace, float], int]:
    """Find a learning rate by a range test: the rate rises from step to step, and the loss shows where it learns."""
    add_range_flags(parser)
    parser.group("output").add_argument(
        "--output", metavar="FILE", help="picture to write, .png, .svg or .pdf (default: lr-find.png where matplotlib "
                                         "is installed)")
    add_recipe_flags(parser)
    add_location_flags(parser)
    add_execution_flags(parser)
    return run_lr_find


def add_range_flags(parser: Parser) -> None:
    group = parser.group("range test")
    group.add_argument("--lowest", type=POSITIVE, default=1e-5, metavar="X",
                       help="rate of the first step (default: %(default)g)")
    group.add_argument("--highest", type=POSITIVE, default=10.0, metavar="X",
                       help="rate of the last step (default: %(default)g)")
    group.add_argument("--steps", type=COUNT, default=100, metavar="N", help="how many (default: %(default)s)")


def run_lr_find(args: argparse.Namespace, _started: float) -> int:
    from importlib.util import find_spec

    from cnn_numba.files.atomic import check_writable
    from cnn_numba.pictures import style

    output = args.output or ("lr-find.png" if find_spec("matplotlib") else None)
    if output:
        style.check(output, what="--output")
        check_writable(output)
    recipe = Recipe(**given_fields(args))
    check_data_paths(recipe)
    choose_execution(args)
    say, warn = printers(quiet=False, go_on=True)
    found = found_range(args, recipe, warn, say)
    if output:
        from cnn_numba.pictures import rate_range

        style.save(rate_range(found), output)
        say(f"Wrote {output}")
    say(f"The loss falls fastest at --lr {found.suggestion:.2g}")
    return 0


def found_range(args: argparse.Namespace, recipe: Recipe, warn: Callable[[str], None],
                say: Callable[[str], None] = lambda line: None) -> "RateRange":
    """The range test of a recipe, with a new network."""
    from cnn_numba.lr_range import lr_range_test

    data = recipe.load_data(data_dir=args.data_dir, mirror=args.mirror, report=warn, progress=bar)
    recipe = replace(recipe, dataset=recipe.dataset or data.name).fitted(data)
    say(data_line(data))
    model = recipe.make_model(data)
    return lr_range_test(model, data, recipe.make_optimizer(model), recipe.make_loss(data), recipe.batch_size or 64,
                         recipe.seed, args.lowest, args.highest, args.steps)
