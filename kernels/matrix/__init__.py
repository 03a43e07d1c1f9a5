"""Products of tiles of bf16 numbers, with sums in float32: what the kernels of `conv_bf16` compute with.

    Tiles, usable, fastest          shape and unit of a block of sums; the units of this CPU (see `units`)
    configure, release              begin and end the use of the unit
    clear, begin                    sums from 0, or from a vector per row
    multiply, store_products        add the products of tiles; the sums to memory
    pair, store_pair, remainder     float32 numbers to pairs of bf16 numbers; what the rounding leaves
    neighbours, store_exchanged     pairs of weights that lie beside each other, or below each other
    store_images, store_transposed  pairs of channels to pairs of images

A tile is 16 rows of 64 bytes, as many as 16 vectors.  A right factor holds 16 pairs of channels x 16 images, a left one
16 filters x 16 pairs of channels, their product 16 filters x 16 images in float32.  AMX computes it by one instruction,
`vdpbf16ps` by 256; on a CPU with neither, float32 instructions do the same, for tests.

The sum of a product runs over the pairs in order, the second number of a pair before the first.  AMX adds up the first
and the second numbers apart, and then both to the sum, so its results differ in their last bits.  `vdpbf16ps` and
float32 instructions give the same bits, but that `vdpbf16ps`, like AMX, flushes factors and sums below 2**-126 to 0.
No result depends on the number of threads.
"""
from numba import config

from .units import AMX, DOT, NUMPY, PLAIN, UNITS, Bf16, Tiles, fastest, usable

if config.DISABLE_JIT:
    from .interpreted import *
    from .interpreted import __all__ as operations
else:
    from .compiled import *
    from .compiled import __all__ as operations

__all__ = ["AMX", "DOT", "NUMPY", "PLAIN", "UNITS", "Bf16", "Tiles", "fastest", "usable", *operations]
