"""Networks from ONNX graphs: one function for each operator.

A value of the graph becomes a `Step`: the layer that computes it, and the values that it is computed from.  Some
operators change the step before them, as the addition that follows a matrix product is its bias.  At the end, the steps
from the input to the output are a list of layers; where two paths meet in an addition, they are the branches of a
Residual.
"""
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cnn_numba import layers as nn
from cnn_numba.errors import InputError, naming
from cnn_numba.files import strict_json
from cnn_numba.files.layers_json import (
    DEEPEST,
    MOST_LAYERS,
    MOST_VALUES,
    check_image_shape,
    checked_output_shape,
)
from cnn_numba.interchange.onnx_export import average_counts, averages, pool_pads
from cnn_numba.interchange.onnx_fold import BATCH, can_fold, fold
from cnn_numba.interchange.onnx_graph import Graph, Node
from cnn_numba.layers import Layer, shape_text
from cnn_numba.layers.base import Shape, both
from cnn_numba.model import Sequential

SPARE = 1 << 16                 # parameters that a network may have beyond the numbers of its file
IMAGE_SIDES = 2                 # of the axes after the channels


@dataclass(frozen=True)
class Step:
    """How a value of the graph is computed.

    sources : names of the values that it is computed from
    shape : of one image
    layer : None where the numbers stay the same
    tensors : parameters and statistics of the layer
    affine : (scale, shift) of each channel, or of all: the value is scale * source + shift
    padding : (number, (top, left, bottom, right)) that surround the images
    """

    node: Node
    sources: tuple[str, ...]
    shape: Shape
    layer: Any = None
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    affine: tuple[np.ndarray, np.ndarray] | None = None
    padding: tuple[float, tuple[int, ...]] | None = None


Importer = Callable[["Reader", Node], Step]
IMPORTERS: dict[str, Importer] = {}


def importer(*operators: str) -> Callable[[Importer], Importer]:
    """Say that a function reads the nodes of some operators."""
    def put(function: Importer) -> Importer:
        IMPORTERS.update(dict.fromkeys(operators, function))
        return function
    return put


def import_graph(graph: Graph) -> Sequential:
    """The network, in evaluation mode, that computes what the graph does.

    A subtraction and a division of the input are its normalisation: `mean` and `std` of the model.  Raises InputError,
    naming the node and its operator, for what no layer of this library computes.
    """
    reader = Reader(graph)
    parts, normalisation = reader.network()
    layers = [part.layer for part in parts]
    count = sum(math.prod(shape) for layer in layers for shape in layer.parameter_shapes().values())
    most = sum(array.size for array in graph.constants.values()) + SPARE
    if count > most:
        raise InputError(f"the network has {count:,} parameters, but the file {most - SPARE:,} numbers")
    check_image_shape(layers, reader.shape)
    model = Sequential(*layers)
    state = model.state_dict()
    for k, part in enumerate(parts):
        for name, values in part.tensors.items():
            if not np.isfinite(values).all():
                raise InputError(f"the weights of {part.node.label} hold NaN or infinity, expected finite numbers")
            state[f"{k}.{name}"] = values
    model.load_state_dict(state)
    model.input_shape = reader.shape
    _set_facts(model, graph, normalisation)
    return model.eval()


def _set_facts(model, graph, normalisation):
    """What the graph and its metadata say about pixels and classes."""
    if normalisation is not None:
        scale, shift = (np.broadcast_to(each, model.input_shape[:1]) for each in normalisation)
        if (scale <= 0).any() or not np.isfinite([scale, shift]).all():
            raise InputError("the graph multiplies the pixels by a number that is not above 0")
        model.mean, model.std = (-shift / scale).astype(np.float32), (1 / scale).astype(np.float32)
    facts = {}
    for name in "classes", "accuracy", "recipe":
        if name in graph.metadata:
            with naming(f"the metadata {name!r}"):
                facts[name] = strict_json.loads(graph.metadata[name])
    outputs = model.output_shape(model.input_shape)[0]
    classes = facts.get("classes")
    if isinstance(classes, list) and len(classes) == outputs and all(isinstance(name, str) for name in classes):
        model.classes = tuple(classes)
    accuracy = facts.get("accuracy")
    if isinstance(accuracy, (int, float)) and not isinstance(accuracy, bool) and 0 <= accuracy <= 100:
        model.accuracy = float(accuracy)
    if isinstance(facts.get("recipe"), dict):
        model.recipe = facts["recipe"]


class Reader:
    """The steps of a graph.

    shape : of an image
    batch : the number of images that the graph takes, None for any
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.constants = dict(graph.constants)
        self.batch, *sizes = graph.input_shape or (None,)
        known = tuple(size for size in sizes if size is not None)
        if len(sizes) not in (1, 3) or len(known) < len(sizes):
            text = "x".join(str(size or "?") for size in graph.input_shape)
            raise InputError(f"the input {graph.input[:40]!r} has the shape {text}, expected (batch, channels, rows, "
                             "columns) or (batch, features) with known sizes")
        self.shape: Shape = known
        self.uses: dict[str, int] = {graph.output: 1}
        for node in graph.nodes:
            for name in node.inputs:
                self.uses[name] = self.uses.get(name, 0) + 1
        self.steps: dict[str, Step] = {graph.input: Step(Node("", (), (), {}, graph.input), (), self.shape)}
        self.number = {graph.input: 0}              # of a step, in the order of the graph
        self.above: dict[str, str] = {}             # the last value that every path to a step comes through
        self.used: set[str] = set()
        for node in graph.nodes:
            with naming(node.label):
                self._add(node)

    def _add(self, node):
        value = node.outputs[0] if node.outputs else ""
        if value in self.steps or value in self.constants or not value:
            raise InputError("its output has the name of another value, or none")
        inputs = [name for name in node.inputs if name]
        if odd := [name for name in inputs if name not in self.steps and name not in self.constants]:
            raise InputError(f"its input {odd[0][:40]!r} is not computed before it")
        if can_fold(node) and all(name in self.constants for name in inputs):
            self.constants[value] = fold(node, self.constants)
            return
        if node.op == "Shape" and not node.attributes:
            self.constants[value] = np.array([BATCH if self.batch is None else self.batch,
                                              *self.steps[inputs[0]].shape], np.int64)
            return
        if node.op not in IMPORTERS:
            raise InputError("no layer of this program computes it")
        if any(name and self.uses.get(name) for name in node.outputs[1:]):
            raise InputError("its second output is used, which is not supported")
        try:
            step = IMPORTERS[node.op](self, node)
        except (ValueError, IndexError, TypeError, KeyError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"its inputs or attributes cannot be used ({str(error)[:100]})") from None
        self.steps[value], self.number[value] = step, len(self.number)
        above = step.sources[0]
        for other in step.sources[1:]:
            above = self._meeting(above, other)
        self.above[value] = above

    def _meeting(self, a, b):
        """The last value that all paths to both come through, or one of the two."""
        while a != b:
            if self.number[a] < self.number[b]:
                a, b = b, a
            a = self.above[a]
        return a

    # ---- what importers ask for -------------------------------------------------------------------------------------
    def x(self, node: Node, k: int = 0) -> str:
        """The name of an input that is computed from the images."""
        name = node.inputs[k] if k < len(node.inputs) else ""
        if name not in self.steps:
            raise InputError(f"its input {k} is a constant or missing, expected a value that depends on the images")
        return name

    def constant(self, node: Node, k: int, needed: bool = True) -> Any:
        """A constant input; None when it is left out and not needed."""
        name = node.inputs[k] if k < len(node.inputs) else ""
        if name not in self.constants:
            if not name and not needed:
                return None
            raise InputError(f"its input {k} is not a constant, which is not supported")
        return self.constants[name]

    def operands(self, node: Node) -> tuple[str, np.ndarray, bool]:
        """(the operand that depends on the images, the other one, whether that is the first)"""
        a, b = node.inputs
        return (b, self.constants[a], True) if a in self.constants else (self.x(node, 0), self.constant(node, 1), False)

    def layer(self, node: Node, source: str, layer: Layer, **tensors: np.ndarray | None) -> Step:
        """The step of a layer on a source, with the tensors that it has; InputError when they do not fit."""
        shape = checked_output_shape(layer, self.steps[source].shape)
        wanted = layer.parameter_shapes() | layer.statistic_shapes()
        given = {name: array for name, array in tensors.items() if array is not None}
        for name, array in given.items():
            if array.shape != wanted.get(name):
                raise InputError(f"its {name} has the shape {array.shape}, expected {wanted.get(name)}")
        return Step(node, (source,), shape, layer, given)

    def same(self, node: Node, source: str) -> Step:
        """The step of a node that changes nothing."""
        return Step(node, (source,), self.steps[source].shape)

    def before(self, source: str, kind: type[Layer]) -> Step | None:
        """The step of a source, if it is of a kind of layer and nothing else uses it: the node may change it."""
        step = self.steps[source]
        return step if isinstance(step.layer, kind) and self.uses[source] == 1 else None

    def padded(self, source: str, number: float | None) -> tuple[str, tuple[int, ...]]:
        """(source, pads) without the node that pads it with this number, if it is such a node."""
        step = self.steps[source]
        if step.padding is None or step.padding[0] != number or self.uses[source] != 1:
            return source, (0, 0, 0, 0)
        return step.sources[0], step.padding[1]

    # ---- from the steps to layers -----------------------------------------------------------------------------------
    def network(self) -> tuple[list[Step], Any]:
        """The steps of the layers, from the input to the output, and (scale, shift) of the pixels."""
        if self.graph.output not in self.steps:
            raise InputError(f"the output {self.graph.output[:40]!r} does not depend on the input")
        chain = self._chain(self.graph.output, self.graph.input, 0)
        affine = None
        while chain and (first := chain[0].affine):
            (scale, shift), chain = first, chain[1:]
            affine = (scale, shift) if affine is None else (scale * affine[0], scale * affine[1] + shift)
        if not chain:
            raise InputError("the graph has no layers")
        _check_affine(chain)
        if len(chain) > MOST_LAYERS:
            raise InputError(f"the graph has {len(chain)} layers, expected at most {MOST_LAYERS}")
        return chain, affine

    def _chain(self, value, start, depth):
        """The steps with layers between two values; one whose sources are two is a Residual of two such chains."""
        found: list[Step] = []
        while value != start:
            step = self.steps[value]
            with naming(step.node.label):
                if value in self.used:
                    raise InputError("its output is used by several branches in a way that is not supported")
                self.used.add(value)
                if len(step.sources) > 1:
                    step = self._joined(step, self.above[value], depth + 1)
            if step.padding is not None:
                raise InputError(f"{step.node.label}: padding is supported before a convolution or a pooling")
            if step.layer is not None or step.affine is not None:
                found.append(step)
            value = self.above[value]
        return found[::-1]

    def _joined(self, step, start, depth):
        if depth > DEEPEST:
            raise InputError(f"branches are nested more than {DEEPEST} deep")
        branches = [self._chain(source, start, depth) for source in step.sources]
        for branch in branches:
            _check_affine(branch)
        body, shortcut = branches if branches[0] else branches[::-1]
        if not body:
            raise InputError("it adds a value to itself, which is not supported")
        tensors = {f"{name}.{k}.{tensor}": array for name, branch in (("body", body), ("shortcut", shortcut))
                   for k, inside in enumerate(branch) for tensor, array in inside.tensors.items()}
        layer = nn.Residual([inside.layer for inside in body], [inside.layer for inside in shortcut] or None)
        checked_output_shape(layer, self.steps[start].shape)
        return replace(step, layer=layer, tensors=tensors)


def _check_affine(chain):
    for step in chain:
        if step.affine is not None:
            raise InputError(f"{step.node.label}: arithmetic with constants is supported for the pixels and for the "
                             "outputs of dense layers only")


# ---- convolutions and dense layers ----------------------------------------------------------------------------------
def _window(node: Node, size: Shape, kernel: Sequence[int],
            around: Sequence[int] = (0, 0, 0, 0)) -> tuple[Any, Any, Any]:
    """(strides, dilations, pads (top, left, bottom, right)) of a convolution or pooling of images of a size.

    around : pads that the node before has added
    """
    size = tuple(n + first + last for n, first, last in zip(size, around[:2], around[2:], strict=True))
    strides, dilations = (tuple(node.attributes.get(name, (1, 1))) for name in ("strides", "dilations"))
    pads = tuple(node.attributes.get("pads", (0, 0, 0, 0)))
    if not len(kernel) == len(strides) == len(dilations) == IMAGE_SIDES or len(pads) != 2 * IMAGE_SIDES or min(
            *kernel, *strides, *dilations) < 1:
        raise InputError("its window is not one of rows and columns")
    auto = node.attributes.get("auto_pad", "NOTSET")
    if auto == "VALID":
        pads = (0, 0, 0, 0)
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        rest = [max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n)
                for n, s, d, k in zip(size, strides, dilations, kernel, strict=True)]
        first, last = [n // 2 for n in rest], [n - n // 2 for n in rest]
        pads = (*first, *last) if auto == "SAME_UPPER" else (*last, *first)
    elif auto != "NOTSET":
        raise InputError(f"its auto_pad is {auto[:20]!r}, which is not supported")
    return strides, dilations, tuple(a + b for a, b in zip(pads, around, strict=True))


def _image(reader: Reader, source: str) -> Shape:
    shape = reader.steps[source].shape
    if len(shape) != 3:
        raise InputError(f"its input is {shape_text(shape)}, expected an image")
    return shape


@importer("Conv")
def _conv(reader, node):
    source, around = reader.padded(reader.x(node), 0.0)
    weight, bias = reader.constant(node, 1), reader.constant(node, 2, needed=False)
    channels, *size = _image(reader, source)
    if weight.ndim != 4:
        raise InputError(f"its weights have the shape {weight.shape}, expected (filters, channels, rows, columns)")
    strides, dilations, pads = _window(node, size, weight.shape[2:], around)
    options = dict(stride=strides, dilation=dilations, groups=node.attributes.get("group", 1), bias=bias is not None)
    arguments = (channels, weight.shape[0], weight.shape[2:])
    layer = nn.Conv2d(*arguments, padding=pads[:2], **options)
    if pads[:2] != pads[2:]:
        layer = nn.Conv2d(*arguments, padding="same", **options) if strides == (1, 1) else layer
        top, bottom, left, right = layer.padding_sides()
        if (top, left, bottom, right) != pads:
            raise InputError(f"its padding is {pads} (top, left, bottom, right), expected as much on both sides")
    return reader.layer(node, source, layer, weight=weight, bias=bias)


@importer("Gemm")
def _gemm(reader, node):
    source, weight, bias = reader.x(node), reader.constant(node, 1), reader.constant(node, 2, needed=False)
    if node.attributes.get("transA"):
        raise InputError("its transA is not supported")
    weight = weight if node.attributes.get("transB") else weight.T
    return _dense(reader, node, source, weight * np.float32(node.attributes.get("alpha", 1)),
                  None if bias is None else bias * np.float32(node.attributes.get("beta", 1)))


@importer("MatMul")
def _matmul(reader, node):
    source, matrix, first = reader.operands(node)
    shape = reader.steps[source].shape
    if matrix.ndim == 2 and len(shape) == 3:
        count, size = matrix.shape if first else matrix.T.shape
        if np.array_equal(matrix if first else matrix.T, averages(size, count)) and count <= size == shape[2 - first]:
            return reader.layer(node, source, nn.AdaptiveAvgPool2d((count, None) if first else (None, count)))
    if first:
        raise InputError("its first input is a constant, which is not supported")
    return _dense(reader, node, source, matrix.T, None)


def _dense(reader, node, source, weight, bias):
    if weight.ndim != 2:
        raise InputError(f"its weights have the shape {weight.shape}, expected a matrix")
    if bias is not None:
        bias = _per_feature(bias, weight.shape[0])
    return reader.layer(node, source, nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None), weight=weight,
                        bias=bias)


def _per_feature(array, count):
    """A constant that is added to or multiplied with features, (count,); InputError when it has another shape."""
    if array.size not in (1, count) or array.ndim > 2 or array.ndim == 2 and len(array) != 1:
        raise InputError(f"its constant has the shape {array.shape}, expected {count} numbers")
    return np.broadcast_to(array.reshape(-1), (count,)).astype(np.float32)


# ---- arithmetic -----------------------------------------------------------------------------------------------------
@importer("Add")
def _add(reader, node):
    if not {*node.inputs} & reader.constants.keys():
        a, b = reader.x(node, 0), reader.x(node, 1)
        shapes = [reader.steps[name].shape for name in (a, b)]
        if shapes[0] != shapes[1]:
            raise InputError(f"it adds {shape_text(shapes[0])} and {shape_text(shapes[1])}, expected the same shape")
        return Step(node, (a, b), shapes[0])
    return _affine(reader, node)


@importer("Sub", "Mul", "Div")
def _affine(reader, node):
    """Arithmetic with a constant: part of the layer before, or of the normalisation of the pixels."""
    source, constant, first = reader.operands(node)
    if node.op == "Mul" and (pool := reader.before(source, nn.AvgPool2d)):
        return _scaled_pool(reader, node, pool, constant)
    dense = reader.before(source, nn.Linear)
    shape = reader.steps[source].shape
    scale, shift = _scale_and_shift(node.op, _per_channel(constant, shape), first)
    if dense:
        tensors = {"weight": dense.tensors["weight"] * np.reshape(scale, (-1, 1)),
                   "bias": dense.tensors.get("bias", 0) * scale + shift}
        layer = nn.Linear(dense.layer.in_features, dense.layer.out_features)
        return reader.layer(node, dense.sources[0], layer, weight=tensors["weight"].astype(np.float32),
                            bias=np.broadcast_to(tensors["bias"], shape).astype(np.float32))
    return Step(node, (source,), shape, affine=(scale, shift))


def _per_channel(constant, shape):
    """A constant as float64 (channels,) or (1,) for values of a shape; InputError when it differs within a channel."""
    axes = len(shape) + 1
    sizes = (1,) * (axes - constant.ndim) + constant.shape
    if len(sizes) != axes or any(size != 1 for k, size in enumerate(sizes) if k != 1) or sizes[1] not in (1, shape[0]):
        raise InputError(f"its constant has the shape {constant.shape}, expected a number, or one for each channel")
    return constant.reshape(-1).astype(np.float64)


def _scale_and_shift(op, c, first):
    one, none = np.ones_like(c), np.zeros_like(c)
    if op == "Div" and (first or not c.all()):
        raise InputError("its division by a value or by 0 is not supported")
    return {"Add": (one, c), "Sub": (-one, c) if first else (one, -c), "Mul": (c, none),
            "Div": (1 / np.where(c == 0, 1, c), none)}[op]


# ---- pooling --------------------------------------------------------------------------------------------------------
@importer("MaxPool")
def _max_pool(reader, node):
    source, kernel, strides, dilations, pads = _pool_window(reader, node, -np.inf)
    return reader.layer(node, source, _pool(reader, node, source, pads, [
        nn.MaxPool2d(kernel, strides, pads[:2], dilations, ceil_mode=ceil) for ceil in (False, True)]))


@importer("AveragePool")
def _average_pool(reader, node):
    source, kernel, strides, dilations, pads = _pool_window(reader, node, None)
    if dilations != (1, 1):
        raise InputError("its dilations are not supported")
    # With the padding that a rounded size needs in its pads, the zeros there count, or not, like the others.
    include = bool(node.attributes.get("count_include_pad", 0)) and pads[:2] == pads[2:]
    return reader.layer(node, source, _pool(reader, node, source, pads, [
        nn.AvgPool2d(kernel, strides, pads[:2], ceil, include) for ceil in (False, True)]))


def _pool_window(reader, node, number):
    source, around = reader.padded(reader.x(node), number)
    kernel = tuple(node.attributes.get("kernel_shape", ()))
    if node.attributes.get("storage_order"):
        raise InputError("its storage_order is not supported")
    return source, kernel, *_window(node, _image(reader, source)[1:], kernel, around)


def _pool(reader, node, source, pads, layers):
    """The layer, with or without ceil_mode, whose windows are those of the node."""
    if pads[:2] == pads[2:]:
        return layers[bool(node.attributes.get("ceil_mode", 0))]
    shape = reader.steps[source].shape
    if not node.attributes.get("ceil_mode", 0):
        size = [(n + first + last - d * (k - 1) - 1) // s + 1 for n, first, last, d, k, s in zip(
            shape[1:], pads[:2], pads[2:], *(both(getattr(layers[0], name))
                                             for name in ("dilation", "kernel_size", "stride")), strict=True)]
        for layer in layers:
            after = layer.output_shape(shape)
            if after[1:] == tuple(size) and pool_pads(layer, shape, after) == pads:
                return layer
    raise InputError(f"its padding is {pads} (top, left, bottom, right), expected as much on both sides")


def _scaled_pool(reader, node, step, scale):
    """An average whose divisor is not the size of its window: with a divisor_override, or with ceil_mode."""
    layer, source = step.layer, step.sources[0]
    before = reader.steps[source].shape
    window = math.prod(both(layer.kernel_size))
    candidates = [{"divisor_override": round(window / float(scale))}] if scale.size == 1 and scale > 0 else []
    for options in [*candidates, {}]:
        other = nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode, **options)
        found = average_counts(other, before, step.shape)[1]
        if found is not None and found.shape == scale.shape and np.allclose(found, scale, rtol=1e-6):
            return reader.layer(node, source, other)
    raise InputError("its factors are not those of an average over windows")


@importer("GlobalAveragePool")
def _global_average(reader, node):
    source = reader.x(node)
    _image(reader, source)
    return reader.layer(node, source, nn.AdaptiveAvgPool2d(1))


@importer("ReduceMean")
def _mean(reader, node):
    source = reader.x(node)
    axes = node.attributes.get("axes", reader.constant(node, 1, needed=False))
    if len(_image(reader, source)) != 3 or axes is None or sorted(axis % 4 for axis in axes) != [2, 3]:
        raise InputError("it averages over other axes than the rows and columns of images")
    step = reader.layer(node, source, nn.AdaptiveAvgPool2d(1))
    if node.attributes.get("keepdims", 1):
        return step
    return _two(reader, node, step, nn.Flatten())


def _two(reader, node, step, layer):
    """A second layer after a step that has no name of its own in the graph."""
    name = f"{node.outputs[0]} before {type(layer).__name__}"
    reader.steps[name], reader.number[name], reader.uses[name] = step, len(reader.number), 1
    reader.above[name] = step.sources[0]
    return reader.layer(node, name, layer)


# ---- normalisation and activations ----------------------------------------------------------------------------------
@importer("BatchNormalization")
def _batch_norm(reader, node):
    source = reader.x(node)
    if node.attributes.get("training_mode"):
        raise InputError("its training_mode is not supported: export the network in evaluation mode")
    shape = reader.steps[source].shape
    kind = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
    momentum = round(1 - node.attributes.get("momentum", 0.9), 7)           # PyTorch's is the share of the new batch
    layer = kind(shape[0], node.attributes.get("epsilon", 1e-5), momentum)
    names = "weight", "bias", "running_mean", "running_var"
    return reader.layer(node, source, layer, **{name: reader.constant(node, k) for k, name in enumerate(names, 1)})


@importer("Relu")
def _relu(reader, node):
    return reader.layer(node, reader.x(node), nn.ReLU())


@importer("LeakyRelu")
def _leaky_relu(reader, node):
    return reader.layer(node, reader.x(node), nn.LeakyReLU(node.attributes.get("alpha", 0.01)))


@importer("Tanh", "Sigmoid")
def _same_name(reader, node):
    return reader.layer(node, reader.x(node), getattr(nn, node.op)())


@importer("Softmax", "LogSoftmax")
def _softmax(reader, node):
    source = reader.x(node)
    shape = reader.steps[source].shape
    axis = node.attributes.get("axis", 1 if reader.graph.opset < 13 else -1)
    if axis % (len(shape) + 1) != 1 or reader.graph.opset < 13 and len(shape) == 3:
        raise InputError(f"its axis is {axis}, expected 1, that of the features or channels")
    return reader.layer(node, source, getattr(nn, node.op)(1))


@importer("Identity", "Cast")
def _nothing(reader, node):
    source = reader.x(node)
    if node.op == "Cast" and (source != reader.graph.input or node.attributes.get("to") != 1):
        raise InputError("it is supported for the input only, which becomes float32")
    return reader.same(node, source)


@importer("Dropout")
def _dropout(reader, node):
    training = reader.constant(node, 2, needed=False)
    if training is not None and training.any():
        raise InputError("its training_mode is not supported: export the network in evaluation mode")
    ratio = reader.constant(node, 1, needed=False)
    return reader.layer(node, reader.x(node), nn.Dropout(
        float(node.attributes.get("ratio", 0.5 if ratio is None else ratio))))


@importer("Pad")
def _pad(reader, node):
    source = reader.x(node)
    channels, *size = _image(reader, source)
    pads = list(node.attributes.get("pads", reader.constant(node, 1, needed=False)))
    value = reader.constant(node, 2, needed=False)
    number = float(node.attributes.get("value", 0.0) if value is None else value.reshape(-1)[0])
    if reader.constant(node, 3, needed=False) is not None or len(pads) != 8:
        raise InputError("its axes are not supported")
    pads, others = [int(pads[k]) for k in (2, 3, 6, 7)], [pads[k] for k in (0, 1, 4, 5)]
    if node.attributes.get("mode", "constant") != "constant" or any(others) or min(pads) < 0:
        raise InputError("it is supported with a constant at the sides of images only")
    size = [n + first + last for n, first, last in zip(size, pads[:2], pads[2:], strict=True)]
    if channels * math.prod(size) > MOST_VALUES:
        raise InputError(f"the images become {shape_text((channels, *size))}, expected at most {MOST_VALUES:,} numbers")
    return Step(node, (source,), (channels, *size), padding=(number, tuple(pads)))


# ---- shapes ---------------------------------------------------------------------------------------------------------
@importer("Flatten")
def _flatten(reader, node):
    source = reader.x(node)
    shape = reader.steps[source].shape
    if node.attributes.get("axis", 1) % (len(shape) + 1) != 1:
        raise InputError("its axis is not 1, that of the channels")
    return _shaped(reader, node, source, (math.prod(shape),))


@importer("Reshape")
def _reshape(reader, node):
    source = reader.x(node)
    shape, sizes = reader.steps[source].shape, reader.constant(node, 1).tolist()
    if not isinstance(sizes, list) or len(sizes) not in (2, 4):
        raise InputError("its shape is not one of features or images")
    first, *rest = sizes
    if not node.attributes.get("allowzero"):
        rest = [shape[k] if size == 0 and k < len(shape) else size for k, size in enumerate(rest)]
    known = math.prod(size for size in rest if size != -1)
    if rest.count(-1) == 1 and known > 0 and math.prod(shape) % known == 0:
        rest[rest.index(-1)] = math.prod(shape) // known
    batch = {BATCH, -1, self_batch} if (self_batch := reader.batch) else {BATCH, -1}
    if not node.attributes.get("allowzero"):
        batch.add(0)
    if first not in batch or any(size < 1 for size in rest) or math.prod(rest) != math.prod(shape):
        raise InputError(f"its shape is {[size if size != BATCH else 'batch' for size in sizes]} for images of "
                         f"{shape_text(shape)}, which does not keep the images apart")
    return _shaped(reader, node, source, tuple(rest))


@importer("Squeeze")
def _squeeze(reader, node):
    source = reader.x(node)
    shape = reader.steps[source].shape
    axes = node.attributes.get("axes", reader.constant(node, 1, needed=False))
    if axes is None or len(shape) != 3 or sorted(axis % 4 for axis in axes) != [2, 3] or shape[1:] != (1, 1):
        raise InputError("it is supported for the rows and columns of images of one pixel only")
    return _shaped(reader, node, source, shape[:1])


def _shaped(reader, node, source, shape):
    before = reader.steps[source].shape
    if shape == before:
        return reader.same(node, source)
    return reader.layer(node, source, nn.Flatten() if len(shape) == 1 else nn.Reshape(shape))
