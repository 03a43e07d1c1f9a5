"""The `train` command."""
import argparse
import math
import sys
import time
from dataclasses import replace

from cnn_numba.commands import recipe
from cnn_numba.commands.flags import (
    COUNT,
    COUNT_OR_NONE,
    MODEL,
    PART,
    POSITIVE,
    SEED,
    add_data_flags,
    add_execution_flags,
    choose_execution,
    read_data,
)
from cnn_numba.commands.interrupt import Interruption
from cnn_numba.errors import Diverged, InputError, shortened
from cnn_numba.presets import PRESETS


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
    group.add_argument("--normalize", choices=recipe.NORMALIZE, default=recipe.NORMALIZE[0],
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


def network(args, checkpoint, image_shape, num_classes):
    """The network to train: that of the checkpoint, whatever became of the file that it was read from, or a new one."""
    from cnn_numba.files.network_json import build_network, rebuild_network

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
    from cnn_numba.execution import describe
    from cnn_numba.files import container as archive
    from cnn_numba.files.checkpoints import Checkpoints, newest_checkpoint
    from cnn_numba.files.run_log import RunLog

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
