"""A layer, an optimizer and a loss as a user would write them in one file, and a training of all three."""
import numpy as np
from numba import njit

import cnn_numba as nn
from cnn_numba import ClassLoss, Layer, Optimizer
from cnn_numba.errors import InputError, number, whole_number
from cnn_numba.kernels.compiled import KERNEL
from cnn_numba.kernels.lanes import LANES, ZERO, fma, load, splat, store, total, where
from cnn_numba.kernels.program import Call
from cnn_numba.optim import fraction, hyperparameter


# ---- a layer --------------------------------------------------------------------------------------------------------
@njit(**KERNEL)
def scale_forward(n, y, x, weight):
    """y[c] = weight[c] x[c].  Block n; x, y (N, C, H, W); y is overwritten."""
    for c in range(x.shape[1]):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                store(y, (n, c, i, j), splat(weight[c]) * load(x, (n, c, i, j)))


@njit(**KERNEL)
def scale_backward_weight(c, dweight, dy, x):
    """dweight[c] = sum of dy[c] x[c].  Channel c; dy, x (N, C, H, W); dweight is overwritten."""
    sums = splat(ZERO)
    for n in range(x.shape[0]):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                sums = fma(load(dy, (n, c, i, j)), load(x, (n, c, i, j)), sums)
    dweight[c] = total(sums)


class ChannelScale(Layer):
    """Every channel times a weight of its own: (channels, H, W) -> the same.

    Parameters
    ----------
    in_channels : int
    start : float
        The weights before the training.

    Raises InputError when an argument is out of range.
    """

    aliases = ("Gain",)

    def __init__(self, in_channels, start=1.0):
        self.in_channels = whole_number("ChannelScale", "in_channels", in_channels)
        self.start = number("ChannelScale", "start", start)

    def output_shape(self, shape):
        if len(shape) != 3 or shape[0] != self.in_channels:
            raise InputError(f"ChannelScale expects images of {self.in_channels} channels, got {shape}")
        return shape

    def parameter_shapes(self):
        return {"weight": (self.in_channels,)}

    def reset_parameters(self, values, initialise):
        values["weight"][:] = self.start

    def calls(self, wires):
        weight, x = wires.parameters["weight"], wires.x.image()
        wires.forward.append(Call(scale_forward, wires.blocks, y=wires.y.image(), x=x, weight=weight.value))
        if wires.dy is None:
            return
        dy = wires.dy.image()
        if wires.dx is not None:
            wires.backward.append(Call(scale_forward, wires.blocks, y=wires.dx.image(), x=dy, weight=weight.value))
        wires.gradients.append(Call(scale_backward_weight, self.in_channels, dweight=weight.grad, dy=dy, x=x))

    def textbook(self, x, parameters, run):
        return x * parameters["weight"][:, None, None]


# ---- an optimizer ---------------------------------------------------------------------------------------------------
@njit(**KERNEL)
def sign_descent(item, value, mean, grad, decays, hyper, chunk):
    """mean = beta mean + (1 - beta) grad; value -= lr (sign(mean) + decay value); hyper = (lr, beta)"""
    rate, beta, rest = splat(np.float32(-hyper[0])), splat(np.float32(hyper[1])), splat(np.float32(1 - hyper[1]))
    none, one = splat(ZERO), splat(np.float32(1))
    for k in range(item * chunk, min(item * chunk + chunk, value.shape[0])):
        w, m = load(value, (k,)), fma(beta, load(mean, (k,)), rest * load(grad, (k,)))
        sign = where(m > none, one, where(none > m, none - one, none))
        store(mean, (k,), m)
        store(value, (k,), fma(rate, fma(splat(decays[k]), w, sign), w))


class SignDescent(Optimizer):
    """value -= lr (sign(mean gradient) + weight_decay value)"""

    settings = {"lr": number, "momentum": fraction, "weight_decay": number}
    momentum = hyperparameter("momentum", 1, doc="The fraction of the mean that a step keeps.")

    def __init__(self, model, lr=1e-3, momentum=0.9, weight_decay=0.0, decay_weights_only=False):
        super().__init__(model, ["mean"], decay_weights_only, lr=lr, momentum=momentum, weight_decay=weight_decay)

    def group_calls(self, group):
        return [Call(sign_descent, part.items, **part.vectors(mean=self.mean), hyper=group.hyper)
                for part in group.parts()]


# ---- a loss ---------------------------------------------------------------------------------------------------------
@njit(**KERNEL)
def absolute_error(n, dz, losses, predictions, z, labels, order, batch):
    """loss = mean of |d|, dz = sign(d) / (count * O), where d = z - onehot(label)."""
    first, count = batch[0], batch[1]
    units = z.shape[1]
    for l in range(LANES):
        for o in range(units):
            dz[n, o, l] = np.float32(0)
        if n * LANES + l < count:
            image = order[first + n * LANES + l]
            loss, best = np.float32(0), 0
            for o in range(units):
                d = z[n, o, l] - np.float32(o == labels[image])
                loss += abs(d)
                dz[n, o, l] = np.float32(np.sign(d)) / np.float32(count * units)
                if z[n, o, l] > z[n, best, l]:
                    best = o
            losses[image] = loss / np.float32(units)
            predictions[image] = best


class AbsoluteError(ClassLoss):
    """Mean over images and classes of |outputs - onehot(label)|."""

    kernel = staticmethod(absolute_error)


# ---- a training of them ---------------------------------------------------------------------------------------------
SHAPE, CLASSES = (2, 6, 5), 3


def network(seed=5):
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), ChannelScale(4, start=1.5), nn.ReLU(),
        nn.Residual([ChannelScale(4), nn.Conv2d(4, 4, 1)]), ChannelScale(4), nn.Flatten(), nn.Linear(120, CLASSES),
        seed=seed)


def trainer_of(images=40, seed=5):
    rng, model = np.random.default_rng(0), network(seed)
    labels = rng.integers(0, CLASSES, images)
    pixels = rng.integers(0, 120, (images, *SHAPE)).astype(np.uint8)
    pixels[np.arange(images), :, labels] += 100
    data = nn.Dataset("made up", pixels, labels, pixels[:9], labels[:9], CLASSES)
    optimizer = SignDescent(model, lr=2e-3, momentum=0.8, weight_decay=0.01, decay_weights_only=True)
    return nn.Trainer(model, data, optimizer, batch_size=16, seed=3, loss=AbsoluteError())
