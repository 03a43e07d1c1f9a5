"""The most that the cores and the memory of this machine can do, to compare the speed of kernels with."""
from functools import cache

import numpy as np
from numba import njit

from cnn_numba.inspection.timing import fastest_call
from cnn_numba.kernels.compiled import KERNEL
from cnn_numba.kernels.driver import exclusive, execute, execution
from cnn_numba.kernels.lanes import (
    LANES,
    REGISTERS,
    Tile,
    aligned,
    fma,
    load,
    outer,
    spread,
    store,
    store_tile,
    vectors,
)
from cnn_numba.kernels.program import Call, Program, at_once

TILE = Tile(12 if REGISTERS > 8 else 5, 1)              # sums: enough to hide the latency, few enough for registers
SHARES = 16                                             # items per thread, so that a late thread holds up little
LEAST, ATTEMPTS = 0.3, 3                                # two threads of one core reach half of two cores
VECTORS = 1 << 20                                       # 64 MB in each of three arrays: more than caches hold


@njit(**KERNEL)
def multiply_add(item, y, x, start, rounds, T):
    """sum += x0 x1, `rounds` times for each of T.rows x T.cols sums.

    Each sum starts differently and is stored: LLVM would compute equal sums once, and drop those that are not stored.
    """
    acc = spread(start, 0, T.rows, T.cols)
    left, right = vectors(x, (item, 0), T.rows, 1, 0), vectors(x, (item, 1), T.cols, 1, 1)
    for _ in range(rounds):
        acc = outer(acc, left, right)
    store_tile(y, (item, 0, 0), 1, 2, 1, acc)


@njit(**KERNEL)
def triad(item, z, x, y, chunk):
    """z = x y + z over `chunk` vectors: four numbers to and from memory for one multiply-add."""
    for k in range(item * chunk, item * chunk + chunk):
        store(z, (k,), fma(load(x, (k,)), load(y, (k,)), load(z, (k,))))


@cache
def _programs(threads: int) -> tuple[Program, int, Program, int]:
    """(multiply-adds, their operations, memory traffic, its bytes)"""
    items, rounds, rng = SHARES * threads, 5000, np.random.default_rng(0)
    x, start = aligned((items, 2, LANES)), aligned(TILE.rows)
    x[...], start[...] = rng.normal(size=x.shape), rng.normal(size=start.shape)
    sums = aligned((items, TILE.rows, TILE.cols, LANES))
    compute = Call(multiply_add, items, y=sums, x=x, start=start, rounds=rounds, T=TILE)
    flat = [aligned((VECTORS, LANES)) for _ in range(3)]
    move = Call(triad, 64, z=flat[0], x=flat[1], y=flat[2], chunk=VECTORS // 64)
    return (Program(at_once([compute])), 2 * rounds * TILE.rows * TILE.cols * LANES * items,
            Program(at_once([move])), 4 * flat[0].nbytes)


def measure_peak(threads: int, seconds: float) -> tuple[float, float] | None:
    """(operations, bytes to and from memory) per second of all threads; a multiply-add is two operations.

    Each is that of the fastest call within about `seconds`.  None where other programs keep the threads from running at
    the same time: where they reach less than LEAST of what as many single threads would.
    """
    compute, operations, move, size = _programs(threads)
    alone = _operations_alone(seconds / 4)
    for attempt in range(ATTEMPTS):
        reached = operations / fastest_call(compute, seconds * 2**attempt)
        if reached >= LEAST * threads * alone:
            return reached, size / fastest_call(move, seconds)
    return None


def _operations_alone(seconds: float) -> float:
    """Operations per second of one thread.  Its calls are so short that some are undisturbed on any machine."""
    compute, operations, *_ = _programs(1)
    with exclusive:
        mode, threads = execution()
        execute("serial", 1)
        try:
            return operations / fastest_call(compute, seconds)
        finally:
            execute(mode, threads)
