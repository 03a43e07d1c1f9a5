"""Vectors of LANES float32 numbers, one per image, and register tiles of them: what kernels compute with.

    load, store                     one vector            x[index]          (index: all axes but the lanes)
    lanes_from                      some lanes of a vector, moved
    vectors, scalars                a pack of n of them   x[..., i:i + n*spacing:spacing, ...] along one axis
    scalars_apart                   the same for numbers a constant distance apart in memory
    row_vectors                     a pack of LANES neighbours each in rows of a matrix
    four_columns                    a pack of columns of a matrix: lanes are LANES of its rows
    block                           a pack of the vectors of a window, along two axes
    repeat, added                   a pack of one vector n times; the sum of the vectors of a pack
    transposed                      LANES vectors with vectors and lanes exchanged
    first_lanes                     the mask of the lanes that hold an image
    integers, counters, unit        vectors of integers from 0 to 2**32 - 1, for random numbers (see `random`)
    zeros, spread, outer, rectify   register tiles of rows x cols vectors, held in registers
    row_tile                        a tile with a vector of a pack in each row
    load_tile, local_tile           a tile from memory; memory for a tile while a function runs
    store_tile, add_tile            a tile to memory
    store_sums, store_totals        a tile summed over its lanes to memory, strided or as consecutive numbers
    store_row                       a tile of features (lanes are 16 features of one row) to memory, cut off at its end
    store_pack, store_from          a pack to memory, whole or without its first vectors
    clear_first                     a pack whose first vectors are set to 0

Compiled, these are LLVM vector instructions; with NUMBA_DISABLE_JIT=1 they are NumPy functions (see `interpreted`), so
that a kernel has one source, and a debugger can step through it.  An index without the last axis addresses a vector:
the last axis is then known to be LANES long and contiguous, and the axis before it to be dense, so that addresses
within a tile are constants.  (With strides read at run time a tiled kernel ran out of integer registers: 107 instead of
245 GF/s.)
"""
from numba import config

from .shapes import LANES, REGISTERS, ROUND, ZERO, Tile, aligned, fit, planes

if config.DISABLE_JIT:
    from .interpreted import *
    from .interpreted import __all__ as operations
else:
    from .compiled import *
    from .compiled import __all__ as operations

__all__ = ["LANES", "REGISTERS", "ROUND", "ZERO", "Tile", "aligned", "fit", "planes", *operations]
