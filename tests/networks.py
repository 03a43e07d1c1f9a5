"""Networks for the tests, as lists of (layer, arguments, options) with PyTorch's names, and numbers to feed them."""
from functools import partial

import numpy as np
import reference

import cnn_numba

MARGIN = 2e-5           # of the largest number; float32 convolutions are right to some 1e-6 of it


def layer(name, *args, **options):
    return name, args, options


conv, pool, linear = (partial(layer, name) for name in ("Conv2d", "MaxPool2d", "Linear"))
avg, adaptive = partial(layer, "AvgPool2d"), partial(layer, "AdaptiveAvgPool2d")
reshape, residual = partial(layer, "Reshape"), partial(layer, "Residual")
batch_norm, batch_norm_1d, dropout = (partial(layer, name) for name in ("BatchNorm2d", "BatchNorm1d", "Dropout"))
relu, flatten = layer("ReLU"), layer("Flatten")
leaky, softmax, log_softmax = (partial(layer, name) for name in ("LeakyReLU", "Softmax", "LogSoftmax"))
tanh, sigmoid = layer("Tanh"), layer("Sigmoid")
gelu, elu, softplus = (partial(layer, name) for name in ("GELU", "ELU", "Softplus"))
silu, identity = layer("SiLU"), layer("Identity")
group_norm, layer_norm = partial(layer, "GroupNorm"), partial(layer, "LayerNorm")
transposed, zero_pad, upsample = (partial(layer, name) for name in ("ConvTranspose2d", "ZeroPad2d", "Upsample"))
dropout_2d, concat = partial(layer, "Dropout2d"), partial(layer, "Concat")


def make(layers, module=cnn_numba):
    """The layer objects, of this library or of another module with these names; an argument that is a list holds
    layers, too."""
    def made(value):
        return make(value, module) if isinstance(value, list) else value

    return [getattr(module, name)(*map(made, args), **{key: made(value) for key, value in options.items()})
            for name, args, options in layers]


def whole(rng, shape, most=3):
    """Whole numbers from -most to most: on these, float32 sums are exact in any order."""
    return rng.integers(-most, most + 1, shape).astype(np.float32)


def build(layers, rng):
    """A Sequential whose parameters, biases too, are small whole numbers."""
    model = cnn_numba.Sequential(*make(layers))
    for p in model.parameters():
        p.value[...] = whole(rng, p.value.shape, 2)
    return model


def build_normal(layers, rng):
    """A Sequential with Xavier weights and normal biases."""
    model = cnn_numba.Sequential(*make(layers), seed=int(rng.integers(2**31)))
    for p in model.parameters():
        if p.value.ndim == 1:
            p.value[:] = rng.normal(scale=0.2, size=p.value.shape)
    return model


def decided(rng, layers, model, shape):
    """Normal numbers of a shape (N, ...) for which no ReLU and no maximum of the network is a close call, so that
    rounding cannot send a gradient another way than the reference does."""
    network = reference.Network(layers, model.state_dict())
    x = rng.normal(size=shape).astype(np.float32)
    for _ in range(200):
        network.forward(x)
        close = network.margin <= MARGIN
        if not close.any():
            return x
        x[close] = rng.normal(size=(close.sum(), *shape[1:]))
    raise ValueError("the network is too large for images without close calls")


def random_layers(rng, classes=7):
    """A random network that covers the arguments of all layers, and the shape (C, H, W) of its images."""
    shape = image = (int(rng.choice([1, 2, 4])), int(rng.integers(9, 15)), int(rng.integers(9, 15)))
    layers = [relu] if rng.random() < 0.1 else []
    for _ in range(rng.integers(1, 4)):
        layer, shape = _random_fit(rng, _random_conv, shape)
        layers.append(layer)
        if rng.random() < 0.7:
            layers.append(_random_activation(rng))
        if rng.random() < 0.5:
            layer, shape = _random_fit(rng, _random_pool, shape)
            layers.append(layer)
            if rng.random() < 0.2:
                layers.append(relu)
    features = int(np.prod(shape))
    if rng.random() < 0.2:
        layers.append(reshape((shape[1], shape[0], -1)))
    layers.append(flatten)
    for _ in range(rng.integers(0, 3)):
        units = int(rng.choice([8, 13, 24]))
        layers.append(linear(features, units, bias=bool(rng.random() < 0.8)))
        layers += [_random_activation(rng)] * int(rng.choice([0, 1, 1, 2]))
        features = units
    return [*layers, linear(features, classes), *_pick(rng, (), (), (softmax(dim=1),), (log_softmax(dim=-1),))], image


def _pick(rng, *choices):
    return choices[rng.integers(len(choices))]


def _random_activation(rng):
    return _pick(rng, relu, relu, relu, leaky(negative_slope=_pick(rng, 0.01, 0.3)), tanh, sigmoid)


def _random_conv(rng, shape):
    channels = shape[0]
    groups = _pick(rng, 1, 1, 1, *(g for g in (2, 4) if channels % g == 0))
    dilation = _pick(rng, 1, 1, 2, (1, 2), (2, 1))
    padding = _pick(rng, 0, 1, 2, (0, 1), "same", "valid")
    stride = 1 if padding == "same" else _pick(rng, 1, 1, 2, (2, 1), (1, 2))
    return conv(channels, _pick(rng, 4, 8, 4 * groups), _pick(rng, 1, 2, 3, 3, (2, 3), 4), stride=stride,
                padding=padding, dilation=dilation, groups=groups, bias=bool(rng.random() < 0.8))


def _random_pool(rng, shape):
    kernel, ceil_mode = _pick(rng, 2, 3, (2, 3)), bool(rng.random() < 0.3)
    stride, padding = _pick(rng, None, 1, 2, (1, 2)), _pick(rng, 0, 0, 1)
    kind = rng.random()
    if kind < 0.5:
        return pool(kernel, stride=stride, padding=padding, dilation=_pick(rng, 1, 1, 2, (1, 2)), ceil_mode=ceil_mode)
    if kind < 0.8:
        return avg(kernel, stride=stride, padding=padding, ceil_mode=ceil_mode,
                   count_include_pad=bool(rng.random() < 0.5))
    return adaptive(output_size=_pick(rng, 2, 3, (4, 3), (None, 2)))


def _random_fit(rng, choose, shape):
    """A random layer that leaves something of an image of this shape, and the shape that it leaves."""
    while True:
        chosen = choose(rng, shape)
        try:
            after = make([chosen])[0].output_shape(shape)
        except cnn_numba.InputError:
            continue
        if min(after[1:]) >= 2:
            return chosen, after
