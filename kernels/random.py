"""Random numbers that depend on where they are used, and on nothing that ran before: hashes of counters.

A key is a number of 64 bits.  `bits(key, k)` is the k-th number of the sequence that belongs to it, and can be a key
again: bits(bits(word(seed), epoch), image) is one for each image of each epoch.  It is SplitMix64: Steele, Lea and
Flood, "Fast splittable pseudorandom number generators" (2014), with Stafford's constants, as in Vigna's splitmix64.c.

Vectors of LANES images have 32 bits for each: `lane_keys` once for a block, and `lane_fractions` for each number.  They
are rounds of lowbias32: Wellons, "Prospecting for hash functions" (2018).

A purpose is part of the key, so that nothing uses the numbers of something else.
"""
import numpy as np
from numba import config, njit

from .compiled import INLINE
from .lanes import counters, integers, unit

AUGMENT, DROPOUT = 0, 1     # purposes

GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB

if config.DISABLE_JIT:
    def word(x):
        """The last 64 bits of a whole number."""
        return int(x) & 0xFFFFFFFFFFFFFFFF

else:
    word = np.uint64


@njit(**INLINE)
def bits(key, k):
    """The k-th number of the sequence of a key, both words."""
    x = word(key + word(word(k) * GOLDEN + GOLDEN))
    x = word((x ^ (x >> word(30))) * FIRST)
    x = word((x ^ (x >> word(27))) * SECOND)
    return x ^ (x >> word(31))


@njit(**INLINE)
def fraction(key, k):
    """The k-th number as a float64 in [0, 1)."""
    return (bits(key, k) >> word(11)) * 2.0**-53


@njit(**INLINE)
def _mixed(x):
    x = (x ^ (x >> integers(16))) * integers(0x7FEB352D)
    x = (x ^ (x >> integers(15))) * integers(0x846CA68B)
    return x ^ (x >> integers(16))


@njit(**INLINE)
def lane_keys(key, first):
    """Two vectors that belong to the images first, first + 1, ... below 2**32, different ones for each."""
    one = _mixed(integers(key) + counters(first))
    return one, _mixed(one ^ integers(key >> word(32)))


@njit(**INLINE)
def lane_fractions(keys, k):
    """The k-th numbers of these images, k below 2**32, as a vector in [0, 1)."""
    one, two = keys
    return unit(_mixed(_mixed(one ^ integers(k)) + two))
