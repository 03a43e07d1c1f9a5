"""The units that multiply tiles of bf16 numbers, and which of them this process can use."""
import ctypes
import functools
import platform
import sys
from typing import NamedTuple

import llvmlite.binding as llvm
from numba import config

AMX, DOT, PLAIN, NUMPY = "amx", "avx512_bf16", "plain", "numpy"
UNITS = {AMX: "AMX", DOT: "vdpbf16ps", PLAIN: "float32 instructions", NUMPY: "NumPy"}
FULL_RATE = {"znver4"}          # LLVM's names of CPUs that were measured to run vdpbf16ps as often as multiply-adds
REQUEST_PERMISSION, TILE_DATA = 0x1023, 18      # of arch_prctl (system call 158): ARCH_REQ_XCOMP_PERM, XTILEDATA


class Bf16(NamedTuple):
    """How products are computed: on which unit, from how many bf16 parts of each factor, 1 or 2, and whether in all
    layers that fill tiles, or only in those that gain from `vdpbf16ps`."""

    unit: str
    parts: int
    everywhere: bool = True


class Tiles:
    """The compile-time shape of a block of sums, rows x cols tiles, and the unit that computes them.

    A tile is 16 rows of 64 bytes; the unit holds eight.  2 x 2 tiles of sums leave room for two of either factor, so
    that each tile loaded serves two products; 4 x 1 serves blocks of a single column.  Shape and unit are part of the
    Numba type: one source is compiled for each, and the cache never confuses units.
    """

    def __init__(self, rows, cols, unit):
        self.rows, self.cols, self.unit = rows, cols, unit

    def __repr__(self):
        return f"Tiles({self.rows} x {self.cols}, {self.unit})"


def features():
    """The instruction sets that kernels are compiled for: {name: bool}."""
    if config.CPU_FEATURES is not None:
        return {word[1:]: word[0] == "+" for word in config.CPU_FEATURES.split(",") if word}
    return {} if config.CPU_NAME else dict(llvm.get_host_cpu_features())


@functools.cache
def usable(unit):
    """Whether this process can run kernels for a unit."""
    if config.DISABLE_JIT:
        return unit == NUMPY
    has = features()
    if unit == AMX:
        return bool(has.get("amx-tile") and has.get("amx-bf16") and _permitted())
    return unit == PLAIN or (unit == DOT and bool(has.get("avx512bf16")))


def _permitted():
    """Ask Linux for the tile registers, once for all threads of the process."""
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return False
    return ctypes.CDLL(None).syscall(158, REQUEST_PERMISSION, TILE_DATA) == 0


def fastest(parts):
    """The unit for products of so many parts that beats float32, as a Bf16; None without one.

    `vdpbf16ps` makes twice as many multiply-adds as a float32 instruction.  Zen 4 runs both at the same rate, 236
    against 118 GF/s, of which the kernels reach 180 to 220: one part gains where Cook-Toom products do not save as
    much, three products for two parts never.  Intel's CPUs run it at a quarter of the rate: 118 against 235 GF/s.
    """
    if config.DISABLE_JIT:
        return Bf16(NUMPY, parts)
    if usable(AMX):
        return Bf16(AMX, parts)
    if parts == 1 and usable(DOT) and (config.CPU_NAME or llvm.get_host_cpu_name()) in FULL_RATE:
        return Bf16(DOT, parts, everywhere=False)
    return None
