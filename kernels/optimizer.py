"""Parameter updates over flat vectors."""
from numba import njit

from .lanes import fma, load, splat, store
from .program import KERNEL


@njit(**KERNEL)
def sgd(item, call):
    """velocity = momentum * velocity + (grad + decay * value); value -= rate * velocity   (PyTorch's SGD).

    An item is `chunk` vectors; value, velocity (vectors,) are updated; hyper = (rate, momentum, decay).
    """
    value, velocity, grad, hyper, chunk = call[0]
    rate, momentum, decay = splat(-hyper[0]), splat(hyper[1]), splat(hyper[2])
    for k in range(item * chunk, min(item * chunk + chunk, value.shape[0])):
        w = load(value, (k,))
        v = fma(momentum, load(velocity, (k,)), fma(decay, w, load(grad, (k,))))
        store(velocity, (k,), v)
        store(value, (k,), fma(rate, v, w))
