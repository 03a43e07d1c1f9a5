"""How the kernels run: interpreted, serially or in parallel, and with which algorithms."""
import os
import sys

from cnn_numba.errors import InputError, whole_number

__all__ = ["describe", "set_execution", "set_textbook"]

MODES = "interpreted", "serial", "parallel"

_textbook = False


def set_execution(mode: str, threads: int | None = None) -> None:
    """Run the kernels interpreted, serially or in parallel; serial and parallel give the same bits.

    Parameters
    ----------
    mode : "interpreted", "serial" or "parallel"
        "interpreted" runs the kernels as plain Python, for a debugger: hundreds of times slower.  Choose it before
        anything else of this library is used (or set NUMBA_DISABLE_JIT=1 in the environment): the import of the kernels
        decides whether they are compiled.
    threads : int, optional
        For "parallel": 1 to the number of processors (or NUMBA_NUM_THREADS); default: all of them.

    Raises InputError (a ValueError) for another mode, for a number of threads that the machine does not offer, when the
    kernels are already imported for compilation, or when NUMBA_THREADING_LAYER names a threading layer that cannot be
    loaded.
    """
    if mode not in MODES:
        raise InputError(f"set_execution: the mode must be one of {', '.join(map(repr, MODES))}, got {mode!r}")
    if mode == "interpreted" and "cnn_numba.kernels.compiled" not in sys.modules:
        os.environ["NUMBA_DISABLE_JIT"] = "1"
        if "numba" in sys.modules:
            sys.modules["numba"].config.reload_config()
    from cnn_numba.kernels import driver
    from cnn_numba.kernels.compiled import JIT

    if mode == "interpreted":
        if JIT:
            raise InputError("set_execution: the kernels are compiled already; choose 'interpreted' before anything "
                             "else of cnn_numba is used, or set NUMBA_DISABLE_JIT=1 before the program starts")
        mode = "serial"
    most = driver.max_threads()
    threads = most if threads is None else threads
    if mode == "parallel" and whole_number("set_execution", "threads", threads) > most:
        raise InputError(f"set_execution: threads must be at most {most}, the processors of this machine, "
                         f"got {threads}")
    try:
        driver.execute(mode, threads)
    except ValueError:
        raise InputError("the threading layer that NUMBA_THREADING_LAYER names, "
                         f"{os.environ.get('NUMBA_THREADING_LAYER')!r}, cannot be loaded") from None


def set_textbook(textbook: bool) -> None:
    """Choose the algorithm of convolutions for all models: True runs the plain loops of `kernels/conv.py` everywhere.

    By default, convolutions with stride 1 and three or five columns run as Cook-Toom products, with half the
    multiplications; results agree up to float32 rounding.  The choice affects trainers made, and models called,
    from now on.
    """
    global _textbook
    _textbook = bool(textbook)


def textbook() -> bool:
    """Whether convolutions run the plain loops; see `set_textbook`."""
    return _textbook


def describe() -> str:
    """One line of text: compiled or not, threads, algorithm of convolutions, versions and images per vector."""
    import numba

    from cnn_numba.kernels import compiled, driver, program
    from cnn_numba.kernels.lanes import LANES

    mode, threads = driver.execution()
    layer = ""
    if not compiled.JIT:
        how = "interpreted (JIT off)"
    elif mode == "serial":
        how = "compiled, serial"
    else:
        name = program.threading_layer()
        layer = f", {name}" + (", slow: omp or tbb would be faster" if name == "workqueue" else "")
        how = f"compiled, parallel on {threads} thread{'s' * (threads > 1)}"
    convolutions = "convolutions by the textbook" if _textbook else "convolutions by Cook-Toom"
    cache = "" if compiled.FOLDER or not compiled.JIT else "; no cache folder can be written: each start compiles again"
    return f"Kernels {how}, {convolutions} (numba {numba.__version__}{layer}, {LANES} images per vector){cache}"
