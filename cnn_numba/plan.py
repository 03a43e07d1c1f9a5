"""The buffers of a network for a number of image blocks, and the kernel calls that run on them."""
import math

import numpy as np

from cnn_numba.kernels.lanes import LANES, aligned, planes
from cnn_numba.kernels.program import Program, at_once, in_order
from cnn_numba.layers import ReLU, Wires, below, infer_shapes


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
    tensors : list of dict
        Of each layer: {name: Parameter}, what is trained and what is collected.
    shapes : list of tuple
        Of one image: the input of each layer and the output of the last.
    blocks : int
    backward, input_gradient : bool
        Whether gradients are computed, and whether down to the images.
    lanes : int
        How many lanes of each block can hold an image: fewer than LANES when all images are fewer.
    training : bool
        Whether the layers behave as in a training.
    window, draw : int64 arrays (first, count) and (seed, pass), optional
        Which images the batch has, and from what random numbers derive (see `layers.Wires`); made when missing.

    Attributes
    ----------
    layer_calls : list of (name, Layer, Wires)
        Of every layer, also of those inside of others, with its kernel calls; the name is that in `state_dict`.
    indices : Buffer or None
        Where the maxima of z stand, when the last layer tells that too.
    """

    def __init__(self, layers, tensors, shapes, blocks, backward=True, input_gradient=True, lanes=LANES, training=True,
                 window=None, draw=None):
        self.blocks, self.shapes, self.lanes, self.training, self.backward = blocks, shapes, lanes, training, backward
        self.window = np.array([0, blocks * LANES]) if window is None else window
        self.draw = np.zeros(2, np.int64) if draw is None else draw
        self.prepare_calls, self.forward_calls, self.backward_calls, self.gradient_calls = [], [], [], []
        self.layer_calls, self.indices = [], None
        border, beside, dense = _needs(layers[0], shapes[0])
        self.x = Buffer(blocks, shapes[0], border, dense)
        self.dx = Buffer(blocks, shapes[0], (0, 0, *beside), dense) if backward and input_gradient else None
        self.z, self.dz = self._chain("", layers, tensors, shapes, self.x, self.dx)

    def _chain(self, prefix, layers, tensors, shapes, x, dx, end=None):
        """Lay out layers that run one after the other; returns their output and its gradient.

        end : these two, when they are there already.  Other layers read the gradient, so that no ReLU may change it.
        """
        last = len(layers) - 1
        fused = [isinstance(layer, ReLU) and k > 0 and layers[k - 1].applies_relu and (end is None or k < last)
                 for k, layer in enumerate(layers)]
        pending = None                          # the last ReLU, as long as nobody has applied its gradient
        for k, layer in enumerate(layers):
            wires = Wires(x, x, self.lanes, dx, dx, tensors[k], self.training, self.window, self.draw,
                          len(self.layer_calls), relu_after=k < last and fused[k + 1])
            self.layer_calls.append((f"{prefix}{k}", layer, wires))
            if fused[k]:
                pending = wires
                continue
            if end and k == last:
                wires.y, wires.dy = end
            else:
                reader = next((j for j in range(k + 1, len(layers)) if not fused[j]), None)
                self._outputs(wires, layer, shapes[k + 1], layer.gradient_sides(shapes[k])[1],
                              ((0,) * 4, (0, 0), False) if reader is None else _needs(layers[reader], shapes[reader]))
            if pending and layer.masks_relu:
                wires.relu_before, pending = True, None
            elif pending and not layer.reshapes:
                self._mask(pending, x, dx)
                pending = None
            if layer.gives_indices and k == last and not prefix:
                wires.indices = self.indices = Buffer(self.blocks, wires.y.shape)
            self._calls(f"{prefix}{k}.", layer, wires, tensors[k])
            x, dx = wires.y, wires.dy
        if pending:
            self._mask(pending, x, dx)
        return x, dx

    def _outputs(self, wires, layer, shape, own, needs):
        """Make y with the border that the next layer reads, and dy with the columns beside it that either needs."""
        border, beside, dense = needs
        gradient_border = (0, 0, *map(max, own, beside))
        if layer.reshapes:
            wires.y = wires.x.flat()
            if self.backward:
                plain = wires.dx is not None and not any(wires.dx.border)
                wires.dy = wires.dx.flat() if plain else Buffer(self.blocks, shape)
        else:
            wires.y = Buffer(self.blocks, shape, border, dense)
            wires.dy = Buffer(self.blocks, shape, gradient_border, dense) if self.backward else None

    def _calls(self, prefix, layer, wires, tensors):
        """The calls of a layer and of those inside of it, whose forward pass is before its own, and backward after."""
        ends = layer.branch_ends(wires, Buffer) if layer.branches else ()
        layer.calls(wires, *ends)
        self.prepare_calls += wires.prepare
        self.backward_calls[:0] = wires.backward
        self.gradient_calls += wires.gradients
        for (name, layers), (dx, z) in zip(layer.branches.items(), ends, strict=True):
            if layers:
                parts = [below(f"{name}.{k}.", tensors) for k in range(len(layers))]
                self._chain(f"{prefix}{name}.", layers, parts, infer_shapes(layers, wires.x.shape), wires.x, dx,
                            (z, wires.dy))
        self.forward_calls += wires.forward

    def _mask(self, relu, x, dx):
        if dx is not None:
            relu.x, relu.y, relu.dx, relu.dy = x, x, dx, dx
            ReLU().mask_calls(relu)
            self.backward_calls[:0] = relu.backward

    def programs(self):
        """(forward pass, backward pass with all gradients)"""
        return (Program(at_once(self.prepare_calls) + in_order(self.forward_calls)),
                Program(in_order(self.backward_calls) + at_once(self.gradient_calls)))


def _needs(layer, shape):
    """What a layer needs of its input: border of zeros, columns beside the gradient, whether without gaps."""
    return layer.padding_sides(), layer.gradient_sides(shape)[0], layer.reshapes
