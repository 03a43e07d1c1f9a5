"""The command line: flags, what is printed, and exit codes.

Commands import NumPy, Numba and requests when they run, so that `--help` and a mistyped flag answer at once.
"""
import argparse
import math
import os
import sys
import time
from dataclasses import replace

from cnn_numba import recipe
from cnn_numba.errors import Diverged, InputError, shortened
from cnn_numba.flags import (
    CLASSES,
    COUNT,
    COUNT_OR_NONE,
    DATASET,
    DATASETS,
    IMAGE_SHAPE,
    IMAGE_SIZE,
    MODEL,
    NETWORK,
    PART,
    PLACE,
    POSITIVE,
    SEED,
)
from cnn_numba.interrupt import Interruption, Terminated
from cnn_numba.presets import PRESETS


def main(argv=None):
    """Run one command line (`sys.argv` when `argv` is None) and return its exit code.

    0: done. After one sentence on stderr: 1 the loss is no longer finite, or memory is used up; 2 bad input, or a file
    that cannot be read or written; 130 Ctrl-C; 143 SIGTERM. In silence: 141 nobody reads the output any more.
    `--help` raises SystemExit(0), as argparse does.
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
    except KeyboardInterrupt as interrupt:
        print("Interrupted", file=sys.stderr)
        return 143 if isinstance(interrupt, Terminated) else 130


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
    parser.set_defaults(run=COMMANDS[name](parser), parse=parser.parse_args, argv=argv)
    return parser.parse_args(argv)


def add_data_flags(parser):
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


def add_execution_flags(parser):
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


def train(parser):
    """Train a convolutional network on MNIST."""
    add_data_flags(parser)
    group = parser.add_argument_group("network and training")
    group.add_argument("--model", type=MODEL, default="two-conv", metavar="NAME|FILE",
                       help=f"network: {', '.join(PRESETS)}, or a .json file that describes one (default: %(default)s)")
    group.add_argument("--init", choices=recipe.INITS, default=recipe.INITS[0],
                       help="how weights start (default: %(default)s)")
    group.add_argument("--epochs", type=COUNT, default=5, metavar="N",
                       help="passes over the training images (default: %(default)s)")
    group.add_argument("--batch-size", type=COUNT, default=64, metavar="N",
                       help="images per step (default: %(default)s)")
    group.add_argument("--seed", type=SEED, default=0, metavar="N",
                       help="seed of everything random (default: %(default)s)")
    group.add_argument("--normalize", choices=("standard", "unit", "none"), default="standard",
                       help="pixels: less their mean and divided by their deviation, divided by 255, or as they are "
                            "(default: %(default)s)")
    group.add_argument("--validation", type=PART, metavar="N|SHARE",
                       help="training images to hold out, chosen at random; the weights of the epoch that is best on "
                            "them are the result (default: none)")
    group.add_argument("--early-stopping", type=COUNT, metavar="N",
                       help="end after N epochs that were no better on these (default: never)")
    recipe.add_flags(parser)
    add_execution_flags(parser)

    group = parser.add_argument_group("files")
    group.add_argument("--save", metavar="FILE", help="write the trained model, an .npz file (default: no)")
    pair = group.add_mutually_exclusive_group()
    pair.add_argument("--checkpoint", metavar="DIR",
                      help="keep the state of the training in a folder, so that it can go on after whatever happens "
                           "(default: no)")
    pair.add_argument("--resume", metavar="DIR",
                      help="go on with the training in such a folder, with its flags, to the same result as without a "
                           "stop (default: start anew)")
    group.add_argument("--checkpoint-minutes", type=POSITIVE, default=10, metavar="N",
                       help="write a checkpoint that often, besides after every epoch (default: %(default)s)")
    group.add_argument("--checkpoint-steps", type=COUNT, metavar="N",
                       help="write one also after N or a few more steps (default: no)")

    group = parser.add_argument_group("output")
    group.add_argument("--predictions", type=COUNT_OR_NONE, default=10, metavar="N",
                       help="how many predictions on test images to print (default: %(default)s)")
    group.add_argument("--log", metavar="FILE",
                       help="append the numbers of every epoch to a file, one JSON object a line (default: no)")
    group.add_argument("--quiet", action="store_true", help="print the test accuracy only (default: no)")
    return run_train


# Flags that say how and where to run, but not what is trained: a resumed training may have others.
AROUND = {"run", "parse", "argv", "data_dir", "mirror", "jit", "mode", "threads", "predictions", "quiet", "log", "save",
          "checkpoint", "resume", "checkpoint_minutes", "checkpoint_steps"}


def settings(args, data):
    """The flags that decide what is trained, as {name: list of words}, for the checkpoints."""
    words = {name: [str(word) for word in value] if isinstance(value, list)
             else ["x".join(map(str, value))] if isinstance(value, tuple) else [] if value is True else [str(value)]
             for name, value in vars(args).items()
             if name not in AROUND and value is not None and value is not False}
    return {"dataset": [data.name], **words}


def as_before(args, checkpoint):
    """The flags of a resumed training: those in the checkpoint, and around them those that are given now.

    Raises InputError when one of them asks for another training.
    """
    words = []
    for name, values in checkpoint.settings.items():
        known = name in vars(args) and name not in AROUND and isinstance(values, list)
        if not known or not all(isinstance(value, str) and value[:1] != "-" for value in values):
            raise InputError(f"{checkpoint.path} has flags that this program does not know")
        words += [f"--{name.replace('_', '-')}", *values]
    try:
        before = vars(args.parse(words))
    except InputError as error:
        raise InputError(shortened(f"{checkpoint.path} cannot go on: {error}")) from None
    merged = vars(args.parse([*words, *args.argv]))
    for name in before.keys() - AROUND:
        longer = name == "epochs" and before["schedule"] in recipe.OPEN_END     # changes nothing of what is trained
        if merged[name] != before[name] and not longer:
            raise InputError(f"argument --{name.replace('_', '-')}: the training in {args.resume} has "
                             f"{' '.join(checkpoint.settings.get(name, ['none']))}, which cannot be changed")
    return argparse.Namespace(**{name: getattr(args, name) if name in AROUND else value
                                 for name, value in merged.items()})


def choose_execution(args):
    """Set how kernels run, before they are imported."""
    if args.mode == "serial" and args.threads not in (None, 1):
        raise InputError(f"argument --threads: expected 1 or nothing beside --serial, got {args.threads}")
    if args.jit is not None:
        os.environ["NUMBA_DISABLE_JIT"] = "0" if args.jit else "1"  # read when the kernels are imported
    from cnn_numba.execution import set_execution

    set_execution(args.mode, threads=args.threads)


def read_data(args, report, **options):
    from cnn_numba.data import load_dataset

    name = args.dataset[0] if args.dataset and len(args.dataset) == 1 else args.dataset
    options = {"image_shape": args.image_shape, "image_size": args.image_size} | options
    return load_dataset(name, test_data=args.test_data, data_dir=args.data_dir, mirror=args.mirror,
                        train_size=args.train_size, test_size=args.test_size, report=report, **options)


def network(args, checkpoint, image_shape, num_classes):
    """The network to train: that of the checkpoint, whatever became of the file that it was read from, or a new one."""
    from cnn_numba.network_file import build_network, rebuild_network

    if checkpoint is None:
        return build_network(args.model, image_shape, num_classes, seed=args.seed, init=args.init)
    try:
        return rebuild_network(checkpoint.layers, image_shape, num_classes, seed=args.seed, init=args.init)
    except InputError as error:
        raise InputError(f"{checkpoint.path}: {error}") from None


def run_train(args, started):
    def say(line):
        if not args.quiet:
            print(line, flush=True)

    def warn(line):
        print(line, file=sys.stderr if args.quiet else sys.stdout, flush=True)

    if not args.resume:
        recipe.complete(args)
    choose_execution(args)
    from cnn_numba import archive
    from cnn_numba.checkpoints import Checkpoints, newest_checkpoint
    from cnn_numba.execution import describe
    from cnn_numba.runlog import RunLog

    checkpoint = newest_checkpoint(args.resume, report=warn) if args.resume else None
    if checkpoint:
        args = as_before(args, checkpoint)
        recipe.complete(args)
    if args.save:
        archive.check_writable(args.save)               # before the work, not after it
    log = RunLog(args.log) if args.log else None
    say(describe())
    compiling, trainer = make_trainer(args, checkpoint, warn, say)
    say(f"Kernels ready in {compiling:.2f} seconds")

    checkpoints = None
    if folder := args.checkpoint or args.resume:
        checkpoints = Checkpoints(
            folder, trainer, settings(args, trainer.data), args.checkpoint_minutes, args.checkpoint_steps)
        checkpoints.resume(checkpoint) if checkpoint else checkpoints.start()
    if checkpoint:
        say(f"Resumed from {checkpoint.path}, in epoch {trainer.epochs + 1} after {trainer.step} steps" + (
            "" if trainer.best is None else ", best so far epoch {epoch} Loss= {loss:.6f}".format(**trainer.best)))
        if trainer.epochs > args.epochs:
            raise InputError(f"argument --epochs: the training in {args.resume} has run {trainer.epochs} epochs, "
                             f"got {args.epochs}")

    try:
        code = train_epochs(args, trainer, checkpoints, log, say)
    except Diverged as error:
        print(f"error: {error}: use an --lr below {args.lr:g}{save_what_is_good(args, trainer)}", file=sys.stderr)
        return 1
    if code:
        return code
    finish(args, trainer, say)
    say(f">>> Program run in {time.perf_counter() - started:.2f} seconds <<<")
    return 0


def make_trainer(args, checkpoint, warn, say):
    """(seconds that compiling took, Trainer)"""
    from cnn_numba.training import Trainer

    augment = recipe.make_augment(args)
    data = read_data(args, warn)
    if args.validation:
        count = args.validation if isinstance(args.validation, int) else round(
            args.validation * len(data.train_images))
        data = data.hold_out(count, args.seed)
    data = replace(data, normalize=args.normalize)
    image_shape = data.train_images.shape[1:]
    parts = [(data.train_images, "training"), (data.validation_images, "validation"), (data.test_images, "test")]
    sizes = [f"{len(images)} {part}" for images, part in parts if images is not None]
    say(f"Data set {data.name}: {', '.join(sizes[:-1])} and {sizes[-1]} images "
        f"of {' x '.join(map(str, image_shape))}, {data.num_classes} classes")
    model = network(args, checkpoint, image_shape, data.num_classes)
    say(f"Network {args.model}: {sum(p.value.size for p in model.parameters())} parameters")
    start = time.perf_counter()
    optimizer = recipe.make_optimizer(args, model)
    steps = math.ceil(len(data.train_images) / args.batch_size)
    trainer = Trainer(
        model, data, optimizer, batch_size=args.batch_size, seed=args.seed, loss=recipe.make_loss(args, data),
        scheduler=recipe.make_scheduler(args, optimizer, steps), max_norm=args.clip_norm,
        measure_norm=bool(args.log), augment=augment)
    return time.perf_counter() - start, trainer


def save_what_is_good(args, trainer):
    """After a loss that is no longer finite: keep what the epochs before have given, and say so."""
    if not (args.save and trainer.epochs):
        return ""
    trainer.restore_best()
    try:
        trainer.model.save(args.save, accuracy=test(trainer).accuracy)
    except InputError as error:
        return f"; {error}"
    if trainer.data.validation_images is not None and trainer.best is not None:
        after = f"epoch {trainer.best['epoch']}"
    else:
        after = f"step {trainer.step} of epoch {trainer.epochs + 1}" if trainer.step else f"epoch {trainer.epochs}"
    return f"; {args.save} has the weights after {after}"


def test(trainer):
    return trainer.evaluate(trainer.data.test_images, trainer.data.test_labels)


def finish(args, trainer, say):
    """Test the model, with the weights that were best on the validation part, and save it."""
    data = trainer.data
    trainer.restore_best()
    if data.validation_images is not None and trainer.best is not None:
        say("Best epoch on the validation images: {epoch} Loss= {loss:.6f} Acc= {accuracy:.2f} %".format(
            **trainer.best))
    result = test(trainer)
    print(f"Test accuracy: {result.accuracy:.2f} %", flush=True)
    for image in range(min(args.predictions, len(data.test_labels))):
        predicted, true = (data.classes[label[image]] for label in (result.predictions, data.test_labels))
        say(f"pred: {predicted}  true: {true}")
    if args.save:
        trainer.model.save(args.save, accuracy=result.accuracy)
        say(f"Saved {args.save}")


def train_epochs(args, trainer, checkpoints, log, say):
    """The epochs that are left; returns the exit code, 0 unless a signal ended them.  Raises Diverged."""
    with Interruption() as interruption:
        def pause():
            if checkpoints:
                keep("checkpoint", checkpoints.save_if_due)
            return interruption.noted()

        while trainer.epochs < args.epochs and not enough(args, trainer):
            result = train_epoch(trainer, pause, quiet=args.quiet)
            if result is not None:
                say(epoch_line(trainer.epochs, result))
                if log:
                    keep("line of the log", log.write, **log_fields(trainer.epochs, result))
            if checkpoints:
                keep("checkpoint", checkpoints.save)
            if interruption.noted():
                how = f": --resume {checkpoints.folder} goes on from {checkpoints.last.name}" if checkpoints else ""
                print(f"Interrupted{how}", file=sys.stderr)
                return 128 + interruption.number
    if trainer.epochs < args.epochs:
        say(f"Stopped after epoch {trainer.epochs}: {args.early_stopping} epochs no better on the validation images")
    return 0


def enough(args, trainer):
    """Whether the last epochs were no better on the validation part."""
    return bool(args.early_stopping and trainer.best and trainer.epochs - trainer.best["epoch"] >= args.early_stopping)


def epoch_line(epoch, result):
    line = (f"Epoch {epoch} Loss= {result.loss:.6f} Acc= {result.accuracy:.2f} % "
            f"Run in: {result.seconds:.2f} seconds, {result.images_per_second:,.0f} images/s")
    if result.validation:
        line += f", validation Loss= {result.validation.loss:.6f} Acc= {result.validation.accuracy:.2f} %"
    return line


def log_fields(epoch, result):
    fields = vars(result) | {"images_per_second": result.images_per_second}
    validation = fields.pop("validation")
    if validation:
        fields |= {"validation_loss": validation.loss, "validation_accuracy": validation.accuracy}
    return {"epoch": epoch, **fields}


def train_epoch(trainer, pause, quiet):
    """One epoch, with a bar on stderr that is silent by itself when stderr is not a terminal."""
    from progress.bar import Bar

    images = len(trainer.data.train_images)
    done = trainer.step * trainer.batch_size
    with Bar("Processing", index=done, max=images, file=None if quiet else sys.stderr) as bar:
        return trainer.epoch(advance=bar.next, pause=pause)


def keep(what, save, **fields):
    """Save a checkpoint or a line of the log.  When that fails, training goes on, and what is there stays."""
    try:
        save(**fields)
    except InputError as error:
        print(f"warning: {error}; training goes on without this {what}", file=sys.stderr)


def add_load_flag(parser):
    parser.add_argument("--load", metavar="FILE", required=True, help="model that train --save wrote (required)")


def load_model(path):
    """A model that was saved, ready to classify: (model, Classifier)."""
    from cnn_numba.inference import Classifier
    from cnn_numba.storage import load

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


def summary(parser):
    """Print the layers of a network with their shapes, parameters, multiply-adds and bytes."""
    pair = parser.add_mutually_exclusive_group()
    pair.add_argument("--model", type=NETWORK, default="two-conv", metavar="NAME|FILE",
                      help=f"{', '.join(PRESETS)}, a JSON file of layers, or a saved model (default: %(default)s)")
    pair.add_argument("--load", metavar="FILE", help="model that train --save wrote (default: none)")
    parser.add_argument("--image-shape", type=IMAGE_SHAPE, metavar="CxHxW",
                        help="channels, rows and columns of an image (default: those of the saved model, or 1x28x28)")
    parser.add_argument("--classes", type=CLASSES, metavar="N",
                        help="number of outputs (default: those of the saved model, or 10)")
    return run_summary


def run_summary(args, _started):
    from cnn_numba.architecture import check_image_shape
    from cnn_numba.layers import shape_text
    from cnn_numba.network_file import build_network
    from cnn_numba.storage import load
    from cnn_numba.summary import table

    name, shape, classes = args.load or args.model, args.image_shape, args.classes
    if args.load or name.lower().endswith(".npz"):
        model = load(name)
        shape = shape or model.input_shape or (1, 28, 28)
        try:
            outputs = check_image_shape(model.layers, shape)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        if classes not in (None, outputs):
            raise InputError(f"argument --classes: {name} has {outputs} outputs, got {classes}")
        classes = outputs
    else:
        shape, classes = shape or (1, 28, 28), classes or 10
        model = build_network(name, shape, classes)
    print(f"{name} for images of {shape_text(shape)} and {classes} classes\n")
    for line in table(model.layers, shape):
        print(line)
    return 0


def benchmark(parser):
    """Measure this program against other ways to run it, PyTorch, JAX, and what the machine can do at most."""
    from cnn_numba.benchmark import command

    command.add_flags(parser, COUNT)
    return command.run


def add_random_network_flags(parser, batch_size):
    group = parser.add_argument_group("network and its random images")
    group.add_argument("--model", type=MODEL, default="lenet5", metavar="NAME|FILE",
                       help=f"network: {', '.join(PRESETS)}, or a .json file that describes one (default: %(default)s)")
    group.add_argument("--image-shape", type=IMAGE_SHAPE, default=(1, 28, 28), metavar="CxHxW",
                       help="channels, rows and columns of an image (default: 1x28x28)")
    group.add_argument("--classes", type=CLASSES, default=10, metavar="N",
                       help="number of outputs (default: %(default)s)")
    group.add_argument("--batch-size", type=COUNT, default=batch_size, metavar="N",
                       help="images at a time (default: %(default)s)")
    group.add_argument("--seed", type=SEED, default=0, metavar="N",
                       help="seed of everything random (default: %(default)s)")


def random_network(args):
    from cnn_numba.network_file import build_network

    return build_network(args.model, args.image_shape, args.classes, seed=args.seed)


def check_gradients(parser):
    """Compare the gradients of every layer and parameter of a network with central differences in float64."""
    add_random_network_flags(parser, batch_size=4)
    group = parser.add_argument_group("comparison")
    group.add_argument("--samples", type=COUNT_OR_NONE, default=20, metavar="N",
                       help="elements of each gradient, the largest among them; 0 for all (default: %(default)s)")
    group.add_argument("--tolerance", type=POSITIVE, default=1e-3, metavar="X",
                       help="largest error, relative to the largest element (default: %(default)s)")
    add_execution_flags(parser)
    return run_check_gradients


def run_check_gradients(args, _started):
    choose_execution(args)
    from cnn_numba.execution import describe
    from cnn_numba.gradcheck import run

    print(describe(), flush=True)
    return run(random_network(args), args.image_shape, args.classes, args.batch_size, args.seed, args.samples,
               args.tolerance)


def profile(parser):
    """Measure where the time of a training step goes: the forward and backward pass of each layer."""
    add_random_network_flags(parser, batch_size=64)
    parser.add_argument("--iterations", type=COUNT, default=100, metavar="N",
                        help="how often each part runs (default: %(default)s)")
    add_execution_flags(parser)
    return run_profile


def run_profile(args, _started):
    choose_execution(args)
    from cnn_numba.execution import describe
    from cnn_numba.profiling import run

    print(describe(), flush=True)
    return run(random_network(args), args.image_shape, args.classes, args.batch_size, args.seed, args.iterations)


COMMANDS = {"train": train, "evaluate": evaluate, "predict": predict, "summary": summary,
            "check-gradients": check_gradients, "profile": profile, "benchmark": benchmark}
