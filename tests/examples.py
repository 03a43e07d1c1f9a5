"""One table of examples: every layer, optimizer and loss of the library with some arguments, in PyTorch's terms.

It drives the tests of what holds for every one of them (test_examples.py, and test_examples_torch.py where PyTorch is
installed).  A new layer takes a line here, and is compared with its textbook, with central differences and with
PyTorch, run in every way, between other layers and in a training, saved, loaded, copied and read from JSON.
"""
import inspect
import math
from dataclasses import dataclass

import numpy as np
from networks import (
    adaptive,
    avg,
    batch_norm,
    batch_norm_1d,
    concat,
    conv,
    dropout,
    dropout_2d,
    elu,
    flatten,
    gelu,
    group_norm,
    identity,
    layer_norm,
    leaky,
    linear,
    log_softmax,
    make,
    pool,
    relu,
    reshape,
    residual,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
    transposed,
    upsample,
    zero_pad,
)

import cnn_numba
from cnn_numba import Augment, CrossEntropyLoss, Dataset, OneCycleLR, Sequential, Trainer
from cnn_numba.layers import Layer


@dataclass(frozen=True)
class Example:
    """A layer with arguments.

    layer : (name, arguments, options), see `networks`
    shape : of one image
    text : whether PyTorch prints it alike
    random : whether it draws random numbers in a training, which PyTorch draws otherwise
    """

    layer: tuple
    shape: tuple
    text: bool = True
    random: bool = False

    @property
    def kind(self):
        """The class."""
        return Layer.known[self.layer[0]]

    @property
    def arguments(self):
        """{name: value} of what is given."""
        _, args, options = self.layer
        return inspect.signature(self.kind).bind(*args, **options).arguments

    @property
    def output_shape(self):
        return make([self.layer])[0].output_shape(self.shape)

    def __str__(self):
        def text(value):
            return f"[{' '.join(name for name, *_ in value)}]" if isinstance(value, list) else str(value)

        return f"{self.layer[0]}({', '.join(f'{name}={text(value)}' for name, value in self.arguments.items())})"


LAYERS = [
    Example(conv(2, 4, 3, padding=1), (2, 5, 6)),
    Example(conv(2, 5, 5, padding="same", init="kaiming_normal"), (2, 7, 6)),
    Example(conv(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2, bias=False), (4, 5, 6)),
    Example(conv(2, 3, 4, padding="valid", stride=2), (2, 6, 8)),
    Example(pool(2), (3, 4, 5)),
    Example(pool(3, stride=(2, 1), padding=1, dilation=2, ceil_mode=True), (2, 8, 7)),
    Example(pool((3, 2), return_indices=True), (3, 6, 4)),
    Example(avg(2), (3, 4, 5)),
    Example(avg((2, 3), stride=1, padding=1, ceil_mode=True, count_include_pad=False), (2, 5, 6)),
    Example(avg(2, stride=1, divisor_override=3), (2, 5, 6)),
    Example(adaptive((3, 2)), (2, 5, 6)),
    Example(adaptive((1, None)), (2, 5, 6)),
    Example(linear(60, 12), (60,)),
    Example(linear(37, 13, bias=False, init="xavier_normal"), (37,)),
    Example(relu, (2, 5, 6)),
    Example(relu, (21,)),
    Example(leaky(negative_slope=0.2), (2, 5, 6)),
    Example(tanh, (2, 5, 6)),
    Example(sigmoid, (2, 5, 6)),
    Example(softmax(1), (4, 3, 5)),
    Example(softmax(dim=-1), (21,)),
    Example(log_softmax(1), (4, 3, 5)),
    Example(log_softmax(dim=-1), (21,)),
    Example(dropout(0.25), (2, 5, 6), text=False, random=True),
    Example(batch_norm(3), (3, 4, 5), text=False),
    Example(batch_norm(3, eps=1e-3, momentum=None, affine=False), (3, 4, 5), text=False),
    Example(batch_norm(3, track_running_stats=False), (3, 4, 5), text=False),
    Example(batch_norm_1d(60), (60,), text=False),
    Example(batch_norm_1d(12, eps=0.1, momentum=0.3), (12,), text=False),
    Example(batch_norm_1d(12, affine=False, track_running_stats=False), (12,), text=False),
    Example(dropout_2d(0.25), (2, 5, 6), text=False, random=True),
    Example(gelu(), (2, 5, 6)),
    Example(gelu("tanh"), (21,)),
    Example(silu, (2, 5, 6)),
    Example(elu(0.7), (2, 5, 6)),
    Example(softplus(2.0, threshold=1.5), (2, 5, 6)),
    Example(group_norm(2, 4), (4, 3, 5), text=False),
    Example(group_norm(3, 12, eps=0.1, affine=False), (12,), text=False),
    Example(layer_norm((3, 4, 5)), (3, 4, 5), text=False),
    Example(layer_norm(21, eps=0.1, bias=False), (21,), text=False),
    Example(layer_norm((2, 3, 5), elementwise_affine=False), (2, 3, 5), text=False),
    Example(transposed(3, 5, 3, stride=2, padding=1, output_padding=1), (3, 4, 5)),
    Example(transposed(4, 6, (3, 2), stride=(1, 2), padding=(1, 0), groups=2, bias=False, dilation=(2, 1),
                       init="kaiming_normal"), (4, 5, 3)),
    Example(zero_pad((1, 2, 3, 0)), (2, 3, 5)),
    Example(upsample(scale_factor=2.0), (2, 3, 5)),
    Example(upsample((4, 7)), (2, 3, 5)),
    Example(upsample((7, 4), mode="nearest-exact"), (2, 3, 5)),
    Example(identity, (2, 5, 6)),
    Example(flatten, (2, 5, 6)),
    Example(reshape((3, -1, 4)), (2, 6, 5), text=False),
    Example(reshape(12), (3, 2, 2), text=False),
    Example(residual([relu]), (2, 5, 6)),
    Example(residual([conv(4, 6, 3, stride=2, padding=1, bias=False), batch_norm(6), tanh, conv(6, 6, 3, padding=1)],
                     shortcut=[conv(4, 6, 1, stride=2, bias=False)]), (4, 6, 8), text=False),
    Example(concat([relu], [conv(2, 3, 3, padding=1), relu], third=[tanh], fourth=[identity]), (2, 5, 6)),
    Example(concat([linear(21, 5)], [tanh]), (21,)),
    Example(residual([residual([tanh], [sigmoid]), conv(2, 2, 5, padding=2)]), (2, 5, 6)),
]

# Arguments that only this library has, and layers that PyTorch makes of others: nn -> a constructor with our arguments
ONLY_HERE = ("init",)
IN_PYTORCH = {
    "Reshape": lambda nn: lambda shape: nn.Sequential(nn.Flatten(), nn.Unflatten(1, np.atleast_1d(shape).tolist())),
    "Residual": lambda nn: _torch_residual(nn),
    "Concat": lambda nn: _torch_concat(nn),
}


def _torch_concat(nn):
    import torch

    class Concat(nn.Module):
        def __init__(self, first, second, third=None, fourth=None):
            super().__init__()
            for name, body in zip(("first", "second", "third", "fourth"), (first, second, third, fourth), strict=True):
                if body is not None:
                    setattr(self, name, nn.Sequential(*body))

        def forward(self, x):
            return torch.cat([body(x) for body in self.children()], 1)

    return Concat


def _torch_residual(nn):
    class Residual(nn.Module):
        def __init__(self, body, shortcut=None):
            super().__init__()
            self.body = nn.Sequential(*body)
            self.shortcut = nn.Sequential(*shortcut) if shortcut else nn.Identity()

        def forward(self, x):
            return self.body(x) + self.shortcut(x)

    return Residual


OPTIMIZERS = [
    ("SGD", dict(lr=0.1)),
    ("SGD", dict(lr=0.05, momentum=0.9)),
    ("SGD", dict(lr=0.05, momentum=0.9, weight_decay=0.01)),
    ("SGD", dict(lr=0.05, momentum=0.8, weight_decay=0.01, nesterov=True)),
    ("SGD", dict(lr=0.05, weight_decay=0.3, decay_weights_only=True)),
    ("RMSprop", dict()),
    ("RMSprop", dict(lr=0.003, alpha=0.9, eps=1e-3, weight_decay=0.01)),
    ("RMSprop", dict(lr=0.003, momentum=0.9, weight_decay=0.3, decay_weights_only=True)),
    ("RMSprop", dict(lr=0.003, alpha=0.8, eps=1e-2, momentum=0.5, centered=True)),
    ("Adam", dict()),
    ("Adam", dict(lr=0.02, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.1)),
    ("Adam", dict(lr=0.02, betas=(0.0, 0.0), eps=1e-2)),
    ("Adam", dict(lr=0.02, weight_decay=0.3, decay_weights_only=True)),
    ("AdamW", dict()),
    ("AdamW", dict(lr=0.02, betas=(0.95, 0.99), weight_decay=0.5)),
    ("AdamW", dict(lr=0.02, weight_decay=0.5, decay_weights_only=True)),
]

LOSSES = [
    ("CrossEntropyLoss", dict()),
    ("CrossEntropyLoss", dict(label_smoothing=0.2)),
    ("CrossEntropyLoss", dict(weight=[0.5, 1, 4, 1, 2], label_smoothing=0.1)),
    ("MSELoss", dict()),
    ("NLLLoss", dict()),
]


def of_the_library(base):
    """{name: class} of the library's subclasses, without those that tests define."""
    return {name: kind for name, kind in base.known.items() if kind.__module__.startswith("cnn_numba.")}


# ---- all layers in one training -----------------------------------------------------------------------------------
SHAPE, CLASSES, EPOCHS = (2, 5, 6), 5, 2


def chain():
    """The first example of every class, one after the other.

    A dense layer gives each its shape where there are more or fewer numbers, and a batch norm keeps them from fading
    away.  What precedes a batch norm has no bias, whose gradient would be 0 but for the rounding, of which Adam makes a
    step.
    """
    layers, shape, seen = [], SHAPE, set()
    for example in LAYERS:
        if example.kind not in seen:
            seen.add(example.kind)
            size = math.prod(example.shape)
            layers += [leaky(0.1), *[flatten][:len(shape) == 3],
                       *[linear(math.prod(shape), size, bias=False)][:math.prod(shape) != size],
                       batch_norm_1d(size), leaky(0.1), *[reshape(example.shape)][:len(example.shape) == 3],
                       example.layer]
            shape = example.output_shape
    return [*layers, leaky(0.1), *[flatten][:len(shape) == 3], linear(math.prod(shape), CLASSES), softmax(1)]


def everything(images=40, batch_size=16, seed=3, init=7):
    """A trainer that has never run, of a network with every layer, and with all that a trainer can be told."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, images)
    pixels = rng.integers(0, 150, (images, *SHAPE)).astype(np.uint8)
    pixels[np.arange(images), :, labels] += 100                     # a bright row tells the class
    data = Dataset("made up", pixels, labels, pixels[:20], labels[:20], CLASSES).hold_out(9)
    model = Sequential(*make(chain()), seed=init)
    optimizer = cnn_numba.Adam(model, lr=0.01, eps=1e-4)
    scheduler = OneCycleLR(optimizer, 0.02, epochs=EPOCHS, steps_per_epoch=-(-len(data.train_images) // batch_size))
    return Trainer(model, data, optimizer, batch_size=batch_size, seed=seed, scheduler=scheduler, max_norm=0.5,
                   loss=CrossEntropyLoss(label_smoothing=0.1), augment=Augment(1, 10, 0.1, flip=True))
