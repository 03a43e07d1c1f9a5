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
from cnn_numba.interchange.onnx_export import average_counts, averages, pixel_places, pool_pads
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
    part : of a layer that takes several operators, "erf" of GELU
    """

    node: Node
    sources: tuple[str, ...]
    shape: Shape
    layer: Any = None
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    affine: tuple[np.ndarray, np.ndarray] | None = None
    padding: tuple[float, tuple[int, ...]] | None = None
    part: tuple[Any, ...] = ()


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
                step = _zero_pad(step)
            if step.part:
                raise InputError(f"{step.node.label}: no layer of this program computes it here")
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
        if step.node.op == "Concat":
            kind = nn.Concat
            branches = [branch or [Step(step.node, (), (), nn.Identity())] for branch in branches]
            if len(branches) > len(kind.branch_names):
                raise InputError(f"it joins {len(branches)} values, expected 2 to {len(kind.branch_names)}")
        else:
            kind = nn.Residual
            branches = branches if branches[0] else branches[::-1]
            if not branches[0]:
                raise InputError("it adds a value to itself, which is not supported")
        named = dict(zip(kind.branch_names, branches, strict=False))
        tensors = {f"{name}.{k}.{tensor}": array for name, branch in named.items()
                   for k, inside in enumerate(branch) for tensor, array in inside.tensors.items()}
        layer = kind(**{name: [inside.layer for inside in branch] or None for name, branch in named.items()})
        checked_output_shape(layer, self.steps[start].shape)
        return replace(step, layer=layer, tensors=tensors)


def _check_affine(chain):
    for step in chain:
        if step.affine is not None:
            raise InputError(f"{step.node.label}: arithmetic with constants is supported for the pixels and for the "
                             "outputs of dense layers only")


def _zero_pad(step):
    number, (top, left, bottom, right) = step.padding
    if number != 0:
        raise InputError(f"{step.node.label}: padding with {number:g} is supported before a MaxPool only")
    return replace(step, layer=nn.ZeroPad2d((left, right, top, bottom)), padding=None)


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


@importer("ConvTranspose")
def _conv_transpose(reader, node):
    source, weight, bias = reader.x(node), reader.constant(node, 1), reader.constant(node, 2, needed=False)
    if weight.ndim != 4 or "output_shape" in node.attributes or node.attributes.get("auto_pad", "NOTSET") != "NOTSET":
        raise InputError("its output_shape, auto_pad, or number of axes is not supported")
    strides, dilations, pads = _window(node, _image(reader, source)[1:], weight.shape[2:])
    if pads[:2] != pads[2:]:
        raise InputError(f"its padding is {pads} (top, left, bottom, right), expected as much on both sides")
    groups = node.attributes.get("group", 1)
    layer = nn.ConvTranspose2d(
        weight.shape[0], weight.shape[1] * groups, weight.shape[2:], strides, pads[:2],
        tuple(node.attributes.get("output_padding", (0, 0))), groups, bias is not None, dilations)
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
    if node.op == "Mul" and not {*node.inputs} & reader.constants.keys():
        return _product(reader, node)
    source, constant, first = reader.operands(node)
    if node.op == "Mul" and reader.steps[source].part == ("gelu",) and constant.size == 1 and constant == 0.5:
        return reader.layer(node, reader.steps[source].sources[0], nn.GELU())
    if node.op in ("Mul", "Add") and not first and (norm := reader.before(source, nn.GroupNorm)):
        return _scaled_norm(reader, node, norm, _per_channel(constant, norm.shape))
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


def _product(reader, node):
    """x times the sigmoid of x is SiLU; x times 1 + erf(x / sqrt(2)) is twice GELU."""
    for x, other in (node.inputs, node.inputs[::-1]):
        step = reader.steps[reader.x(node, node.inputs.index(other))]
        if isinstance(step.layer, nn.Sigmoid) and step.sources == (x,):
            return reader.layer(node, x, nn.SiLU())
        if step.affine and np.array_equal(step.affine, [[1], [1]]) and reader.steps[step.sources[0]].part == ("erf", x):
            return Step(node, (x,), reader.steps[x].shape, part=("gelu",))
    raise InputError("its second input is not a constant, which is supported for x * sigmoid(x) and GELU only")


@importer("Erf")
def _erf(reader, node):
    source = reader.x(node)
    step = reader.steps[source]
    if step.affine is None or not np.allclose(step.affine, [[math.sqrt(1 / 2)], [0]], rtol=1e-6):
        raise InputError("no layer of this program computes it, except in GELU")
    return Step(node, (source,), step.shape, part=("erf", step.sources[0]))


def _scaled_norm(reader, node, step, values):
    """A GroupNorm with the weight or the bias that follows."""
    layer, name = step.layer, "weight" if node.op == "Mul" else "bias"
    if "bias" in step.tensors:
        raise InputError("its second arithmetic after a normalisation is not supported")
    tensors = {"weight": np.ones(layer.num_channels, np.float32)} | step.tensors
    values = np.broadcast_to(values, (layer.num_channels,))
    tensors[name] = (tensors.get(name, 1 if name == "weight" else 0) * (values if name == "weight" else 1)
                     + (0 if name == "weight" else values)).astype(np.float32)
    affine = nn.GroupNorm(layer.num_groups, layer.num_channels, layer.eps)
    return reader.layer(node, step.sources[0], affine, **tensors)


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


@importer("InstanceNormalization")
def _instance_norm(reader, node):
    source, scale, shift = reader.x(node), reader.constant(node, 1), reader.constant(node, 2)
    step, eps = reader.steps[source], node.attributes.get("epsilon", 1e-5)
    if step.part[:1] == ("groups",):
        if not (scale == 1).all() or shift.any():
            raise InputError("its scale and bias of groups are not supported")
        return Step(node, (step.sources[0],), step.shape, part=("normed", eps))
    channels = _image(reader, source)[0]
    return reader.layer(node, source, nn.GroupNorm(channels, channels, eps), weight=scale, bias=shift)


@importer("LayerNormalization")
def _layer_norm(reader, node):
    source, weight, bias = reader.x(node), reader.constant(node, 1), reader.constant(node, 2, needed=False)
    shape = reader.steps[source].shape
    if node.attributes.get("axis", -1) % (len(shape) + 1) != 1:
        raise InputError("its axis is not 1: it does not normalise whole images")
    layer = nn.LayerNorm(shape, node.attributes.get("epsilon", 1e-5), bias=bias is not None)
    return reader.layer(node, source, layer, weight=weight, bias=bias)


@importer("Elu")
def _elu(reader, node):
    return reader.layer(node, reader.x(node), nn.ELU(node.attributes.get("alpha", 1.0)))


@importer("Softplus")
def _softplus(reader, node):
    return reader.layer(node, reader.x(node), nn.Softplus())


@importer("Gelu")
def _gelu(reader, node):
    return reader.layer(node, reader.x(node), nn.GELU(node.attributes.get("approximate", "none")))


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
    part = reader.steps[source].part
    if not isinstance(sizes, list) or len(sizes) not in (2, 3, 4):
        raise InputError("its shape is not one of features or images")
    first, *rest = sizes
    if part[:1] == ("normed",):
        shape = reader.steps[reader.steps[source].sources[0]].shape
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
    if len(rest) == 2:                                  # of a GroupNorm
        return Step(node, (source,), tuple(rest), part=("groups", rest[0]))
    if part[:1] == ("normed",):
        before, groups = reader.steps[source].sources[0], reader.steps[source].shape[0]
        if tuple(rest) != shape:
            raise InputError("its shape is not that of the images before the normalisation")
        return reader.layer(node, before, nn.GroupNorm(groups, shape[0], part[1], affine=False))
    return _shaped(reader, node, source, tuple(rest))


@importer("Concat")
def _concat(reader, node):
    sources = tuple(reader.x(node, k) for k in range(len(node.inputs)))
    shapes = [reader.steps[name].shape for name in sources]
    if len(sources) == 1:
        return reader.same(node, sources[0])
    if node.attributes.get("axis", 0) % (len(shapes[0]) + 1) != 1 or len({shape[1:] for shape in shapes}) > 1:
        raise InputError("it does not join channels of images of one size, or features")
    return Step(node, sources, (sum(shape[0] for shape in shapes), *shapes[0][1:]))


@importer("Resize")
def _resize(reader, node):
    source = reader.x(node)
    modes = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    if odd := [name for name, value in modes.items() if node.attributes.get(name) != value]:
        raise InputError(f"its {odd[0]} is {str(node.attributes.get(odd[0]))[:40]!r}, expected {modes[odd[0]]!r}")
    channels, *size = _image(reader, source)
    scales, sizes = (reader.constant(node, k, needed=False) for k in (2, 3))
    if sizes is not None and sizes.size == 4:
        wanted, kept = nn.Upsample(tuple(int(n) for n in sizes[2:])), (sizes[1], sizes[0]) == (channels, sizes[0])
    elif scales is not None and scales.size == 4:
        wanted, kept = nn.Upsample(scale_factor=tuple(float(n) for n in scales[2:])), (scales[:2] == 1).all()
    else:
        raise InputError("its sizes are not those of images")
    if not kept:
        raise InputError("it changes the number of channels or images")
    return reader.layer(node, source, wanted)


@importer("Gather")
def _gather(reader, node):
    source, places = reader.x(node), reader.constant(node, 1)
    shape, axis = _image(reader, source), node.attributes.get("axis", 0) % 4
    if axis in (2, 3) and places.ndim == 1 and 1 <= len(places) <= MOST_VALUES:
        size = (len(places), shape[2]) if axis == 2 else (shape[1], len(places))
        for mode in "nearest", "nearest-exact":
            layer = nn.Upsample(size, mode=mode)
            checked_output_shape(layer, shape)
            if np.array_equal(pixel_places(layer, shape)[axis - 2], places):
                return reader.layer(node, source, layer)
    raise InputError("it takes pixels in another way than a layer of this program")


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
