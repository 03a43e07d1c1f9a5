"""Convolutions and dense layers with factors rounded to bf16: their buffers and calls (see `kernels.conv_bf16`)."""
import math

import numpy as np

from cnn_numba.kernels import conv_bf16, dense
from cnn_numba.kernels.lanes import LANES, aligned
from cnn_numba.kernels.matrix import Tiles
from cnn_numba.kernels.program import Call, Pieces

LEAST = 16              # channels and filters from which on tiles are filled well enough to beat float32
GAIN_CONV, GAIN_DENSE = 1 << 11, 1 << 15    # weights from which on vdpbf16ps saves more than the conversions cost
ROWS = 16               # of a tile
APART = dict(after_all=True, apart=True)        # an item of a dense layer reads all images


def suits(bf16, channels, filters, groups=1, gains=True):
    """Whether a layer runs on the unit; small and grouped layers stay in float32.

    gains : whether it is among those that gain from vdpbf16ps, too
    """
    return bf16 is not None and groups == 1 and min(channels, filters) >= LEAST and (gains or bf16.everywhere)


class _Product:
    """The blocks of tiles for sums over `depth` channels, for `size` filters and so many columns."""

    def __init__(self, bf16, size, depth, columns):
        cols = min(columns, 2)
        self.T = Tiles(4 if cols == 1 and size >= 4 * ROWS else 2, cols, bf16.unit)
        self.items = math.ceil(size / (self.T.rows * ROWS))
        self.rows = math.ceil(size / (self.items * self.T.rows))
        self.down = min(self.rows, (size - self.rows) // (self.T.rows - 1))
        chunks = math.ceil(depth / (2 * ROWS))
        self.pairs = math.ceil(depth / (2 * chunks))
        self.depth = chunks * self.pairs            # pairs with padding

    def sizes(self):
        return dict(rows=self.rows, down=self.down, pairs=self.pairs, T=self.T)

    def pieces(self, blocks, most):
        """Items that are ranges of the blocks of tiles, at most so many for a block of images."""
        return Pieces(blocks, min(most, self.items), self.items)


def _pairs(depth):
    """Room for the pairs of so many channels, with the padding of products and of transposes of 16 channels."""
    chunks = math.ceil(depth / (2 * ROWS))
    return 8 * math.ceil(chunks * math.ceil(depth / (2 * chunks)) / 8)


def _weights(wires, product, weight, parts):
    """The left factor of the forward pass (kernel rows, columns, filters, pairs of channels), new in each step."""
    filters, _, *window = weight.shape
    u = aligned((*window, filters, parts * product.depth), np.uint32)
    wires.prepare.append(Call(conv_bf16.bf16_weights, filters, u=u, weight=weight, parts=parts))
    return u


def _exchanged_weights(wires, product, weight, parts):
    """The left factor of the gradient of the input (kernel rows, columns, channels, pairs of filters)."""
    filters, *each = weight.shape
    matrix = weight.reshape(filters, -1)
    u = aligned((matrix.shape[1], parts * product.depth), np.uint32)
    wires.prepare.append(Call(conv_bf16.bf16_exchanged_weights, math.ceil(matrix.shape[1] / LANES), u=u, weight=matrix,
                              parts=parts))
    return np.moveaxis(u.reshape(*each, -1), 0, 2)


def _start(wires, filters):
    """What the sums of the forward pass begin with: the bias, for every image."""
    start, bias = aligned((filters, LANES)), wires.parameters.get("bias")
    if bias:
        wires.prepare.append(Call(conv_bf16.bf16_bias, filters, start=start, bias=bias.value))
    return start


def _weight_gradient(product, pieces, dweight, g, t, kernel, window, parts):
    scratch = aligned((pieces.blocks * pieces.each, 2, ROWS * product.T.rows, LANES))
    return Call(conv_bf16.bf16_backward_weight, pieces, dweight=dweight, g=g, t=t, scratch=scratch,
                kernel_rows=kernel[0], kernel_cols=kernel[1], **window, rows=product.rows, down=product.down,
                parts=parts, pieces=pieces.each, T=product.T)


def conv_calls(layer, wires, per_block):
    """The calls of a Conv2d, but for the gradient of its bias.

    per_block(parameter) : the array for the gradients of each block
    """
    bf16, weight, most = wires.setup.bf16, wires.parameters["weight"], wires.setup.pieces
    x, y, dx, dy, blocks, parts = wires.x, wires.y, wires.dx, wires.dy, wires.blocks, wires.setup.bf16.parts
    filters, channels, *kernel = weight.value.shape
    (_, out_rows, out_cols), sides = y.shape, layer.padding_sides()
    (_, high, wide), (stride_h, stride_w), (dilation_h, dilation_w) = x.shape, layer.stride, layer.dilation
    window = dict(stride_h=stride_h, stride_w=stride_w, dilation_h=dilation_h, dilation_w=dilation_w)
    high, wide = high + sides[0] + sides[1], wide + sides[2] + sides[3]
    v = aligned((blocks, high, wide, parts * _pairs(channels), LANES), np.uint32)
    product = _Product(bf16, filters, channels, out_cols)
    pieces = product.pieces(blocks, most)
    wires.forward += [
        Call(conv_bf16.bf16_pixels, blocks, v=v, x=x.padded(*sides), parts=parts),
        Call(conv_bf16.bf16_forward, pieces, y=y.inner, u=_weights(wires, product, weight.value, parts), v=v,
             start=_start(wires, filters), **window, **product.sizes(), parts=parts, relu=int(wires.relu_after),
             pieces=pieces.each)]
    if dy is None or (dx is None and not weight.requires_grad):
        return
    d = aligned((blocks, out_rows, out_cols + 2, parts * _pairs(filters), LANES), np.uint32)
    inner = d[:, :, 1:-1]
    wires.backward.append(Call(conv_bf16.bf16_pixels, blocks, v=inner, x=dy.inner, parts=parts))
    if dx is not None:
        product = _Product(bf16, channels, filters, x.shape[2])
        pieces = product.pieces(blocks, most)
        wires.backward.append(Call(
            conv_bf16.bf16_backward_input, pieces, dx=dx.inner,
            u=_exchanged_weights(wires, product, weight.value, parts), d=d, x=x.inner, **window, top=sides[0],
            left=sides[2], margin=1, **product.sizes(), parts=parts, relu=int(wires.relu_before), pieces=pieces.each))
    if weight.requires_grad:
        groups, even = math.ceil(channels / ROWS), out_cols + out_cols % 2
        product = _Product(bf16, filters, LANES, groups * math.prod(kernel))
        # an odd number of cache lines between the filters, so that a tile spreads over the sets of the cache
        g = aligned((blocks, parts, out_rows, 2 * _pairs(filters), even + 2 * (even // 2 % 2 == 0), 8), np.uint32)
        columns = even + (kernel[1] - 1) * dilation_w // stride_w
        t = aligned((blocks, parts, groups, high, stride_w, columns, 8, LANES), np.uint32)
        wires.backward += [*_images(blocks, g[..., :even, :], inner, t, v, stride_w, parts), _weight_gradient(
            product, product.pieces(blocks, most), per_block(weight).reshape(blocks, filters, -1), g[..., :even, :], t,
            kernel, window, parts)]


def _images(blocks, g, d, t, v, stride_w, parts):
    """The calls that bring both factors of the gradient of the weights into pairs of images."""
    return [Call(conv_bf16.bf16_gradient_images, blocks, g=g, d=d, parts=parts),
            Call(conv_bf16.bf16_input_images, blocks, t=t, v=v, stride_w=stride_w, parts=parts)]


def linear_calls(wires):
    """The calls of a Linear."""
    bf16, weight, parts = wires.setup.bf16, wires.parameters["weight"], wires.setup.bf16.parts
    x, y, dx, dy = (buffer and buffer.array for buffer in (wires.x, wires.y, wires.dx, wires.dy))
    blocks, (units, features) = wires.blocks, weight.value.shape
    matrix = weight.value[..., None, None]
    v = aligned((blocks, parts * _pairs(features), LANES), np.uint32)
    product = _Product(bf16, units, features, blocks)
    wires.forward += [
        Call(conv_bf16.bf16_pixels, blocks, v=v[:, None, None], x=x[:, :, None, None], parts=parts),
        Call(conv_bf16.bf16_linear_forward, product.items, y=y, u=_weights(wires, product, matrix, parts)[0, 0], v=v,
             start=_start(wires, units), **product.sizes(), parts=parts, relu=int(wires.relu_after), **APART)]
    bias = wires.parameters.get("bias")
    if dy is not None and bias and bias.requires_grad:
        wires.gradients.append(Call(dense.linear_backward_bias, units, dbias=bias.grad, dy=dy))
    if dy is None or (dx is None and not weight.requires_grad):
        return
    d = aligned((blocks, parts * _pairs(units), LANES), np.uint32)
    wires.backward.append(Call(conv_bf16.bf16_pixels, blocks, v=d[:, None, None], x=dy[:, :, None, None], parts=parts))
    if dx is not None:
        product = _Product(bf16, features, units, blocks)
        wires.backward.append(Call(
            conv_bf16.bf16_linear_backward_input, product.items, dx=dx,
            u=_exchanged_weights(wires, product, matrix, parts)[0, 0], d=d, x=x, **product.sizes(), parts=parts,
            relu=int(wires.relu_before), **APART))
    if weight.requires_grad:
        groups, even = math.ceil(features / ROWS), blocks + blocks % 2
        product = _Product(bf16, units, LANES, groups)
        g = aligned((parts, 2 * _pairs(units), even, 8), np.uint32)
        t = aligned((parts, groups, even, 8, LANES), np.uint32)
        of_blocks = (np.moveaxis(g, 2, 0)[:blocks, :, None, :, None],       # a block is an image of one pixel ...
                     np.moveaxis(t, 2, 0)[:blocks, :, :, None, None, None])
        wires.backward += _images(blocks, of_blocks[0], d[:, None, None], of_blocks[1], v[:, None, None], 1, parts)
        wires.gradients.append(_weight_gradient(                            # ... and a pixel of one image
            product, product.pieces(1, product.items), weight.grad[None], g[None, :, None], t[None, :, :, None, None],
            (1, 1), dict(stride_h=1, stride_w=1, dilation_h=1, dilation_w=1), parts))
