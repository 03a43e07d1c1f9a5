"""NumPy: the forward passes that the layers themselves have as textbooks write them, and backward passes beside them.

Works in the precision of its weights: float32 in the benchmark, float64 in tests.
"""
from collections.abc import Mapping

import numpy as np

from cnn_numba.benchmark import contender, networks
from cnn_numba.inspection import textbook
from cnn_numba.layers import Conv2d, Flatten, Layer, Linear, MaxPool2d, ReLU
from cnn_numba.layers.base import Sides, both
from cnn_numba.layers.windows import pool_windows, windows

Array = np.ndarray
Parameters = dict[str, Array]
Gradients = tuple[Array, list[Array]]       # of the input, and of the parameters in their order


# ---- backward passes: x, y and dy are the input, the output and its gradient, with axis 0 for the images ------------
def conv2d_backward(layer: Conv2d, parameters: Parameters, x: Array, y: Array, dy: Array) -> Gradients:
    """Products with the unfolded windows (im2col), one for each image and group."""
    weight, groups, sides = parameters["weight"], layer.groups, layer.padding_sides()
    (N, C), (F, OH, OW), (KH, KW) = x.shape[:2], y.shape[1:], layer.kernel_size
    seen = windows(x, layer, sides, OH, OW).transpose(0, 1, 4, 5, 2, 3).reshape(N, groups, -1, OH * OW)
    rows = dy.reshape(N, groups, F // groups, OH * OW)
    dweight = (rows @ seen.swapaxes(2, 3)).sum(0).reshape(weight.shape)
    dseen = (weight.reshape(groups, F // groups, -1).swapaxes(1, 2) @ rows).reshape(N, C, KH, KW, OH, OW)
    dx = add_taps({(p, q): dseen[:, :, p, q] for p, q in np.ndindex(KH, KW)}, layer, sides, x)
    return dx, [dweight, dy.sum((0, 2, 3))][:len(parameters)]


def max_pool2d_backward(layer: MaxPool2d, parameters: Parameters, x: Array, y: Array, dy: Array) -> Gradients:
    """Each gradient goes to the first of the largest numbers in its window."""
    seen, (top, left), found, taps = pool_windows(x, layer, -np.inf), both(layer.padding), np.zeros(y.shape, bool), {}
    for p, q in np.ndindex(seen.shape[4:]):
        here = (seen[..., p, q] == y) & ~found
        found |= here
        taps[p, q] = dy * here
    return add_taps(taps, layer, (top, top, left, left), x), []


def relu_backward(layer: ReLU, parameters: Parameters, x: Array, y: Array, dy: Array) -> Gradients:
    return dy * (y > 0), []


def flatten_backward(layer: Flatten, parameters: Parameters, x: Array, y: Array, dy: Array) -> Gradients:
    return dy.reshape(x.shape), []


def linear_backward(layer: Linear, parameters: Parameters, x: Array, y: Array, dy: Array) -> Gradients:
    return dy @ parameters["weight"], [dy.T @ x, dy.sum(0)][:len(parameters)]


BACKWARD = {"Conv2d": conv2d_backward, "MaxPool2d": max_pool2d_backward, "ReLU": relu_backward,
            "Flatten": flatten_backward, "Linear": linear_backward}


def add_taps(taps: Mapping[tuple[int, int], Array], layer: Conv2d | MaxPool2d, sides: Sides, x: Array) -> Array:
    """The gradient of x (N, C, H, W) from those of its windows: the transpose of `windows`.

    taps : {(p, q): (N, C, OH, OW)}, the gradient of row p and column q of every window
    """
    (N, C, H, W), (top, bottom, left, right), (OH, OW) = x.shape, sides, taps[0, 0].shape[2:]
    (kh, kw), (sh, sw), (dh, dw) = map(both, (layer.kernel_size, layer.stride, layer.dilation))
    high, wide = (OH - 1) * sh + 1, (OW - 1) * sw + 1
    dx = np.zeros((N, C, max(top + H + bottom, high + dh * (kh - 1)), max(left + W + right, wide + dw * (kw - 1))),
                  x.dtype)
    for (p, q), gradient in taps.items():
        dx[:, :, p * dh:p * dh + high:sh, q * dw:q * dw + wide:sw] += gradient
    return dx[:, :, top:top + H, left:left + W]


def cross_entropy(z: Array, labels: Array) -> tuple[float, Array]:
    """(mean loss, its gradient) for logits (N, classes)."""
    dz = np.exp(z - z.max(axis=1, keepdims=True))
    dz /= dz.sum(axis=1, keepdims=True)
    dz[np.arange(len(z)), labels] -= 1
    return textbook.cross_entropy(z, labels)[0], dz / len(z)


class Network:
    """The layers of a description (see `networks.description`) and their weights, one array for each parameter.

    Raises InputError for a layer without a backward pass here.
    """

    def __init__(self, description: list, weights: list[Array] | None = None):
        self._backward = [contender.known(BACKWARD, name) for name, _ in description]
        self.layers: list[Layer] = networks.make(description)
        shapes = [layer.parameter_shapes() for layer in self.layers]
        self.weights = list(weights or contender.initial([shape for of_layer in shapes for shape in of_layer.values()]))
        left = iter(self.weights)
        self._parameters = [{name: next(left) for name in of_layer} for of_layer in shapes]

    def forward(self, x: Array) -> Array:
        """The output for x (N, ...); every value in between is kept for `backward`."""
        run = textbook.Run(len(x))
        self._values = [x]
        for layer, parameters in zip(self.layers, self._parameters, strict=True):
            self._values.append(layer.textbook(self._values[-1], parameters, run))
        return self._values[-1]

    def backward(self, dz: Array) -> Array:
        """The gradient of the images of the last forward pass; those of the weights are in `gradients()`."""
        self._gradients: list[Array] = []
        for k in reversed(range(len(self.layers))):
            dz, gradients = self._backward[k](self.layers[k], self._parameters[k], *self._values[k:k + 2], dz)
            self._gradients[:0] = gradients
        return dz

    def gradients(self) -> list[Array]:
        return self._gradients


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
