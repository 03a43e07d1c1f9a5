"""The files that a training leaves: the log, the checkpoints, and the run folder."""
import argparse
import time
from typing import TYPE_CHECKING, Any

from cnn_numba.commands.output import warning
from cnn_numba.commands.run_info import info
from cnn_numba.errors import InputError

if TYPE_CHECKING:
    from cnn_numba.callbacks import Callback, Checkpoint, Log
    from cnn_numba.data import Dataset
    from cnn_numba.files.checkpoints import SavedTraining
    from cnn_numba.recipe import Recipe
    from cnn_numba.run_folder import RunFolder
    from cnn_numba.training import Trainer

RESERVE = 0.05              # of --max-minutes, for the test and the files
LONGEST_RESERVE = 20        # seconds


class Kept:
    """The files that the flags of `train` name, opened before the data are loaded.

    Without flags it keeps nothing, as in all but the first process of a training.

    log, checkpoint, run : Log, Checkpoint and RunFolder; None where no flag asks for it

    Raises InputError when a file cannot be written, or a folder holds another training.
    """

    log: "Log | None" = None
    checkpoint: "Checkpoint | None" = None
    run: "RunFolder | None" = None

    def __init__(self, args: argparse.Namespace | None = None):
        if args is None:
            return
        from cnn_numba.callbacks import Checkpoint, Log
        from cnn_numba.run_folder import RunFolder

        self.run = RunFolder(args.run_folder or args.resume) if args.run_folder or args.resume else None
        if args.run_folder and self.run:
            self.run.check_unused()
        elif self.run and not self.run.is_run():
            self.run = None
        self._reports = self.run is not None and not args.no_report
        if self._reports:
            from cnn_numba.pictures import check

            check(what="the report of --run (which --no-report leaves out)")
        folder = args.run_folder or args.checkpoint or args.resume
        self.checkpoint = None if folder is None else Checkpoint(
            folder, minutes=args.checkpoint_minutes or 10, steps=args.checkpoint_steps, report=warning)
        if self.checkpoint and not args.resume:
            self.checkpoint.check_unused()
        elif self.checkpoint:
            self.checkpoint.lock()                      # before the data are loaded
        self.log = Log(args.log, report=warning) if args.log else None

    @property
    def measure_norm(self) -> bool:
        """Whether a file shows the norm of the gradient."""
        return bool(self.log or self.run)

    def resume(self, trainer: "Trainer", saved: "SavedTraining") -> None:
        """Set a trainer to the state of a checkpoint; InputError when that is of another training."""
        if self.checkpoint:
            self.checkpoint.resume(trainer, saved)

    def callbacks(self) -> "list[Callback]":
        from cnn_numba.callbacks import Log
        from cnn_numba.run_folder import RunFiles

        of_run: list[Callback] = []
        if self.run:
            files = self._files = RunFiles(self.run, warning)
            of_run = [Log(self.run.log, warning), files]
            if self._reports:
                from cnn_numba.report import LiveReport

                of_run.append(LiveReport(self.run, self._recipe, files, warning))
        return [each for each in (self.log, *of_run, self.checkpoint) if each]

    def begin(self, recipe: "Recipe", data: "Dataset", execution: str) -> None:
        """Write what is known before the first epoch.

        execution : how kernels run, in a line
        """
        self._recipe, self._data = recipe, data
        if self.checkpoint:
            self.checkpoint.recipe = recipe.to_json()
        if self.run:
            self.run.begin(recipe, info(execution))

    def end(self, how: str, trainer: "Trainer", **facts: Any) -> None:
        """Write how the training ended; see `RunFolder.write_result`."""
        if self.run:
            seconds = sum(trainer.history["seconds"])
            self.run.write_result(how, epochs=trainer.epochs, training_seconds=seconds, **facts)

    def report(self, trainer: "Trainer") -> None:
        """Write the report of the run: without what needs a test of the model, unless the training has come to its end.
        """
        if not (self.run and self._reports):
            return
        from cnn_numba.report import Study, write_report

        try:
            result = self.run.read_result()
            study = Study(self.run.path.resolve().name, self._recipe, trainer.history, result, trainer.model,
                          self._data, epochs=self._files.epochs, filters=self._files.filters,
                          info=self.run.info.read_text())
            for sentence in write_report(study, self.run, live="test_accuracy" not in result):
                warning(f"the report leaves out: {sentence}")
        except InputError as error:
            warning(f"{error}; report {self.run.path} writes the report again")


def time_left(minutes: float, started: float) -> float:
    """Seconds that a training may take, so that a program which began at `started` ends in time."""
    whole = 60 * minutes
    return whole - min(RESERVE * whole, LONGEST_RESERVE) - (time.perf_counter() - started)
