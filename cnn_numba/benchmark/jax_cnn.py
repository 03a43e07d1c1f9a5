"""JAX: the whole training step, from choosing the images to the update, as one jitted function."""
import os

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_numba.benchmark import contender
from cnn_numba.errors import InputError


def conv2d(a, x, weight, bias=None):
    y = lax.conv_general_dilated(
        x, weight, a["stride"], [(p, p) for p in a["padding"]], rhs_dilation=a["dilation"],
        dimension_numbers=("NCHW", "OIHW", "NCHW"), feature_group_count=a["groups"])
    return y if bias is None else y + bias[:, None, None]


def max_pool2d(a, x):
    if a["return_indices"] or a["ceil_mode"]:
        raise InputError("it knows no MaxPool2d with return_indices or ceil_mode")
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, *a["kernel_size"]), (1, 1, *a["stride"]),
                             [(0, 0), (0, 0), *((p, p) for p in a["padding"])],
                             window_dilation=(1, 1, *a["dilation"]))


def linear(a, x, weight, bias=None):
    y = x @ weight.T
    return y if bias is None else y + bias


# name -> (function(arguments, x, parameters), function(arguments) that gives the shapes of its parameters)
LAYERS = {
    "Conv2d": (conv2d, lambda a: [(a["out_channels"], a["in_channels"] // a["groups"], *a["kernel_size"]),
                                  (a["out_channels"],)][:1 + a["bias"]]),
    "MaxPool2d": (max_pool2d, lambda a: []),
    "ReLU": (lambda a, x: jax.nn.relu(x), lambda a: []),
    "Flatten": (lambda a, x: x.reshape(len(x), -1), lambda a: []),
    "Linear": (linear, lambda a: [(a["out_features"], a["in_features"]), (a["out_features"],)][:1 + a["bias"]]),
}


class Contender(contender.Contender):
    def __init__(self, threads):
        super().__init__(threads)
        if hasattr(os, "sched_setaffinity"):        # XLA makes a thread per processor that it may run on
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])

    def load(self, **source):
        data = contender.load(**source)
        self.x, self.y = jnp.asarray(contender.standardised(data)), jnp.asarray(data.train_labels)

    def build(self, network, batch_size):
        lr, momentum, decay = (contender.HYPER[name] for name in ("lr", "momentum", "weight_decay"))
        layers = [(*contender.known(LAYERS, name), arguments) for name, arguments in network]
        counts = [len(shapes(arguments)) for _, shapes, arguments in layers]

        def forward(weights, x):
            left = iter(weights)
            for (function, _, arguments), count in zip(layers, counts, strict=True):
                x = function(arguments, x, *(next(left) for _ in range(count)))
            return x

        def loss(weights, x, y):
            return -jnp.take_along_axis(jax.nn.log_softmax(forward(weights, x)), y[:, None], 1).mean()

        def step(weights, velocities, x, y, chosen):
            gradients = jax.grad(loss)(weights, x[chosen], y[chosen])
            velocities = [momentum * v + g + decay * w
                          for v, g, w in zip(velocities, gradients, weights, strict=True)]
            return [w - lr * v for w, v in zip(weights, velocities, strict=True)], velocities

        self._step, self._loss = jax.jit(step, donate_argnums=(0, 1)), jax.jit(loss)
        self._classes = jax.jit(lambda weights, x: forward(weights, x).argmax(1))
        shapes = [shape for _, shapes, arguments in layers for shape in shapes(arguments)]
        self.weights = [jnp.asarray(w) for w in contender.initial(shapes)]
        self.velocities = [jnp.zeros_like(w) for w in self.weights]
        self.batch_size, self.rng = batch_size, np.random.default_rng(0)

    def epoch(self):
        order = self.rng.permutation(self.images)
        for first in range(0, self.images, self.batch_size):
            self.weights, self.velocities = self._step(self.weights, self.velocities, self.x, self.y,
                                                       order[first:first + self.batch_size])
        jax.block_until_ready(self.weights)

    def loss(self):
        return float(self._loss(self.weights, self.x[:contender.CHECKED], self.y[:contender.CHECKED]))

    def predict(self, batch_size):
        jax.block_until_ready([self._classes(self.weights, self.x[first:first + batch_size])
                               for first in range(0, len(self.x), batch_size)])
