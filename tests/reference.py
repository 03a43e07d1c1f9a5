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
def pool_axis(size, kernel, stride, padding, dilation, ceil_mode):
    """Along one axis, for every window: the places of the image in it, and how many places it has, padding counted."""
    windows, start, span = [], -padding, dilation * (kernel - 1) + 1
    while start + span <= size + padding or (
            ceil_mode and start - stride + span < size + padding and start < size):
        places = [k for k in range(start, start + span, dilation) if 0 <= k < size]
        windows.append((places, min(start + span, size + padding) - start))
        start += stride
    return windows


def pool_windows(shape, kernel, stride=None, padding=0, dilation=1, ceil_mode=False):
    """For every output place: (i, j), the index of its window, and how many places this has, padding counted."""
    axes = zip(shape[2:], *map(pair, (kernel, kernel if stride is None else stride, padding, dilation)), strict=True)
    rows, cols = (pool_axis(*numbers, ceil_mode) for numbers in axes)
    for i, j in np.ndindex(len(rows), len(cols)):
        yield (i, j), (slice(None), slice(None), *np.ix_(rows[i][0], cols[j][0])), rows[i][1] * cols[j][1]


def adaptive_windows(shape, output_size):
    """The same for windows that share out the image: the pixels that overlap the i-th of equal parts."""
    axes = []
    for size, count in zip(shape[2:], pair(output_size), strict=True):
        count = count or size
        axes.append([[k for k in range(size) if (k + 1) * count > i * size and k * count < (i + 1) * size]
                     for i in range(count)])
    for i, j in np.ndindex(*map(len, axes)):
        rows, cols = axes[0][i], axes[1][j]
        yield (i, j), (slice(None), slice(None), *np.ix_(rows, cols)), len(rows) * len(cols)


def pool_output(shape, windows):
    return np.zeros((*shape[:2], *(k + 1 for k in windows[-1][0])))


def max_pool2d(x, *args, **options):
    x = np.asarray(x, np.float64)
    windows = list(pool_windows(x.shape, *args, **options))
    y = pool_output(x.shape, windows)
    for (i, j), window, _ in windows:
        y[:, :, i, j] = x[window].max((2, 3))
    return y


def max_pool2d_indices(x, *args, **options):
    """row * W + column of the first maximum of every window."""
    windows = list(pool_windows(x.shape, *args, **options))
    indices = pool_output(x.shape, windows)
    numbers = np.broadcast_to(np.arange(x.shape[2] * x.shape[3]).reshape(x.shape[2:]), x.shape)
    for (i, j), window, _ in windows:
        values, places = (a[window].reshape(*x.shape[:2], -1) for a in (x, numbers))
        indices[:, :, i, j] = np.take_along_axis(places, values.argmax(-1)[..., None], -1)[..., 0]
    return indices.astype(np.int64)


def max_pool2d_gradient(dy, x, *args, **options):
    """dx: each dy goes to the first maximum of its window, row by row."""
    dx = np.zeros((*x.shape[:2], x.shape[2] * x.shape[3]))
    indices = max_pool2d_indices(x, *args, **options)
    n, c = np.indices(x.shape[:2])
    for i, j in np.ndindex(indices.shape[2:]):
        dx[n, c, indices[:, :, i, j]] += dy[:, :, i, j]
    return dx.reshape(x.shape)


def pool_margin(x, *args, **options):
    """Of each image: the smallest distance of a maximum from the next smaller number of its window, relative to the
    largest number of all."""
    smallest = np.full(len(x), np.inf)
    for _, place, _ in pool_windows(x.shape, *args, **options):
        window = x[place].reshape(*x.shape[:2], -1)
        top = window.max(-1, keepdims=True)
        gaps = top[..., 0] - np.where(window < top, window, -np.inf).max(-1)
        smallest = np.minimum(smallest, gaps.min(1))
    return smallest / np.abs(x).max()


def averages(shape, kernel, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None):
    """For every output place: (i, j), the index of its window, and what its sum is divided by."""
    for place, window, count in pool_windows(shape, kernel, stride, padding, 1, ceil_mode):
        inside = window[2].size * window[3].size
        yield place, window, divisor_override or (count if count_include_pad else inside)


def average(x, windows):
    x = np.asarray(x, np.float64)
    y = pool_output(x.shape, windows)
    for (i, j), window, divisor in windows:
        y[:, :, i, j] = x[window].sum((2, 3)) / divisor
    return y


def average_gradient(dy, x, windows):
    dx = np.zeros(x.shape)
    for (i, j), window, divisor in windows:
        dx[window] += dy[:, :, i, j, None, None] / divisor
    return dx


def avg_pool2d(x, *args, **options):
    return average(x, list(averages(x.shape, *args, **options)))


def avg_pool2d_gradient(dy, x, *args, **options):
    return average_gradient(dy, x, list(averages(x.shape, *args, **options)))


def adaptive_avg_pool2d(x, output_size):
    return average(x, list(adaptive_windows(x.shape, output_size)))


def adaptive_avg_pool2d_gradient(dy, x, output_size):
    return average_gradient(dy, x, list(adaptive_windows(x.shape, output_size)))


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


def leaky_relu(x, negative_slope=0.01):
    return np.where(np.asarray(x) > 0, x, negative_slope * np.asarray(x, np.float64))


def leaky_relu_gradient(dy, x, negative_slope=0.01):
    return np.where(np.asarray(x) > 0, dy, negative_slope * np.asarray(dy, np.float64))


def tanh(x):
    return np.tanh(np.asarray(x, np.float64))


def tanh_gradient(dy, x):
    return dy / np.cosh(np.asarray(x, np.float64)) ** 2


def sigmoid(x):
    return np.exp(-np.logaddexp(0, -np.asarray(x, np.float64)))


def sigmoid_gradient(dy, x):
    return dy * sigmoid(x) * sigmoid(-np.asarray(x, np.float64))


def log_softmax(x, dim=1):
    x = np.asarray(x, np.float64)
    x = x - x.max(dim, keepdims=True)
    return x - np.log(np.exp(x).sum(dim, keepdims=True))


def log_softmax_gradient(dy, x, dim=1):
    return dy - softmax(x, dim) * np.sum(dy, dim, keepdims=True, dtype=np.float64)


def softmax(x, dim=1):
    return np.exp(log_softmax(x, dim))


def softmax_gradient(dy, x, dim=1):
    y = softmax(x, dim)
    return y * (dy - (dy * y).sum(dim, keepdims=True))


def batch_norm(x, weight, bias, eps=1e-5, mean=None, variance=None):
    """y, and dy -> (dx, dweight, dbias); mean and variance of the batch unless they are given."""
    x, axes = np.asarray(x, np.float64), (0, *range(2, np.ndim(x)))
    of_batch, per_channel = mean is None, (-1, *(1 for _ in axes[1:]))
    if of_batch:
        mean, variance = x.mean(axes), x.var(axes)
    mean, inverse, weight, bias = (
        np.reshape(v, per_channel) for v in (mean, 1 / np.sqrt(np.asarray(variance) + eps), weight, bias))
    normal = (x - mean) * inverse

    def backward(dy):
        d = np.asarray(dy, np.float64) * weight
        if of_batch:
            count = x.size // weight.size
            d = d - d.sum(axes, keepdims=True) / count - normal * (d * normal).sum(axes, keepdims=True) / count
        return d * inverse, (dy * normal).sum(axes), np.asarray(dy, np.float64).sum(axes)
    return normal * weight + bias, backward


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


def relu_margin(x, negative_slope=0):
    """Of each image: the smallest distance from 0 of a number that is not 0, relative to the largest of all."""
    return np.where(x != 0, np.abs(x), np.inf).reshape(len(x), -1).min(1) / np.abs(x).max()


def flatten(x):
    return np.reshape(x, (len(x), -1))


def reshape(x, shape):
    return np.reshape(x, (len(x), *(shape if isinstance(shape, tuple) else (shape,))))


def reshape_gradient(dy, x, *_):
    return np.reshape(dy, x.shape)


# ---- networks ------------------------------------------------------------------------------------
# For layers without parameters: y from x, and dx from dy and x, with the arguments of the layer
PLAIN = {
    "MaxPool2d": (max_pool2d, max_pool2d_gradient),
    "AvgPool2d": (avg_pool2d, avg_pool2d_gradient),
    "AdaptiveAvgPool2d": (adaptive_avg_pool2d, adaptive_avg_pool2d_gradient),
    "ReLU": (relu, relu_gradient),
    "LeakyReLU": (leaky_relu, leaky_relu_gradient),
    "Tanh": (tanh, tanh_gradient),
    "Sigmoid": (sigmoid, sigmoid_gradient),
    "Softmax": (softmax, softmax_gradient),
    "LogSoftmax": (log_softmax, log_softmax_gradient),
    "Flatten": (flatten, reshape_gradient),
    "Reshape": (reshape, reshape_gradient),
}
MARGINS = {"MaxPool2d": pool_margin, "ReLU": relu_margin, "LeakyReLU": relu_margin}


class Network:
    """The layers of a `networks` list with the given parameters ({"0.weight": ...}), in float64.

    `largest` : the largest sum of absolute products that any number came from so far.  While the data are whole
    numbers and this stays below 2**24, float32 holds every partial sum in every order, and the one right answer is
    exact.

    `margin` : how clearly the last forward pass decided the ReLUs and maxima of each image: the smallest distance from
    0, or between a maximum and the next smaller number of its window, relative to the largest number there.  Numbers
    that are equal by construction (the zeros behind a ReLU, a maximum that two windows share) do not count.
    """

    def __init__(self, layers, parameters):
        self.layers, self.largest = layers, 0.0
        self.parameters = {name: np.asarray(value, np.float64) for name, value in parameters.items()}

    def _of_layer(self, k):
        return [self.parameters.get(f"{k}.{name}") for name in ("weight", "bias")]

    def _note(self, *magnitudes):
        self.largest = max(self.largest, *(float(m.max()) for m in magnitudes))

    def forward(self, x):
        x, self.inputs, self.margin = np.asarray(x, np.float64), [], np.full(len(x), np.inf)
        for k, (name, args, options) in enumerate(self.layers):
            self.inputs.append(x)
            weight, bias = self._of_layer(k)
            if name in ("Conv2d", "Linear"):
                of = linear if name == "Linear" else partial(conv2d, **without_bias(options))
                self._note(of(abs(x), abs(weight), None if bias is None else abs(bias)))
                x = of(x, weight, bias)
            else:
                if name in MARGINS:
                    self.margin = np.minimum(self.margin, MARGINS[name](x, *args, **options))
                x = PLAIN[name][0](x, *args, **options)
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
            else:
                dy = PLAIN[name][1](dy, x, *args, **options)
        return dy, gradients


def without_bias(options):
    return {name: value for name, value in options.items() if name != "bias"}
