"""The buffers of a network for a number of image blocks, and the kernel calls that run on them."""
import math

import numpy as np

from kernels.lanes import LANES, aligned, planes
from kernels.program import Program, at_once, in_order

from .errors import InputError
from .layers import Flatten, ReLU, Wires


class Buffer:
    """A value of the network for all images of a plan: (blocks, C, H, W, LANES) inside a border of zeros, or
    (blocks, K, LANES).  `dense`: without gaps between the channels, so that `flat` is possible."""

    def __init__(self, blocks, shape, border=(0, 0, 0, 0), dense=False, array=None):
        self.blocks, self.shape, self.border = blocks, tuple(shape), border
        if array is None:
            top, bottom, left, right = border
            size = shape if len(shape) == 1 else (shape[0], shape[1] + top + bottom, shape[2] + left + right)
            array = aligned((blocks, *size, LANES)) if dense or len(shape) == 1 else planes(blocks, *size)
        self.array = array

    @property
    def inner(self):
        """The value without its border."""
        return self.padded(0, 0, 0, 0)

    def padded(self, top, bottom, left, right):
        """The value with that much of its border."""
        if len(self.shape) == 1:
            return self.array
        t, b, l, r = (have - wanted for have, wanted in zip(self.border, (top, bottom, left, right), strict=True))
        rows, cols = self.array.shape[2:4]
        return self.array[:, :, t:rows - b, l:cols - r]

    def image(self):
        """The value as (blocks, C, H, W, LANES), features as 1 x 1 images."""
        return self.inner if len(self.shape) == 3 else self.array[:, :, None, None]

    def flat(self):
        """The same memory as features (blocks, K, LANES)."""
        size = math.prod(self.shape)
        return Buffer(self.blocks, (size,), array=self.array.reshape(self.blocks, size, LANES))

    def put(self, images):
        """Spread (n, ...) ordinary images over the lanes, zeros in the lanes past n."""
        full = np.zeros((self.blocks * LANES, *self.shape), np.float32)
        full[:len(images)] = images
        self.inner[...] = np.moveaxis(full.reshape(self.blocks, LANES, *self.shape), 1, -1)

    def get(self, n):
        """The first n images, as an ordinary array (n, ...)."""
        return np.moveaxis(self.inner, -1, 1).reshape(self.blocks * LANES, *self.shape)[:n].copy()


class Plan:
    """A network laid out for a number of blocks: x -> z, and dz -> dx where there is a backward pass.

    Parameters
    ----------
    layers : list of Layer
    parameters : list of dict
        Of each layer: {name: Parameter}.
    shapes : list of tuple
        Of one image: the input of each layer and the output of the last.
    blocks : int
    backward, input_gradient : bool
        Whether gradients are computed, and whether down to the images.
    lanes : int
        How many lanes of each block can hold an image: fewer than LANES when all images are fewer.
    """

    def __init__(self, layers, parameters, shapes, blocks, backward=True, input_gradient=True, lanes=LANES):
        self.blocks, self.shapes = blocks, shapes
        self.prepare_calls, self.forward_calls, self.backward_calls, self.gradient_calls = [], [], [], []
        fused = [isinstance(layer, ReLU) and k > 0 and layers[k - 1].applies_relu for k, layer in enumerate(layers)]
        unfused = [k for k, skip in enumerate(fused) if not skip]
        padding = {k: layers[k].padding_sides() for k in unfused}
        gradient = {k: layers[k].gradient_sides(shapes[k]) for k in unfused}
        dense = isinstance(layers[0], Flatten)
        x = self.x = Buffer(blocks, shapes[0], padding[0], dense)
        dx = self.dx = None
        if backward and input_gradient:
            dx = self.dx = Buffer(blocks, shapes[0], (0, 0, *gradient[0][0]), dense)
        pending = False                         # whether nobody has applied yet the gradient of the last ReLU
        for k, layer in enumerate(layers):
            wires = Wires(x, x, lanes, dx, dx, parameters[k], relu_after=k + 1 < len(layers) and fused[k + 1])
            if fused[k]:
                pending = True
            else:
                reader = next((other for other in unfused if other > k), None)
                border, beside = (padding[reader], gradient[reader][0]) if reader else ((0, 0, 0, 0), (0, 0))
                beside = [max(pair) for pair in zip(gradient[k][1], beside, strict=True)]
                dense = reader is not None and isinstance(layers[reader], Flatten)
                self._outputs(wires, layer, shapes[k + 1], border, (0, 0, *beside) if backward else None, dense)
                if pending and layer.masks_relu:
                    wires.relu_before, pending = True, False
                elif pending and not isinstance(layer, Flatten):
                    self._mask(Wires(x, x, lanes, dx, dx))
                    pending = False
                layer.calls(wires)
                self._keep(wires)
            x, dx = wires.y, wires.dy
        if pending:
            self._mask(Wires(x, x, lanes, dx, dx))
        self.z, self.dz = x, dx

    def _outputs(self, wires, layer, shape, border, gradient_border, dense):
        """Make y with the border that the next layer reads, and dy with the border that either of them needs."""
        if isinstance(layer, Flatten):
            wires.y = wires.x.flat()
            if gradient_border:
                plain = wires.dx is not None and not any(wires.dx.border)
                wires.dy = wires.dx.flat() if plain else Buffer(self.blocks, shape)
        else:
            wires.y = Buffer(self.blocks, shape, border, dense)
            if gradient_border:
                wires.dy = Buffer(self.blocks, shape, gradient_border, dense)

    def _mask(self, wires):
        if wires.dx is not None:
            ReLU().mask_calls(wires)
            self._keep(wires)

    def _keep(self, wires):
        self.prepare_calls += wires.prepare
        self.forward_calls += wires.forward
        self.backward_calls[:0] = wires.backward
        self.gradient_calls += wires.gradients

    def programs(self):
        """(forward pass, backward pass with all gradients)"""
        return (Program(at_once(self.prepare_calls) + in_order(self.forward_calls)),
                Program(in_order(self.backward_calls) + at_once(self.gradient_calls)))


def infer_shapes(layers, shape):
    """The input shape of each layer and the output shape of the last, of one image.

    Raises InputError, naming the layer, when two layers cannot meet.
    """
    shapes = [tuple(shape)]
    for k, layer in enumerate(layers):
        try:
            shapes.append(tuple(layer.output_shape(shapes[-1])))
        except InputError as error:
            raise InputError(f"layer {k}: {error}") from None
    return shapes
