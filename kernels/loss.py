"""Softmax and cross-entropy, and the sums that are reported."""
import math

import numpy as np
from numba import njit

from .lanes import LANES
from .program import KERNEL


@njit(**KERNEL)
def cross_entropy(n, call):
    """loss = log(sum of exp z[o]) - z[label], dz = (softmax(z) - onehot(label)) / count, each logit less the largest
    one of its image, so that exp cannot overflow.

    Block n of the batch: lane l holds the image order[first + n*LANES + l], which is its place in labels, losses and
    predictions; window = (first, count).  z, dz (N, O); dz is overwritten, with 0 in the lanes past count.
    """
    dz, losses, predictions, z, labels, order, window = call[0]
    first, count = window[0], window[1]
    units = z.shape[1]
    for l in range(LANES):
        for o in range(units):
            dz[n, o, l] = np.float32(0)
        if n * LANES + l < count:
            image = order[first + n * LANES + l]
            best = 0
            for o in range(1, units):
                if z[n, o, l] > z[n, best, l]:
                    best = o
            top, scale = z[n, best, l], np.float32(0)
            for o in range(units):
                dz[n, o, l] = math.exp(z[n, o, l] - top)
                scale += dz[n, o, l]
            label = labels[image]
            losses[image] = math.log(scale) - (z[n, label, l] - top)
            predictions[image] = best
            for o in range(units):
                dz[n, o, l] = (dz[n, o, l] / scale - np.float32(o == label)) / np.float32(count)


@njit(**KERNEL)
def tally(_, call):
    """sums += (loss, right answers) over the batch, in float64 and always in the order of the images."""
    sums, losses, predictions, labels, order, window = call[0]
    first, count = window[0], window[1]
    for k in range(first, first + count):
        sums[0] += losses[order[k]]
        sums[1] += predictions[order[k]] == labels[order[k]]
