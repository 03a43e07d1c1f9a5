"""How the kernels run: interpreted, serially or in parallel."""
import numba

from cnn_numba.errors import InputError, whole_number
from cnn_numba.kernels import program
from cnn_numba.kernels.lanes import LANES


def set_execution(mode, threads=None):
    """Run the kernels serially or in parallel; results are the same to the bit.

    Parameters
    ----------
    mode : "serial" or "parallel"
    threads : int, optional
        For "parallel": 1 to the number of processors (or NUMBA_NUM_THREADS), which is the default.

    Raises InputError (a ValueError) for another mode, a number of threads that the machine does not offer, or when the
    environment asks for a threading layer that is not there.
    """
    most = program.max_threads()
    if mode not in ("serial", "parallel"):
        raise InputError(f"set_execution: the mode must be 'serial' or 'parallel', got {mode!r}")
    threads = most if threads is None else threads
    if mode == "parallel" and whole_number("set_execution", "threads", threads) > most:
        raise InputError(f"set_execution: threads must be at most {most}, the processors of this machine, "
                         f"got {threads}")
    try:
        program.execute(mode, threads)
    except ValueError:
        raise InputError(f"the threading layer that NUMBA_THREADING_LAYER names, {numba.config.THREADING_LAYER!r}, "
                         "cannot be loaded") from None


def describe():
    """What runs, in one line: numba's version, JIT on or off, how parallel, threading layer, vector lanes."""
    mode, threads = program.execution()
    if not program.JIT:
        mode = "JIT off, interpreted"
    elif mode == "serial":
        mode = "JIT on, serial"
    else:
        layer = program.threading_layer()
        slow = ", slow: omp or tbb would be faster" if layer == "workqueue" else ""
        mode = f"JIT on, parallel, {threads} thread{'s' * (threads > 1)} ({layer}{slow})"
    cache = "" if program.FOLDER or not program.JIT else ", no cache folder can be written: every start compiles anew"
    return f"numba {numba.__version__}, {mode}, {LANES} lanes{cache}"
