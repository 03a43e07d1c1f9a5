"""Parameter updates, and the norm of the gradient, over flat arrays of vectors; an item is `chunk` vectors.

hyper (float64) starts with (lr, momentum or beta1); decays (vectors,) is the weight decay of each vector.
"""
import math

import numpy as np
from numba import njit

from .compiled import KERNEL
from .lanes import LANES, ZERO, fma, load, splat, sqrt, store, total


@njit(**KERNEL)
def sgd(item, value, velocity, grad, decays, hyper, nesterov, chunk):
    """g = grad + decay * value; velocity = momentum * velocity + g; value -= lr * velocity   (PyTorch's SGD).

    With `nesterov`, value -= lr * (g + momentum * velocity).  With momentum 0, value -= lr * g, and velocity is not
    used.  value, velocity (vectors,) are updated; hyper = (lr, momentum).
    """
    rate, momentum, moves = splat(np.float32(-hyper[0])), splat(np.float32(hyper[1])), hyper[1] != 0
    for k in range(item * chunk, min(item * chunk + chunk, value.shape[0])):
        w = load(value, (k,))
        g = fma(splat(decays[k]), w, load(grad, (k,)))
        if moves:
            v = fma(momentum, load(velocity, (k,)), g)
            store(velocity, (k,), v)
            g = fma(momentum, v, g) if nesterov else v
        store(value, (k,), fma(rate, g, w))


@njit(**KERNEL)
def rmsprop(item, value, square, mean, velocity, grad, decays, hyper, centered, chunk):
    """square = alpha * square + (1 - alpha) * g**2, g = grad + decay * value; u = g / (sqrt(square) + eps);
    value -= lr * u   (PyTorch's RMSprop).

    With momentum, velocity = momentum * velocity + u replaces u.  If `centered`, mean += (1 - alpha) *
    (g - mean), and the root is that of square - mean**2.  value, square, mean, velocity (vectors,) are updated;
    hyper = (lr, momentum, alpha, eps).
    """
    rate, momentum, moves = splat(np.float32(-hyper[0])), splat(np.float32(hyper[1])), hyper[1] != 0
    alpha, rest, eps = splat(np.float32(hyper[2])), splat(np.float32(1 - hyper[2])), splat(np.float32(hyper[3]))
    for k in range(item * chunk, min(item * chunk + chunk, value.shape[0])):
        w = load(value, (k,))
        g = fma(splat(decays[k]), w, load(grad, (k,)))
        s = fma(alpha, load(square, (k,)), rest * g * g)
        store(square, (k,), s)
        if centered:
            m = load(mean, (k,))
            m = fma(rest, g - m, m)
            store(mean, (k,), m)
            s = s - m * m
        u = g / (sqrt(s) + eps)
        if moves:
            u = fma(momentum, load(velocity, (k,)), u)
            store(velocity, (k,), u)
        store(value, (k,), fma(rate, u, w))


@njit(**KERNEL)
def adam_factors(_, factors, steps, hyper):
    """Count a step and compute its factors for `adam`: with t = steps, c = sqrt(1 - beta2**t),

    factors = (-lr * c / (1 - beta1**t), eps * c, 1 - beta1, beta2, 1 - beta2, -lr); hyper = (lr, beta1, beta2, eps).
    """
    steps[0] += 1
    lr, beta1, beta2, t = hyper[0], hyper[1], hyper[2], np.float64(steps[0])
    c = math.sqrt(1 - beta2**t)
    factors[0] = -lr * c / (1 - beta1**t)
    factors[1] = hyper[3] * c
    factors[2] = 1 - beta1
    factors[3] = beta2
    factors[4] = 1 - beta2
    factors[5] = -lr


@njit(**KERNEL)
def adam(item, value, mean, square, grad, decays, factors, decoupled, chunk):
    """mean += (1 - beta1) * (g - mean); square = beta2 * square + (1 - beta2) * g**2;
    value -= lr * c / (1 - beta1**t) * mean / (sqrt(square) + eps * c)   (PyTorch's Adam; `adam_factors`)

    where g = grad + decay * value.  If `decoupled` (AdamW), g = grad, and value -= lr * decay * value comes first.
    value, mean, square (vectors,) are updated.
    """
    rate, eps, rest1 = splat(factors[0]), splat(factors[1]), splat(factors[2])
    beta2, rest2, minus_lr = splat(factors[3]), splat(factors[4]), splat(factors[5])
    for k in range(item * chunk, min(item * chunk + chunk, value.shape[0])):
        w, g, m, decay = load(value, (k,)), load(grad, (k,)), load(mean, (k,)), splat(decays[k])
        if decoupled:
            w = fma(minus_lr * decay, w, w)
        else:
            g = fma(decay, w, g)
        m = fma(rest1, g - m, m)
        s = fma(beta2, load(square, (k,)), rest2 * g * g)
        store(mean, (k,), m)
        store(square, (k,), s)
        store(value, (k,), w + rate * m / (sqrt(s) + eps))


@njit(**KERNEL)
def set_rates(_, hyper, rates, batch, batch_size):
    """hyper[:2] = rates[first // batch_size]: the row of this batch; batch = (first, count), rates (steps, 2)."""
    k = batch[0] // batch_size
    hyper[0] = rates[k, 0]
    hyper[1] = rates[k, 1]


@njit(**KERNEL)
def squared_norm(item, sums, grad, chunk):
    """sums[item] = the sum of grad**2 over the chunk.  grad (vectors,); sums (items,) float64 is overwritten.

    Groups of LANES vectors are summed in float32, with about LANES + 4 roundings, and their sums in float64.
    """
    end, squares = min(item * chunk + chunk, grad.shape[0]), 0.0
    for begin in range(item * chunk, end, LANES):
        acc = splat(ZERO)
        for k in range(begin, min(begin + LANES, end)):
            g = load(grad, (k,))
            acc = fma(g, g, acc)
        squares += np.float64(total(acc))
    sums[item] = squares


@njit(**KERNEL)
def norm(_, norms, factor, sums, limit):
    """norms = (norm, sum of all norms, largest norm, number of norms) so far, with norm = sqrt(sum of sums).

    factor (1,) is overwritten with min(1, limit / (norm + 1e-6)), as in PyTorch's clip_grad_norm_.  A NaN shows in the
    first three.
    """
    squares = 0.0
    for k in range(sums.shape[0]):
        squares += sums[k]
    length = math.sqrt(squares)
    norms[0] = length
    norms[1] += length
    if length > norms[2] or length != length:
        norms[2] = length
    norms[3] += 1
    quotient = limit[0] / (length + 1e-6)
    factor[0] = 1.0 if quotient > 1 else quotient


@njit(**KERNEL)
def scale(item, grad, factor, chunk):
    """grad *= factor.  grad (vectors,) is updated; factor (1,)."""
    if factor[0] != 1:
        by = splat(factor[0])
        for k in range(item * chunk, min(item * chunk + chunk, grad.shape[0])):
            store(grad, (k,), by * load(grad, (k,)))


@njit(**KERNEL)
def accumulate(item, grad, fresh, chunk):
    """grad += fresh.  grad, fresh (vectors,); grad is updated."""
    for k in range(item * chunk, min(item * chunk + chunk, grad.shape[0])):
        store(grad, (k,), load(grad, (k,)) + load(fresh, (k,)))
