"""Convolution."""
import math

import numpy as np
from numpy.lib.stride_tricks import as_strided

from cnn_numba.buffer import Buffer
from cnn_numba.errors import InputError, truth_value, whole_number
from cnn_numba.init import init_name
from cnn_numba.kernels import activation, conv, conv_toom, conv_toom2d, resize, strips
from cnn_numba.kernels import shape as shape_kernels
from cnn_numba.kernels.lanes import LANES, REGISTERS, Tile, aligned, fit, planes
from cnn_numba.kernels.program import Call, PerWorker
from cnn_numba.kernels.toom import Toom, toom
from cnn_numba.layers import bf16
from cnn_numba.layers.base import WIDE, Biased, Layer, Setup, Shape, Sides, Wires, image_shape, pair, shape_text
from cnn_numba.layers.windows import windows

__all__ = ["Conv2d", "ConvTranspose2d"]

# Outputs m of the Cook-Toom products F(m, taps) in use; larger m round more (F(8,3): 1.4e-5 with 128 channels)
TOOM = {3: (4,), 5: (4, 5)}
DOWN = {3: (1, 2, 4), 5: (1, 2)}            # along the columns of pixels, of products along both axes
ALONG = {3: (1, 2, 4), 5: (1, 2, 4)}        # along the rows, of the same
LEAST_CHANNELS = {3: 4, 5: 16}              # for which products along both axes gain, by taps
LEAST_DEPTH, LEAST_WEIGHTS = 32, 2048       # channels, filters; their product: gradients of weights by such products
LEAST_WINDOW = 64       # weights of a filter from which on the direct kernel does so, where registers are few ...
LINES = 32              # ... for so many pixels at a time
PANEL = 4 if WIDE else 2        # tiles whose transforms lie side by side
CHUNK = 1 << 22         # numbers in the windows that the textbook convolution multiplies at a time: 32 MB


class Conv2d(Biased, Layer):
    """Two-dimensional cross-correlation, as `torch.nn.Conv2d`.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size, stride, dilation : int or (rows, columns)
    padding : int, (rows, columns), "same" (stride 1 only) or "valid"
        Zeros at each side of the input; "same" keeps its size, with an odd row or column at the bottom or right.
    groups : int
        Must divide both numbers of channels; filter group g reads channel group g only.
    bias : bool
    init : str, optional
        Weight initialisation, one of `init.INITS`; default: that of the model.

    Shapes
    ------
    (in_channels, H, W) -> (out_channels, (H + padding - dilation * (kernel_size - 1) - 1) // stride + 1, ...);
    weight (out_channels, in_channels // groups, kernel rows, kernel columns), bias (out_channels,).

    Raises InputError (a ValueError) when an argument is out of range.
    """

    applies_relu = masks_relu = True
    aliases = "Conv", "Convolution", "Convolution2d"

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True,
                 init=None):
        self.in_channels = whole_number("Conv2d", "in_channels", in_channels)
        self.out_channels = whole_number("Conv2d", "out_channels", out_channels)
        self.kernel_size = pair("Conv2d", "kernel_size", kernel_size)
        self.stride = pair("Conv2d", "stride", stride)
        self.dilation = pair("Conv2d", "dilation", dilation)
        self.groups = whole_number("Conv2d", "groups", groups)
        self.has_bias = truth_value("Conv2d", "bias", bias)
        self.init = None if init is None else init_name("Conv2d", init)
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise InputError(f"Conv2d: groups={groups} must divide in_channels={in_channels} and "
                             f"out_channels={out_channels}")
        self.padding = padding if isinstance(padding, str) else pair("Conv2d", "padding", padding, 0)
        if isinstance(padding, str) and padding not in ("same", "valid"):
            raise InputError(f"Conv2d: padding must be a number, a pair, 'same' or 'valid', got {padding!r}")
        if padding == "same" and self.stride != (1, 1):
            raise InputError(f"Conv2d: padding='same' needs stride 1, got {stride!r}")

    def padding_sides(self) -> Sides:
        if self.padding == "valid":
            return 0, 0, 0, 0
        if self.padding == "same":
            both = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            return both[0] // 2, both[0] - both[0] // 2, both[1] // 2, both[1] - both[1] // 2
        rows, cols = self.padding
        return rows, rows, cols, cols

    def output_shape(self, shape: Shape) -> Shape:
        channels, *size = image_shape("Conv2d", shape)
        if channels != self.in_channels:
            raise InputError(f"Conv2d expects {self.in_channels} channels, got {channels} ({shape_text(shape)})")
        top, bottom, left, right = self.padding_sides()
        padded = size[0] + top + bottom, size[1] + left + right
        extent = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        if padded[0] < extent[0] or padded[1] < extent[1]:
            raise InputError(f"Conv2d with a {shape_text(extent)} window does not fit on an image of "
                             f"{shape_text(size)} with padding {self.padding}")
        return self.out_channels, *((p - e) // s + 1 for p, e, s in zip(padded, extent, self.stride, strict=True))

    def parameter_shapes(self) -> dict[str, Shape]:
        shapes = {"weight": (self.out_channels, self.in_channels // self.groups, *self.kernel_size)}
        return shapes | ({"bias": (self.out_channels,)} if self.has_bias else {})

    def toom(self, shape: Shape, setup: Setup) -> tuple[Toom | None, Toom] | None:
        """(along the columns, along the rows): the Cook-Toom products with the fewest multiplications for an input
        shape; the first is None where only rows gain.  None: a direct convolution."""
        if setup.textbook or self.stride != (1, 1) or self.dilation != (1, 1) or self.groups != 1:
            return None
        outputs = self.output_shape(shape)[1:]
        if min(self.in_channels, self.out_channels) >= max(LEAST_CHANNELS.get(taps, 1) for taps in self.kernel_size):
            both = _along_both(self.kernel_size, outputs)
            if all(both) and min(self._sides_of_dy()) >= 0:
                return both
        wide = _fewest(TOOM, self.kernel_size[1], outputs[1])
        return (None, wide) if wide and self.out_channels >= 4 else None

    def on_unit(self, shape: Shape, setup: Setup) -> bool:
        weights = self.in_channels * self.out_channels * math.prod(self.kernel_size)
        return bf16.suits(setup.bf16, self.in_channels, self.out_channels, self.groups,
                          gains=self.toom(shape, setup) is None and weights >= bf16.GAIN_CONV)

    def _along_both(self, shape, setup):
        """Whether the layer runs by products along both axes, in float32."""
        rows, _ = self.toom(shape, setup) or (None, None)
        return rows is not None and not self.on_unit(shape, setup)

    def _weights_by_products(self, rows):
        """Whether the gradient of the weights is of Cook-Toom products, too (along both axes with `rows`).

        Each transform goes to memory and back, which pays when it serves many products; the direct loops read the
        images and the gradient of y as they are.
        """
        if not rows:
            return self.in_channels > 2 and self.kernel_size[1] > 3
        least = min(self.in_channels, self.out_channels)
        return least >= LEAST_DEPTH and self.in_channels * self.out_channels >= LEAST_WEIGHTS

    def _sides_of_dy(self) -> Sides:
        """The padding with which dx is the convolution of dy with the flipped weights."""
        top, bottom, left, right = self.padding_sides()
        rows, cols = self.kernel_size
        return rows - 1 - top, rows - 1 - bottom, cols - 1 - left, cols - 1 - right

    def gradient_sides(self, shape: Shape, setup: Setup) -> tuple[Sides, Sides]:
        none = 0, 0, 0, 0
        if self.on_unit(shape, setup):
            return none, none
        if self._along_both(shape, setup):
            return none, self._sides_of_dy()
        if self.toom(shape, setup):
            return (0, 0, *self.padding_sides()[2:]), none
        margin = _input_tile(self, shape, self.in_channels).cols - 1
        return none, (0, 0, margin, margin)

    def adds_to_dx(self, shape: Shape, setup: Setup) -> bool:
        return setup.lanes == LANES and self._along_both(shape, setup)

    def calls(self, wires: Wires) -> None:
        most = LANES // wires.setup.lanes
        if most > 1 and wires.y.shape[1] > 1:
            self._calls_in_strips(wires, most)
        else:
            self._calls(wires)

    def _calls_in_strips(self, wires, most):
        """The calls for so few images that the lanes hold up to `most` strips of rows of each; see `kernels.strips`."""
        _, rows, cols = wires.y.shape
        high = math.ceil(rows / most)
        count = math.ceil(rows / high)
        top, bottom, left, right = sides = self.padding_sides()
        inner = Conv2d(self.in_channels, self.out_channels, self.kernel_size, self.stride, 0, self.dilation,
                       self.groups, self.has_bias)
        step = high * self.stride[0]
        shape = (self.in_channels, step + self.dilation[0] * (self.kernel_size[0] - 1) - self.stride[0] + 1,
                 wires.x.shape[2] + left + right)
        along_both = self._along_both(wires.x.shape, wires.setup)
        of_dx, of_dy = inner.gradient_sides(shape, wires.setup)
        x, y = Buffer(1, shape, inner.padding_sides()), Buffer(1, (self.out_channels, high, cols))
        dx = None if wires.dx is None or along_both else Buffer(1, shape, of_dx)
        dy = wires.dy and Buffer(1, y.shape, of_dy)
        of_strips = Wires(x=x, y=y, dx=dx, dy=dy, parameters=wires.parameters, setup=wires.setup, index=wires.index,
                          relu_after=wires.relu_after, relu_before=wires.relu_before)
        inner._calls(of_strips)
        wires.prepare += of_strips.prepare
        wires.gradients += of_strips.gradients
        wires.forward += [
            _rows_call(strips.split_rows, wires, wires.x.padded(*sides), x.inner, step, count),
            *of_strips.forward,
            _rows_call(strips.join_rows, wires, wires.y.inner, y.inner, high, count, top=0)]
        if of_strips.backward:
            wires.backward += [
                _rows_call(strips.split_rows, wires, wires.dy.inner, dy.inner, high, count), *of_strips.backward]
        if dx is not None:
            wires.backward.append(_rows_call(
                strips.join_rows, wires, wires.dx.inner, dx.inner[:, :, :, left:left + wires.x.shape[2]], step, count,
                top=top))
        elif wires.dx is not None:
            self._dx_in_strips(wires, most)

    def _dx_in_strips(self, wires, most):
        """The calls for dx, the convolution of dy with flipped weights, in strips of its own rows."""
        channels, rows, cols = wires.x.shape
        high = math.ceil(rows / most)
        count = math.ceil(rows / high)
        weight = _flipped(wires.parameters["weight"].value)
        dx = Buffer(1, (channels, high, cols))
        dy = Buffer(1, (self.out_channels, high + weight.shape[2] - 1, cols + weight.shape[3] - 1))
        wires.backward += [
            _rows_call(strips.split_rows, wires, wires.dy.padded(*self._sides_of_dy()), dy.inner, high, count),
            _toom2d_convolution(wires, dx.inner, dy.inner, weight),
            _rows_call(strips.join_rows, wires, wires.dx.inner, dx.inner, high, count, top=0)]
        if wires.relu_before:
            wires.backward.append(Call(
                activation.relu_backward, wires.pieces(channels), dx=wires.dx.inner, dy=wires.dx.inner, y=wires.x.inner,
                cut=dict(dx=1, dy=1, y=1)))

    def _calls(self, wires):
        if wires.dy is not None and self.has_bias and wires.parameters["bias"].requires_grad:
            wires.backward.append(_bias_gradient(wires))
        rows, cols = self.toom(wires.x.shape, wires.setup) or (None, None)
        if self.on_unit(wires.x.shape, wires.setup):
            bf16.conv_calls(self, wires, lambda parameter: _per_block(wires, parameter))
            return
        weight = wires.parameters["weight"]
        trained = wires.dy is not None and weight.requires_grad
        by_products = trained and cols is not None and self._weights_by_products(rows)
        if trained and not by_products:
            wires.backward.append(_weight_gradient(
                self, wires, weight, wires.dy.inner, wires.x.padded(*self.padding_sides())))
        if rows:
            self._toom2d_calls(wires, rows, cols, by_products)
        elif cols:
            self._toom_calls(wires, cols, by_products)
        else:
            self._direct_calls(wires)

    def _bias(self, wires):
        return wires.parameters["bias"].value if self.has_bias else aligned(self.out_channels)

    def _direct_calls(self, wires):
        x, y, dx, dy, weight = wires.x, wires.y, wires.dx, wires.dy, wires.parameters["weight"]
        wires.forward.append(_forward(
            self, wires, y.inner, x.padded(*self.padding_sides()), weight.value, self._bias(wires),
            wires.relu_after))
        if dy is not None and dx is not None:
            tile = _input_tile(self, x.shape, self.in_channels)
            top, _, left, _ = self.padding_sides()
            margin = tile.cols - 1
            wires.backward.append(_input_gradient(
                self, wires, dx.inner, dy.padded(0, 0, margin, margin), weight.value, wires.masked.inner, top, left,
                margin, wires.relu_before, tile))

    def _toom_calls(self, wires, toom, by_products):
        x, y, dx, dy, weight = wires.x, wires.y, wires.dx, wires.dy, wires.parameters["weight"]
        top, bottom, left, right = self.padding_sides()
        filters, channels, kernel_rows, _ = weight.value.shape
        tiles = math.ceil(y.shape[2] / toom.m)
        most = 30 // toom.n if WIDE else 1
        u = aligned((filters, channels, kernel_rows, toom.n))
        v = wires.reusable(planes(x.blocks, channels, x.shape[1] + top + bottom, tiles, toom.n))
        tile, of_channels = Tile(fit(filters, most), toom.n), wires.pieces(channels)
        of_filters = wires.pieces(filters, tile.rows, whole=True)
        wires.prepare.append(Call(conv_toom.toom_weights, filters, u=u, weight=weight.value, taps=toom.taps,
                                  T=Tile(fit(kernel_rows, 8), 1)))
        wires.forward += [
            Call(conv_toom.toom_input, of_channels, v=v, x=x.padded(top, bottom, left, right), toom=toom,
                 cut=dict(v=1, x=1)),
            Call(conv_toom.toom_forward, of_filters, y=y.inner, u=u, v=v, bias=self._bias(wires),
                 relu=int(wires.relu_after), toom=toom, T=tile, cut=dict(y=1, u=0, bias=0))]
        if dy is None or (dx is None and not by_products):
            return
        d = wires.reusable(planes(x.blocks, *y.shape[:2], tiles, toom.n))
        of_filters = wires.pieces(filters)
        wires.backward.append(Call(
            conv_toom.toom_gradient, of_filters, d=d, dy=dy.inner, toom=toom, cut=dict(d=1, dy=1)))
        if by_products:
            tile = Tile(fit(filters, max(1, 24 // kernel_rows if WIDE else 5 // kernel_rows)), kernel_rows)
            sums = PerWorker((toom.n, math.ceil(tile.rows * tile.cols / LANES), LANES))
            of_filters = wires.pieces(filters, tile.rows)
            wires.backward.append(Call(
                conv_toom.toom_backward_weight, of_filters, dweight=_per_block(wires, weight), d=d, v=v, sums=sums,
                toom=toom, T=tile, cut=dict(dweight=1, d=1)))
        if dx is not None:
            tile = Tile(fit(channels, most), toom.n)
            of_channels = wires.pieces(channels, tile.rows, whole=True)
            wires.backward.append(Call(
                conv_toom.toom_backward_input, of_channels, dx=dx.padded(0, 0, left, right), u=u, d=d,
                x=wires.masked.inner, top=top, left=left, relu=int(wires.relu_before), toom=toom, T=tile,
                cut=dict(dx=1, u=1, x=1)))

    def _toom2d_calls(self, wires, rows, cols, by_products):
        x, y, dx, dy, weight = wires.x, wires.y, wires.dx, wires.dy, wires.parameters["weight"]
        filters, channels = self.out_channels, self.in_channels
        high, wide = math.ceil(y.shape[1] / rows.m), math.ceil(y.shape[2] / cols.m)
        panels, points, v = math.ceil(high * wide / PANEL), rows.n * cols.n, None

        def transforms(channels):
            array = planes(x.blocks * panels, points, channels, PANEL)
            return wires.reusable(array.reshape(x.blocks, panels, *array.shape[1:]))

        if by_products:
            v = transforms(channels)
        wires.forward.append(_toom2d_convolution(
            wires, y.inner, x.padded(*self.padding_sides()), weight.value, v, bias=self._bias(wires),
            relu=int(wires.relu_after)))
        if by_products:
            d, vectors = transforms(filters), math.ceil(filters / LANES)
            sums = planes(x.blocks, points, channels, vectors)
            sums = sums.reshape(x.blocks, rows.n, cols.n, channels, vectors, LANES)
            tiled = dict(high=high, wide=wide, rows=rows, cols=cols)
            of_panels, of_points = wires.parts(panels), wires.parts(points)
            wires.backward += [
                Call(conv_toom2d.toom2d_gradient, of_panels, d=d, dy=dy.inner, pieces=of_panels.each, **tiled),
                Call(conv_toom2d.toom2d_backward_weight, of_points, sums=sums, d=d, v=v,
                     lines=wires.scratch((high * wide * LANES, vectors, LANES)), pieces=of_points.each,
                     S=Tile(1, PANEL, PANEL * LANES),
                     T=Tile(fit(channels, 12), 2) if WIDE else Tile(fit(channels, 5), 1), **tiled)]
            wires.gradients.append(Call(
                conv_toom2d.toom2d_weight_gradient, channels, dweight=weight.grad, sums=sums, rows=rows, cols=cols))
        if dy is not None and dx is not None:
            wires.backward.append(_toom2d_convolution(
                wires, dx.inner, dy.padded(*self._sides_of_dy()), _flipped(weight.value),
                positive=wires.masked.inner, masks=int(wires.relu_before), adds=int(wires.adds)))

    def textbook(self, x, parameters, run):
        weight, groups = parameters["weight"], self.groups
        filters, rows, cols = self.output_shape(x.shape[1:])
        matrix = weight.reshape(groups, filters // groups, -1)
        y = np.empty((len(x), filters, rows, cols), x.dtype)
        count = max(1, CHUNK // (rows * cols * weight[0].size * groups))
        for first in range(0, len(x), count):
            seen = windows(x[first:first + count], self, self.padding_sides(), rows, cols)
            n = len(seen)
            columns = seen.transpose(0, 1, 4, 5, 2, 3).reshape(n, groups, -1, rows * cols)
            y[first:first + n] = (matrix @ columns).reshape(n, filters, rows, cols)
        return y + parameters["bias"][:, None, None] if self.has_bias else y

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != (0, 0):
            text += f", padding={self.padding}"
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        return text if self.has_bias else text + ", bias=False"


class ConvTranspose2d(Biased, Layer):
    """Transposed convolution, as `torch.nn.ConvTranspose2d`: the gradient of the input of a Conv2d with these arguments
    and exchanged numbers of channels.  It makes images larger.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size, stride, dilation : int or (rows, columns)
    padding : int or (rows, columns)
        Rows and columns of the result that are left out at each side.
    output_padding : int or (rows, columns)
        Rows and columns that are added at the bottom and right; less than the stride or the dilation.
    groups : int
        Must divide both numbers of channels.
    bias : bool
    init : str, optional
        Weight initialisation, one of `init.INITS`; default: that of the model.

    Shapes
    ------
    (in_channels, H, W) -> (out_channels, (H - 1) * stride - 2 * padding + dilation * (kernel_size - 1) + output_padding
    + 1, ...); weight (in_channels, out_channels // groups, kernel rows, kernel columns), bias (out_channels,).

    Raises InputError (a ValueError) when an argument is out of range.
    """

    aliases = "Deconv2d", "Conv2dTranspose"

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, output_padding=0, groups=1,
                 bias=True, dilation=1, init=None):
        name = "ConvTranspose2d"
        self.in_channels = whole_number(name, "in_channels", in_channels)
        self.out_channels = whole_number(name, "out_channels", out_channels)
        self.kernel_size, self.stride = pair(name, "kernel_size", kernel_size), pair(name, "stride", stride)
        self.padding, self.dilation = pair(name, "padding", padding, 0), pair(name, "dilation", dilation)
        self.output_padding = pair(name, "output_padding", output_padding, 0)
        self.groups = whole_number(name, "groups", groups)
        self.has_bias = truth_value(name, "bias", bias)
        self.init = None if init is None else init_name(name, init)
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise InputError(f"{name}: groups={groups} must divide in_channels={in_channels} and "
                             f"out_channels={out_channels}")
        if any(more >= max(s, d) for more, s, d in zip(self.output_padding, self.stride, self.dilation, strict=True)):
            raise InputError(f"{name}: output_padding must be less than the stride or the dilation, got "
                             f"{output_padding!r}")

    def output_shape(self, shape: Shape) -> Shape:
        channels, *size = image_shape("ConvTranspose2d", shape)
        if channels != self.in_channels:
            raise InputError(f"ConvTranspose2d expects {self.in_channels} channels, got {channels} "
                             f"({shape_text(shape)})")
        after = [(n - 1) * s - 2 * p + d * (k - 1) + more + 1 for n, s, p, d, k, more in zip(
            size, self.stride, self.padding, self.dilation, self.kernel_size, self.output_padding, strict=True)]
        if min(after) < 1:
            raise InputError(f"ConvTranspose2d with padding {self.padding} leaves nothing of an image of "
                             f"{shape_text(size)}")
        return self.out_channels, *after

    def parameter_shapes(self) -> dict[str, Shape]:
        shapes = {"weight": (self.in_channels, self.out_channels // self.groups, *self.kernel_size)}
        return shapes | ({"bias": (self.out_channels,)} if self.has_bias else {})

    def padding_sides(self) -> Sides:
        """Columns of zeros for tiles that hang over the edge, as many as the widest tile needs."""
        margin = _input_tile(self, (0, 0, 8 * self.stride[1]), self.out_channels).cols - 1
        return 0, 0, margin, margin

    def calls(self, wires: Wires) -> None:
        """The kernels of Conv2d: its gradient of the input forwards, and its forward pass backwards."""
        x, y, dx, dy, weight = wires.x, wires.y, wires.dx, wires.dy, wires.parameters["weight"]
        margin, (top, left) = self.padding_sides()[2], self.padding
        wires.forward.append(_input_gradient(
            self, wires, y.inner, x.padded(0, 0, margin, margin), weight.value, y.inner, top, left, margin, False,
            _input_tile(self, y.shape, self.out_channels)))
        if self.has_bias:
            wires.forward.append(Call(
                resize.add_bias, x.blocks, y=y.inner, bias=wires.parameters["bias"].value))
        if dy is None:
            return
        if dx is not None or weight.requires_grad:
            padded = Buffer(x.blocks, y.shape, (top, top, left, left))
            wires.backward.append(Call(shape_kernels.reshape, x.blocks, y=padded.inner, x=dy.inner))
            if dx is not None:
                wires.backward.append(_forward(
                    self, wires, dx.inner, padded.array, weight.value, aligned(self.in_channels), False))
            if weight.requires_grad:
                wires.backward.append(_weight_gradient(self, wires, weight, x.inner, padded.array))
        if self.has_bias and wires.parameters["bias"].requires_grad:
            wires.backward.append(_bias_gradient(wires))

    def textbook(self, x, parameters, run):
        weight, groups, (top, left) = parameters["weight"], self.groups, self.padding
        _, high, wide = self.output_shape(x.shape[1:])
        inputs = x.reshape(len(x), groups, -1, *x.shape[2:])
        matrix = weight.reshape(groups, self.in_channels // groups, -1, *self.kernel_size)
        y = np.zeros((len(x), groups, self.out_channels // groups, high + 2 * top, wide + 2 * left))
        (sh, sw), (dh, dw), (rows, cols) = self.stride, self.dilation, x.shape[2:]
        for p, q in np.ndindex(*self.kernel_size):
            every = (slice(p * dh, p * dh + (rows - 1) * sh + 1, sh), slice(q * dw, q * dw + (cols - 1) * sw + 1, sw))
            y[(..., *every)] += np.einsum("ngchw,gco->ngohw", inputs, matrix[..., p, q])
        y = y.reshape(len(x), self.out_channels, *y.shape[3:])[:, :, top:top + high, left:left + wide]
        return y + parameters["bias"][:, None, None] if self.has_bias else y

    def multiply_adds(self, before: Shape, after: Shape) -> int:
        return math.prod(self.parameter_shapes()["weight"]) * math.prod(before[1:])

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        for name, usual in ("padding", (0, 0)), ("dilation", (1, 1)), ("output_padding", (0, 0)), ("groups", 1):
            value = getattr(self, name)
            text += f", {name}={value}" if value != usual else ""
        return text if self.has_bias else text + ", bias=False"


def _rows_call(kernel, wires, whole, strips, step, count, **given):
    """The call that cuts the rows of images into `count` strips, or joins them, for all lanes with an image."""
    return Call(kernel, wires.pieces(whole.shape[1]), whole=whole, strips=strips, step=step, count=count,
                images=wires.setup.lanes, cut=dict(whole=1, strips=1), **given)


# ---- Cook-Toom products ---------------------------------------------------------------------------------------------
def _fewest(sizes, taps, outputs):
    """The Cook-Toom product for some taps with the fewest multiplications for a number of outputs, or None."""
    able = [m for m in sizes.get(taps, ()) if m <= outputs]
    return toom(min(able, key=lambda m: math.ceil(outputs / m) * (m + taps - 1)), taps) if able else None


def _along_both(kernel_size, outputs):
    """(along the columns, along the rows): the products for outputs (rows, columns), or None."""
    return tuple(map(_fewest, (DOWN, ALONG), kernel_size, outputs))


def _product_tile(size):
    """The tile, outputs x tiles, for the products of a point: as few idle rows and passes as possible."""
    rows = min(range(min(size, 6), 3, -1), key=lambda rows: math.ceil(size / rows) * (rows + 1), default=size)
    return Tile(rows, PANEL if WIDE else 1)


def _flipped(weight):
    """The weights of the convolution that gives the gradient of the input."""
    return weight.swapaxes(0, 1)[:, :, ::-1, ::-1]


def _toom2d_convolution(wires, y, x, weight, v=None, bias=None, positive=None, relu=0, masks=0, adds=0):
    """The call for y, the convolution of x, which includes its padding, with weight (outputs, summands, KH, KW).

    v : keeps the transforms of x; without it, a worker has room for those of one panel, in its second cache
    """
    outputs, summands, *kernel_size = weight.shape
    rows, cols = _along_both(kernel_size, y.shape[2:4])
    high, wide, tile = math.ceil(y.shape[2] / rows.m), math.ceil(y.shape[3] / cols.m), _product_tile(outputs)
    panels, points, groups = math.ceil(high * wide / PANEL), rows.n * cols.n, math.ceil(outputs / tile.rows)
    each = 1 if v is None else groups
    if v is None:
        v = wires.scratch((points, summands * PANEL | 1, LANES)).viewed(lambda panel: as_strided(
            panel, (wires.blocks, panels, points, summands, PANEL, LANES),
            (0, 0, panel.strides[0], PANEL * panel.strides[1], *panel.strides[1:])))
    of_parts = wires.parts(panels * groups // each)
    return Call(
        conv_toom2d.toom2d_convolution, of_parts, y=y, u=_toom2d_weights(wires, weight, tile.rows, rows, cols), v=v,
        x=x, bias=aligned(outputs) if bias is None else bias, positive=y if positive is None else positive,
        products=wires.scratch((tile.rows, tile.cols, rows.n, cols.n, LANES)), high=high, wide=wide, relu=relu,
        masks=masks, adds=adds, pieces=of_parts.each, each=each, rows=rows, cols=cols, T=tile)


def _toom2d_weights(wires, weight, group, rows, cols):
    """The transformed weights (outputs, summands, KH, KW), in groups of outputs, and the call that computes them."""
    outputs, summands, *_ = weight.shape
    groups, more = math.ceil(outputs / group), math.ceil(LANES / group) - 1     # room for the rest of the last vector
    u = aligned((groups, rows.n * cols.n, (summands + more) * group))
    vectors = as_strided(u, (*u.shape[:2], summands, LANES), (*u.strides[:2], group * u.itemsize, u.itemsize))
    items = math.ceil(groups / (LANES // group))
    wires.prepare.append(Call(
        conv_toom2d.toom2d_weights, items, u=vectors, weight=weight, group=group, rows=rows, cols=cols))
    return vectors[..., :group]


# ---- the direct kernels, for a layer with kernel_size, stride, dilation and groups ----------------------------------
def _input_tile(layer, shape, channels):
    """The tile, channels x columns, of the direct gradient of an input (C, H, W)."""
    rows = fit(channels // layer.groups, REGISTERS // 4 if WIDE else 6)
    cols = max(2, REGISTERS // 2 // rows) if WIDE else 1
    return Tile(rows, min(max(1, shape[2] // layer.stride[1]), cols, 8), layer.stride[1])


def _pieces(layer, wires, channels, least, own, shared):
    """(pieces, cut) of a Call: ranges of at least so many channels or filters, which cut the arguments `own`, or of
    groups, which have a share of others, too."""
    if layer.groups == 1:
        return wires.pieces(channels, least, whole=True), own
    return wires.pieces(layer.groups, whole=True), own | shared | {"groups": 0}


def _forward(layer, wires, y, padded, weight, bias, relu):
    filters = weight.shape[0] // layer.groups
    rows = fit(filters, 8 if WIDE else 6)
    tile = Tile(rows, min(y.shape[3], max(2, 16 // rows) if WIDE else 1, 8), layer.stride[1])
    pieces, cut = _pieces(layer, wires, filters, rows, dict(y=1, weight=0, bias=0), dict(x=1))
    return Call(conv.conv2d_forward, pieces, y=y, x=padded, weight=weight, bias=bias, stride=layer.stride[0],
                dilation_h=layer.dilation[0], dilation_w=layer.dilation[1], groups=layer.groups, relu=int(relu), T=tile,
                cut=cut)


def _input_gradient(layer, wires, dx, dy, weight, x, top, left, margin, relu, tile):
    pieces, cut = _pieces(layer, wires, weight.shape[1], tile.rows, dict(dx=1, weight=1, x=1), dict(weight=0, dy=1))
    return Call(conv.conv2d_backward_input, pieces, dx=dx, dy=dy, weight=weight, x=x, stride=layer.stride[0],
                dilation_h=layer.dilation[0], dilation_w=layer.dilation[1], groups=layer.groups, top=top, left=left,
                margin=margin, relu=int(relu), T=tile, cut=cut)


def _weight_gradient(layer, wires, weight, dy, padded):
    dweight, (rows, cols) = _per_block(wires, weight), layer.kernel_size
    filters, channels = weight.value.shape[0] // layer.groups, weight.value.shape[1]
    most = 20 if WIDE else 5            # registers for sums
    of_filters, of_channels = dict(dweight=1, dy=1), dict(x=1)

    def call(kernel, pieces, cut, **given):
        return Call(kernel, pieces, dy=dy, x=padded, stride_h=layer.stride[0], stride_w=layer.stride[1],
                    dilation_h=layer.dilation[0], groups=layer.groups, cut=cut, **given)

    if 1 < rows * cols <= 9 and cols > 1 and WIDE:
        tile = Tile(fit(filters, most // (rows * cols)), rows * cols)
        return call(
            conv.conv2d_backward_weight_window, *_pieces(layer, wires, filters, tile.rows, of_filters, of_channels),
            dweight=dweight.reshape(*dweight.shape[:3], rows * cols), T=tile,
            window=Tile(rows, cols, layer.dilation[1]))
    shared = max(count for count in range(1, 7) if channels % count == 0)
    if not WIDE and filters % LANES == 0 and channels * rows * cols >= LEAST_WINDOW and shared > 2:
        wide, vectors = dy.shape[3], filters // LANES
        if layer.groups == 1 and vectors < wires.setup.pieces:
            of_parts = wires.pieces(channels // shared, whole=True), dict(dweight=2, x=1)
        else:
            of_parts = _pieces(layer, wires, vectors, 1, of_filters, of_channels)
        return call(
            conv.conv2d_backward_weight_by_filters, *of_parts,
            dweight=dweight.reshape(*dweight.shape[:2], -1), dilation_w=layer.dilation[1],
            kernel_rows=rows, kernel_cols=cols, lines=PerWorker((max(1, LINES // wide) * wide * LANES, LANES)),
            sums=PerWorker((1, math.ceil(channels * rows * cols / LANES) * LANES, LANES)), T=Tile(1, shared))
    if cols > 1:
        kernel, spacing = conv.conv2d_backward_weight, layer.dilation[1]
        cols = fit(cols, 7 if WIDE else 5)
    else:
        kernel, spacing = conv.conv2d_backward_weight_narrow, 1
        cols = fit(channels, 4 if WIDE else 2)
    tile = Tile(fit(filters, max(1, most // cols)), cols, spacing)
    return call(kernel, *_pieces(layer, wires, filters, tile.rows, of_filters, of_channels), dweight=dweight, T=tile)


def _bias_gradient(wires):
    return Call(conv.conv2d_backward_bias, wires.pieces(wires.y.shape[0]), dy=wires.dy.inner,
                dbias=_per_block(wires, wires.parameters["bias"]), cut=dict(dbias=1, dy=1))


def _per_block(wires, parameter):
    """A new array for the gradient of each block; a call adds them up after all blocks are done."""
    vectors, shape = parameter.grad_vectors, parameter.grad.shape
    blocks = aligned((wires.blocks, *vectors.shape))
    chunk = 32
    wires.gradients.append(Call(conv.add_blocks, math.ceil(len(vectors) / chunk), y=vectors, x=blocks, chunk=chunk))
    return blocks.reshape(wires.blocks, -1)[:, :math.prod(shape)].reshape(wires.blocks, *shape)

