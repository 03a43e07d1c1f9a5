"""How the kernels run: interpreted, serially or in parallel, and with which algorithms."""
from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from cnn_numba.errors import InputError, whole_number

if TYPE_CHECKING:
    from cnn_numba.kernels.matrix import Bf16

__all__ = ["describe", "get_float32_matmul_precision", "set_execution", "set_float32_matmul_precision", "set_textbook"]

MODES = "interpreted", "serial", "parallel"

PARTS = {"highest": 0, "high": 2, "medium": 1}          # bf16 parts of a factor; 0: it stays in float32
UNIT = "CNN_NUMBA_MATRIX_UNIT"      # in the environment: the unit for all layers, "plain" on any CPU; "none"

_textbook = False
_precision = "highest"


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


def set_float32_matmul_precision(precision: str) -> None:
    """Choose how exactly convolutions and dense layers multiply, as `torch.set_float32_matmul_precision`.

    Parameters
    ----------
    precision : "highest", "high" or "medium"
        "highest" (default): in float32.  "medium": the factors are rounded to bf16, sums stay in float32.  "high": each
        factor is split into two bf16 numbers, 16 bits, and three products are added.  Images, activations, weights,
        gradients and the optimizer stay in float32.

    Bf16 products run on the CPU's AMX unit; on AMD's Zen 4 "medium" runs by `vdpbf16ps` in dense layers and in
    convolutions without Cook-Toom products.  Elsewhere, and in layers that would not be faster (fewer than 16 channels
    or filters, groups), all precisions are "highest"; `describe()` says which unit runs.  The choice affects trainers
    made, and models called, from now on.

    Raises InputError (a ValueError) for another word.
    """
    global _precision
    _precision = checked_precision("set_float32_matmul_precision", precision)


def checked_precision(owner: str, precision: Any) -> str:
    """The word; InputError, which names the owner, unless it is one of `set_float32_matmul_precision`."""
    if not isinstance(precision, str) or precision not in PARTS:
        raise InputError(f"{owner}: expected 'highest', 'high' or 'medium', got {precision!r:.40}")
    return precision


def get_float32_matmul_precision() -> str:
    """The word of `set_float32_matmul_precision`, as `torch.get_float32_matmul_precision`."""
    return _precision


def bf16(precision: str | None = None) -> Bf16 | None:
    """How layers multiply for a precision, by default the one in use; None: in float32.

    Raises InputError when CNN_NUMBA_MATRIX_UNIT names a unit that this process cannot use.
    """
    parts = PARTS[precision or _precision]
    if not parts or _textbook:
        return None
    from cnn_numba.kernels.matrix import UNITS, Bf16, fastest, usable

    unit = os.environ.get(UNIT)
    if not unit:
        return fastest(parts)
    if unit == "none":
        return None
    if unit not in UNITS or not usable(unit):
        able = [repr(name) for name in UNITS if usable(name)]
        raise InputError(f"{UNIT}: this process can use {', '.join(able)} or 'none', got {unit!r:.40}")
    return Bf16(unit, parts)


def algorithms() -> dict[str, Any]:
    """The options of `plan.Plan` that choose algorithms."""
    return {"textbook": _textbook, "bf16": bf16()}


def describe() -> str:
    """One line of text: compiled or not, threads, algorithms, precision, versions and images per vector."""
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
    if _precision != "highest":
        convolutions += f", {_precision} precision {_unit_text()}"
    return f"Kernels {how}, {convolutions} (numba {numba.__version__}{layer}, {LANES} images per vector){cache}"


def _unit_text() -> str:
    """What the precision in use means here, for `describe`."""
    chosen = bf16()
    if chosen is None:
        why = "the textbook's loops are float32" if _textbook else "no unit of this CPU makes it faster"
        return f"as highest: {why}"
    from cnn_numba.kernels.matrix import UNITS

    return f"by {UNITS[chosen.unit]}" + ("" if chosen.everywhere else " in the layers that gain")
