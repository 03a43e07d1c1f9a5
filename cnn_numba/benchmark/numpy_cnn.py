"""Networks in plain NumPy: convolution as a matrix product over unfolded windows (im2col), textbook backward passes.

Works in the precision of its weights: float32 when it competes, float64 when it is the measure of others.
"""
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from cnn_numba.benchmark import contender
from cnn_numba.errors import InputError


class Layer:
    """forward(x) -> y remembers what backward(dy) -> dx needs; backward fills `gradients`, one for each parameter."""

    shapes = ()         # of the parameters
    parameters = ()


class Conv2d(Layer):
    def __init__(self, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias):
        self.kernel, self.stride, self.dilation = kernel_size, stride, dilation
        self.padding, self.groups = padding, groups
        self.shapes = [(out_channels, in_channels // groups, *kernel_size)] + [(out_channels,)] * bias

    def forward(self, x):
        (top, left), (N, C), G = self.padding, x.shape[:2], self.groups
        self.padded = np.pad(x, ((0, 0), (0, 0), (top, top), (left, left)))
        windows = unfold(self.padded, self.kernel, self.stride, self.dilation)          # N, C, OH, OW, KH, KW
        OH, OW = self.size = windows.shape[2:4]
        windows = windows.reshape(N, G, C // G, OH, OW, *self.kernel)
        self.columns = windows.transpose(1, 0, 3, 4, 2, 5, 6).reshape(G, N * OH * OW, -1)
        weight, *bias = self.parameters
        y = self.columns @ weight.reshape(G, weight.shape[0] // G, -1).swapaxes(1, 2)
        y = y.reshape(G, N, OH, OW, -1).transpose(1, 0, 4, 2, 3).reshape(N, -1, OH, OW)
        return y + bias[0][:, None, None] if bias else y

    def backward(self, dy):
        (N, C, H, W), (OH, OW), (KH, KW), G = self.padded.shape, self.size, self.kernel, self.groups
        weight = self.parameters[0]
        rows = dy.reshape(N, G, -1, OH, OW).transpose(1, 0, 3, 4, 2).reshape(G, N * OH * OW, -1)
        dweight = (rows.swapaxes(1, 2) @ self.columns).reshape(weight.shape)
        self.gradients = [dweight, dy.sum((0, 2, 3))][:len(self.parameters)]
        dcolumns = rows @ weight.reshape(G, weight.shape[0] // G, -1)
        dcolumns = dcolumns.reshape(G, N, OH, OW, C // G, KH, KW).transpose(1, 0, 4, 5, 6, 2, 3)
        dcolumns = dcolumns.reshape(N, C, KH, KW, OH, OW)
        dx = np.zeros_like(self.padded)
        for p in range(KH):
            for q in range(KW):
                tap = places((OH, OW), (p, q), self.stride, self.dilation)
                dx[:, :, *tap] += dcolumns[:, :, p, q]
        (top, left) = self.padding
        return dx[:, :, top:H - top, left:W - left]


class MaxPool2d(Layer):
    def __init__(self, kernel_size, stride, padding, dilation, return_indices, ceil_mode):
        if return_indices or ceil_mode:
            raise InputError("it knows no MaxPool2d with return_indices or ceil_mode")
        self.kernel, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation

    def forward(self, x):
        top, left = self.padding
        self.padded = np.pad(x, ((0, 0), (0, 0), (top, top), (left, left)), constant_values=-np.inf)
        windows = unfold(self.padded, self.kernel, self.stride, self.dilation)
        windows = windows.reshape(*windows.shape[:4], -1)
        self.chosen = windows.argmax(-1)[..., None]                                     # the first of equals
        return np.take_along_axis(windows, self.chosen, -1)[..., 0]

    def backward(self, dy):
        (KH, KW), dx = self.kernel, np.zeros_like(self.padded)
        for p in range(KH):
            for q in range(KW):
                tap = places(dy.shape[2:], (p, q), self.stride, self.dilation)
                dx[:, :, *tap] += np.where(self.chosen[..., 0] == p * KW + q, dy, 0)
        (top, left), (H, W) = self.padding, dx.shape[2:]
        return dx[:, :, top:H - top, left:W - left]


class ReLU(Layer):
    def forward(self, x):
        self.positive = x > 0
        return np.maximum(x, 0)

    def backward(self, dy):
        return dy * self.positive


class Flatten(Layer):
    def forward(self, x):
        self.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, dy):
        return dy.reshape(self.shape)


class Linear(Layer):
    def __init__(self, in_features, out_features, bias):
        self.shapes = [(out_features, in_features)] + [(out_features,)] * bias

    def forward(self, x):
        self.x, (weight, *bias) = x, self.parameters
        y = x @ weight.T
        return y + bias[0] if bias else y

    def backward(self, dy):
        self.gradients = [dy.T @ self.x, dy.sum(0)][:len(self.parameters)]
        return dy @ self.parameters[0]


LAYERS = {layer.__name__: layer for layer in (Conv2d, MaxPool2d, ReLU, Flatten, Linear)}


def unfold(x, kernel, stride, dilation):
    """The windows of (N, C, H, W) as a view (N, C, OH, OW, KH, KW)."""
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    return sliding_window_view(x, extent, (2, 3))[:, :, ::stride[0], ::stride[1], ::dilation[0], ::dilation[1]]


def places(size, tap, stride, dilation):
    """The slices of rows and columns that a tap (p, q) of the window meets, for OH x OW outputs."""
    return tuple(slice(t * d, t * d + (n - 1) * s + 1, s)
                 for n, t, s, d in zip(size, tap, stride, dilation, strict=True))


def cross_entropy(z, labels):
    """(mean loss, its gradient) for logits (N, classes)."""
    z = z - z.max(1, keepdims=True)
    p, own = np.exp(z), (np.arange(len(z)), labels)
    total = p.sum(1, keepdims=True)
    loss = (np.log(total[:, 0]) - z[own]).mean()
    p /= total
    p[own] -= 1
    return loss, p / len(z)


class Network:
    """The layers of a description (see `networks.description`) and their weights, one array for each parameter."""

    def __init__(self, description, weights=None):
        self.layers = [contender.known(LAYERS, name)(**{key: pair(value) for key, value in arguments.items()})
                       for name, arguments in description]
        if weights is None:
            weights = contender.initial([shape for layer in self.layers for shape in layer.shapes])
        self.weights, left = list(weights), iter(weights)
        for layer in self.layers:
            layer.parameters = [next(left) for _ in layer.shapes]

    def forward(self, x):
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, dz):
        """The gradient of the images; those of the weights are in `gradients()`."""
        for layer in reversed(self.layers):
            dz = layer.backward(dz)
        return dz

    def gradients(self):
        return [g for layer in self.layers if layer.shapes for g in layer.gradients]


def pair(value):
    return tuple(value) if isinstance(value, list) else value


class Contender(contender.Contender):
    def load(self, **source):
        data = contender.load(**source)
        self.x, self.y = contender.standardised(data), data.train_labels

    def build(self, network, batch_size):
        self.network, self.batch_size, self.rng = Network(network), batch_size, np.random.default_rng(0)
        self.velocities = [np.zeros_like(w) for w in self.network.weights]

    def epoch(self):
        lr, momentum, decay = (contender.HYPER[name] for name in ("lr", "momentum", "weight_decay"))
        order = self.rng.permutation(self.images)
        for first in range(0, self.images, self.batch_size):
            chosen = order[first:first + self.batch_size]
            _, dz = cross_entropy(self.network.forward(self.x[chosen]), self.y[chosen])
            self.network.backward(dz)
            for w, v, g in zip(self.network.weights, self.velocities, self.network.gradients(), strict=True):
                v *= momentum
                v += g + decay * w
                w -= lr * v

    def loss(self):
        first = slice(contender.CHECKED)
        return float(cross_entropy(self.network.forward(self.x[first]), self.y[first])[0])

    def predict(self, batch_size):
        for first in range(0, len(self.x), batch_size):
            self.network.forward(self.x[first:first + batch_size]).argmax(1)
