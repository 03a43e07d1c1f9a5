"""The textbook in NumPy: every operation as plain float64 loops on ordinary arrays (N, C, H, W); the tests' oracle.

Nothing here is shared with the library: padding is `np.pad`, windows are slices, and a gradient is the loop of its
operation with the roles of input and output exchanged.
"""
from functools import partial

import numpy as np


def pair(value):
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


# ---- convolution ---------------------------------------------------------------------------------
def conv_sides(padding, kernel, dilation):
    """((top, bottom), (left, right)) of PyTorch's `padding`: 'same' puts the odd zero at the bottom and right."""
    if padding == "same":
        spans = [d * (k - 1) for k, d in zip(kernel, pair(dilation), strict=True)]
        return tuple((span // 2, span - span // 2) for span in spans)
    return tuple((p, p) for p in ((0, 0) if padding == "valid" else pair(padding)))


def conv_pad(x, sides):
    return np.pad(np.asarray(x, np.float64), ((0, 0), (0, 0), *sides))


def conv_taps(weight_shape, padded_shape, stride, dilation, groups):
    """For every weight: its index (f, c, p, q), and the index of the (N, OH, OW) inputs that it multiplies."""
    F, C, KH, KW = weight_shape
    (sh, sw), (dh, dw) = pair(stride), pair(dilation)
    OH = (padded_shape[2] - dh * (KH - 1) - 1) // sh + 1
    OW = (padded_shape[3] - dw * (KW - 1) - 1) // sw + 1
    for f, c, p, q in np.ndindex(F, C, KH, KW):
        channel = f // (F // groups) * C + c
        rows = slice(p * dh, p * dh + (OH - 1) * sh + 1, sh)
        cols = slice(q * dw, q * dw + (OW - 1) * sw + 1, sw)
        yield (f, c, p, q), (slice(None), channel, rows, cols)


def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    x = conv_pad(x, conv_sides(padding, weight.shape[2:], dilation))
    maps = [0.0] * len(weight)
    for tap, window in conv_taps(weight.shape, x.shape, stride, dilation, groups):
        maps[tap[0]] = maps[tap[0]] + float(weight[tap]) * x[window]
    y = np.stack(maps, axis=1)
    return y if bias is None else y + np.reshape(bias, (-1, 1, 1))


def conv2d_gradients(dy, x, weight, stride=1, padding=0, dilation=1, groups=1):
    """dx, dweight, dbias"""
    sides = conv_sides(padding, weight.shape[2:], dilation)
    x, dy = conv_pad(x, sides), np.asarray(dy, np.float64)
    dx, dweight = np.zeros(x.shape), np.zeros(weight.shape)
    for tap, window in conv_taps(weight.shape, x.shape, stride, dilation, groups):
        dx[window] += float(weight[tap]) * dy[:, tap[0]]
        dweight[tap] = (x[window] * dy[:, tap[0]]).sum()
    (top, bottom), (left, right) = sides
    H, W = x.shape[2:]
    return dx[:, :, top:H - bottom, left:W - right], dweight, dy.sum((0, 2, 3))


# ---- pooling -------------------------------------------------------------------------------------
def pool_windows(shape, kernel, stride, padding):
    """For every output place: (i, j), and the first row, end row, first column, end column of its window."""
    (kh, kw), (sh, sw), (ph, pw) = pair(kernel), pair(kernel if stride is None else stride), pair(padding)
    H, W = shape[2:]
    for i, j in np.ndindex((H + 2 * ph - kh) // sh + 1, (W + 2 * pw - kw) // sw + 1):
        row, col = i * sh - ph, j * sw - pw
        yield (i, j), (max(row, 0), min(row + kh, H), max(col, 0), min(col + kw, W))


def max_pool2d(x, kernel, stride=None, padding=0):
    x = np.asarray(x, np.float64)
    places = list(pool_windows(x.shape, kernel, stride, padding))
    y = np.zeros((*x.shape[:2], *(k + 1 for k in places[-1][0])))
    for (i, j), (r0, r1, c0, c1) in places:
        y[:, :, i, j] = x[:, :, r0:r1, c0:c1].max((2, 3))
    return y


def max_pool2d_gradient(dy, x, kernel, stride=None, padding=0):
    """dx: each dy goes to the first maximum of its window, row by row."""
    dx = np.zeros(x.shape)
    N, C = x.shape[:2]
    for (i, j), (r0, r1, c0, c1) in pool_windows(x.shape, kernel, stride, padding):
        first = x[:, :, r0:r1, c0:c1].reshape(N, C, -1).argmax(-1)
        n, c = np.indices((N, C))
        dx[n, c, r0 + first // (c1 - c0), c0 + first % (c1 - c0)] += dy[:, :, i, j]
    return dx


def pool_margin(x, kernel, stride=None, padding=0):
    """The smallest distance of a maximum from the next smaller number of its window, relative to the largest number."""
    smallest = np.inf
    for _, (r0, r1, c0, c1) in pool_windows(x.shape, kernel, stride, padding):
        window = x[:, :, r0:r1, c0:c1].reshape(*x.shape[:2], -1)
        top = window.max(-1, keepdims=True)
        smallest = min(smallest, (top - np.where(window < top, window, -np.inf).max(-1, keepdims=True)).min())
    return smallest / np.abs(x).max()


# ---- the rest ------------------------------------------------------------------------------------
def linear(x, weight, bias=None):
    y = np.asarray(x, np.float64) @ np.asarray(weight, np.float64).T
    return y if bias is None else y + bias


def linear_gradients(dy, x, weight):
    """dx, dweight, dbias"""
    dy, x = np.asarray(dy, np.float64), np.asarray(x, np.float64)
    return dy @ weight, dy.T @ x, dy.sum(0)


def relu(x):
    return np.where(np.asarray(x) < 0, 0.0, x)


def relu_gradient(dy, x):
    return np.where(np.asarray(x) > 0, dy, 0.0)


def cross_entropy(z, labels, weight=None, label_smoothing=0.0):
    """The mean of -log softmax(z)[label], and its gradient.

    With class weights, each image counts as the weight of its label does; with smoothing, a part of every image's loss
    is the mean over all classes of -weight log softmax(z).
    """
    z = np.asarray(z, np.float64)
    z = z - z.max(1, keepdims=True)
    sums = np.exp(z).sum(1, keepdims=True)
    images, classes = np.arange(len(z)), z.shape[1]
    weight = np.ones(classes) if weight is None else np.asarray(weight, np.float64)
    target = np.tile(label_smoothing / classes * weight, (len(z), 1))
    target[images, labels] += (1 - label_smoothing) * weight[labels]
    loss = target * (np.log(sums) - z)
    gradient = target.sum(1, keepdims=True) * np.exp(z) / sums - target
    return loss.sum() / weight[labels].sum(), gradient / weight[labels].sum()


def squared_error(z, labels):
    """The mean of (z - onehot)**2 over images and classes, and its gradient."""
    difference = np.asarray(z, np.float64) - np.eye(np.shape(z)[1])[labels]
    return (difference**2).mean(), 2 * difference / difference.size


def sgd(value, grad, velocity, lr, momentum=0.0, weight_decay=0.0):
    """The new value and the new velocity."""
    velocity = momentum * velocity + (grad + weight_decay * value)
    return value - lr * velocity, velocity


# ---- networks ------------------------------------------------------------------------------------
class Network:
    """The layers of a `networks` list with the given parameters ({"0.weight": ...}), in float64.

    `largest` : the largest sum of absolute products that any number came from so far.  While the data are whole
    numbers and this stays below 2**24, float32 holds every partial sum in every order, and the one right answer is
    exact.

    `margin` : how clearly the last forward pass decided its ReLUs and maxima: the smallest distance from 0, or between
    a maximum and the next smaller number of its window, relative to the largest number there.  Numbers that are equal
    by construction (the zeros behind a ReLU, a maximum that two windows share) do not count.
    """

    def __init__(self, layers, parameters):
        self.layers, self.largest = layers, 0.0
        self.parameters = {name: np.asarray(value, np.float64) for name, value in parameters.items()}

    def _of_layer(self, k):
        return [self.parameters.get(f"{k}.{name}") for name in ("weight", "bias")]

    def _note(self, *magnitudes):
        self.largest = max(self.largest, *(float(m.max()) for m in magnitudes))

    def forward(self, x):
        x, self.inputs, self.margin = np.asarray(x, np.float64), [], np.inf
        for k, (name, args, options) in enumerate(self.layers):
            self.inputs.append(x)
            weight, bias = self._of_layer(k)
            if name in ("Conv2d", "Linear"):
                of = linear if name == "Linear" else partial(conv2d, **without_bias(options))
                self._note(of(abs(x), abs(weight), None if bias is None else abs(bias)))
                x = of(x, weight, bias)
            elif name == "MaxPool2d":
                self.margin = min(self.margin, pool_margin(x, *args, **options))
                x = max_pool2d(x, *args, **options)
            elif name == "ReLU":
                self.margin = min(self.margin, np.abs(x[x != 0]).min(initial=np.inf) / np.abs(x).max())
                x = relu(x)
            elif name == "Flatten":
                x = x.reshape(len(x), -1)
        return x

    def backward(self, dy):
        """The gradient of the input, and {name: gradient} of the parameters."""
        dy, gradients = np.asarray(dy, np.float64), {}
        for k, (name, args, options) in reversed(list(enumerate(self.layers))):
            x = self.inputs[k]
            weight, bias = self._of_layer(k)
            if name in ("Conv2d", "Linear"):
                of = linear_gradients if name == "Linear" else partial(conv2d_gradients, **without_bias(options))
                self._note(*of(abs(dy), abs(x), abs(weight)))
                dy, gradients[f"{k}.weight"], dbias = of(dy, x, weight)
                if bias is not None:
                    gradients[f"{k}.bias"] = dbias
            elif name == "MaxPool2d":
                dy = max_pool2d_gradient(dy, x, *args, **options)
            elif name == "ReLU":
                dy = relu_gradient(dy, x)
            elif name == "Flatten":
                dy = dy.reshape(x.shape)
        return dy, gradients


def without_bias(options):
    return {name: value for name, value in options.items() if name != "bias"}
