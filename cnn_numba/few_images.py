"""Forward passes of one to MOST images, whose vectors hold channels instead of images (see `kernels.few_images`)."""
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cnn_numba.buffer import Buffer
from cnn_numba.kernels import few_images as kernels
from cnn_numba.kernels import residual
from cnn_numba.kernels.lanes import LANES, Tile, aligned, fit
from cnn_numba.kernels.matrix import Bf16
from cnn_numba.kernels.program import Call, Program, at_once, by_one, in_order
from cnn_numba.layers import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Calls,
    Conv2d,
    Dropout,
    Dropout2d,
    Flatten,
    Identity,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    Setup,
    Wires,
    any_on_unit,
    below,
    every_layer,
    infer_shapes,
)
from cnn_numba.layers.base import WIDE

MOST = 4                    # images; with more, lanes of images are faster
CHUNK = 128                 # features of a dense layer whose weights are gathered at a time
BAND_WORK = 500_000         # multiply-adds per band of rows that are worth a meeting of the threads
MOST_BANDS = 4

UNCHANGED = Dropout, Dropout2d, Identity            # in evaluation
ALIKE = ReLU, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d       # treat all channels alike, so that their kernels fit
APPLY_RELU = Conv2d, Linear, BatchNorm1d, BatchNorm2d, Residual
KNOWN = {*UNCHANGED, *ALIKE, *APPLY_RELU, Flatten}


def rounded(images: int) -> int:
    """The number of images that a layout for them holds: a power of two."""
    return 1 << (images - 1).bit_length()


def suits(layers: Sequence[Layer], shape: tuple[int, ...], images: int, training: Callable[[Layer], bool],
          textbook: bool, bf16: Bf16 | None) -> bool:
    """Whether a number of images is small enough, and every layer has kernels for this, which compute in float32.

    shape : of one image
    training : whether a layer is in training mode
    textbook, bf16 : see `layers.Setup`
    """
    setup = Setup(LANES, False, textbook, np.array([0, images]), np.zeros(2, np.int64), bf16=bf16)

    def fits(layer: Layer) -> bool:
        if isinstance(layer, (BatchNorm1d, BatchNorm2d)) and not layer.track_running_stats:
            return False
        return type(layer) in KNOWN and not layer.gives_indices and getattr(layer, "groups", 1) == 1 and not (
            isinstance(layer, (BatchNorm1d, BatchNorm2d, Dropout)) and training(layer))

    return images <= MOST and isinstance(layers[0], (Conv2d, Linear, Flatten)) and all(
        map(fits, every_layer(layers))) and not any_on_unit(layers, shape, setup)


class FewImages:
    """A network in evaluation laid out for a few images: x -> z.

    Parameters
    ----------
    layers, tensors, shapes : see `plan.Plan`
    images : int, from `rounded`

    Attributes as those of a `plan.Plan` without a backward pass.
    """

    dx = dz = indices = None

    def __init__(self, layers: Sequence[Layer], tensors: Sequence[dict[str, Any]], shapes: Sequence[tuple[int, ...]],
                 images: int):
        self.images, self.calls, self._chains, self._by_image = images, Calls(), 1, True
        self.setup = Setup(LANES, False, False, np.array([0, images]), np.zeros(2, np.int64))
        if isinstance(layers[0], Conv2d):
            channels, rows, cols = shapes[0]
            border = top, bottom, left, right = layers[0].padding_sides()
            x = Buffer(images, shapes[0], border,
                       array=aligned((images, channels, rows + top + bottom, cols + left + right, 1)))
        else:
            x = Buffer(images, (_vectors(math.prod(shapes[0])),))
        self.x = _Input(x)
        self.z = _Result(self._lay_out(layers, tensors, shapes, x), shapes[-1])

    def programs(self, after: Sequence[Call] = ()) -> tuple[Program, None]:
        """(forward pass, None): there is no backward pass, after which calls could follow."""
        calls = self.calls.prepare + self.calls.forward
        if self.images == self._chains == 1:                # too little work for a meeting of the threads
            return Program(by_one(calls)), None
        return Program(at_once(self.calls.prepare) + in_order(self.calls.forward)), None

    def _lay_out(self, layers, tensors, shapes, x):
        """Append the calls of layers that run one after the other; returns their output."""
        skipped = False                     # a ReLU that the layer before it applies
        for k, layer in enumerate(layers):
            if skipped or type(layer) in UNCHANGED or (type(layer) is Flatten and len(x.shape) == 1):
                skipped = False
                continue
            after = [other for other in layers[k + 1:] if type(other) not in UNCHANGED]
            relu = skipped = bool(type(layer) in APPLY_RELU and layers[k + 1:] and type(layers[k + 1]) is ReLU)
            readers, shape = after[relu:], shapes[k + 1]
            border = readers[0].padding_sides() if readers and len(shape) == 3 else (0, 0, 0, 0)
            y = Buffer(self.images, (_vectors(shape[0]), *shape[1:]), border)
            self._add(Wires(x=x, y=y, parameters=tensors[k], setup=self.setup, relu_after=relu), layer, shapes[k])
            x = y
        return x

    def _append(self, call, by_image=True):
        """Append a call of the forward pass whose items are images, or parts of several; those wait for all images."""
        call.after_all = not (by_image and self._by_image)
        self._by_image = by_image
        self.calls.forward.append(call)

    def _add(self, wires, layer, shape):
        """Append the calls of a layer for an input shape."""
        if type(layer) in ALIKE:
            layer.calls(wires)
            for call in wires.forward:
                self._append(call)
        elif isinstance(layer, Conv2d):
            self._add_conv(wires, layer, shape)
        elif isinstance(layer, Linear):
            self._add_linear(wires, layer)
        elif isinstance(layer, Flatten):
            y = wires.y.array.reshape(self.images, -1)[:, :math.prod(shape)]
            self._append(Call(
                kernels.few_flatten, self.images, y=y, x=wires.x.inner, C=shape[0]))
        elif isinstance(layer, Residual):
            self._add_residual(wires, layer, shape)
        else:
            self._add_norm(wires, layer)

    def _add_conv(self, wires, layer, shape):
        x, y, weight = wires.x.padded(*layer.padding_sides()), wires.y.inner, wires.parameters["weight"].value
        filters, channels, *kernel = weight.shape
        vectors, work = y.shape[1], weight.size * math.prod(y.shape[2:4])
        bands = max(1, min(MOST_BANDS // self.images, work // BAND_WORK, y.shape[2]))
        self._chains = max(self._chains, bands)
        rows = fit(vectors, 2 if WIDE else 1)
        tile = Tile(rows, fit(y.shape[3], (16 if WIDE else 6) // rows), layer.stride[1] * x.shape[4])
        self._append(Call(
            kernels.few_conv2d_forward, self.images * bands, y=y, x=x,
            weight=self._gathered(weight).reshape(vectors, channels, *kernel, LANES), bias=self._bias(wires, filters),
            C=channels, stride=layer.stride[0], dilation_h=layer.dilation[0], dilation_w=layer.dilation[1],
            bands=bands, relu=int(wires.relu_after), T=tile), by_image=bands == 1)

    def _add_linear(self, wires, layer):
        weight, y = wires.parameters["weight"].value, wires.y.array
        units, features = weight.shape
        x = wires.x.array.reshape(self.images, -1)[:, :features]
        images = min(self.images, 4 if WIDE else 2)
        most = 4 // images
        together = max(k for k in range(1, most + 1) if y.shape[1] % k == 0)    # items must not share vectors
        self._append(Call(
            kernels.few_linear_forward, y.shape[1] // together, y=y, x=x, weight=weight,
            bias=self._bias(wires, units), chunk=aligned((y.shape[1], min(CHUNK, features), LANES)),
            relu=int(wires.relu_after), T=Tile(images, together)), by_image=False)

    def _add_norm(self, wires, layer):
        ones, tensors = aligned(layer.num_features), {name: p.value for name, p in wires.parameters.items()}
        ones[:] = 1
        scales = aligned((wires.y.image().shape[1], 3, LANES))
        self.calls.prepare.append(Call(
            kernels.channel_scales, len(scales), scales=scales, means=tensors["running_mean"],
            variances=tensors["running_var"], weight=tensors.get("weight", ones),
            bias=tensors.get("bias", np.zeros_like(ones)), hyper=np.array([layer.eps])))
        self._append(Call(
            kernels.few_batch_norm_forward, self.images, y=wires.y.image(), x=wires.x.image(), scales=scales,
            relu=int(wires.relu_after)))

    def _add_residual(self, wires, layer, shape):
        ends = [self._lay_out(layers, [below(f"{name}.{k}.", wires.parameters) for k in range(len(layers))],
                              infer_shapes(layers, shape), wires.x)
                for name, layers in layer.branches.items()]
        body, beside = (end.image() for end in ends)
        self._append(Call(residual.add_forward, self.images, y=wires.y.image(), a=body, b=beside,
                                       relu=int(wires.relu_after)))

    def _gathered(self, weight):
        """The weights of filters or units with LANES of them in a vector; a call before the forward pass fills it."""
        rows = weight.reshape(len(weight), -1)
        packed = aligned((_vectors(len(rows)), rows.shape[1], LANES))
        self.calls.prepare.append(Call(kernels.gather_filters, len(packed), packed=packed, weight=rows))
        return packed

    def _bias(self, wires, count):
        if "bias" in wires.parameters:
            return self._gathered(wires.parameters["bias"].value)
        return aligned((_vectors(count), 1, LANES))


def _vectors(size):
    return math.ceil(size / LANES)


class _Input:
    """What `put` fills with images."""

    def __init__(self, buffer):
        features = len(buffer.shape) == 1
        self.array = buffer.array.reshape(buffer.blocks, -1) if features else buffer.inner[..., 0]

    def put(self, images):
        """Copy ordinary images (n, ...); those past n keep what they held."""
        if self.array.ndim == 2:
            images = images.reshape(len(images), -1)
            self.array[:len(images), :images.shape[1]] = images
        else:
            self.array[:len(images)] = images


class _Result:
    """What `get` reads; shape : of one image."""

    def __init__(self, buffer, shape):
        self.array, self.shape = buffer.inner, shape
        if len(shape) == 1:
            self.array = buffer.array.reshape(buffer.blocks, -1)[:, :shape[0]]

    def get(self, n):
        """A copy of the first n results as an ordinary array (n, ...)."""
        if len(self.shape) == 1:
            return self.array[:n].copy()
        return np.moveaxis(self.array[:n], -1, 2).reshape(n, -1, *self.shape[1:])[:, :self.shape[0]].copy()
