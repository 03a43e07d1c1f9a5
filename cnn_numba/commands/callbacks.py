"""What the command line prints and does during a training."""
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from cnn_numba.callbacks import Callback
from cnn_numba.commands.interrupt import Interruption
from cnn_numba.commands.output import clear_bar, count, duration_text, epoch_line

if TYPE_CHECKING:
    from cnn_numba.history import EpochResult
    from cnn_numba.training import Trainer

LONG = 60                   # seconds of an epoch from which a smaller one is suggested
FEW = 64                    # images of the smaller epoch


class EpochLine(Callback):
    """Prints a line for every epoch."""

    def __init__(self, say: Callable[[str], None]):
        self._say = say

    def on_epoch_end(self, trainer: "Trainer", result: "EpochResult") -> None:
        self._say(epoch_line(result))


class Estimate(Callback):
    """Prints, after the first batch, how long an epoch of interpreted kernels will take."""

    def __init__(self, say: Callable[[str], None]):
        self._say, self._said = say, False

    def on_train_begin(self, trainer: "Trainer") -> None:
        self._began, self._first = time.perf_counter(), trainer.images_done

    def on_batch_end(self, trainer: "Trainer") -> None:
        if self._said:
            return
        each = (time.perf_counter() - self._began) / (trainer.images_done - self._first)
        images, self._said = len(trainer.data.train_images), True
        clear_bar()
        self._say(f"Interpreted: an epoch of {count(images, 'image')} will take about {duration_text(each * images)}")
        if each * images > LONG and images > FEW:
            self._say(f"With --train-size {FEW} --test-size {FEW} it takes {duration_text(each * FEW)}")


class StopWhenInterrupted(Callback):
    """Ends a training after the current batches when a signal was received."""

    def __init__(self, interruption: Interruption):
        self._interruption = interruption

    def on_batch_end(self, trainer: "Trainer") -> None:
        if self._interruption.number is not None:
            trainer.stop()

    def on_epoch_end(self, trainer: "Trainer", result: "EpochResult") -> None:
        self.on_batch_end(trainer)
