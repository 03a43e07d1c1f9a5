"""Dropout.  The mask is not stored: the backward pass computes it again."""
from numba import njit

from .compiled import KERNEL
from .lanes import LANES, ZERO, load, splat, store, where
from .random import DROPOUT, bits, lane_fractions, lane_keys, word


@njit(**KERNEL)
def dropout_forward(n, y, x, batch, draw, rates, layer):
    """y = x * (0 with probability rates[0], else rates[1]).  Block n; x, y (N, C, H, W); y is overwritten.

    The mask differs for each number of each image in each pass: draw = (seed, pass), and batch[0] images of the pass
    come before these blocks.  `layer` is a number that no other dropout layer of the network has.
    """
    keys = lane_keys(bits(bits(bits(word(draw[0]), draw[1]), DROPOUT), layer), batch[0] + n * LANES)
    probability, kept, k = splat(rates[0]), splat(rates[1]), 0
    for c in range(x.shape[1]):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                mask = where(probability > lane_fractions(keys, k), splat(ZERO), kept)
                store(y, (n, c, i, j), load(x, (n, c, i, j)) * mask)
                k += 1


@njit(**KERNEL)
def dropout_backward(n, dx, dy, x, batch, draw, rates, layer, relu):
    """dx = dy * (the factor of the forward pass); `relu`: 0 where x is not positive.  Block n; dx is overwritten."""
    keys = lane_keys(bits(bits(bits(word(draw[0]), draw[1]), DROPOUT), layer), batch[0] + n * LANES)
    probability, kept, k = splat(rates[0]), splat(rates[1]), 0
    for c in range(x.shape[1]):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                mask = where(probability > lane_fractions(keys, k), splat(ZERO), kept)
                gradient = load(dy, (n, c, i, j)) * mask
                if relu:
                    gradient = where(load(x, (n, c, i, j)) > splat(ZERO), gradient, splat(ZERO))
                store(dx, (n, c, i, j), gradient)
                k += 1


@njit(**KERNEL)
def dropout_channels(n, y, x, batch, draw, rates, layer):
    """y = x * (0 with probability rates[0], else rates[1]), one draw per channel.  dx from dy is the same function.

    Block n; x, y (N, C, H, W); y is overwritten; batch, draw and layer as in `dropout_forward`.
    """
    keys = lane_keys(bits(bits(bits(word(draw[0]), draw[1]), DROPOUT), layer), batch[0] + n * LANES)
    probability, kept = splat(rates[0]), splat(rates[1])
    for c in range(x.shape[1]):
        mask = where(probability > lane_fractions(keys, c), splat(ZERO), kept)
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                store(y, (n, c, i, j), load(x, (n, c, i, j)) * mask)
