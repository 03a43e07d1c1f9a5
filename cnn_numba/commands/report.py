"""The `report` command."""
import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cnn_numba.commands.flags import add_execution_flags, add_location_flags, check_exists, choose_execution
from cnn_numba.commands.output import printers
from cnn_numba.commands.parser import Parser
from cnn_numba.commands.progress import bar
from cnn_numba.errors import InputError

if TYPE_CHECKING:
    from cnn_numba.data import Dataset
    from cnn_numba.recipe import Recipe


def report(parser: Parser) -> Callable[[argparse.Namespace, float], int]:
    """Write the report of a run again, or compare several runs."""
    parser.usage = "%(prog)s report RUN [RUN ...] [flags]"
    group = parser.group("report")
    group.add_argument("runs", nargs="+", metavar="RUN", help="folder that train --run made; several are compared")
    group.add_argument("--output", metavar="FILE",
                       help="file of a comparison (default: comparison.html); one run has report.html in its folder")
    add_location_flags(parser)
    add_execution_flags(parser)
    return run_report


def run_report(args: argparse.Namespace, _started: float) -> int:
    from cnn_numba.pictures import style
    from cnn_numba.run_folder import RunFolder

    for path in args.runs:
        check_exists("RUN", path)
    folders = [RunFolder(path) for path in args.runs]
    if args.output and len(folders) == 1:
        raise InputError("argument --output: is for the comparison of several runs; one run has report.html in its "
                         "folder")
    style.check(what="report")
    choose_execution(args)
    say, warn = printers(quiet=False, go_on=True)
    began = time.perf_counter()
    if len(folders) > 1:
        from cnn_numba.files.atomic import check_writable, write
        from cnn_numba.report import Study, comparison_page

        output = args.output or "comparison.html"
        check_writable(output)
        write(output, comparison_page([Study.of_run(folder) for folder in folders]).encode())
        say(f"Wrote {output}")
        return 0
    from cnn_numba.report import Study, write_report

    folder = folders[0]
    study = Study.of_run(folder, data_loader(args, warn))
    for sentence in write_report(study, folder, live=study.running):
        warn(f"Left out: {sentence}")
    say(f"Wrote {folder.report}, {Path(folder.report).stat().st_size / 1e6:.2f} MB, in "
        f"{time.perf_counter() - began:.1f} s" + (": it loads itself again while the training runs" * study.running))
    return 0


def data_loader(args: argparse.Namespace, warn: Callable[[str], None]) -> "Callable[[Recipe], Dataset]":
    """A function that loads the data set of a recipe from where the flags say."""
    return lambda recipe: recipe.load_data(data_dir=args.data_dir, mirror=args.mirror, report=warn, progress=bar)
