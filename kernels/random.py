"""Random numbers as hashes of counters: they depend on where they are used, not on what ran before.

A key is a 64-bit number.  `bits(key, k)` is the k-th number of its sequence and can be a key itself:
bits(bits(word(seed), epoch), image) is one for each image of each epoch.  The generator is SplitMix64: Steele, Lea and
Flood, "Fast splittable pseudorandom number generators" (2014), with Stafford's constants, as in Vigna's splitmix64.c.

Vectors have 32 bits per lane: `lane_keys` is called once per block, `lane_fractions` once per number.  Both consist of
rounds of lowbias32: Wellons, "Prospecting for hash functions" (2018).

A purpose is part of the key, so that no two purposes share random numbers.
"""
import numpy as np
from numba import config, njit

from .compiled import INLINE
from .lanes import counters, integers, unit

AUGMENT, DROPOUT = 0, 1     # purposes

GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB

if config.DISABLE_JIT:
    def word(x):
        """The lowest 64 bits of an integer."""
        return int(x) & 0xFFFFFFFFFFFFFFFF

else:
    word = np.uint64


@njit(**INLINE)
def bits(key, k):
    """The k-th number of the sequence of a key; both are 64-bit words."""
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
    """Two vectors of keys, different for each of the images first, first + 1, ... (below 2**32)."""
    one = _mixed(integers(key) + counters(first))
    return one, _mixed(one ^ integers(key >> word(32)))


@njit(**INLINE)
def lane_fractions(keys, k):
    """The k-th numbers of these images as a vector in [0, 1); k is below 2**32."""
    one, two = keys
    return unit(_mixed(_mixed(one ^ integers(k)) + two))
