"""Initial weights, and the one way in which random numbers are derived from a seed."""
import math

import numpy as np

WEIGHTS, ORDER, HELD_OUT = 0, 1, 2       # what a stream of random numbers is for


def stream(seed, purpose, index):
    """A generator that depends on the seed, the purpose and a counter, and on nothing that ran before."""
    return np.random.default_rng([seed, purpose, index])


def xavier_uniform(shape, seed, index):
    """Uniform in +-sqrt(6 / (fan_in + fan_out)): Glorot and Bengio, "Understanding the difficulty of training deep
    feedforward neural networks" (2010).

    shape : (out, in) or (filters, channels, rows, columns); index : which parameter of the model this is.
    """
    window = math.prod(shape[2:])
    bound = math.sqrt(6 / ((shape[0] + shape[1]) * window))
    return stream(seed, WEIGHTS, index).uniform(-bound, bound, shape)
