"""The `benchmark` command: its flags, and where the results go."""
import argparse
from collections.abc import Callable

from cnn_numba.commands.flags import COUNT
from cnn_numba.commands.output import put_text
from cnn_numba.commands.parser import Parser

EXPERIMENTS = {
    "modes": "one network in all modes (interpreted, serial, parallel, textbook), in NumPy, PyTorch and JAX",
    "kernels": "single layers, forward and backward, with PyTorch and the peak of the cores",
    "epoch": "whole epochs, with PyTorch in all its settings and JAX, and the share of the peak",
    "inference": "the classes of all images, with PyTorch at its best batch size",
    "startup": "from the start of the process to the first training step",
    "scaling": "images per second over batch size, channels and threads",
    "memory": "peak memory of a training process",
    "busy": "lenet5, two-conv on 8x8 and resnet8 in batches of 64 and 16, beside other programs, with PyTorch",
}


def add_flags(parser: Parser, count: Callable[[str], int]) -> None:
    """Add the flags; `count` is the argparse type of a whole number of at least 1."""
    from cnn_numba.benchmark.networks import NETWORKS

    command = "%(prog)s" if parser.prog == "benchmark.py" else "%(prog)s benchmark"
    parser.usage = command + " {" + ",".join(EXPERIMENTS) + "} [flags]"
    parser.group("experiment").add_argument(
        "experiment", choices=tuple(EXPERIMENTS), metavar="experiment",
        help="; ".join(f"{name}: {text}" for name, text in EXPERIMENTS.items()))
    group = parser.group("what is measured")
    group.add_argument("--model", choices=tuple(NETWORKS), default="lenet5",
                       help="network: %(choices)s (default: %(default)s)")
    group.add_argument("--batch-size", type=count, default=64, metavar="N",
                       help="images per step (default: %(default)s)")
    group.add_argument("--dataset", choices=("random", "mnist", "digits"), default="random",
                       help="images (default: %(default)s, 60,000 of MNIST's size)")
    group.add_argument("--data-dir", metavar="DIR",
                       help="folder of the data sets (default: $CNN_NUMBA_DATA_DIR, or a cache folder)")
    group.add_argument("--train-size", type=count, metavar="N", help="number of images (default: all)")
    group.add_argument("--contenders", nargs="+", choices=("numba", "numpy", "torch", "jax"), metavar="NAME",
                       help="of numba, numpy, torch, jax (default: those of the experiment that are installed)")
    group = parser.group("how")
    group.add_argument("--threads", type=count, metavar="N", help="number of threads (default: one per CPU)")
    group.add_argument("--precision", choices=("highest", "high", "medium"), default="highest", metavar="NAME",
                       help="precision of this program's products, highest, high or medium, in the experiments that "
                            "compare it with others (default: %(default)s)")
    group.add_argument("--rounds", type=count, metavar="N",
                       help="how often each contender is measured (default: 5, or 2 with --quick)")
    group.add_argument("--quick", action="store_true", help="measure less, for a first impression (default: no)")
    group.add_argument("--warm", action="store_true",
                       help="modes: use kernels that are compiled already, and do not measure how long that takes "
                            "(default: no)")
    group.add_argument("--avx2", action="store_true",
                       help="limit all contenders to the AVX2 instructions of an x86 CPU (default: no)")
    group = parser.group("output")
    group.add_argument("--json", metavar="FILE", help="write every number to a file")
    group.add_argument("--plot", metavar="FILE",
                       help="draw a picture of the kind that the name ends in, such as .png (needs matplotlib)")


def run(args: argparse.Namespace, _started: float) -> int:
    """Run an experiment and print its tables; returns the exit code."""
    from cnn_numba.benchmark import plots
    from cnn_numba.files.atomic import check_writable, write

    if args.plot:
        plots.check(args.plot)
    for file in filter(None, (args.json, args.plot)):
        check_writable(file)                            # an error comes before the work
    from cnn_numba.benchmark import experiments

    report = experiments.run(args)
    if args.json:                                       # before it is printed, which may fail
        write(args.json, f"{report.json()}\n".encode())
    if args.plot:
        plots.draw(report, args.plot)
    put_text(str(report))
    return 0


def modes(parser: Parser) -> Callable[[argparse.Namespace, float], int]:
    """Show in half a minute what the JIT and parallel=True buy on this machine, as a table and a picture."""
    group = parser.group("modes")
    group.add_argument("--threads", type=COUNT, metavar="N", help="number of threads (default: one per CPU)")
    group.add_argument("--plot", metavar="FILE",
                       help="picture to write (default: modes.png where matplotlib is installed)")
    return run_modes


def run_modes(args: argparse.Namespace, started: float) -> int:
    """Run `benchmark modes` in short: our modes and NumPy, with kernels that are compiled already."""
    from importlib.util import find_spec

    plot = args.plot or ("modes.png" if find_spec("matplotlib") else None)
    code = run(argparse.Namespace(
        experiment="modes", model="lenet5", batch_size=64, dataset="random", data_dir=None, train_size=None,
        precision="highest", contenders=("numba", "numpy"), threads=args.threads, rounds=None, quick=True, warm=True,
        avx2=False, json=None, plot=plot), started)
    if plot:
        put_text(f"Wrote {plot}")
    return code
