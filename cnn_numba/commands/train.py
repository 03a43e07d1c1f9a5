"""The `train` command."""
import argparse
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cnn_numba.choices import CHOICES
from cnn_numba.commands.flags import (
    COUNT,
    COUNT_OR_NONE,
    POSITIVE,
    add_execution_flags,
    add_location_flags,
    add_recipe_flags,
    check_data_paths,
    check_exists,
    check_target,
    choose_execution,
    flag_of,
    given_fields,
    reader,
)
from cnn_numba.commands.inspect import reading_line
from cnn_numba.commands.interrupt import Interruption
from cnn_numba.commands.output import count, data_line, fail, printers, put, seconds_text, tell
from cnn_numba.commands.parser import Parser
from cnn_numba.commands.progress import bar
from cnn_numba.commands.ranks import add_ranks_flags, ranks_line, team_of
from cnn_numba.errors import Diverged, InputError, naming, shortened
from cnn_numba.presets import PRESETS
from cnn_numba.recipe import FIELDS, NAMED, RECIPES, FieldError, Recipe, changed_fields, named_fields
from cnn_numba.recipe_file import read_fields

if TYPE_CHECKING:
    from cnn_numba.callbacks import Callback
    from cnn_numba.commands.kept import Kept
    from cnn_numba.data import Dataset
    from cnn_numba.files.checkpoints import SavedTraining
    from cnn_numba.model import Sequential
    from cnn_numba.training import Evaluation, Trainer


PLACES = "dataset", "test_data"         # may have moved: `Checkpoint.resume` compares the images


def train(parser: Parser) -> Callable[[argparse.Namespace, float], int]:
    """Train a convolutional network, on MNIST or on images of your own."""
    pair = parser.group("recipe").add_mutually_exclusive_group()
    pair.add_argument(
        "--recipe", type=reader(NAMED), metavar="NAME",
        help="all settings of a published run"
             + (f": {', '.join(RECIPES)}; other flags override them" if parser.full else ", such as fast")
             + " (default: none)")
    pair.add_argument("--config", metavar="FILE",
                      help="all settings of a .json file, such as the config.json of a run, or of a .toml file; other "
                           "flags override them (default: none)")
    add_recipe_flags(parser)
    add_location_flags(parser)
    add_execution_flags(parser)
    add_ranks_flags(parser, COUNT)

    group = parser.group("files")
    group.add_argument("--save", metavar="FILE", help="write the trained model to an .npz file (default: no)")
    pair = group.add_mutually_exclusive_group()
    pair.add_argument("--run", metavar="DIR", dest="run_folder",
                      help="keep all of the training in a new folder: recipe, numbers, models, checkpoint, report "
                           "(default: no)")
    group.add_argument("--no-report", action="store_true",
                       help="write no report.html into the folder of --run, which needs matplotlib (default: write it)")
    pair.add_argument("--checkpoint", metavar="DIR",
                      help="save only the state of the training to a folder (default: no)")
    pair.add_argument("--resume", metavar="DIR",
                      help="resume the training in such a folder (default: start a new one)")
    group.add_argument("--checkpoint-minutes", type=POSITIVE, metavar="N",
                       help="write a checkpoint every N minutes as well as after every epoch (default: 10)")
    group.add_argument("--checkpoint-steps", type=COUNT, metavar="N",
                       help="also write one every N steps or a few more (default: no)")
    group.add_argument("--log", metavar="FILE",
                       help="append the numbers of every epoch to a file, one JSON object per line (default: no)")

    parser.group("network and training").add_argument(
        "--max-minutes", type=POSITIVE, metavar="N",
        help="end the training in time for the program to take N minutes, with everything saved (default: no limit)")

    group = parser.group("output")
    group.add_argument("--predictions", type=COUNT_OR_NONE, default=10, metavar="N",
                       help="number of predictions on test images to print (default: %(default)s)")
    group.add_argument("--quiet", action="store_true", help="print the test accuracy only (default: no)")
    return run_train


def run_train(args: argparse.Namespace, started: float) -> int:
    from cnn_numba.files.checkpoints import newest_checkpoint
    from cnn_numba.kernels.assistants import start_if_cold

    team = team_of(args)
    # Then nobody has to read the output.
    keeps = any((args.save, args.run_folder, args.checkpoint, args.resume, args.log))
    say, warn = printers(args.quiet, go_on=keeps)
    given = chosen_fields(args)
    if args.resume:
        check_exists("--resume", args.resume)
    saved = team.once(lambda: newest_checkpoint(args.resume, report=warn)) if args.resume else None
    if given.get("weights") and not saved:
        check_exists("--weights", given["weights"])
        given.setdefault("model", given["weights"])
    recipe = resumed_recipe(saved, given, args) if saved else new_recipe(given, args)
    team.once(lambda: check_early(args, recipe))
    if args.jit is not False and not args.mpi:      # the processes of a team compile for each other
        start_if_cold()
    choose_execution(args, team)
    from cnn_numba.commands.kept import Kept
    from cnn_numba.data.survey import survey, suspicions
    from cnn_numba.execution import describe, set_float32_matmul_precision
    from cnn_numba.interchange.formats import check_network

    set_float32_matmul_precision(recipe.precision)
    if not saved and recipe.model not in PRESETS:
        check_network(recipe.model)                     # before the data are loaded
    kept = team.in_first(lambda: Kept(args)) or Kept()
    data = team.once(lambda: recipe.load_data(data_dir=args.data_dir, mirror=args.mirror, report=warn, progress=bar))
    recipe = replace(recipe, dataset=recipe.dataset or data.name).fitted(data)    # MNIST, or digits without it
    parts = survey(data)
    say(data_line(data))
    say(reading_line(data, parts))
    for sentence in [*suspicions(data, parts), *recipe.suspicions(data)]:
        warn(f"warning: {sentence}")
    model = make_model(recipe, data, saved, warn)
    say(f"Network {recipe.model}: {count(sum(p.value.size for p in model.parameters()), 'parameter')}"
        + (f", with the weights of {recipe.weights}" if recipe.weights and not saved else ""))
    say(describe())
    if args.mpi:
        say(ranks_line(team.size, recipe, args.exchange_every))
    start = time.perf_counter()
    trainer = recipe.make_trainer(model, data, measure_norm=bool(team.largest(kept.measure_norm)),
                                  measure_test=data.validation_images is None, team=team,
                                  report=lambda sentence: warn(f"warning: {sentence}"))
    model.recipe = recipe.to_json()
    say(f"Kernels ready in {seconds_text(time.perf_counter() - start)}")
    say(f"Training: {count(recipe.epochs, 'epoch')} of {count(trainer.steps, 'step')} with "
        f"{count(trainer.batch_size, 'image')} each")
    if saved:
        if extends(saved, recipe):
            saved = with_new_schedule(saved, trainer)
            say(f"The schedule {recipe.schedule} begins anew, for {count(recipe.schedule_epochs, 'more epoch')}")
        team.in_first(lambda: kept.resume(trainer, saved))
        if not team.first:
            trainer.load_state(saved.state)
        say(resumed_line(trainer, saved))
        if trainer.epochs > recipe.epochs:
            raise InputError(f"argument --epochs: the training in {args.resume} has run "
                             f"{count(trainer.epochs, 'epoch')}, got {recipe.epochs}")
    kept.begin(recipe, data, describe())
    with Interruption() as interruption:                # a second Ctrl-C ends what a first one does not
        try:
            in_time = fit(args, recipe, trainer, kept.callbacks(), interruption, say, started)
        except Diverged as error:
            kept.end("diverged", trainer)
            if team.first:
                fail(f"{error}{advice(recipe)}{save_what_is_good(args, trainer)}")
            kept.report(trainer)
            return 1
        number = team.largest(interruption.number or 0)
        if not team.first:
            return 128 + number if number else 0
        if number:
            kept.end("interrupted", trainer)
            last = kept.checkpoint and kept.checkpoint.last
            tell("Interrupted" + (f": --resume {last.parent} goes on from {last.name}" if last else
                                  save_what_is_good(args, trainer)))
            kept.report(trainer)
            return 128 + number
        end = "finished" if trainer.epochs == recipe.epochs else "early stopping" if in_time else "time limit"
        if recipe.early_stopping and end == "early stopping":
            say(f"Stopped after epoch {trainer.epochs}: no improvement for {count(recipe.early_stopping, 'epoch')} on "
                "the validation images")
        elif end == "time limit":
            say(f"Stopped for --max-minutes in epoch {trainer.epochs + 1} of {recipe.epochs}, after "
                f"{count(trainer.step, 'step')}"
                + (f": --resume {kept.checkpoint.folder} goes on" if kept.checkpoint else ""))
        finish(args, trainer, kept, end, say)
    say(f">>> Program run in {time.perf_counter() - started:.2f} seconds <<<")
    return 0


def fit(args: argparse.Namespace, recipe: Recipe, trainer: "Trainer", files: "list[Callback]",
        interruption: Interruption, say: Callable[[str], None], started: float) -> bool:
    """Train until the end, an interruption or the end of the time.

    Returns whether the time was enough.  Raises Diverged.
    """
    from cnn_numba.callbacks import ProgressBar, TimeLimit
    from cnn_numba.commands.callbacks import EpochLine, Estimate, StopWhenInterrupted
    from cnn_numba.commands.kept import time_left
    from cnn_numba.kernels.compiled import JIT

    shown: list[Callback] = [] if args.quiet else [ProgressBar(), EpochLine(say)]
    if not JIT:
        shown.insert(0, Estimate(say))
    limited = args.max_minutes and trainer.team.first           # the first process stops all
    limit = TimeLimit(time_left(args.max_minutes, started) if limited else math.inf)
    trainer.fit(recipe.epochs, [*shown, *files, *recipe.make_callbacks(), StopWhenInterrupted(interruption), limit])
    return not limit.reached


# ---- before the training --------------------------------------------------------------------------------------------
def check_early(args: argparse.Namespace, recipe: Recipe) -> None:
    """InputError for mistakes that can be seen before anything is loaded."""
    check_data_paths(recipe)
    if not args.resume and recipe.model not in PRESETS:
        check_exists("--model", recipe.model)
    if args.save:
        from cnn_numba.files.container import begins_as_one

        check_target("--save", args.save, (recipe.dataset, recipe.test_data, recipe.model, recipe.weights))
        if not begins_as_one(args.save):
            raise InputError(f"argument --save: {args.save} is there and is not a model: choose another name")
    if args.no_report and not (args.run_folder or args.resume):
        raise InputError("argument --no-report: needs --run or --resume")
    for name in "checkpoint_minutes", "checkpoint_steps":
        if getattr(args, name) is not None and not (args.run_folder or args.checkpoint or args.resume):
            raise InputError(f"argument {flag_of(name)}: needs --run, --checkpoint or --resume")


def chosen_fields(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of the recipe that flags, a named recipe or a file give; flags override the others."""
    given = given_fields(args)
    if args.config:
        check_exists("--config", args.config)
        return changed_fields(read_fields(args.config), given)
    return named_fields(args.recipe, given) if args.recipe else given


def new_recipe(fields: dict[str, Any], args: argparse.Namespace) -> Recipe:
    """The recipe of these fields.  Raises InputError, naming the file of --config where that has the wrong field."""
    check_extensions(fields.pop("extensions", ()), args, str(args.config))
    fields.pop("begun", None)                           # of a training that has trained on after its end
    try:
        return Recipe(**fields, extensions=args.extensions)
    except FieldError as error:
        if args.config and error.field not in given_fields(args):
            raise InputError(f"{args.config}: {error}") from None
        raise


def check_extensions(names: Any, args: argparse.Namespace, owner: str) -> None:
    """InputError unless --extension gives all files of these names, which a training uses."""
    for name in names if isinstance(names, (list, tuple)) else ():
        if name not in args.extensions:
            raise InputError(f"argument --extension: {owner} has {str(name)[:100]}, which is not given")


def resumed_recipe(saved: "SavedTraining", given: dict[str, Any], args: argparse.Namespace) -> Recipe:
    """The recipe of a checkpoint, with more epochs where these are given.

    Raises InputError when another given field differs from the recipe.
    """
    if not saved.recipe:
        raise InputError(f"{saved.path} was not written by this command, so only the program that wrote it can resume "
                         "it")
    check_extensions(saved.recipe.get("extensions"), args, f"the training in {args.resume}")
    try:
        recipe = Recipe.from_json(saved.recipe)
    except InputError as error:
        raise InputError(shortened(f"{saved.path} cannot be resumed: {error}")) from None
    from cnn_numba.data.catalogue import NAMES
    from cnn_numba.files.checkpoints import origins

    changed = {}
    for name, value in given.items():
        before = getattr(recipe, name)
        moved = name in PLACES and not {before, value} <= {None, *NAMES} or (
            name in saved.data and origins({name: value}).get(name) == saved.data[name])
        if value == before or moved or name == "epochs" and recipe.open_ended:
            changed[name] = value
            continue
        if name == "epochs" and value > before == saved.state.get("epochs"):
            changed |= {"epochs": value, "begun": before}
            continue
        why = advice = ""
        if name == "epochs":
            why = f" with the schedule {recipe.schedule}"
            advice = (f": start a new training, with a schedule that does not depend on the number of epochs "
                      f"({', '.join(name for name, each in CHOICES['schedule'].items() if each.open_ended)}) if it may "
                      "become longer")
        raise InputError(f"argument {flag_of(name)}: the training in {args.resume} has {written(name, before)}, which "
                         f"cannot be changed{why}, got {written(name, value)}{advice}")
    return replace(recipe, **changed)


def extends(saved: "SavedTraining", recipe: Recipe) -> bool:
    """Whether the recipe has more epochs than the finished training of a checkpoint, and another schedule for them."""
    return recipe.begun > 0 and recipe.begun == saved.state.get("epochs") and saved.recipe.get("begun") != recipe.begun


def with_new_schedule(saved: "SavedTraining", trainer: "Trainer") -> "SavedTraining":
    """The state of a checkpoint, but the schedule, and what it changes, are those of a new trainer."""
    changes = "scheduler", "optimizer.lr", "optimizer.momentum", "optimizer.betas"
    fresh = trainer.state()
    return replace(saved, state=saved.state | {name: fresh[name] for name in changes if name in fresh})


def written(name: str, value: Any) -> str:
    """The value of a field as a flag takes it."""
    return "none" if value is None else FIELDS[name].metadata["kind"].write(value)


def make_model(recipe: Recipe, data: "Dataset", saved: "SavedTraining | None",
               report: Callable[[str], None]) -> "Sequential":
    """The network to train: a new one, or that of a checkpoint, even if the file that describes it has changed."""
    from cnn_numba.files.network_json import rebuild_network

    if saved is None:
        try:
            return recipe.make_model(data, report)
        except InputError as error:
            if recipe.model in PRESETS and recipe.model not in (fitting := presets_for(data)):
                raise InputError(no_fit(recipe.model, fitting, data, error)) from None
            raise
    with naming(str(saved.path)):
        there = sum(value.size for name, value in saved.state.items() if name.startswith("model."))
        model = rebuild_network(saved.layers, data.train_images.shape[1:], data.num_classes, there, seed=recipe.seed,
                                init=recipe.init)
    recipe.freeze_layers(model)
    return model


def presets_for(data: "Dataset") -> list[str]:
    """The names of the networks whose layers are not larger than the images."""
    fitting = []
    for name, build in PRESETS.items():
        with suppress(InputError):
            build(data.train_images.shape[1:], data.num_classes)
            fitting.append(name)
    return fitting


def no_fit(name: str, fitting: list[str], data: "Dataset", error: InputError) -> str:
    """What to do about a preset whose layers are larger than the images."""
    rows, columns = data.train_images.shape[2:]
    mnist = ", or train on MNIST (--data-dir, --mirror)" if data.name == "digits" else ""
    return (f"the images of {data.name} have {rows} x {columns} pixels, too few for {name} ({error}): "
            f"choose --model {', '.join(fitting) or 'FILE.json'}{mnist}")


def resumed_line(trainer: "Trainer", saved: "SavedTraining") -> str:
    best = ", best so far epoch {epoch} Loss= {loss:.6f}".format(**trainer.best) if trainer.best else ""
    return f"Resumed from {saved.path}, in epoch {trainer.epochs + 1} after {count(trainer.step, 'step')}{best}"


# ---- after the training ---------------------------------------------------------------------------------------------
def advice(recipe: Recipe) -> str:
    """What to change after a training that diverged."""
    return "" if recipe.lr is None else f": use an --lr below {recipe.lr:g}"


def save_what_is_good(args: argparse.Namespace, trainer: "Trainer") -> str:
    """Save the weights of a training that ended early, and return the words that say so.

    Without a finished epoch nothing is saved.
    """
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


def test(trainer: "Trainer") -> "Evaluation":
    return trainer.evaluate(trainer.data.test_images, trainer.data.test_labels)


def finish(args: argparse.Namespace, trainer: "Trainer", kept: "Kept", end: str, say: Callable[[str], None]) -> None:
    """Test the model, with the weights that were best on the validation part, and save it.

    end : how the training ended; see `RunFolder.write_result`
    """
    data = trainer.data
    trainer.restore_best()
    if data.validation_images is not None and trainer.best is not None:
        say("Best epoch on the validation images: {epoch} Loss= {loss:.6f} Acc= {accuracy:.2f} %".format(
            **trainer.best))
    result = test(trainer)
    try:
        for path in args.save, kept.run and kept.run.model:     # before anything is printed, which may fail
            if path:
                trainer.model.save(path, accuracy=result.accuracy)
        kept.end(end, trainer, test_accuracy=result.accuracy, test_loss=result.loss,
                 test_images=len(data.test_labels))
    finally:
        put(f"Test accuracy: {result.accuracy:.2f} %")
    for image in range(min(args.predictions, len(data.test_labels))):
        predicted, true = (data.classes[labels[image]] for labels in (result.predictions, data.test_labels))
        say(f"pred: {predicted}  true: {true}")
    if args.save:
        say(f"Saved {args.save}")
    if kept.run:
        say(f"Saved all in {kept.run.path}")
        kept.report(trainer)
