"""Training in several processes, on one machine or many, over MPI: needs mpi4py (the extra `mpi`) and an MPI library.

The batch is the one of a training in one process.  Each process, a rank, runs the kernels of its share of the blocks
of 16 images.  Where a kernel reads all blocks (sums of gradients, inputs of dense layers for their weights, statistics
of batches), the ranks first exchange those rows of its arrays that each has computed.  Then every rank adds up all
blocks, in the order in which one process adds them, and updates its own copy of the weights: so these have the same
bits on any number of ranks.
"""
import functools
import math
import os
import pickle
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from cnn_numba.errors import InputError, whole_number
from cnn_numba.feed import REPLAYS, Feed
from cnn_numba.kernels.lanes import LANES
from cnn_numba.kernels.program import Call, Program, at_once, in_order
from cnn_numba.model import Sequential
from cnn_numba.optim import Optimizer
from cnn_numba.plan import Plan
from cnn_numba.team import Alone
from cnn_numba.training import end_of_step, training_step

try:
    from mpi4py import MPI
except (ImportError, RuntimeError) as error:        # RuntimeError: mpi4py finds no MPI
    raise InputError("--mpi needs mpi4py and an MPI library: pip install mpi4py mpich") from error

__all__ = ["Ranks"]

PATIENCE = 0.002            # seconds after which a rank that waits sleeps between two looks
NAP = 0.0002                # seconds
LAST_WAIT = 2.0             # seconds that a rank that ends with an error waits for the others to end, too
MOST_BYTES = 1 << 30        # of a message

T = TypeVar("T")


class Ranks(Alone):
    """The processes that `mpiexec` started, for `Trainer(..., team=Ranks())`; all of them make one.

    Parameters
    ----------
    every : int, optional
        Train in each rank on its own part of the images and of every batch, and average the weights, the statistics
        and what the optimizer remembers after so many steps and after every epoch.  This is another training than that
        of one process: Stich, "Local SGD Converges Fast and Communicates Little" (2019).
        Default: exchange in every step, for the bits of one process.

    Attributes
    ----------
    rank, size : number of this process, and of all
    first : whether this is rank 0, which prints, downloads and writes

    Raises InputError for `every` below 1.
    """

    def __init__(self, every: int | None = None):
        self.every = None if every is None else whole_number("Ranks", "every", every)
        self._world = MPI.COMM_WORLD.Dup()
        self._last = MPI.COMM_WORLD.Dup()           # for `leave`, whatever is under way in the other
        self.rank, self.size = self._world.rank, self._world.size
        self.first = self.rank == 0
        self.wanted = self.agreed = self._diverged = False     # by this rank; by all; by any

    # ---- before and after the training ------------------------------------------------------------------------------
    def once(self, work: Callable[[], T]) -> T:
        """What `work` returns in rank 0, in all ranks; where it raises, all raise, the others an InputError.

        Arrays are sent as they are; ImagesOnDisk are opened in every rank.
        """
        failure = None
        if self.first:
            try:
                result = work()
                head, buffers = _packed(result)
            except Exception as error:
                failure, head, buffers = error, None, []
            self._share_object((head, [len(buffer) for buffer in buffers], str(failure)))
        else:
            head, sizes, text = self._share_object(None)
            buffers = [np.empty(size, np.uint8) for size in sizes]
        if head is None:
            raise failure or InputError(text)
        for buffer in buffers:
            self._broadcast(buffer)
        return result if self.first else pickle.loads(head, buffers=buffers)

    def in_first(self, work: Callable[[], T]) -> T | None:
        found: list[T] = []
        self.once(lambda: found.append(work()))
        return found[0] if found else None

    def threads(self, most: int) -> int:
        """The number of threads of this rank, if the ranks on a machine share its processors."""
        here = MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED)
        mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0}
        rivals = sum(bool(mine & other) for other in here.allgather(mine))
        here.Free()
        return max(1, most // rivals)

    def pieces(self, blocks: int) -> int:
        """1 where ranks share the blocks, which they exchange whole."""
        return 1 if self.every is None else super().pieces(blocks)

    def leave(self, code: int) -> bool:
        """Wait for the other ranks to end, if only for seconds after an error; returns whether they have ended.

        If they have not, the caller says what happened, and calls `abort`.
        """
        if code == 0:
            return True                             # MPI waits for the others
        ended = self._last.Ibarrier()
        until = time.monotonic() + LAST_WAIT + (not self.first)         # rank 0 speaks first
        while not ended.Test():
            if time.monotonic() > until:
                return False
            time.sleep(0.01)
        MPI.Finalize()              # before mpi4py.run takes the exit code for a reason to abort, and says so
        return True

    def abort(self, code: int) -> None:
        """End all ranks at once."""
        MPI.COMM_WORLD.Abort(code)

    # ---- of a trainer -----------------------------------------------------------------------------------------------
    def share(self, images: Any, labels: np.ndarray, batch_size: int) -> tuple[Any, np.ndarray, int]:
        """With `every`: images rank, rank + size, ..., as many in all ranks; some are then in two of them.

        Raises InputError unless all ranks get as many images of a batch.
        """
        if self.every is None:
            return images, labels, batch_size
        if batch_size % self.size:
            raise InputError(f"--exchange-every: the batch of {batch_size} images must be a multiple of the "
                             f"{self.size} ranks")
        mine = (np.arange(math.ceil(len(images) / self.size)) * self.size + self.rank) % len(images)
        return images[mine], labels[mine], batch_size // self.size

    def blocks_of(self, blocks: int, rank: int) -> tuple[int, int]:
        """The first block of a rank, and the one after its last; rank 0 always has the first block."""
        return math.ceil(blocks * rank / self.size), math.ceil(blocks * (rank + 1) / self.size)

    def program(self, model: Sequential, optimizer: Optimizer, *step: Any) -> Callable[[int], None]:
        """What runs a number of steps in all ranks; all begin with the weights of rank 0.

        Raises InputError for a network whose layers do not work on blocks of images.
        """
        weights, statistics = ([run.values for run in model.runs(which)] for which in (False, True))
        for array in [*weights, *statistics]:
            self._broadcast(array.view(np.uint8))
        self._weights = weights
        if self.every is None:
            return _Shared(self, statistics, *step)
        remembered = [getattr(optimizer, name) for name, value in optimizer.state().items()
                      if isinstance(value, np.ndarray)]
        return _Averaged(self, [*weights, *statistics, *remembered], *step)

    def ends(self, loss: float) -> bool:
        """Whether the steps that run end here, for a loss or a wish to stop that all ranks know."""
        self._diverged = not math.isfinite(loss)
        return self._diverged or self.agreed

    def finite(self, loss: float) -> bool:
        return not self._diverged

    def stops(self, wanted: bool) -> bool:
        stops, self.agreed = self.agreed, False
        self.wanted = wanted and not stops
        return stops

    def end_epoch(self, sums: np.ndarray) -> None:
        if self.every:
            sums[:] = self.sum(sums) / self.size

    def agree(self, wanted: bool) -> bool:
        """Whether any rank wants to stop.  Raises InputError when the ranks have come to different weights."""
        self.wanted = self.agreed = False
        weights = functools.reduce(lambda sum, array: zlib.crc32(array.data, sum), self._weights, 0)
        all_ranks = np.zeros((self.size, 2), np.int64)
        self.gather(np.array([wanted, weights], np.int64), all_ranks, [16] * self.size)
        if (all_ranks[:, 1] != weights).any():
            raise InputError("the ranks no longer have the same weights: a layer keeps sums of blocks in another axis "
                             "than the first, or the machines compute differently")
        return bool(all_ranks[:, 0].any())

    def largest(self, number: int) -> int:
        """The largest of the numbers of all ranks."""
        everywhere = np.zeros(self.size, np.int64)
        self.gather(np.array([number], np.int64), everywhere, [8] * self.size)
        return int(everywhere.max())

    # ---- messages: a rank that waits can be interrupted, and leaves the processor to others --------------------------
    def _wait(self, request: Any) -> None:
        until = time.monotonic() + PATIENCE
        while not request.Test():
            if time.monotonic() < until:
                time.sleep(0)
            else:
                time.sleep(NAP)

    def gather(self, mine: np.ndarray, everywhere: np.ndarray, counts: Sequence[int]) -> None:
        """The bytes of all ranks in their order; counts: how many each has."""
        starts = np.cumsum([0, *counts[:-1]]).tolist()
        self._wait(self._world.Iallgatherv([mine.view(np.uint8), MPI.BYTE],
                                           [everywhere.view(np.uint8), (list(counts), starts), MPI.BYTE]))

    def sum(self, array: np.ndarray) -> np.ndarray:
        """The sum over all ranks, the same bits in each."""
        total = np.zeros_like(array)
        self._wait(self._world.Ireduce(array, total if self.first else None))
        self._broadcast(total.reshape(-1).view(np.uint8))
        return total

    def _broadcast(self, buffer: np.ndarray) -> None:
        """The bytes of rank 0, in all ranks."""
        for start in range(0, len(buffer), MOST_BYTES):
            self._wait(self._world.Ibcast([buffer[start:start + MOST_BYTES], MPI.BYTE]))

    def _share_object(self, value: Any) -> Any:
        """The value of rank 0, in all ranks."""
        text = np.frombuffer(pickle.dumps(value), np.uint8).copy()
        size = np.array([len(text)], np.int64)
        self._broadcast(size.view(np.uint8))
        text = text if self.first else np.empty(int(size[0]), np.uint8)
        self._broadcast(text)
        return pickle.loads(text.tobytes())


class _Shared:
    """Steps whose blocks are shared among the ranks; a call runs some of them.

    statistics : of batch normalisation, which rank 0 collects
    feed, ... : as for `training_step`
    """

    def __init__(self, ranks: Ranks, statistics: list[np.ndarray], feed: Feed, plan: Plan, gather: Sequence[Call],
                 loss: Call, update: Sequence[Call], before: Sequence[Call] = (), rates: Sequence[Call] = ()):
        self._ranks, self._feed = ranks, feed
        self._parts: list[tuple[Program, Callable[[], None]]] = []
        begin, end = ranks.blocks_of(plan.blocks, ranks.rank)
        of_blocks = [*gather, *plan.calls.forward, loss, *plan.calls.backward]
        if odd := [call for call in of_blocks if call.items != plan.blocks and not call.apart]:
            raise InputError(f"--mpi: {odd[0].kernel.__name__} does not work on blocks of images, so ranks cannot "
                             "share its work")
        phases = at_once([*before, *plan.calls.prepare])
        for phase in in_order(of_blocks):
            first, _ = phase[0][0]
            if first.after_all:
                self._parts.append((Program(phases), _Exchange(ranks, plan.blocks, [first])))
                phases = []
            phases.append(phase if first.apart else phase[begin:end])      # every rank computes all of it
        exchange = _Exchange(ranks, plan.blocks, plan.calls.gradients, feed, statistics)
        self._parts.append((Program(phases), exchange))
        self._last = Program(end_of_step(feed, plan, update, rates))

    def __call__(self, repeats: int = 1) -> None:
        for _ in range(repeats):
            for program, exchange in self._parts:
                program()
                exchange()
            self._last()
            if self._ranks.ends(self._feed.sums[0]):
                break


class _Exchange:
    """Gives every rank the rows of arrays that the others have computed.

    Parameters
    ----------
    blocks : number of blocks of a batch
    calls : those that read all blocks
    feed : at the end of a step, whose losses and predictions are exchanged, too, and who wants to stop
    statistics : of batch normalisation, which the kernel of the first block collects, in rank 0
    """

    def __init__(self, ranks: Ranks, blocks: int, calls: Sequence[Call], feed: Feed | None = None,
                 statistics: Sequence[np.ndarray] = ()):
        self._ranks, self._feed = ranks, feed
        shares = [ranks.blocks_of(blocks, rank) for rank in range(ranks.size)]
        self._arrays: list[list[np.ndarray]] = []           # of each rank: its rows of the arrays of this process
        self._images = [(begin * LANES, end * LANES) for begin, end in shares]
        arrays = arrays_of(calls, blocks)
        for rank, (begin, end) in enumerate(shares):
            rows = [array[begin * len(array) // blocks:end * len(array) // blocks] for array in arrays]
            self._arrays.append([*rows, *statistics] if rank == 0 else rows)
        own = [[*rows, *self._of_images(k)] for k, rows in enumerate(self._arrays)]
        self._counts = [sum(-(-array.nbytes // 8) * 8 for array in rows) for rows in own]
        self._everywhere = np.empty(sum(self._counts), np.uint8)
        self._slots, start = [], 0
        for rows in own:
            slots = []
            for array in rows:
                slots.append(self._everywhere[start:start + array.nbytes].view(array.dtype).reshape(array.shape))
                start += -(-array.nbytes // 8) * 8
            self._slots.append(slots)
        begin = sum(self._counts[:ranks.rank])
        self._mine = self._everywhere[begin:begin + self._counts[ranks.rank]].copy()
        self._own, start = [], 0
        for array in own[ranks.rank]:
            self._own.append(self._mine[start:start + array.nbytes].view(array.dtype).reshape(array.shape))
            start += -(-array.nbytes // 8) * 8

    def _of_images(self, rank):
        """Room for what is not in blocks: losses, predictions, and whether the rank wants to stop."""
        if self._feed is None:
            return []
        begin, end = self._images[rank]
        return [np.zeros(end - begin, np.float32), np.zeros(end - begin, np.int64), np.zeros(1, np.int64)]

    def __call__(self) -> None:
        ranks, feed = self._ranks, self._feed
        for slot, array in zip(self._own, self._arrays[ranks.rank], strict=False):
            slot[...] = array
        if feed is not None:
            losses, predictions, wanted = self._own[-3:]
            images = self._numbers(ranks.rank)
            losses[:len(images)], predictions[:len(images)] = feed.losses[images], feed.predictions[images]
            wanted[0] = ranks.wanted
        ranks.gather(self._mine, self._everywhere, self._counts)
        for rank, slots in enumerate(self._slots):
            if rank != ranks.rank:
                for slot, array in zip(slots, self._arrays[rank], strict=False):
                    array[...] = slot
            if feed is not None:
                losses, predictions, wanted = slots[-3:]
                images = self._numbers(rank)
                feed.losses[images], feed.predictions[images] = losses[:len(images)], predictions[:len(images)]
                ranks.agreed = ranks.agreed or bool(wanted[0])

    def _numbers(self, rank):
        """The numbers of the images that are in the blocks of a rank."""
        first, count = self._feed.batch
        begin, end = self._images[rank]
        return self._feed.order[first + begin:first + min(end, count)]


def arrays_of(calls: Sequence[Call], blocks: int) -> list[np.ndarray]:
    """The arrays of calls of which these read the rows of all blocks: those with a row, or LANES rows, for each block.

    Rows that no rank computes are the same in all ranks, so that it does no harm to exchange them, too.
    """
    found: dict[tuple, np.ndarray] = {}
    for call in calls:
        named = [call.args[call.after_all]] if isinstance(call.after_all, str) else call.args.values()
        for array in named:
            if isinstance(array, np.ndarray) and array.ndim > 1 and len(array) in (blocks, blocks * LANES):
                found[array.ctypes.data, array.shape, array.strides] = array
    return list(found.values())


class _Averaged:
    """Steps of each rank on its own images; a call runs some of them.

    After every `every` steps and at the end of an epoch, the ranks take the means of the arrays.
    """

    def __init__(self, ranks: Ranks, arrays: list[np.ndarray], feed: Feed, *step: Any):
        self._ranks, self._feed, self._every, self._since = ranks, feed, ranks.every or 1, 0
        self._step = Program(training_step(feed, *step), REPLAYS)
        self._arrays = arrays
        self._message = np.zeros(sum(array.size for array in self._arrays) + 2)

    def __call__(self, repeats: int = 1) -> None:
        while repeats and not self._ranks.agreed:
            steps = min(repeats, self._every - self._since)
            self._step(steps)
            repeats, self._since = repeats - steps, self._since + steps
            if self._since == self._every or self._feed.done == len(self._feed.images):
                self._average()
                if self._ranks.ends(self._message[-1]):
                    break

    def _average(self) -> None:
        message, size, self._since = self._message, self._ranks.size, 0
        message[:-2] = np.concatenate([array.ravel() for array in self._arrays])
        message[-2:] = self._ranks.wanted, self._feed.sums[0]
        message[:] = self._ranks.sum(message)
        self._ranks.agreed = self._ranks.agreed or message[-2] > 0
        start = 0
        for array in self._arrays:
            array[...] = (message[start:start + array.size] / size).reshape(array.shape)
            start += array.size


# ---- objects with large arrays --------------------------------------------------------------------------------------
def _packed(value: Any) -> tuple[bytes, list[np.ndarray]]:
    """A pickle, and the memory of the arrays in it."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return head, [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers]
