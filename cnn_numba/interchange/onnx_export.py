"""Networks as ONNX graphs: one function for each kind of layer.

The graph computes what `Classifier` computes: normalised pixels, the layers in evaluation mode, the softmax.
"""
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnn_numba.errors import InputError, naming
from cnn_numba.interchange.onnx_graph import Graph, Node
from cnn_numba.layers import Layer, below
from cnn_numba.layers.base import Shape, both
from cnn_numba.model import Sequential

OPSET, OLDEST, NEWEST = 17, 15, 21      # June 2022; 14 and older: the standard's own evaluator errs in batch norms

SOFT = 17.0                             # log(1 + exp(x)) is x to a float32 above it

Exporter = Callable[["Place", str], str]
EXPORTERS: dict[str, Exporter] = {}


def exporter(*kinds: str) -> Callable[[Exporter], Exporter]:
    """Say that a function makes the nodes of layers, by the names of their classes.

    The function gets the `Place` of a layer and the name of the layer's input, and returns that of its output.
    """
    def put(function: Exporter) -> Exporter:
        EXPORTERS.update(dict.fromkeys(kinds, function))
        return function
    return put


@dataclass
class Place:
    """Where the nodes of a layer go.

    name : of the layer, "3.body.0"
    tensors : {name: array}, its parameters and statistics
    before, after : shapes of its input and its output
    """

    graph: Graph
    layer: Any
    name: str
    tensors: dict[str, np.ndarray]
    before: Shape
    after: Shape

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node; returns the name of its output."""
        name = f"{self.name}.{type(self.layer).__name__}" if self.layer else f"{self.name}.{op}"
        taken = sum(node.name == name or node.name.startswith(f"{name}.") for node in self.graph.nodes)
        name += f".{taken}" if taken else ""
        self.graph.nodes.append(Node(op, inputs, (name,), attributes, name))
        return name

    def constant(self, name: str, array: Any, kind: Any = np.float32) -> str:
        """Add a constant; returns its name in the graph."""
        name = f"{self.name}.{name}"
        self.graph.constants[name] = np.asarray(array, kind)
        return name

    def tensor(self, name: str) -> str:
        """A parameter or statistic, under its name in `state_dict`."""
        return self.constant(name, self.tensors[name])

    def branch(self, name: str, x: str) -> str:
        """The layers of a branch, with x as their input; returns the name of their output."""
        tensors = below(f"{name}.", self.tensors)
        return add_layers(self.graph, self.layer.branches[name], f"{self.name}.{name}.", tensors, x, self.before)


def export_graph(model: Sequential, opset: int = OPSET, logits: bool = False, raw: bool = False) -> Graph:
    """The graph of a model in evaluation mode.

    Parameters
    ----------
    model : with input_shape and, unless raw, mean and std
    opset : from OLDEST to NEWEST
    logits : whether the output is logits, instead of the probabilities of the classes
    raw : whether the input is normalised numbers, as `model(x)` takes them, instead of pixels as in files

    Raises InputError, naming the layer, when something has no equal in ONNX.
    """
    if not isinstance(opset, int) or not OLDEST <= opset <= NEWEST:
        raise InputError(f"opset must be a whole number from {OLDEST} to {NEWEST}, got {opset!r}")
    model.refuse_own_forward("only the layers in their order can be exported")
    shape = model.input_shape
    if shape is None:
        raise InputError("the model does not know the shape of its images, which the graph needs")
    state = model.state_dict()
    if odd := [name for name, values in state.items() if not np.isfinite(values).all()]:
        raise InputError(f"the parameter {odd[0]!r} holds NaN or infinity, expected finite numbers")
    output = "logits" if logits else "probabilities"
    graph = Graph("normalized" if raw else "images", (None, *shape), output, opset=opset)
    x = graph.input if raw else _normalisation(graph, model, shape)
    cut = model.layers[-1].takes_logits and len(model.layers) > 1
    x = add_layers(graph, model.layers[:-1] if cut else model.layers, "", state, x, shape)
    graph.output_shape = (None, *model.output_shape(shape))
    end = Place(graph, None, "output", {}, shape, shape)
    if not logits:
        x = end.node("Softmax", x, axis=1)
    elif x == graph.input:
        x = end.node("Identity", x)
    graph.nodes = [_renamed(node, x, output) for node in graph.nodes]
    graph.metadata = {name: json.dumps(value) for name, value in (
        ("classes", model.classes), ("accuracy", model.accuracy), ("recipe", model.recipe)) if value is not None}
    return graph


def describe_graph(model: Sequential, logits: bool, raw: bool) -> str:
    """What the graph of a model takes and gives, in a sentence for those who open it in a viewer."""
    shape = model.input_shape or ()
    takes = "normalised numbers" if raw else "pixels as in the files"
    gives = "logits" if logits else "probabilities"
    return (f"{'normalized' if raw else 'images'} (batch, {', '.join(map(str, shape))}), float32, {takes} -> {gives} "
            f"(batch, {model.output_shape(shape)[0]})")


def _normalisation(graph, model, shape):
    if model.mean is None or model.std is None:
        raise InputError("the model does not know the mean and the standard deviation of its pixels, which a Trainer "
                         "sets; without them, export it for normalised numbers (raw)")
    place, sizes = Place(graph, None, "pixels", {}, shape, shape), (-1, *(1 for _ in shape[1:]))
    scale = 1 / np.where(model.std > 0, model.std, 1)
    centred = place.node("Sub", graph.input, place.constant("mean", model.mean.reshape(sizes)))
    return place.node("Mul", centred, place.constant("scale", scale.reshape(sizes)))


def _renamed(node, old, new):
    inputs, outputs = (tuple(new if name == old else name for name in names) for names in (node.inputs, node.outputs))
    return Node(node.op, inputs, outputs, node.attributes, node.name)


def add_layers(graph: Graph, layers: Sequence[Layer], prefix: str, tensors: dict[str, np.ndarray], x: str,
               shape: Shape) -> str:
    """Add the nodes of layers that run one after the other; returns the name of the last output."""
    for k, layer in enumerate(layers):
        name = f"{prefix}{k}"
        with naming(f"layer {name}"):
            make = EXPORTERS.get(type(layer).__name__)
            if make is None:
                raise InputError(f"{type(layer).__name__} has no equal in ONNX that this program knows")
            after = tuple(layer.output_shape(shape))
            x = make(Place(graph, layer, name, below(f"{name.removeprefix(prefix)}.", tensors), shape, after), x)
            shape = after
    return x


# ---- layers ---------------------------------------------------------------------------------------------------------
@exporter("Conv2d")
def _conv2d(here, x):
    layer = here.layer
    top, bottom, left, right = layer.padding_sides()
    return here.node("Conv", x, *map(here.tensor, here.tensors), kernel_shape=layer.kernel_size, strides=layer.stride,
                     pads=(top, left, bottom, right), dilations=layer.dilation, group=layer.groups)


@exporter("Linear")
def _linear(here, x):
    return here.node("Gemm", x, *map(here.tensor, here.tensors), transB=1)


@exporter("MaxPool2d")
def _max_pool2d(here, x):
    layer = here.layer
    if layer.return_indices:
        raise InputError("MaxPool2d with return_indices=True gives a second output, which ONNX numbers otherwise")
    pads, kernel = pool_pads(layer, here.before, here.after), both(layer.kernel_size)
    if any(pad >= size for pad, size in zip(pads, kernel * 2, strict=True)):        # which onnxruntime refuses
        pads, around = (0, 0, 0, 0), (0, 0, *pads[:2], 0, 0, *pads[2:])
        x = here.node("Pad", x, here.constant("pads", around, np.int64), here.constant("nothing", -np.inf))
    return here.node("MaxPool", x, kernel_shape=kernel, strides=both(layer.stride), pads=pads,
                     dilations=both(layer.dilation))


@exporter("AvgPool2d")
def _avg_pool2d(here, x):
    layer = here.layer
    include, scale = average_counts(layer, here.before, here.after)
    y = here.node("AveragePool", x, kernel_shape=both(layer.kernel_size), strides=both(layer.stride),
                  pads=pool_pads(layer, here.before, here.after), count_include_pad=include)
    return y if scale is None else here.node("Mul", y, here.constant("scale", scale))


def pool_pads(layer: Any, before: Shape, after: Shape) -> tuple[int, ...]:
    """(top, left, bottom, right) of a pooling layer.

    Windows that ceil_mode lets reach past the padding get what they miss, so that no runtime has to round sizes:
    several versions of onnxruntime round them otherwise than PyTorch.
    """
    starts, ends = both(layer.padding), []
    for size, count, kernel, stride, start, dilation in zip(
            before[1:], after[1:], *map(both, (layer.kernel_size, layer.stride, layer.padding, layer.dilation)),
            strict=True):
        ends.append(max(start, (count - 1) * stride + dilation * (kernel - 1) + 1 - start - size))
    return (*starts, *ends)


def average_counts(layer: Any, before: Shape, after: Shape) -> tuple[int, np.ndarray | None]:
    """(count_include_pad, what the averages are multiplied by, (1, 1, OH, OW) or (), or None) for `pool_pads`."""
    whole = pool_pads(layer, before, after)[2:] == both(layer.padding)
    if layer.divisor_override:
        return 1, np.array(math.prod(both(layer.kernel_size)) / layer.divisor_override, np.float32)
    if whole or not layer.count_include_pad or not any(both(layer.padding)):
        return int(layer.count_include_pad and whole), None
    counts = []
    for size, count, kernel, stride, pad in zip(
            before[1:], after[1:], *map(both, (layer.kernel_size, layer.stride, layer.padding)), strict=True):
        first = np.arange(count) * stride - pad
        counts.append(np.minimum(first + kernel, size + pad) - first)
    return 1, (math.prod(both(layer.kernel_size)) / np.outer(*counts))[None, None].astype(np.float32)


@exporter("AdaptiveAvgPool2d")
def _adaptive_avg_pool2d(here, x):
    sizes, counts = here.before[1:], here.after[1:]
    if counts == (1, 1):
        return here.node("GlobalAveragePool", x)
    if all(size % count == 0 for size, count in zip(sizes, counts, strict=True)):
        window = [size // count for size, count in zip(sizes, counts, strict=True)]
        return here.node("AveragePool", x, kernel_shape=window, strides=window)
    if counts[0] != sizes[0]:
        x = here.node("MatMul", here.constant("rows", averages(sizes[0], counts[0])), x)
    if counts[1] != sizes[1]:
        x = here.node("MatMul", x, here.constant("columns", averages(sizes[1], counts[1]).T))
    return x


def averages(size: int, count: int) -> np.ndarray:
    """float32 (count, size): the matrix that averages `size` numbers as AdaptiveAvgPool2d does."""
    matrix = np.zeros((count, size), np.float32)
    for i in range(count):
        window = slice(i * size // count, -(-(i + 1) * size // count))
        matrix[i, window] = 1 / (window.stop - window.start)
    return matrix


@exporter("BatchNorm1d", "BatchNorm2d")
def _batch_norm(here, x):
    layer = here.layer
    if not layer.track_running_stats:
        raise InputError(f"{type(layer).__name__} with track_running_stats=False depends on the other images of the "
                         "batch")
    ones = {"weight": 1.0, "bias": 0.0}
    scale, shift = (here.tensor(name) if layer.affine else here.constant(name, np.full(layer.num_features, value))
                    for name, value in ones.items())
    return here.node("BatchNormalization", x, scale, shift, here.tensor("running_mean"), here.tensor("running_var"),
                     epsilon=layer.eps, momentum=1 - (0.1 if layer.momentum is None else layer.momentum))


@exporter("ReLU")
def _relu(here, x):
    return here.node("Relu", x)


@exporter("LeakyReLU")
def _leaky_relu(here, x):
    return here.node("LeakyRelu", x, alpha=here.layer.negative_slope)


@exporter("Tanh", "Sigmoid")
def _same_name(here, x):
    return here.node(type(here.layer).__name__, x)


@exporter("Softmax", "LogSoftmax")
def _softmax(here, x):
    return here.node(type(here.layer).__name__, x, axis=1)


@exporter("ELU")
def _elu(here, x):
    return here.node("Elu", x, alpha=here.layer.alpha)


@exporter("SiLU")
def _silu(here, x):
    return here.node("Mul", x, here.node("Sigmoid", x))


@exporter("GELU")
def _gelu(here, x):
    """In operators that are older than that of the name, which came with opset 20."""
    if here.layer.approximate == "tanh":
        cube = here.node("Mul", here.node("Mul", here.node("Mul", x, x), x), here.constant("cube", 0.044715))
        inner = here.node("Mul", here.node("Add", x, cube), here.constant("slope", math.sqrt(2 / math.pi)))
    else:
        inner = here.node("Mul", x, here.constant("slope", math.sqrt(1 / 2)))
    part = here.node("Tanh" if here.layer.approximate == "tanh" else "Erf", inner)
    whole = here.node("Mul", x, here.node("Add", part, here.constant("one", 1)))
    return here.node("Mul", whole, here.constant("half", 0.5))


@exporter("Softplus")
def _softplus(here, x):
    layer = here.layer
    inner = x if layer.beta == 1 else here.node("Mul", x, here.constant("beta", layer.beta))
    y = here.node("Softplus", inner)
    y = y if layer.beta == 1 else here.node("Div", y, f"{here.name}.beta")
    if layer.threshold >= SOFT:
        return y
    return here.node("Where", here.node("Greater", inner, here.constant("threshold", layer.threshold)), x, y)


@exporter("GroupNorm")
def _group_norm(here, x):
    layer = here.layer
    groups = here.node("Reshape", x, here.constant("groups", (0, layer.num_groups, -1), np.int64))
    ones, zeros = (here.constant(name, np.full(layer.num_groups, value)) for name, value in (("ones", 1), ("zeros", 0)))
    y = here.node("InstanceNormalization", groups, ones, zeros, epsilon=layer.eps)
    y = here.node("Reshape", y, here.constant("shape", (0, *here.after), np.int64))
    sizes = (-1, *(1 for _ in here.after[1:]))
    for op, name in (("Mul", "weight"), ("Add", "bias")) if layer.affine else ():
        y = here.node(op, y, here.constant(name, here.tensors[name].reshape(sizes)))
    return y


@exporter("LayerNorm")
def _layer_norm(here, x):
    if here.graph.opset < 17:
        raise InputError(f"LayerNorm needs opset 17, got {here.graph.opset}")
    layer = here.layer
    weight = here.tensor("weight") if layer.elementwise_affine else here.constant("weight", np.ones(here.after))
    return here.node("LayerNormalization", x, weight, *map(here.tensor, here.tensors.keys() - {"weight"}), axis=1,
                     epsilon=layer.eps)


@exporter("ConvTranspose2d")
def _conv_transpose2d(here, x):
    layer = here.layer
    return here.node("ConvTranspose", x, *map(here.tensor, here.tensors), kernel_shape=layer.kernel_size,
                     strides=layer.stride, pads=layer.padding * 2, dilations=layer.dilation, group=layer.groups,
                     output_padding=layer.output_padding)


@exporter("ZeroPad2d")
def _zero_pad2d(here, x):
    left, right, top, bottom = here.layer.padding
    return here.node("Pad", x, here.constant("pads", (0, 0, top, left, 0, 0, bottom, right), np.int64))


@exporter("Upsample")
def _upsample(here, x):
    """Resize for whole factors; else the pixels by their places, which no runtime has to round."""
    sizes = list(zip(here.before[1:], here.after[1:], strict=True))
    if all(after % before == 0 for before, after in sizes):
        scales = here.constant("scales", (1, 1, *(after // before for before, after in sizes)))
        return here.node("Resize", x, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric",
                         nearest_mode="floor")
    for axis, (name, places) in enumerate(zip(("rows", "columns"), pixel_places(here.layer, here.before), strict=True)):
        x = here.node("Gather", x, here.constant(name, places, np.int64), axis=axis + 2)
    return x


def pixel_places(layer: Any, before: Shape) -> tuple[np.ndarray, np.ndarray]:
    """int64 (rows,) and (columns,): the rows and columns of images of a shape that an Upsample takes."""
    rows, cols = (np.arange(size, dtype=np.float64).reshape(shape) for size, shape in (
        (before[1], (1, 1, -1, 1)), (before[2], (1, 1, 1, -1))))
    image = np.zeros((1, 1, *before[1:]))
    return (layer.textbook(image + rows, {}, None)[0, 0, :, 0].astype(np.int64),
            layer.textbook(image + cols, {}, None)[0, 0, 0].astype(np.int64))


@exporter("Concat")
def _concat(here, x):
    return here.node("Concat", *(here.branch(name, x) for name in here.layer.branches), axis=1)


@exporter("Dropout", "Dropout2d", "Identity")
def _nothing(here, x):
    return x


@exporter("Flatten")
def _flatten(here, x):
    return here.node("Flatten", x, axis=1)


@exporter("Reshape")
def _reshape(here, x):
    return here.node("Reshape", x, here.constant("shape", (0, *here.after), np.int64))


@exporter("Residual")
def _residual(here, x):
    return here.node("Add", here.branch("body", x), here.branch("shortcut", x))
