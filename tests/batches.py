"""Batches as the kernels make them of images, moved or not."""
import math

import numpy as np

from cnn_numba.kernels.lanes import LANES, aligned
from cnn_numba.kernels.program import Program, in_order

SEED, EPOCH = 5, 3
PLAIN = np.zeros(3, np.float32), np.ones(3, np.float32)         # a mean and a scale that change nothing


def gathered(calls, x, count):
    """The first images of x after the calls."""
    Program(in_order(calls))()
    return np.moveaxis(x, -1, 1).reshape(-1, *x.shape[1:-1])[:count].copy()


def moved(augment, images, order=None, mean=PLAIN[0], scale=PLAIN[1], lanes=LANES, draw=(SEED, EPOCH)):
    """The images of the order, moved by the kernels; normalised when mean and scale say so."""
    order = np.arange(len(images)) if order is None else order
    blocks = math.ceil(len(order) / LANES)
    x = aligned((blocks, *images.shape[1:], LANES))
    x[...] = -1
    calls = augment.calls(blocks, x, images, order, np.array([0, len(order)]), np.array(draw), mean, scale, lanes)
    return gathered(calls, x, blocks * LANES)
