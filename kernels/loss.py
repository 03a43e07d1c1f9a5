"""Losses of class scores, and the sums for the report.

Every loss works on block n of the batch = (first, count): lane l holds image order[first + n*LANES + l], its index in
labels, losses and predictions.  z, dz (N, O).  dz is the gradient of the batch's loss, overwritten, with 0 in the lanes
past count.  losses[image] becomes the image's part of that loss, predictions[image] the unit with the largest z.
"""
import math

import numpy as np
from numba import njit

from .compiled import INLINE, KERNEL
from .lanes import LANES


# Without inlining, these two made the cross-entropy a tenth slower.
@njit(**INLINE)
def _largest(z, n, l):
    """The first unit with the largest z of an image."""
    best = 0
    for o in range(1, z.shape[1]):
        if z[n, o, l] > z[n, best, l]:
            best = o
    return best


@njit(**INLINE)
def _exponentials(dz, z, n, l, top):
    """dz = exp(z - top); returns their sum.  Where top is the largest z, exp cannot overflow."""
    scale = np.float32(0)
    for o in range(z.shape[1]):
        dz[n, o, l] = math.exp(z[n, o, l] - top)
        scale += dz[n, o, l]
    return scale


@njit(**KERNEL)
def cross_entropy(n, dz, losses, predictions, z, labels, order, batch):
    """loss = log(sum of exp z[o]) - z[label], dz = (softmax(z) - onehot(label)) / count."""
    first, count = batch[0], batch[1]
    units = z.shape[1]
    for l in range(LANES):
        for o in range(units):
            dz[n, o, l] = np.float32(0)
        if n * LANES + l < count:
            image = order[first + n * LANES + l]
            best = _largest(z, n, l)
            top = z[n, best, l]
            scale = _exponentials(dz, z, n, l, top)
            label = labels[image]
            losses[image] = math.log(scale) - (z[n, label, l] - top)
            predictions[image] = best
            for o in range(units):
                dz[n, o, l] = (dz[n, o, l] / scale - np.float32(o == label)) / np.float32(count)


@njit(**KERNEL)
def cross_entropy_weighted(n, dz, losses, predictions, z, labels, order, batch, hard, soft, weight, usual):
    """loss = -sum of t[o] log softmax(z)[o] / usual, dz = (softmax(z) sum t - t) / (sum of the batch's weight[label]),
    where t[o] = soft[o] + (o == label) hard[o].

    hard, soft, weight (O,); usual (1,): the mean weight of the labels.
    """
    first, count = batch[0], batch[1]
    units = z.shape[1]
    weights = np.float32(0)
    for k in range(first, first + count):
        weights += weight[labels[order[k]]]
    for l in range(LANES):
        for o in range(units):
            dz[n, o, l] = np.float32(0)
        if n * LANES + l < count:
            image = order[first + n * LANES + l]
            best = _largest(z, n, l)
            top = z[n, best, l]
            scale = _exponentials(dz, z, n, l, top)
            label, log_scale = labels[image], math.log(scale)
            loss = hard[label] * (log_scale - (z[n, label, l] - top))
            total = hard[label]
            for o in range(units):
                loss += soft[o] * (log_scale - (z[n, o, l] - top))
                total += soft[o]
            losses[image] = loss / usual[0]
            predictions[image] = best
            for o in range(units):
                target = soft[o] + np.float32(o == label) * hard[o]
                dz[n, o, l] = (dz[n, o, l] / scale * total - target) / weights


@njit(**KERNEL)
def negative_log_likelihood(n, dz, losses, predictions, z, labels, order, batch):
    """loss = -z[label], dz = -onehot(label) / count: cross_entropy of logarithms of probabilities."""
    first, count = batch[0], batch[1]
    units = z.shape[1]
    for l in range(LANES):
        for o in range(units):
            dz[n, o, l] = np.float32(0)
        if n * LANES + l < count:
            image = order[first + n * LANES + l]
            dz[n, labels[image], l] = np.float32(-1) / np.float32(count)
            losses[image] = -z[n, labels[image], l]
            predictions[image] = _largest(z, n, l)


@njit(**KERNEL)
def squared_error(n, dz, losses, predictions, z, labels, order, batch):
    """loss = mean of d**2, dz = 2 d / (count * O), where d = z - onehot(label)."""
    first, count = batch[0], batch[1]
    units = z.shape[1]
    for l in range(LANES):
        for o in range(units):
            dz[n, o, l] = np.float32(0)
        if n * LANES + l < count:
            image = order[first + n * LANES + l]
            label, loss = labels[image], np.float32(0)
            for o in range(units):
                d = z[n, o, l] - np.float32(o == label)
                loss += d * d
                dz[n, o, l] = np.float32(2) * d / np.float32(count * units)
            losses[image] = loss / np.float32(units)
            predictions[image] = _largest(z, n, l)


@njit(**KERNEL)
def tally(_, sums, losses, predictions, labels, order, batch):
    """sums += (loss, correct predictions) over the batch, in float64 and always in the order of the images."""
    first, count = batch[0], batch[1]
    for k in range(first, first + count):
        sums[0] += losses[order[k]]
        sums[1] += predictions[order[k]] == labels[order[k]]
