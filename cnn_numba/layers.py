"""The layers, with PyTorch's names and arguments: each checks its arguments, knows its shapes, and its kernel calls.

A layer holds no arrays.  `calls(wires)` gets the buffers that a plan made for it and appends kernel calls to four
lists: what the forward pass needs of the parameters, the forward pass, the backward pass, and the gradients of the
parameters (which need the backward pass of all images).
"""
import math
from dataclasses import dataclass, field

from kernels import activation, conv, conv_toom, dense, pool
from kernels.lanes import LANES, REGISTERS, Tile, aligned, fit, planes
from kernels.program import Call
from kernels.toom import Toom

from .errors import InputError, truth_value, whole_number

WIDE = REGISTERS > 8            # registers for large tiles: AVX-512

# Outputs m of the Cook-Toom products F(m, taps) that pay: larger ones round more (F(8,3): 1.4e-5 with 128 channels)
TOOM = {3: (4,), 5: (4, 5)}


@dataclass
class Wires:
    """What connects a layer to its neighbours in one plan: buffers (see `plan.Buffer`), parameters, and how many lanes
    of a block can hold an image.

    dx and dy are None in a plan without backward pass; dx also where nobody needs it.  `relu_after`: the next layer is
    a ReLU that this one applies on its way; `relu_before`: x comes from such a ReLU, whose gradient this layer applies.
    """

    x: object
    y: object
    lanes: int
    dx: object = None
    dy: object = None
    parameters: dict = field(default_factory=dict)
    relu_after: bool = False
    relu_before: bool = False
    prepare: list = field(default_factory=list)
    forward: list = field(default_factory=list)
    backward: list = field(default_factory=list)
    gradients: list = field(default_factory=list)

    @property
    def blocks(self):
        return self.x.blocks


class Layer:
    """What a plan asks of every layer."""

    applies_relu = False        # can apply a ReLU that follows to its output
    masks_relu = False          # can apply the gradient of a ReLU before it to its dx

    def output_shape(self, shape):
        """The shape of one image's output for one image's input shape; InputError when they cannot meet."""
        return shape

    def parameter_shapes(self):
        """{name: shape}"""
        return {}

    def padding_sides(self):
        """Rows and columns of zeros that its input needs: (top, bottom, left, right)."""
        return 0, 0, 0, 0

    def gradient_sides(self, shape):
        """(of dx, of dy): columns that the backward pass needs beside them, (left, right), for an input shape.

        Those beside dy hold zeros; those beside dx it writes, and leaves zeros there.
        """
        return (0, 0), (0, 0)

    def calls(self, wires):
        raise NotImplementedError

    def __repr__(self):
        return f"{type(self).__name__}({self.extra_repr()})"

    def extra_repr(self):
        return ""


def _pair(owner, name, value, least=1):
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2:
        raise InputError(f"{owner}: {name} must be a whole number or a pair of them, got {value!r}")
    return tuple(whole_number(owner, name, v, least) for v in pair)


def _image_shape(owner, shape):
    if len(shape) != 3:
        raise InputError(f"{owner} expects images (channels, rows, columns), got {shape_text(shape)}")
    return shape


def shape_text(shape):
    return "x".join(map(str, shape)) + (" features" if len(shape) == 1 else "")


def _short(pair):
    return pair[0] if pair[0] == pair[1] else pair


class Conv2d(Layer):
    """Two-dimensional cross-correlation, as `torch.nn.Conv2d`.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size, stride, dilation : int or (rows, columns)
    padding : int, (rows, columns), "same" (stride 1 only) or "valid"
        Zeros at each side of the input; "same" keeps its size, with the odd one at the bottom and right.
    groups : int
        Divides both channel counts; filter group g sees channel group g only.
    bias : bool

    Shapes
    ------
    (in_channels, H, W) -> (out_channels, (H + padding - dilation * (kernel_size - 1) - 1) // stride + 1, ...);
    weight (out_channels, in_channels // groups, kernel rows, kernel columns), bias (out_channels,).

    Raises InputError (a ValueError) when an argument is out of range.
    """

    applies_relu = masks_relu = True

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True):
        self.in_channels = whole_number("Conv2d", "in_channels", in_channels)
        self.out_channels = whole_number("Conv2d", "out_channels", out_channels)
        self.kernel_size = _pair("Conv2d", "kernel_size", kernel_size)
        self.stride = _pair("Conv2d", "stride", stride)
        self.dilation = _pair("Conv2d", "dilation", dilation)
        self.groups = whole_number("Conv2d", "groups", groups)
        self.bias = truth_value("Conv2d", "bias", bias)
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise InputError(f"Conv2d: groups={groups} must divide in_channels={in_channels} and "
                             f"out_channels={out_channels}")
        self.padding = padding if isinstance(padding, str) else _pair("Conv2d", "padding", padding, 0)
        if isinstance(padding, str) and padding not in ("same", "valid"):
            raise InputError(f"Conv2d: padding must be a number, a pair, 'same' or 'valid', got {padding!r}")
        if padding == "same" and self.stride != (1, 1):
            raise InputError(f"Conv2d: padding='same' needs stride 1, got {stride!r}")

    def padding_sides(self):
        if self.padding == "valid":
            return 0, 0, 0, 0
        if self.padding == "same":
            both = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            return both[0] // 2, both[0] - both[0] // 2, both[1] // 2, both[1] - both[1] // 2
        rows, cols = self.padding
        return rows, rows, cols, cols

    def output_shape(self, shape):
        channels, *size = _image_shape("Conv2d", shape)
        if channels != self.in_channels:
            raise InputError(f"Conv2d expects {self.in_channels} channels, got {channels} ({shape_text(shape)})")
        top, bottom, left, right = self.padding_sides()
        padded = size[0] + top + bottom, size[1] + left + right
        extent = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        if padded[0] < extent[0] or padded[1] < extent[1]:
            raise InputError(f"Conv2d with a {shape_text(extent)} window does not fit on an image of "
                             f"{shape_text(size)} with padding {self.padding}")
        return self.out_channels, *((p - e) // s + 1 for p, e, s in zip(padded, extent, self.stride, strict=True))

    def parameter_shapes(self):
        shapes = {"weight": (self.out_channels, self.in_channels // self.groups, *self.kernel_size)}
        return shapes | ({"bias": (self.out_channels,)} if self.bias else {})

    def toom(self, shape):
        """The Cook-Toom product for an input shape that needs the fewest multiplications, or None: direct."""
        if self.stride != (1, 1) or self.dilation != (1, 1) or self.groups != 1 or self.out_channels < 4:
            return None
        taps, columns = self.kernel_size[1], self.output_shape(shape)[2]
        sizes = [m for m in TOOM.get(taps, ()) if m <= columns]
        if not sizes:
            return None
        return Toom(min(sizes, key=lambda m: math.ceil(columns / m) * (m + taps - 1)), taps)

    def _input_tile(self, shape):
        """Channels x columns for the gradient of the input, direct."""
        rows = fit(self.in_channels // self.groups, REGISTERS // 4 if WIDE else 6)
        cols = max(2, REGISTERS // 2 // rows) if WIDE else 1
        return Tile(rows, min(max(1, shape[2] // self.stride[1]), cols, 8), self.stride[1])

    def gradient_sides(self, shape):
        if self.toom(shape):
            return self.padding_sides()[2:], (0, 0)
        margin = self._input_tile(shape).cols - 1
        return (0, 0), (margin, margin)

    def calls(self, wires):
        toom = self.toom(wires.x.shape)
        if toom:
            self._toom_calls(wires, toom)
        else:
            self._direct_calls(wires)
        if wires.dy is not None and self.bias:
            dbias = self._per_block(wires, wires.parameters["bias"])
            wires.backward.append(Call(conv.conv2d_backward_bias, wires.blocks, dbias, wires.dy.inner))

    def _bias(self, wires):
        return wires.parameters["bias"].value if self.bias else aligned(self.out_channels)

    def _direct_calls(self, wires):
        x, y, dx, dy, weight = wires.x, wires.y, wires.dx, wires.dy, wires.parameters["weight"]
        padded = x.padded(*self.padding_sides())
        filters = self.out_channels // self.groups
        rows = fit(filters, 8 if WIDE else 6)
        tile = Tile(rows, min(y.shape[2], max(2, 16 // rows) if WIDE else 1, 8), self.stride[1])
        wires.forward.append(Call(
            conv.conv2d_forward, x.blocks, y.inner, padded, weight.value, self._bias(wires), self.stride[0],
            *self.dilation, self.groups, int(wires.relu_after), tile))
        if dy is None:
            return
        if dx is not None:
            tile = self._input_tile(x.shape)
            top, _, left, _ = self.padding_sides()
            margin = tile.cols - 1
            wires.backward.append(Call(
                conv.conv2d_backward_input, x.blocks, dx.inner, dy.padded(0, 0, margin, margin), weight.value, x.inner,
                self.stride[0], *self.dilation, self.groups, top, left, margin, int(wires.relu_before), tile))
        dweight, (rows, cols), wide = self._per_block(wires, weight), self.kernel_size, WIDE
        most = (27 if rows * cols == 9 else 20) if wide else 5      # registers for sums
        geometry = *self.stride, self.dilation[0], self.groups
        if 1 < rows * cols <= 9 and cols > 1 and wide:
            dweight = dweight.reshape(*dweight.shape[:3], rows * cols)
            wires.backward.append(Call(
                conv.conv2d_backward_weight_window, x.blocks, dweight, dy.inner, padded, *geometry,
                Tile(fit(filters, most // (rows * cols)), rows * cols), Tile(rows, cols, self.dilation[1])))
            return
        if cols > 1:
            kernel, step = conv.conv2d_backward_weight, self.dilation[1]
            cols = fit(cols, 7 if wide else 5)
        else:
            kernel, step = conv.conv2d_backward_weight_narrow, 1
            cols = fit(weight.value.shape[1], 4 if wide else 2)
        wires.backward.append(Call(
            kernel, x.blocks, dweight, dy.inner, padded, *geometry,
            Tile(fit(filters, max(1, most // cols)), cols, step)))

    def _toom_calls(self, wires, toom):
        x, y, dx, dy, weight = wires.x, wires.y, wires.dx, wires.dy, wires.parameters["weight"]
        top, bottom, left, right = self.padding_sides()
        filters, channels, kernel_rows, _ = weight.value.shape
        tiles = math.ceil(y.shape[2] / toom.m)
        most = 30 // toom.n if WIDE else 1
        u = aligned((filters, channels, kernel_rows, toom.n))
        v = planes(x.blocks, channels, x.shape[1] + top + bottom, tiles, toom.n)
        wires.prepare.append(Call(conv_toom.toom_weights, filters, u, weight.value, toom.G))
        wires.forward += [
            Call(conv_toom.toom_input, x.blocks, v, x.padded(top, bottom, left, right), toom),
            Call(conv_toom.toom_forward, x.blocks, y.inner, u, v, self._bias(wires), int(wires.relu_after), toom,
                 Tile(fit(filters, most), toom.n))]
        if dy is None:
            return
        d = planes(x.blocks, *y.shape[:2], tiles, toom.n)
        wires.backward.append(Call(conv_toom.toom_gradient, x.blocks, d, dy.inner, toom))
        if dx is not None:
            wires.backward.append(Call(
                conv_toom.toom_backward_input, x.blocks, dx.padded(0, 0, left, right), u, d, x.inner, top, left,
                int(wires.relu_before), toom, Tile(fit(channels, most), toom.n)))
        tile = Tile(fit(filters, max(1, 24 // kernel_rows if WIDE else 5 // kernel_rows)), kernel_rows)
        sums = aligned((x.blocks, toom.n, math.ceil(tile.rows * tile.cols / LANES), LANES))
        wires.backward.append(Call(
            conv_toom.toom_backward_weight, x.blocks, self._per_block(wires, weight), d, v, sums, toom, tile))

    @staticmethod
    def _per_block(wires, parameter):
        """Room for the gradient of each block, which are added up when all are there."""
        vectors, shape = parameter.grad_vectors, parameter.grad.shape
        blocks = aligned((wires.blocks, *vectors.shape))
        chunk = 32
        wires.gradients.append(Call(conv.add_blocks, math.ceil(len(vectors) / chunk), vectors, blocks, chunk))
        return blocks.reshape(wires.blocks, -1)[:, :math.prod(shape)].reshape(wires.blocks, *shape)

    def extra_repr(self):
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != (0, 0):
            text += f", padding={self.padding!r}"
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        return text if self.bias else text + ", bias=False"


class MaxPool2d(Layer):
    """The maximum over a window, as `torch.nn.MaxPool2d`; the gradient of a tie goes to its first place.

    Parameters
    ----------
    kernel_size : int or (rows, columns)
    stride : int or (rows, columns), optional
        Default: kernel_size.
    padding : int or (rows, columns)
        Places that never win, at each side; at most half the kernel.

    Shapes
    ------
    (C, H, W) -> (C, (H + 2 * padding - kernel_size) // stride + 1, ...)

    Raises InputError (a ValueError) when an argument is out of range.
    """

    masks_relu = True

    def __init__(self, kernel_size, stride=None, padding=0):
        self.kernel_size = _pair("MaxPool2d", "kernel_size", kernel_size)
        self.stride = self.kernel_size if stride is None else _pair("MaxPool2d", "stride", stride)
        self.padding = _pair("MaxPool2d", "padding", padding, 0)
        if any(2 * p > k for p, k in zip(self.padding, self.kernel_size, strict=True)):
            raise InputError(f"MaxPool2d: padding must be at most half the kernel size {self.kernel_size}, "
                             f"got {padding!r}")

    def output_shape(self, shape):
        channels, *size = _image_shape("MaxPool2d", shape)
        room = [s + 2 * p - k for s, p, k in zip(size, self.padding, self.kernel_size, strict=True)]
        if min(room) < 0:
            raise InputError(f"MaxPool2d with a {shape_text(self.kernel_size)} window does not fit on an image of "
                             f"{shape_text(size)} with padding {self.padding}")
        return channels, *(r // s + 1 for r, s in zip(room, self.stride, strict=True))

    def calls(self, wires):
        x, y, tile = wires.x, wires.y, Tile(*self.kernel_size)
        wires.forward.append(Call(
            pool.max_pool2d_forward, x.blocks, y.inner, x.inner, *self.stride, *self.padding, tile))
        if wires.dx is not None:
            exact = all(n == o * k for n, o, k in zip(x.shape[1:], y.shape[1:], self.kernel_size, strict=True))
            tiled = self.stride == self.kernel_size and self.padding == (0, 0) and exact
            wires.backward.append(Call(
                pool.max_pool2d_backward, x.blocks, wires.dx.inner, wires.dy.inner, y.inner, x.inner, *self.stride,
                *self.padding, int(tiled), int(wires.relu_before), tile))

    def extra_repr(self):
        text = f"kernel_size={_short(self.kernel_size)}, stride={_short(self.stride)}"
        return text if self.padding == (0, 0) else text + f", padding={_short(self.padding)}"


class ReLU(Layer):
    """max(0, x), element by element, as `torch.nn.ReLU`; any shape."""

    def calls(self, wires):
        wires.forward.append(Call(activation.relu_forward, wires.blocks, wires.y.image(), wires.x.image()))
        if wires.dx is not None:
            self.mask_calls(wires)

    def mask_calls(self, wires):
        """The backward pass alone: after a layer that applied the ReLU, before one that does not mask."""
        wires.backward.append(Call(
            activation.relu_backward, wires.blocks, wires.dx.image(), wires.dy.image(), wires.y.image()))


class Flatten(Layer):
    """(C, H, W) -> (C * H * W,), as `torch.nn.Flatten`; a view of the same numbers."""

    def output_shape(self, shape):
        return (math.prod(shape),)

    def calls(self, wires):
        """A plan makes y a view of x.  dy is a view of dx too, unless dx has a margin: then it is copied."""
        if wires.dx is not None and wires.dy.array.base is not wires.dx.array.base:
            dx = wires.dx.inner
            wires.backward.append(Call(activation.copy, wires.blocks, dx, wires.dy.array.reshape(dx.shape)))


class Linear(Layer):
    """x @ weight.T + bias, as `torch.nn.Linear`.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool

    Shapes
    ------
    (in_features,) -> (out_features,); weight (out_features, in_features), bias (out_features,).

    Raises InputError (a ValueError) when an argument is out of range.
    """

    applies_relu = masks_relu = True

    def __init__(self, in_features, out_features, bias=True):
        self.in_features = whole_number("Linear", "in_features", in_features)
        self.out_features = whole_number("Linear", "out_features", out_features)
        self.bias = truth_value("Linear", "bias", bias)

    def output_shape(self, shape):
        if tuple(shape) != (self.in_features,):
            hint = "; put Flatten() before it" if len(shape) > 1 and math.prod(shape) == self.in_features else ""
            raise InputError(f"Linear expects {self.in_features} features, got {shape_text(shape)}{hint}")
        return (self.out_features,)

    def parameter_shapes(self):
        return {"weight": (self.out_features, self.in_features)} | ({"bias": (self.out_features,)} if self.bias else {})

    def calls(self, wires):
        x, y, dy = wires.x.array, wires.y.array, wires.dy
        weight, bias = wires.parameters["weight"], wires.parameters.get("bias")
        crowded = self.in_features % 1024 == 0          # rows of weights 4 kB apart share their places in the cache
        most = 12 if WIDE and not crowded else 6
        wires.forward.append(Call(
            dense.linear_forward, wires.blocks, y, x, weight.value, bias.value if bias else aligned(self.out_features),
            int(wires.relu_after), Tile(fit(self.out_features, most), 1)))
        if dy is None:
            return
        dy = dy.array
        if wires.dx is not None:
            wires.backward.append(Call(
                dense.linear_backward_input, wires.blocks, wires.dx.array, dy, weight.value, x, int(wires.relu_before),
                Tile(fit(self.in_features, 16 if WIDE else 6), 1)))
        turned = planes(1, wires.blocks * LANES, math.ceil(self.in_features / LANES))[0]
        wires.backward.append(Call(dense.transpose, wires.blocks, turned, x, wires.lanes))
        tile = Tile(fit(self.out_features, 8 if WIDE else 4), min(turned.shape[1], 2 if WIDE else 1))
        wires.gradients.append(Call(
            dense.linear_backward_weight, math.ceil(self.out_features / tile.rows), weight.grad, dy, turned,
            wires.lanes, tile))
        if bias:
            wires.gradients.append(Call(dense.linear_backward_bias, self.out_features, bias.grad, dy))

    def extra_repr(self):
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias}"
