"""The random numbers of the kernels, drawn by kernels and in NumPy."""
import numpy as np
from numba import njit

from cnn_numba import Dropout, Sequential
from cnn_numba.kernels.compiled import JIT, KERNEL
from cnn_numba.kernels.lanes import LANES, aligned, store
from cnn_numba.kernels.program import Call, Program, at_once
from cnn_numba.kernels.random import bits, fraction, lane_fractions, lane_keys, word

NUMBERS = 4000 if JIT else 600


@njit(**KERNEL)
def words(n, out, fractions, seeds):
    """Row n: the numbers of the key seeds[n]; and those of its pass `n` as fractions."""
    key = word(seeds[n])
    for k in range(out.shape[1]):
        out[n, k] = bits(key, k)
        fractions[n, k] = fraction(bits(key, n), k)


@njit(**KERNEL)
def lanes(n, out, draw):
    """Block n: the numbers of its images."""
    keys = lane_keys(bits(word(draw[0]), draw[1]), n * LANES)
    for k in range(out.shape[1]):
        store(out, (n, k), lane_fractions(keys, k))


def scalar_numbers(seeds, count=NUMBERS):
    """uint64 (seeds, count), and the fractions of other passes."""
    seeds = np.asarray(seeds)
    out, fractions = np.zeros((len(seeds), count), np.uint64), np.zeros((len(seeds), count))
    Program(at_once([Call(words, len(seeds), out=out, fractions=fractions, seeds=seeds)]))()
    return out, fractions


def lane_numbers(seed, number, blocks=4, count=NUMBERS):
    """(images, numbers) as fractions."""
    out = aligned((blocks, count, LANES))
    Program(at_once([Call(lanes, blocks, out=out, draw=np.array([seed, number]))]))()
    return np.moveaxis(out, -1, 1).reshape(blocks * LANES, count)


def splitmix(key, k):
    """The numbers of arrays of keys, in NumPy."""
    x = key + (k + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def masks(p=0.5, images=20, shape=(300,), seed=1, passes=1):
    """What dropout multiplies images by, in each of some passes."""
    model = Sequential(Dropout(p), seed=seed)
    return [np.array(model(np.ones((images, *shape), np.float32))) for _ in range(passes)]
