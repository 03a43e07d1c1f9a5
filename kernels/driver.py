"""The driver replays a table of kernel calls, serially or in parallel.  It contains the only parallel loop.

The serial and the parallel driver are copies of one function under two names: the cache identifies a function by its
name and code, not by its compile options.
"""
import os
import sys
import threading
import time
import types as python_types

import numba
import numpy as np
from numba import config, njit, prange, types

from .compiled import JIT

LINE = 8                    # int64 numbers in a cache line
TAKEN, DONE = 0, 1


def _driver(tasks, chains, phases, repeats, counters, workers):
    """Replay a table `repeats` times: phases one after the other; the chains of a phase, shared among the workers; the
    tasks of a chain in order.

    A worker first takes its own share of a phase, always the same one, so that the data of an image block stay in one
    core's cache; then it takes chains that other workers have not begun.  A phase ends when its chains are done, not
    when all workers have arrived: on a busy machine, a worker without a processor delays the others only if it is in
    the middle of a chain.

    counters (repeats * phases * workers, 8): the number of chains taken from a worker's share, and the number of chains
    that the worker has done; a row fills a cache line, so that workers do not disturb each other.
    """
    count = len(phases) - 1
    for k in range(count * repeats * workers):
        counters[k, TAKEN] = 0
        counters[k, DONE] = 0
    for worker in prange(workers):
        me = np.int64(worker)
        for replay in range(repeats):
            for p in range(count):
                row, size = (replay * count + p) * workers, phases[p + 1] - phases[p]
                for k in range(workers):
                    share = (me + k) % workers
                    begin, end = phases[p] + size * share // workers, phases[p] + size * (share + 1) // workers
                    chain = begin + add_one(counters, row + share, TAKEN)
                    while chain < end:
                        for task in range(chains[chain], chains[chain + 1]):
                            invoke(tasks[task, 0], tasks[task, 1], tasks[task, 2], me * tasks[task, 3])
                        add_one(counters, row + me, DONE)
                        chain = begin + add_one(counters, row + share, TAKEN)
                done = 0
                while done < size:
                    done = 0
                    for k in range(workers):
                        done += value(counters, row + k, DONE)
                    if done < size:
                        let_others_run()


if JIT:
    from llvmlite import ir
    from numba.core import cgutils
    from numba.extending import intrinsic

    from .compiled import compiled, request

    I64 = ir.IntType(64)

    @intrinsic
    def invoke(typing, address, item, record, offset):
        """Call the kernel at an address; the status that Numba's calling convention returns is always 0 here.

        The worker's record of the arguments is `offset` bytes after the first one.
        """
        def code(context, builder, sig, args):
            byte = ir.IntType(8).as_pointer()
            kind = ir.FunctionType(ir.IntType(32), [byte.as_pointer(), byte.as_pointer(), I64, I64]).as_pointer()
            result, exception = cgutils.alloca_once(builder, byte), cgutils.alloca_once(builder, byte)
            builder.call(builder.inttoptr(args[0], kind), [result, exception, args[1], builder.add(args[2], args[3])])
            return context.get_dummy_value()
        return types.void(types.intp, types.intp, types.intp, types.intp), code

    @intrinsic
    def add_one(typing, counters, row, column):
        """Add 1 to counters[row, column] atomically and return the old value.

        No two workers get the same value, and all that a worker wrote before is visible to the next one.
        """
        def code(context, builder, sig, args):
            return builder.atomic_rmw("add", _counter(context, builder, sig, args), I64(1), "seq_cst")
        return types.intp(counters, row, column), code

    @intrinsic
    def value(typing, counters, row, column):
        """counters[row, column], read from memory each time."""
        def code(context, builder, sig, args):
            return builder.load_atomic(_counter(context, builder, sig, args), "seq_cst", 8)
        return types.intp(counters, row, column), code

    def _counter(context, builder, sig, args):
        array = context.make_array(sig.args[0])(context, builder, args[0])
        row, column = (context.cast(builder, arg, ty, types.intp)
                       for arg, ty in zip(args[1:], sig.args[1:], strict=True))
        return builder.gep(array.data, [builder.add(builder.mul(row, I64(LINE)), column)])

    @intrinsic
    def let_others_run(typing):
        """Yield the processor to a thread that waits for one."""
        def code(context, builder, sig, args):
            if sys.platform != "win32":
                kind = ir.FunctionType(ir.IntType(32), [])
                builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
            return context.get_dummy_value()
        return types.void(), code

    def _variant(name, **options):
        """A copy of the driver with these compile options, under another name."""
        copy = python_types.FunctionType(_driver.__code__, _driver.__globals__, name)
        copy.__qualname__ = name
        return njit(**options)(copy)

    replay_serial, replay_parallel = _variant("replay_serial"), _variant("replay_parallel", parallel=True)
    _variants = {"serial": replay_serial, "parallel": replay_parallel}
    _signature = types.int64[:, ::1], types.int64[::1], types.int64[::1], types.intp, types.int64[:, ::1], types.intp

    def _ready(mode):
        """The driver of a mode, compiled."""
        driver = _variants[mode]
        if not driver.overloads:
            driver.add_overload(compiled(driver, _signature))
        return driver

    def request_drivers(chains):
        """Announce the drivers for tables of so many chains, for `compiled.request`."""
        request(_variants[_mode_for(chains)], _signature)
else:
    def invoke(kernel, item, args, offset):
        kernel(item, *args)

    def add_one(counters, row, column):
        counters[row, column] += 1
        return counters[row, column] - 1

    def value(counters, row, column):
        return counters[row, column]

    def let_others_run():
        """Do nothing: interpreted, there is only one worker."""

    def _ready(mode):
        return _driver

    def request_drivers(chains):
        """Do nothing: interpreted, nothing is compiled."""


# ---- execution ------------------------------------------------------------------------------------------------------
_mode, _threads = ("parallel", config.NUMBA_NUM_THREADS) if JIT else ("serial", 1)
_started = False            # whether a parallel region has run in this process
_orphaned = False           # whether one ran before this process was forked: a child has no threads of its parent

exclusive = threading.RLock()       # held while buffers are filled, a program runs, and results are read


def _mode_for(chains):
    """The driver that replays a table of so many chains: a single one has nothing to share."""
    return _mode if chains > 1 else "serial"


def replay(tasks, chains, phases, repeats, counters, pace):
    """Run the chosen driver, with one worker where `pace` finds that faster; other Python threads wait."""
    global _started
    with exclusive:
        mode = _mode_for(len(chains) - 1)
        driver = _ready(mode)
        if mode == "serial":
            driver(tasks, chains, phases, repeats, counters, 1)
            return
        _started = True
        try:
            while repeats:
                workers, count = 1 if pace.alone else _threads, pace.room(repeats)
                numba.set_num_threads(workers)
                start = time.perf_counter()
                driver(tasks, chains, phases, count, counters, workers)
                pace.note(time.perf_counter() - start, count)
                repeats -= count
        finally:
            numba.set_num_threads(_threads)


def _after_fork():
    """In a forked child: the threads of the parallel driver stayed in the parent, so the child runs serially."""
    global exclusive, _orphaned
    exclusive = threading.RLock()
    _orphaned = _orphaned or _started
    execute(_mode, _threads)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def max_threads():
    """The largest number of threads: the processors that this process may use, or NUMBA_NUM_THREADS."""
    return config.NUMBA_NUM_THREADS if JIT else 1


def execute(mode, threads):
    """Choose the driver, "serial" or "parallel", and its number of threads, for all programs.

    A child of a process that has run in parallel stays serial.
    """
    global _mode, _threads
    mode = "serial" if _orphaned else mode
    _mode, _threads = mode, threads if JIT and mode == "parallel" else 1
    if JIT and mode == "parallel":
        numba.set_num_threads(threads)


def execution():
    """The mode and the number of threads in use."""
    return _mode, _threads
