"""The `profile` command."""
import argparse
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from cnn_numba.commands.flags import COUNT, add_execution_flags, add_precision_flag, choose_execution
from cnn_numba.commands.network import add_batch_flags, chosen_network
from cnn_numba.commands.output import count, put_all
from cnn_numba.commands.parser import Parser
from cnn_numba.table import Column, Table, number

if TYPE_CHECKING:
    from cnn_numba.inspection.profile import Profile


def profile(parser: Parser) -> Callable[[argparse.Namespace, float], int]:
    """Measure where the time of a training step goes: the forward and backward pass of each layer."""
    add_batch_flags(parser, batch_size=64)
    parser.group("measurement").add_argument(
        "--iterations", type=COUNT, default=100, metavar="N", help="how often each part runs (default: %(default)s)")
    add_execution_flags(parser)
    add_precision_flag(parser, "highest")
    return run_profile


def run_profile(args: argparse.Namespace, _started: float) -> int:
    choose_execution(args)
    from cnn_numba.execution import describe
    from cnn_numba.inspection.profile import Step, measure

    _, model, shape, classes = chosen_network(args, args.seed)
    put_all([describe()])
    result = measure(Step(model, shape, classes, args.batch_size, args.seed), args.iterations)
    put_all([f"A training step on {count(args.batch_size, 'random image')}, the fastest of {args.iterations}", "",
             *lines(result, args.batch_size)])
    return 0


def lines(profile: "Profile", batch_size: int) -> Iterator[str | Table]:
    """The table of a profile, and the sentences below it."""
    from cnn_numba.inspection.profile import LEAST, PartTime
    from cnn_numba.inspection.timing import load_note
    from cnn_numba.kernels.compiled import JIT

    def percent(speed: float | None) -> str:
        return "-" if speed is None or not profile.peak else f"{100 * speed / profile.peak:.0f} %"

    def share(part: PartTime) -> str:
        value = profile.share(part)
        return "-" if value is None else f"{100 * value:.1f} %"

    columns: list[Column] = [
        ("layer", lambda part: part.name), ("output", lambda part: "x".join(map(str, part.output or ()))),
        ("forward ms", lambda part: milliseconds(part.forward)),
        ("backward ms", lambda part: milliseconds(part.backward)), ("share", share),
        ("GFLOP/s", lambda part: "-" if part.speed is None else number(part.speed / 1e9))]
    if profile.peak:
        columns.append(("of peak", lambda part: percent(part.speed)))
    total = profile.total
    yield Table(columns, profile.parts, total=[text(total) for _, text in columns])
    yield ""
    if not all(part.runs for part in profile.parts):
        yield ("-: nothing runs, or too briefly to be measured.  A ReLU is part of the layer before it where that can "
               "apply it; Flatten is a view.")
    yield f"The {1e6 * profile.start:.1f} us that it takes to start a part, or a whole step, are subtracted everywhere."
    whole = PartTime("step", None, profile.step, None, total.operations)
    if profile.peak:
        yield (f"Peak: {number(profile.peak / 1e9)} GFLOP/s of multiply-adds, the most measured; the whole step "
               f"reaches {percent(whole.speed)}.  Operations are those of the textbook: a convolution by Cook-Toom "
               "needs fewer.")
    elif JIT:
        yield "Peak: not measured, as other programs kept the threads from running at the same time."
    yield load_note(profile.load)
    speed = f"{batch_size / profile.step:,.0f}" if profile.step >= LEAST else "-"
    yield (f"The parts take {milliseconds(total.seconds)} ms, a whole training step {milliseconds(profile.step)} ms: "
           f"{speed} images/s")


def milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else "<0.001" if seconds < 5e-7 else f"{1000 * seconds:.3f}"
