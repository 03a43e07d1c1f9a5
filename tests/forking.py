"""A small network and batches for it; as a program, its answers in threads of a process and in a forked child.

    NUMBA_THREADING_LAYER=omp python tests/forking.py
"""
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from networks import batch_norm, conv, flatten, linear, make, pool, relu

from cnn_numba import Sequential, describe, set_execution

CALLS = 30


def network(seed=0):
    return Sequential(*make([conv(1, 8, 3, padding=1), batch_norm(8), relu, pool(2), flatten, linear(128, 10)]),
                      seed=seed)


def batches(rng):
    """Images of several batch sizes, more than the plans that a model keeps."""
    return [rng.normal(size=(int(n), 1, 8, 8)).astype(np.float32) for n in rng.integers(1, 90, CALLS)]


if __name__ == "__main__":
    model, inputs = network().eval(), batches(np.random.default_rng(0))[:20]
    want = [np.array(model(x)) for x in inputs]
    with ThreadPoolExecutor(4) as workers:
        assert all(np.array_equal(a, b) for a, b in zip(workers.map(model, inputs), want, strict=True))
    child = os.fork()
    if not child:
        set_execution("parallel")
        same = all(np.array_equal(model(x), y) for x, y in zip(inputs, want, strict=True))
        print("child", same, "serial" in describe(), flush=True)
        os._exit(0)
    print("exit code", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "parallel" in describe())
