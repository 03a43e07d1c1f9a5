"""The `check-gradients` command."""
import argparse
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from cnn_numba.commands.flags import COUNT_OR_NONE, POSITIVE, add_execution_flags, add_precision_flag, choose_execution
from cnn_numba.commands.network import add_batch_flags, chosen_network
from cnn_numba.commands.output import count, put_all
from cnn_numba.commands.parser import Parser
from cnn_numba.table import Column, Table

if TYPE_CHECKING:
    from cnn_numba.inspection.gradients import GradientReport


def check_gradients(parser: Parser) -> Callable[[argparse.Namespace, float], int]:
    """Compare the gradients of every layer and parameter of a network with central differences in float64."""
    add_batch_flags(parser, batch_size=4)
    group = parser.group("comparison")
    group.add_argument("--samples", type=COUNT_OR_NONE, default=20, metavar="N",
                       help="elements of each gradient, among them the largest; 0 for all (default: %(default)s)")
    group.add_argument("--tolerance", type=POSITIVE, metavar="X",
                       help="largest error, relative to the largest element (default: 0.001, or 0.3 with --precision "
                            "medium, which rounds more, and lets some ReLUs decide otherwise)")
    add_execution_flags(parser)
    add_precision_flag(parser, "highest")
    return run_check_gradients


def run_check_gradients(args: argparse.Namespace, _started: float) -> int:
    choose_execution(args)
    from cnn_numba.execution import bf16, describe
    from cnn_numba.inspection import gradients

    _, model, shape, _ = chosen_network(args, args.seed)
    put_all([describe()])
    chosen = bf16()
    tolerance = args.tolerance or (0.3 if chosen and chosen.parts == 1 else 1e-3)
    result = gradients.check_gradients(model, shape, args.batch_size, args.seed, args.samples, tolerance)
    put_all([f"Kernels in float32 against central differences of {gradients.DELTA:g} in float64, on "
             f"{count(args.batch_size, 'random image')}", "", *lines(result)])
    return 1 if result.wrong else 0


def lines(result: "GradientReport") -> Iterator[str | Table]:
    """The table of a report, and the sentences below it."""
    from cnn_numba.inspection.gradients import DRAWS, MARGIN

    columns: list[Column] = [
        ("gradient of", lambda check: check.name), ("shape", lambda check: "x".join(map(str, check.shape))),
        ("compared", lambda check: str(check.compared)), ("unclear", lambda check: str(check.unclear)),
        ("largest error", lambda check: f"{check.error:.1e}"),
        ("", lambda check: "ok" if check not in result.wrong else "WRONG" if check.compared else "unclear")]
    yield Table(columns, result.checks)
    yield ""
    if unclear := sum(check.unclear for check in result.checks):
        yield (f"{count(unclear, 'unclear element')}: a ReLU or a maximum changes its decision right there, so the "
               "slopes to the two sides differ.")
    if result.margin < MARGIN:
        yield (f"In each of {DRAWS} draws of images, a ReLU or a maximum is a close call ({result.margin:.0e} of the "
               "size of its input): float32 may have decided otherwise.")
    if result.wrong:
        names = ", ".join(check.name for check in result.wrong)
        yield (f"{len(result.wrong)} of {len(result.checks)} gradients are wrong by more than {result.tolerance:g}, or "
               f"unclear: {names}")
        return
    worst = result.worst
    yield (f"All {len(result.checks)} gradients are right: the largest error is {worst.error:.1e}, of {worst.name}; "
           f"the tolerance is {result.tolerance:g}")
