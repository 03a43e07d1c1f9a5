"""The forward pass of a network in float64 NumPy, each layer as the textbook has it: what gradients are checked
against.  It shares no arithmetic with the kernels."""
from dataclasses import dataclass, field

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from cnn_numba.errors import InputError
from cnn_numba.layers.base import both

CHUNK = 1 << 22         # numbers of a convolution's windows at a time: 32 MB


@dataclass
class Pass:
    """What a forward pass needs besides layers and images.

    values : {name of a parameter: array}
    batch : images that one batch norm takes together; the images of several batches may come at once
    masks : {name of a Dropout: what it multiplies the images of a batch by}
    margin : None, or the smallest distance of a number from where a ReLU or a maximum decides otherwise, relative to
        the root mean square of the numbers there; the pass keeps it up to date
    """

    values: dict
    batch: int
    masks: dict = field(default_factory=dict)
    margin: float = None

    def decide(self, x, distances):
        """Note how close x is to other decisions.  Exact ties do not count: they stay what they are, as the zeros that
        a ReLU leaves for a maximum."""
        if self.margin is not None:
            rms = np.sqrt(np.mean(x * x))
            self.margin = min(self.margin, np.min(distances, where=distances > 0, initial=np.inf) / rms)


def forward(layers, x, around, first=0, prefix=""):
    """The output of layers for x (N, ...); `first` is the number of the first layer.

    Raises InputError for a layer that has no function here.
    """
    for k, layer in enumerate(layers, first):
        kind = type(layer).__name__
        if kind not in LAYERS:
            raise InputError(f"layer {prefix}{k}: {kind} has no forward pass in float64")
        x = LAYERS[kind](layer, x, f"{prefix}{k}", around)
    return x


def cross_entropy(z, labels):
    """The mean cross-entropy loss of each batch: z (batches * N, classes), labels (N,) -> (batches,)."""
    z = z.reshape(-1, len(labels), z.shape[-1])
    z = z - z.max(axis=-1, keepdims=True)
    return (np.log(np.exp(z).sum(axis=-1)) - z[:, np.arange(len(labels)), labels]).mean(axis=-1)


def windows(x, layer, sides, rows, cols, fill=0.0):
    """Every window that the layer sees: (N, C, rows, cols, kernel rows, kernel columns), `fill` around x.

    Beyond its padding a window can reach over the end, when a size was rounded up.
    """
    top, bottom, left, right = sides
    (kh, kw), (sh, sw), (dh, dw) = map(both, (layer.kernel_size, layer.stride, layer.dilation))
    high, wide = (rows - 1) * sh + dh * (kh - 1) + 1, (cols - 1) * sw + dw * (kw - 1) + 1
    bottom, right = max(bottom, high - x.shape[2] - top), max(right, wide - x.shape[3] - left)
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    every = sliding_window_view(x, (dh * (kh - 1) + 1, dw * (kw - 1) + 1), axis=(2, 3))
    return every[:, :, ::sh, ::sw, ::dh, ::dw][:, :, :rows, :cols]


def pool_windows(x, layer, fill):
    rows, cols = both(layer.padding)
    return windows(x, layer, (rows, rows, cols, cols), *layer.output_shape(x.shape[1:])[1:], fill)


def conv2d(layer, x, name, around):
    weight = around.values[f"{name}.weight"]
    filters, rows, cols = layer.output_shape(x.shape[1:])
    groups = layer.groups
    matrix = weight.reshape(groups, filters // groups, -1).transpose(0, 2, 1)
    y = np.empty((len(x), filters, rows, cols))
    step = max(1, CHUNK // (rows * cols * weight[0].size * groups))
    for first in range(0, len(x), step):
        seen = windows(x[first:first + step], layer, layer.padding_sides(), rows, cols)
        n = len(seen)
        seen = seen.reshape(n, groups, -1, rows, cols, *layer.kernel_size).transpose(0, 1, 3, 4, 2, 5, 6)
        product = seen.reshape(n, groups, rows * cols, -1) @ matrix
        y[first:first + step] = product.transpose(0, 1, 3, 2).reshape(n, filters, rows, cols)
    return y + around.values.get(f"{name}.bias", np.zeros(filters))[:, None, None]


def linear(layer, x, name, around):
    return x @ around.values[f"{name}.weight"].T + around.values.get(f"{name}.bias", 0.0)


def relu(layer, x, name, around):
    around.decide(x, np.abs(x))
    return np.maximum(x, 0)


def leaky_relu(layer, x, name, around):
    around.decide(x, np.abs(x))
    return np.where(x < 0, layer.negative_slope * x, x)


def tanh(layer, x, name, around):
    return np.tanh(x)


def sigmoid(layer, x, name, around):
    return (1 + np.tanh(x / 2)) / 2


def log_softmax(layer, x, name, around):
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def softmax(layer, x, name, around):
    return np.exp(log_softmax(layer, x, name, around))


def max_pool2d(layer, x, name, around):
    seen = pool_windows(x, layer, -np.inf)
    seen = seen.reshape(*seen.shape[:4], -1)
    y = seen.max(axis=-1)
    if around.margin is not None and seen.shape[-1] > 1:
        around.decide(x, y[..., None] - seen)
    return y


def avg_pool2d(layer, x, name, around):
    """Divided by the places of a window on the image, or on the image and its padding; never by those beyond."""
    rows, cols = both(layer.padding)
    place = np.pad(np.ones((1, 1, *x.shape[2:])), ((0, 0), (0, 0), (rows, rows), (cols, cols)),
                   constant_values=float(layer.count_include_pad))
    size = layer.output_shape(x.shape[1:])[1:]
    count = windows(place, layer, (0, 0, 0, 0), *size).sum(axis=(4, 5))
    return pool_windows(x, layer, 0.0).sum(axis=(4, 5)) / (layer.divisor_override or count)


def adaptive_avg_pool2d(layer, x, name, around):
    size = layer.output_shape(x.shape[1:])[1:]
    y = np.empty((*x.shape[:2], *size))
    for place in np.ndindex(*size):
        rows, cols = (slice(k * n // out, -(-(k + 1) * n // out))
                      for k, n, out in zip(place, x.shape[2:], size, strict=True))
        y[:, :, *place] = x[:, :, rows, cols].mean(axis=(2, 3))
    return y


def batch_norm(layer, x, name, around):
    """In training: with the mean and the variance of the batch."""
    each = x.reshape(-1, around.batch, *x.shape[1:])
    axes = (1, *range(3, each.ndim))
    centred = each - each.mean(axis=axes, keepdims=True)
    y = (centred / np.sqrt((centred * centred).mean(axis=axes, keepdims=True) + layer.eps)).reshape(x.shape)
    channels = (-1, *(1,) * (x.ndim - 2))
    scale, shift = around.values.get(f"{name}.weight"), around.values.get(f"{name}.bias")
    return y if scale is None else y * scale.reshape(channels) + shift.reshape(channels)


def dropout(layer, x, name, around):
    return (x.reshape(-1, around.batch, *x.shape[1:]) * around.masks[name]).reshape(x.shape)


def reshape(layer, x, name, around):
    return x.reshape(len(x), *layer.output_shape(x.shape[1:]))


def residual(layer, x, name, around):
    return (forward(layer.body, x, around, prefix=f"{name}.body.")
            + forward(layer.shortcut, x, around, prefix=f"{name}.shortcut."))


LAYERS = {
    "AdaptiveAvgPool2d": adaptive_avg_pool2d, "AvgPool2d": avg_pool2d, "BatchNorm1d": batch_norm,
    "BatchNorm2d": batch_norm, "Conv2d": conv2d, "Dropout": dropout, "Flatten": reshape, "LeakyReLU": leaky_relu,
    "Linear": linear, "LogSoftmax": log_softmax, "MaxPool2d": max_pool2d, "ReLU": relu, "Reshape": reshape,
    "Residual": residual, "Sigmoid": sigmoid, "Softmax": softmax, "Tanh": tanh,
}
