"""The `benchmark` command: its flags, and where the results go."""
import argparse
from collections.abc import Callable

from cnn_numba.commands.flags import COUNT, COUNT_OR_NONE
from cnn_numba.commands.output import put, put_all
from cnn_numba.commands.parser import Parser

EXPERIMENTS = {
    "modes": "one network in all modes (interpreted, serial, parallel, textbook), in NumPy, PyTorch and JAX",
    "kernels": "single layers, forward and backward, with the fastest setting of PyTorch and the peak of the cores",
    "epoch": "whole epochs, with PyTorch in all its settings and JAX, and the share of the peak",
    "inference": "the classes of all images, with PyTorch at its best batch size",
    "latency": "one image, and 2, 4, 8 and 16, in microseconds, with the fastest setting of PyTorch and onnxruntime",
    "startup": "from the start of the process to the first training step",
    "scaling": "images per second over batch size, channels and threads",
    "memory": "peak memory of a training process",
    "busy": "training beside other programs, which it starts and stops, with PyTorch",
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
    group.add_argument("--model", choices=tuple(NETWORKS),
                       help="network: %(choices)s (default: lenet5; busy: lenet5, two-conv on 8x8 pixels and resnet8)")
    group.add_argument("--batch-size", type=count, metavar="N",
                       help="images per step (default: 64; busy: 64 and 16)")
    group.add_argument("--beside", type=COUNT_OR_NONE, nargs="+", default=(0, 1, 2, 4), metavar="N",
                       help="busy: numbers of other processes that compute (default: 0 1 2 4)")
    group.add_argument("--dataset", choices=("random", "mnist", "digits"), default="random",
                       help="images (default: %(default)s, 60,000 of MNIST's size)")
    group.add_argument("--data-dir", metavar="DIR",
                       help="folder of the data sets (default: $CNN_NUMBA_DATA_DIR, or a cache folder)")
    group.add_argument("--train-size", type=count, metavar="N", help="number of images (default: all)")
    group.add_argument("--contenders", nargs="+", metavar="NAME",
                       choices=("numba", "numpy", "torch", "jax", "onnxruntime"),
                       help="of numba, numpy, torch, jax, onnxruntime (default: those of the experiment that are "
                            "installed)")
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
    put_all(report.parts())
    return 0


def modes(parser: Parser) -> Callable[[argparse.Namespace, float], int]:
    """Show in a minute what the JIT and parallel=True buy on this machine, as a table and a picture."""
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
        experiment="modes", model=None, batch_size=None, beside=None, dataset="random", data_dir=None, train_size=None,
        precision="highest", contenders=("numba", "numpy"), threads=args.threads, rounds=None, quick=True, warm=True,
        avx2=False, json=None, plot=plot), started)
    if plot:
        put(f"Wrote {plot}")
    return code
