"""The report of a training while it runs."""
from __future__ import annotations

import time
import warnings
from collections.abc import Callable

from cnn_numba.callbacks import Callback
from cnn_numba.errors import InputError
from cnn_numba.recipe import Recipe
from cnn_numba.report.page import write_report
from cnn_numba.report.study import Study
from cnn_numba.run_folder import RunFiles, RunFolder

LEAST = 5.0                 # seconds between two reports
SHARE = 0.04                # of the time, at most, for reports


class LiveReport(Callback):
    """Writes the report of a run after epochs, as often as takes a 25th of the time, and at most every five seconds.

    Parameters
    ----------
    run : RunFolder
    recipe : Recipe
    files : RunFiles
        Which has the filters.
    report : callable, optional
        Called with a sentence when a file cannot be written; the training continues.  Default: a warning.
    """

    def __init__(self, run: RunFolder, recipe: Recipe, files: RunFiles,
                 report: Callable[[str], object] = warnings.warn):
        self._run, self._recipe, self._files, self._report = run, recipe, files, report

    def on_train_begin(self, trainer):
        self._due = time.monotonic() + LEAST

    def on_epoch_end(self, trainer, result):
        if time.monotonic() < self._due:
            return
        began = time.monotonic()
        study = Study(self._run.path.resolve().name, self._recipe, trainer.history, model=trainer.model,
                      epochs=self._files.epochs, filters=self._files.filters, running=True)
        try:
            write_report(study, self._run, live=True)
        except InputError as error:
            self._report(f"{error}; training goes on without this report")
        took = time.monotonic() - began
        self._due = time.monotonic() + max(LEAST, took / SHARE)
