"""The command line: flags, what is printed, and exit codes.

Commands import NumPy, Numba and requests when they run, so that `--help` and a mistyped flag answer at once.
"""
import argparse
import math
import os
import re
import sys
import time

from cnn_numba.errors import InputError
from cnn_numba.presets import PRESETS


def main(argv=None):
    """Run one command line (`sys.argv` when `argv` is None) and return its exit code.

    0: done. After one sentence on stderr: 1 the loss is no longer finite, or memory is used up; 2 bad input;
    130 Ctrl-C. In silence: 141 nobody reads the output any more. `--help` raises SystemExit(0), as argparse does.
    """
    started = time.perf_counter()
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            return run(argv, started)
        finally:
            print(end="", flush=True)  # notice here that the reader has gone, not while the interpreter exits
    except BrokenPipeError:
        sink = os.open(os.devnull, os.O_WRONLY)
        for output in 1, 2:
            os.dup2(sink, output)
        return 141


def run(argv, started):
    """Run one command line; the exit codes of `main`, without the last."""
    try:
        args = parse(argv)
        return args.run(args, started)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except MemoryError:
        print("error: memory is used up: a smaller --batch-size needs less", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted", file=sys.stderr)
        return 130


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are InputErrors: one sentence, without the usage in front of it."""

    def error(self, message):
        raise InputError(message)


def parse(argv):
    """Flags of one command; its name may be left out when it is `train`."""
    name = argv.pop(0) if argv and not argv[0].startswith("-") else "train"
    if name not in COMMANDS:
        raise InputError(f"unknown command {name!r}: expected one of {', '.join(COMMANDS)}, or flags only")
    parser = Parser(
        usage="%(prog)s [command] [flags]",
        description=COMMANDS[name].__doc__,
        epilog=f"Commands: {', '.join(COMMANDS)} (train when none is given).",
        allow_abbrev=False,
    )
    parser.set_defaults(run=COMMANDS[name](parser))
    return parser.parse_args(argv)


def bounded(convert, accepts, expected):
    """An argparse type: the converted text if `accepts` it, else the sentence with what was `expected`."""
    def read(text):
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or not accepts(value):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return value
    return read


def sizes(text):
    """The numbers in "3x32x32", each from 1 to 99999."""
    if not re.fullmatch("[1-9][0-9]{0,4}(x[1-9][0-9]{0,4})*", text):
        raise ValueError
    return tuple(map(int, text.split("x")))


COUNT = bounded(int, lambda n: n >= 1, "a whole number of at least 1")
COUNT_OR_NONE = bounded(int, lambda n: n >= 0, "a whole number of at least 0")
SEED = bounded(int, lambda n: 0 <= n < 2**63, "a whole number from 0 to 2**63 - 1")
POSITIVE = bounded(float, lambda x: 0 < x < math.inf, "a number above 0")
FROM_ZERO = bounded(float, lambda x: 0 <= x < math.inf, "a number of at least 0")
DATASETS = "mnist", "fashion-mnist", "kmnist", "digits"
DATASET = bounded(str, lambda name: name in DATASETS or os.path.exists(name),
                  f"one of {', '.join(DATASETS)}, or the path of a file or folder")
PLACE = bounded(str, os.path.exists, "the path of a file or folder")
IMAGE_SHAPE = bounded(sizes, lambda shape: len(shape) == 3, "CHANNELSxROWSxCOLUMNS, such as 3x32x32")
IMAGE_SIZE = bounded(sizes, lambda size: len(size) == 2, "ROWSxCOLUMNS, such as 28x28")
BELOW_ONE = bounded(float, lambda x: 0 <= x < 1, "a number of at least 0 and below 1")


def train(parser):
    """Train a convolutional network on MNIST."""
    group = parser.add_argument_group("data")
    group.add_argument("--dataset", nargs="+", type=DATASET, metavar="NAME|PATH",
                       help=f"{', '.join(DATASETS)}, or a path: a .csv, .csv.gz or .npz file, IDX images and their "
                            "labels, or a folder with a folder of images for each class "
                            "(default: mnist, or digits when it cannot be had)")
    group.add_argument("--test-data", nargs="+", type=PLACE, metavar="PATH",
                       help="test part, when the data set is a path (default: its own, or every sixth image)")
    group.add_argument("--image-shape", type=IMAGE_SHAPE, metavar="CxHxW",
                       help="channels, rows and columns of an image in a CSV file (default: a grey square)")
    group.add_argument("--image-size", type=IMAGE_SIZE, metavar="HxW",
                       help="rows and columns to which image files are resized (default: as they are)")
    group.add_argument("--data-dir", metavar="DIR",
                       help="folder of the data sets (default: $CNN_NUMBA_DATA_DIR, or a cache folder)")
    group.add_argument("--mirror", metavar="URL", help="where to download from first (default: none)")
    group.add_argument("--train-size", type=COUNT, metavar="N",
                       help="use the first N training images (default: all)")
    group.add_argument("--test-size", type=COUNT, metavar="N",
                       help="use the first N test images (default: all)")

    group = parser.add_argument_group("network and training")
    group.add_argument("--model", choices=tuple(PRESETS), default="two-conv",
                       help="network (default: %(default)s)")
    group.add_argument("--epochs", type=COUNT, default=5, metavar="N",
                       help="passes over the training images (default: %(default)s)")
    group.add_argument("--batch-size", type=COUNT, default=64, metavar="N",
                       help="images per step (default: %(default)s)")
    group.add_argument("--lr", type=POSITIVE, default=0.03, metavar="X",
                       help="learning rate of the first epoch (default: %(default)s)")
    group.add_argument("--schedule", choices=("linear", "constant"), default="linear",
                       help="linear: the learning rate falls in equal steps, to 0 after the last epoch "
                            "(default: %(default)s)")
    group.add_argument("--momentum", type=BELOW_ONE, default=0.9, metavar="X",
                       help="momentum of SGD (default: %(default)s)")
    group.add_argument("--weight-decay", type=FROM_ZERO, default=1e-4, metavar="X",
                       help="L2 penalty (default: %(default)s)")
    group.add_argument("--seed", type=SEED, default=0, metavar="N",
                       help="seed of everything random (default: %(default)s)")

    group = parser.add_argument_group("execution")
    pair = group.add_mutually_exclusive_group()
    pair.add_argument("--jit", action="store_true", default=None,
                      help="compile the kernels (default: yes, unless NUMBA_DISABLE_JIT=1)")
    pair.add_argument("--no-jit", action="store_false", dest="jit",
                      help="run the same kernels as plain Python, for a debugger: very slow")
    pair = group.add_mutually_exclusive_group()
    pair.add_argument("--parallel", action="store_const", const="parallel", default="parallel", dest="mode",
                      help="use several threads (default)")
    pair.add_argument("--serial", action="store_const", const="serial", dest="mode", help="use one thread")
    group.add_argument("--threads", type=COUNT, metavar="N", help="number of threads (default: one per CPU)")

    group = parser.add_argument_group("output")
    group.add_argument("--predictions", type=COUNT_OR_NONE, default=10, metavar="N",
                       help="how many predictions on test images to print (default: %(default)s)")
    group.add_argument("--quiet", action="store_true", help="print the test accuracy only (default: no)")
    return run_train


def run_train(args, started):
    if args.mode == "serial" and args.threads not in (None, 1):
        raise InputError(f"argument --threads: expected 1 or nothing beside --serial, got {args.threads}")
    if args.jit is not None:
        os.environ["NUMBA_DISABLE_JIT"] = "0" if args.jit else "1"  # read when the kernels are imported
    from cnn_numba.data import load_dataset
    from cnn_numba.execution import describe, set_execution
    from cnn_numba.optim import SGD
    from cnn_numba.training import Trainer

    def say(line):
        if not args.quiet:
            print(line, flush=True)

    def warn(line):
        print(line, file=sys.stderr if args.quiet else sys.stdout, flush=True)

    set_execution(args.mode, threads=args.threads)
    say(describe())
    name = args.dataset[0] if args.dataset and len(args.dataset) == 1 else args.dataset
    data = load_dataset(name, test_data=args.test_data, image_shape=args.image_shape, image_size=args.image_size,
                        data_dir=args.data_dir, mirror=args.mirror, train_size=args.train_size,
                        test_size=args.test_size, report=warn)
    image_shape = data.train_images.shape[1:]
    say(f"Data set {data.name}: {len(data.train_images)} training and {len(data.test_images)} test images "
        f"of {' x '.join(map(str, image_shape))}, {data.num_classes} classes")
    model = PRESETS[args.model](image_shape, data.num_classes, seed=args.seed)
    say(f"Network {args.model}: {sum(p.value.size for p in model.parameters())} parameters")
    compiling = time.perf_counter()
    optimizer = SGD(model, lr=args.lr, momentum=args.momentum, weight_decay=args.weight_decay)
    trainer = Trainer(model, data, optimizer, batch_size=args.batch_size, seed=args.seed)
    say(f"Kernels ready in {time.perf_counter() - compiling:.2f} seconds")

    for epoch in range(1, args.epochs + 1):
        if args.schedule == "linear":       # ends 0.2 % better on MNIST than a constant rate, for every seed tried
            optimizer.lr = args.lr * (1 - (epoch - 1) / args.epochs)
        result = train_epoch(trainer, len(data.train_images), quiet=args.quiet)
        if not math.isfinite(result.loss):
            print(f"error: the loss became {result.loss} in epoch {epoch}: use an --lr below {args.lr:g}",
                  file=sys.stderr)
            return 1
        say(f"Epoch {epoch} Loss= {result.loss:.6f} Acc= {result.accuracy:.2f} % "
            f"Run in: {result.seconds:.2f} seconds")

    test = trainer.evaluate(data.test_images, data.test_labels)
    print(f"Test accuracy: {test.accuracy:.2f} %", flush=True)
    for image in range(min(args.predictions, len(data.test_labels))):
        predicted, true = (data.classes[label[image]] for label in (test.predictions, data.test_labels))
        say(f"pred: {predicted}  true: {true}")
    say(f">>> Program run in {time.perf_counter() - started:.2f} seconds <<<")
    return 0


def train_epoch(trainer, images, quiet):
    """One epoch, with a bar on stderr that is silent by itself when stderr is not a terminal."""
    from progress.bar import Bar

    with Bar("Processing", max=images, file=None if quiet else sys.stderr) as bar:
        return trainer.epoch(advance=bar.next)


def benchmark(parser):
    """Measure this program against other ways to run it, PyTorch, JAX, and what the machine can do at most."""
    from cnn_numba.benchmark import command

    command.add_flags(parser, COUNT)
    return command.run


COMMANDS = {"train": train, "benchmark": benchmark}
