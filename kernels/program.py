"""A network as data: a table of (kernel, item, arguments) that one driver replays, in parallel or not.

A kernel is `f(item, call)` under `@njit(**KERNEL)`; its first line unpacks its arguments, `y, x, T = call[0]`.  They
lie in memory as Numba lays out a tuple (the record), so every kernel has the same machine signature f(int, pointer)
while the pointer's Numba type carries the argument types: each kernel is compiled once per argument types, for any
network, and the driver calls it by its native address.

This is the one module that knows Numba's options, modes, cache and native addresses.
"""
import sys
import types as python_types

import numba
import numpy as np
from numba import config, njit, prange, types

from .cache import kernel_cache, locked
from .lanes import aligned

# error_model: no ZeroDivisionError, because a kernel called by address cannot raise.  No wrappers: nothing but the
# driver calls it, and they are a third of the compile time.
KERNEL = dict(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
INLINE = dict(inline="always", **KERNEL)        # for what kernels call, where a call costs

JIT = not config.DISABLE_JIT


LINE = 8                    # int64 numbers in a cache line
TAKEN, DONE = 0, 1


def _driver(tasks, chains, phases, repeats, counters, workers):
    """Replay a table `repeats` times: phases one after the other; the chains of a phase, shared among the workers; the
    tasks of a chain in order.

    A worker takes its own share of a phase first, always the same, so that the data of an image block stay in one
    core's cache; then it takes what others have not begun.  A phase ends when its chains are done, not when all workers
    have come by: on a machine with other work, a worker that does not get a processor holds nobody up unless it is in
    the middle of a chain.

    counters (replays * phases * workers, 8): how many chains of a worker's share are taken, and how many it has done;
    a row fills a cache line, so that workers do not disturb each other.
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
                            invoke(tasks[task, 0], tasks[task, 1], tasks[task, 2])
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
    from numba.core.caching import NullCache
    from numba.extending import intrinsic

    I64 = ir.IntType(64)

    @intrinsic
    def invoke(typing, address, item, record):
        """Call the kernel at an address; the status that Numba's calling convention returns is always 0 here."""
        def code(context, builder, sig, args):
            byte = ir.IntType(8).as_pointer()
            kind = ir.FunctionType(ir.IntType(32), [byte.as_pointer(), byte.as_pointer(), I64, I64]).as_pointer()
            result, exception = cgutils.alloca_once(builder, byte), cgutils.alloca_once(builder, byte)
            builder.call(builder.inttoptr(args[0], kind), [result, exception, args[1], args[2]])
            return context.get_dummy_value()
        return types.void(types.intp, types.intp, types.intp), code

    @intrinsic
    def add_one(typing, counters, row, column):
        """counters[row, column]++, atomically: no two workers get the same value, and what one wrote before, others see
        after."""
        def code(context, builder, sig, args):
            return builder.atomic_rmw("add", _counter(context, builder, sig, args), I64(1), "seq_cst")
        return types.intp(counters, row, column), code

    @intrinsic
    def value(typing, counters, row, column):
        """counters[row, column], read anew each time."""
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
        """Give the processor to another thread that waits for one."""
        def code(context, builder, sig, args):
            if sys.platform != "win32":
                kind = ir.FunctionType(ir.IntType(32), [])
                builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
            return context.get_dummy_value()
        return types.void(), code

    def _words(a):
        """An argument as Numba lays it out in memory: always whole 8-byte words."""
        if isinstance(a, np.ndarray):
            return [0, 0, a.size, a.itemsize, a.ctypes.data, *a.shape, *a.strides]
        return [int(a)] if isinstance(a, (int, np.integer)) else [0]

    def _typeof(a):
        """Numba's type, but every array as one with strides, so that views and whole arrays share the compiled code."""
        ty = numba.typeof(a)
        return types.Array(ty.dtype, ty.ndim, "A") if isinstance(ty, types.Array) else ty

    FOLDER = kernel_cache()
    _addresses = {}

    def _compile(dispatcher, signature):
        """Compile a function, or load it from the cache."""
        with locked(FOLDER):
            if FOLDER is not None and dispatcher.stats.cache_path is None:
                elsewhere, config.CACHE_DIR = config.CACHE_DIR, str(FOLDER)
                try:
                    dispatcher.enable_caching()
                finally:
                    config.CACHE_DIR = elsewhere
            try:
                dispatcher.compile(signature)
            except Exception:                       # a damaged cache file, or a full disk: go on without the cache
                dispatcher._cache = NullCache()
                dispatcher.compile(signature)

    def _address(kernel, args):
        signature = (types.intp, types.CPointer(types.Tuple([_typeof(a) for a in args])))
        if (kernel, signature) not in _addresses:
            _compile(kernel, signature)
            code = kernel.overloads[signature]
            _addresses[kernel, signature] = code.library.get_pointer_to_function(code.fndesc.llvm_func_name)
        return _addresses[kernel, signature]

    def _variant(name, **options):
        """The driver compiled with options, under a name of its own: Numba's cache would take one for the other."""
        copy = python_types.FunctionType(_driver.__code__, _driver.__globals__, name)
        copy.__qualname__ = name
        return njit(**options)(copy)

    _drivers = {"serial": _variant("replay_serial"), "parallel": _variant("replay_parallel", parallel=True)}
    _table = types.int64[:, ::1], types.int64[::1], types.int64[::1], types.intp, types.int64[:, ::1], types.intp

    def _replay(mode):
        driver = _drivers[mode]
        if not driver.overloads:
            _compile(driver, _table)
        return driver

else:
    FOLDER = None

    def invoke(kernel, item, call):
        kernel(item, call)

    def add_one(counters, row, column):
        counters[row, column] += 1
        return counters[row, column] - 1

    def value(counters, row, column):
        return counters[row, column]

    def let_others_run():
        """Nobody else does: interpreted, there is one worker."""

    def _replay(mode):
        return _driver


class Call:
    """A kernel with its arguments: arrays, ints and tiles.  It keeps the arrays alive, whose addresses it holds.

    items : how many items make up the call's output.
    after_all : whether its items need all items of the calls before it, not just the same one.
    """

    def __init__(self, kernel, items, *args, after_all=False):
        self.kernel, self.items, self.args, self.after_all = kernel, items, args, after_all
        if JIT:
            self.record = np.array([w for a in args for w in _words(a)], np.int64)
            self.address = _address(kernel, args)

    def task(self, item):
        return (self.address, item, self.record.ctypes.data) if JIT else (self.kernel, item, [self.args])


class Program:
    """Calls in an order that can be replayed.

    Parameters
    ----------
    phases : list of list of list of (Call, int)
        Phases run one after the other.  A phase is a list of chains, which run in parallel and must not write what
        another one reads or writes; a chain is a list of (call, item), which run in order.
    most : int
        How often one call can replay them.
    """

    def __init__(self, phases, most=1):
        chains = [chain for phase in phases for chain in phase]
        tasks = [call.task(item) for chain in chains for call, item in chain]
        self._keep = [call for chain in chains for call, _ in chain]
        self._tasks = np.empty((len(tasks), 3), np.int64 if JIT else object)
        for k, task in enumerate(tasks):
            self._tasks[k] = task
        self._chains = np.cumsum([0] + [len(chain) for chain in chains])
        self._phases = np.cumsum([0] + [len(phase) for phase in phases])
        self._counters = aligned((len(phases) * most * max_threads(), LINE), np.int64)

    def __call__(self, repeats=1):
        _replay(_mode)(self._tasks, self._chains, self._phases, repeats, self._counters, _threads)


def in_order(calls):
    """The phases that run calls one after the other, where an item needs only the same item of the calls before it (or
    else the call says so): calls of as many items run as one chain per item."""
    phases = []
    for call in calls:
        if not phases or call.after_all or call.items != len(phases[-1]):
            phases.append([[] for _ in range(call.items)])
        for item, chain in enumerate(phases[-1]):
            chain.append((call, item))
    return phases


def at_once(calls):
    """The phases that run calls which do not depend on each other: every item is a chain."""
    return [[[(call, item)] for call in calls for item in range(call.items)]]


# ---- execution ------------------------------------------------------------------------------------------------------
_mode, _threads = ("parallel", config.NUMBA_NUM_THREADS) if JIT else ("serial", 1)


def max_threads():
    """How many threads there can be: the processors this process may use, or NUMBA_NUM_THREADS."""
    return config.NUMBA_NUM_THREADS if JIT else 1


def execute(mode, threads):
    """Choose the driver, "serial" or "parallel", and its number of threads, for all programs."""
    global _mode, _threads
    _mode, _threads = mode, threads if JIT and mode == "parallel" else 1
    if JIT and mode == "parallel":
        numba.set_num_threads(threads)


def execution():
    """(mode, threads) in force."""
    return _mode, _threads


def threading_layer():
    """The name of Numba's threading layer, which a first parallel region loads ("omp", "tbb" or "workqueue")."""
    Program([[[]] * _threads])()
    return numba.threading_layer()
