"""Sizes: of vectors, of register tiles, and of the arrays that hold vectors."""
import math

import llvmlite.binding as llvm
import numpy as np
from numba import config

LANES = 16
ZERO = np.float32(0)
ROUND = np.float32(1.5 * 2**23)         # the last bits of x + ROUND hold x rounded to an integer, |x| < 2**22


class Tile:
    """The compile-time shape of a register tile: rows x cols vectors, the columns `spacing` apart in memory.

    The shape is part of the Numba type, so that one kernel source is compiled for every shape that is used.
    """

    def __init__(self, rows, cols, spacing=1):
        self.rows, self.cols, self.spacing = rows, cols, spacing

    def __repr__(self):
        return f"Tile({self.rows} x {self.cols}{f', spacing {self.spacing}' if self.spacing != 1 else ''})"


def _registers():
    """The number of LANES-wide vectors that the registers hold: 32 with AVX-512, 8 with AVX2 or NEON."""
    features = config.CPU_FEATURES
    if features is None:
        features = "" if config.CPU_NAME else llvm.get_host_cpu_features().flatten()
    return 32 if "+avx512f" in features else 8


REGISTERS = _registers()


def fit(size, most):
    """The tile extent for an axis, up to `most`, with the fewest operations: passes, times rows and a load for each."""
    return min(range(max(1, min(size, most)), 0, -1), key=lambda extent: math.ceil(size / extent) * (extent + 1))


def aligned(shape, dtype=np.float32):
    """A C-ordered array of zeros that starts on a 64-byte boundary, so that no vector straddles cache lines."""
    size = math.prod(shape if isinstance(shape, tuple) else (shape,)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start:start + size].view(dtype).reshape(shape)


def planes(blocks, channels, *shape):
    """Zeros (blocks, channels, *shape, LANES) whose channels are an odd number of vectors apart.

    Channels 4 kB apart would compete for a few sets of the L1 cache: with them, the gradient of the input of a 3x3
    convolution on 32 x 32 pixels ran at half its speed.
    """
    size = math.prod(shape)
    return aligned((blocks, channels, size | 1, LANES))[:, :, :size].reshape(blocks, channels, *shape, LANES)
