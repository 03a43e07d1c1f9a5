"""Dense layers."""
import math

from cnn_numba.errors import InputError, truth_value, whole_number
from cnn_numba.init import init_name
from cnn_numba.kernels import dense, dense_few
from cnn_numba.kernels.lanes import LANES, Tile, aligned, fit, planes
from cnn_numba.kernels.program import Call, PerWorker
from cnn_numba.layers import bf16
from cnn_numba.layers.base import WIDE, Biased, Layer, Setup, Shape, Wires, shape_text

__all__ = ["Linear"]

FEW = 8                 # images, at most, for which vectors hold features
LARGE = 1 << 18         # weights that are read once for all blocks: 1 MB
WORTH_CUTTING = 1 << 13         # weights
LINES = 4               # of LANES weights that are copied side by side


class Linear(Biased, Layer):
    """x @ weight.T + bias, as `torch.nn.Linear`.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    init : str, optional
        Weight initialisation, one of `init.INITS`; default: that of the model.

    Shapes
    ------
    (in_features,) -> (out_features,); weight (out_features, in_features), bias (out_features,).

    Raises InputError (a ValueError) when an argument is out of range.
    """

    applies_relu = masks_relu = True
    aliases = "fc", "Dense", "FullyConnected", "Affine"

    def __init__(self, in_features, out_features, bias=True, init=None):
        self.in_features = whole_number("Linear", "in_features", in_features)
        self.out_features = whole_number("Linear", "out_features", out_features)
        self.has_bias = truth_value("Linear", "bias", bias)
        self.init = None if init is None else init_name("Linear", init)

    def output_shape(self, shape: Shape) -> Shape:
        if tuple(shape) != (self.in_features,):
            hint = "; put Flatten() before it" if len(shape) > 1 and math.prod(shape) == self.in_features else ""
            raise InputError(f"Linear expects {self.in_features} features, got {shape_text(shape)}{hint}")
        return (self.out_features,)

    def parameter_shapes(self) -> dict[str, Shape]:
        shapes = {"weight": (self.out_features, self.in_features)}
        return shapes | ({"bias": (self.out_features,)} if self.has_bias else {})

    def on_unit(self, shape: Shape, setup: Setup) -> bool:
        return bf16.suits(setup.bf16, self.in_features, self.out_features,
                          gains=self.in_features * self.out_features >= bf16.GAIN_DENSE)

    def calls(self, wires: Wires) -> None:
        if self.on_unit(wires.x.shape, wires.setup):
            bf16.linear_calls(wires)
            return
        if wires.setup.lanes <= FEW:
            self._calls_by_rows(wires)
        else:
            self._calls_by_units(wires)
        self._gradient_calls(wires)

    def _bias(self, wires):
        return wires.parameters["bias"].value if self.has_bias else aligned(self.out_features)

    def _calls_by_rows(self, wires):
        """Forward and backward pass for a few images."""
        images, weight = wires.setup.lanes, wires.parameters["weight"].value
        most, vectors = max(1, (24 if WIDE else 6) // images), math.ceil(self.in_features / LANES)
        tile = Tile(fit(self.out_features, most), images)
        of_units = self._pieces(wires, self.out_features, tile.rows)
        wires.forward.append(Call(
            dense_few.linear_forward_by_rows, of_units, y=wires.y.array, x=wires.x.array, weight=weight,
            bias=self._bias(wires), xt=PerWorker((images, vectors, LANES)),
            sums=PerWorker((math.ceil(tile.rows * images / LANES), LANES)), relu=int(wires.relu_after),
            T=tile, cut=dict(y=1, weight=0, bias=0)))
        if wires.dx is not None:
            tile = Tile(images, fit(vectors, most))
            of_features = self._pieces(wires, vectors, tile.cols)
            wires.backward.append(Call(
                dense_few.linear_backward_input_by_rows, of_features, dx=wires.dx.array, dy=wires.dy.array,
                weight=weight, x=wires.x.array, out=PerWorker((images, tile.cols, LANES)), relu=int(wires.relu_before),
                pieces=of_features.each, T=tile))

    def _calls_by_units(self, wires):
        x, y, weight = wires.x.array, wires.y.array, wires.parameters["weight"].value
        crowded = self.in_features % 1024 == 0          # rows of weights 4 kB apart share cache sets
        most = 12 if WIDE and not crowded else 6
        tile = Tile(fit(self.out_features, most), 1)
        of_units = self._pieces(wires, self.out_features, tile.rows)
        wires.forward.append(Call(
            dense.linear_forward, of_units, y=y, x=x, weight=weight, bias=self._bias(wires),
            relu=int(wires.relu_after), T=tile, cut=dict(y=1, weight=0, bias=0)))
        if wires.dx is None:
            return
        common = dict(dx=wires.dx.array, dy=wires.dy.array, x=x, relu=int(wires.relu_before))
        if self.in_features % LANES == 0 and self.in_features * self.out_features >= LARGE:
            lines = weight.reshape(self.out_features, -1, LANES)
            items = math.ceil(lines.shape[1] / LINES)
            wires.backward.append(Call(
                dense.linear_backward_input_by_lines, items, after_all="dy", apart=True, weight=lines,
                panel=aligned((items, LINES, self.out_features, LANES)), T=Tile(16 if WIDE else 4, 1), **common))
        else:
            tile = Tile(fit(self.in_features, 16 if WIDE else 6), 1)
            of_features = self._pieces(wires, self.in_features, tile.rows)
            wires.backward.append(Call(
                dense.linear_backward_input, of_features, weight=weight, T=tile, cut=dict(dx=1, weight=1, x=1),
                **common))

    def _gradient_calls(self, wires):
        weight, bias = wires.parameters["weight"], wires.parameters.get("bias")
        if wires.dy is not None and weight.requires_grad:
            lines = math.ceil(self.in_features / LANES)
            tile = Tile(fit(self.out_features, 8 if WIDE else 4), min(lines, 2 if WIDE else 1))
            items = math.ceil(lines / tile.cols)
            wires.gradients.append(Call(
                dense.linear_backward_weight, items, dweight=weight.grad, dy=wires.dy.array, x=wires.x.array,
                xt=planes(items, tile.cols, wires.blocks * LANES), lanes=wires.setup.lanes, T=tile))
        if wires.dy is not None and bias and bias.requires_grad:
            wires.gradients.append(Call(
                dense.linear_backward_bias, self.out_features, dbias=bias.grad, dy=wires.dy.array))

    def _pieces(self, wires, size, least):
        """Ranges of units or features, if the layer is large enough to be worth a meeting of the workers."""
        cut = self.in_features * self.out_features >= WORTH_CUTTING
        return wires.pieces(size, least if cut else size, whole=True)

    def textbook(self, x, parameters, run):
        return x @ parameters["weight"].T + parameters.get("bias", 0.0)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.has_bias}"
