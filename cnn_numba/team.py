"""The processes that train together: one alone, here, or several over MPI, in `mpi`."""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np

    from cnn_numba.model import Sequential
    from cnn_numba.optim import Optimizer

T = TypeVar("T")


class Alone:
    """The team of a training in one process, and what a Trainer asks of any team.

    size : number of processes
    first : whether this process prints, downloads and writes
    """

    size, first = 1, True

    def once(self, work: Callable[[], T]) -> T:
        """What `work` returns in the first process, in all of them."""
        return work()

    def in_first(self, work: Callable[[], T]) -> T | None:
        """What `work` returns in the first process, which alone runs it, and None in others; all raise its error."""
        return work()

    def threads(self, most: int) -> int:
        """The number of threads of this process, of `most`."""
        return most

    def largest(self, number: int) -> int:
        """The largest of the numbers of all processes."""
        return number

    def share(self, images: Any, labels: np.ndarray, batch_size: int) -> tuple[Any, np.ndarray, int]:
        """The images and labels that this process trains on, and the size of its batches."""
        return images, labels, batch_size

    def program(self, model: Sequential, optimizer: Optimizer, *step: Any) -> Callable[[int], None]:
        """What runs a number of steps, for the arguments of `training.training_step`."""
        # Imported here, because it needs Numba, and how kernels run may not be decided yet.
        from cnn_numba.feed import REPLAYS
        from cnn_numba.kernels.program import Program
        from cnn_numba.training import training_step

        return Program(training_step(*step), REPLAYS)

    def pieces(self, blocks: int) -> int:
        """The number of pieces into which a step cuts each of its blocks; see `plan.pieces_for`."""
        from cnn_numba.plan import pieces_for

        return pieces_for(blocks)

    def finite(self, loss: float) -> bool:
        """Whether the sum of the losses is finite in all processes."""
        return math.isfinite(loss)

    def stops(self, wanted: bool) -> bool:
        """Whether all processes stop after the batches that are done, which this one wants or not."""
        return wanted

    def end_epoch(self, sums: np.ndarray) -> None:
        """Replace the sums of this process by their means over all processes."""

    def agree(self, wanted: bool) -> bool:
        """Whether any process wants to stop after an epoch."""
        return wanted
