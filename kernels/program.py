"""A network as data: a table of (kernel, item, arguments) that one driver replays, serially or in parallel."""
import copy
import inspect
from functools import cached_property
from typing import NamedTuple

import numba
import numpy as np

from .compiled import JIT
from .driver import LINE, max_threads, replay, request_drivers
from .lanes import aligned
from .pace import Pace

if JIT:
    from .compiled import address, request, signature, words


class Pieces(NamedTuple):
    """The items of a call that cuts each block into pieces: item n * each + k is piece k of block n.

    channels : the number of channels, filters or units of which a piece is a range; 0: it is another part
    whole : whether a piece reads the whole block; otherwise only its range of what the calls before it computed
    """

    blocks: int
    each: int = 1
    channels: int = 1
    whole: bool = True

    def continues(self, before):
        """Whether an item needs only the same item of a call that has the items `before`."""
        same = self.channels == before.channels and not self.whole
        return (self.blocks, self.each) == (before.blocks, before.each) and (self.each == 1 or same)

    def seen(self, value, axis, k):
        """What piece k sees of an argument that belongs to the channels: of an array, a range of an axis, whose size
        is a multiple of the number of channels; of such a number, the piece's share."""
        size = value.shape[axis] if isinstance(value, np.ndarray) else value
        if size % self.channels:
            raise ValueError(f"an axis of {size} cannot be cut into ranges of {self.channels} channels")
        first, end = (self.channels * at // self.each * (size // self.channels) for at in (k, k + 1))
        return value[(slice(None),) * axis + (slice(first, end),)] if isinstance(value, np.ndarray) else end - first


class PerWorker:
    """An argument of a Call that is another array for each worker: scratch that lives as long as one item, or as the
    chain of a block.

    The kernel sees an array of `shape`.  A worker writes it again for the next item, while it is still in its core's
    cache; an array with a row for each block would go through memory.  Several calls may share one PerWorker.

    make : function(shape) that gives zeros
    """

    def __init__(self, shape, make=aligned):
        self.arrays = [make(shape) for _ in range(max_threads())]

    def viewed(self, view):
        """The same memory as view(array) of each array."""
        other = copy.copy(self)
        other.arrays = [view(array) for array in self.arrays]
        return other


class Call:
    """A kernel with its arguments, by name: arrays, ints, constants such as tiles, and `PerWorker` scratch.

    Parameters
    ----------
    kernel : function(item, ...) under `@njit(**KERNEL)`
    items : int or Pieces
        The number of items of the output; the kernel runs for each of 0, ..., items - 1.
    cut : dict, optional
        {name of an argument: the axis of its channels}: of these arguments, a piece sees its own channels only, and
        its kernel gets the number of the block.  Without it, the kernel gets that of the item (see `pieces`).
    after_all : bool or str
        Whether an item needs all items of the calls before it, not just the same one; the name of an argument if it
        needs the other items of that one only.
    apart : bool
        Whether its items are not those of the calls around it, so that its phase has no other calls.
    **args : all arguments that the kernel's signature names

    The call holds the addresses of the arrays and keeps the arrays alive.  Raises TypeError when a name is missing or
    unknown, ValueError when an axis cannot be cut.
    """

    def __init__(self, kernel, items, /, *, cut=None, after_all=False, apart=False, **args):
        _, *names = inspect.signature(kernel).parameters
        if odd := [name for name in names if name not in args] + [name for name in args if name not in names]:
            wrong = "misses" if odd[0] in names else "has no argument"
            raise TypeError(f"{kernel.__name__} {wrong} {odd[0]}, expected {', '.join(names)}")
        self.kernel, self.after_all, self.apart = kernel, after_all, apart
        self.pieces = items if isinstance(items, Pieces) else Pieces(items)
        self.items = self.pieces.blocks * self.pieces.each
        self.args, self.cut = {name: args[name] for name in names}, cut or {}
        of_first = self._args(0)                # compiled or not, the axes are checked
        if JIT:
            workers = max_threads() if any(isinstance(value, PerWorker) for value in args.values()) else 1
            self._records = np.array([[[word for value in self._args(worker, k) for word in words(value)]
                                       for worker in range(workers)]
                                      for k in range(self.pieces.each if self.cut else 1)], np.int64)
            self._signature = signature(of_first)
            request(kernel, self._signature)

    def _args(self, worker, k=0):
        """The arguments of a worker for piece k."""
        values = {name: value.arrays[worker] if isinstance(value, PerWorker) else value
                  for name, value in self.args.items()}
        return [self.pieces.seen(value, self.cut[name], k) if name in self.cut else value
                for name, value in values.items()]

    def task(self, item):
        """The row of the table that runs the kernel for an item: address, item, record, bytes between the records of
        two workers."""
        item, k = divmod(item, self.pieces.each) if self.cut else (item, 0)
        if JIT:
            records = self._records[k]
            return self._address, item, records.ctypes.data, records.strides[0] * (len(records) > 1)
        return self.kernel, item, tuple(self._args(0, k)), 0

    def with_args(self, **args):
        """The same call with other values of some arguments."""
        return Call(self.kernel, self.pieces, cut=self.cut, after_all=self.after_all, apart=self.apart,
                    **self.args | args)

    @cached_property
    def _address(self):
        return address(self.kernel, self._signature)

    def __reduce__(self):
        raise TypeError("a Call cannot be copied or pickled: it holds the addresses of its arrays")

    def __repr__(self):
        return f"<{self.kernel.__name__}({', '.join(self.args)}) for {self.items} items>"


class Program:
    """Calls in an order that can be replayed.  What its calls need is compiled by `compile_requested`, or
    by the first replay of any program.

    Parameters
    ----------
    phases : list of list of list of (Call, int)
        Phases run one after the other.  A phase is a list of chains, which run in parallel: none may write what
        another one reads or writes.  A chain is a list of (call, item), which run in order.
    most : int
        The largest number of replays in one call.

    Attributes
    ----------
    calls : list of Call
        That of each task; they own the arrays.
    """

    def __init__(self, phases, most=1):
        chains = [chain for phase in phases for chain in phase]
        self.calls = [call for chain in chains for call, _ in chain]
        self._items = [item for chain in chains for _, item in chain]
        self._chains = np.cumsum([0] + [len(chain) for chain in chains])
        self._phases = np.cumsum([0] + [len(phase) for phase in phases])
        self._counters = aligned((len(phases) * most * max_threads(), LINE), np.int64)
        self._pace = Pace()
        request_drivers(len(chains))

    @cached_property
    def _tasks(self):
        """The table of tasks."""
        tasks = np.empty((len(self.calls), 4), np.int64 if JIT else object)
        for k, (call, item) in enumerate(zip(self.calls, self._items, strict=True)):
            for column, value in enumerate(call.task(item)):
                tasks[k, column] = value
        return tasks

    def __reduce__(self):
        raise TypeError("a Program cannot be copied or pickled: it holds the addresses of the arrays of its calls")

    def __call__(self, repeats=1):
        replay(self._tasks, self._chains, self._phases, repeats, self._counters, self._pace)


def in_order(calls):
    """The phases that run calls one after the other.

    An item needs only the same item of the calls before it, unless the call says `after_all`, one of them is `apart`,
    or they cut blocks into `Pieces` of different kinds: so consecutive calls of equal items run as one chain per item.
    """
    phases, before, apart = [], None, True
    for call in calls:
        if apart or call.apart or call.after_all or not call.pieces.continues(before):
            phases.append([[] for _ in range(call.items)])
        apart = call.apart
        for item, chain in enumerate(phases[-1]):
            chain.append((call, item))
        before = call.pieces
    return phases


def at_once(calls):
    """The phase that runs calls which do not depend on each other: every item is a chain."""
    return [[[(call, item)] for call in calls for item in range(call.items)]]


def by_one(calls):
    """The phase that one worker runs: all items of the calls, in order, as one chain.

    For little work, and for a program that runs once, which has no time to find out whether all workers are faster.
    """
    return [[[(call, item) for call in calls for item in range(call.items)]]]


def threading_layer():
    """The name of Numba's threading layer: "omp", "tbb" or "workqueue"."""
    numba.get_num_threads()             # loads it
    return numba.threading_layer()
