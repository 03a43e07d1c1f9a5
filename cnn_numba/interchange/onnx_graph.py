"""ONNX graphs as plain values, and their files: the only module that knows the package onnx.

Reading trusts nothing: no code runs, the sizes of arrays are compared with the bytes that are there, and weights in a
second file are read from the folder of the first one only.
"""
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cnn_numba import __version__
from cnn_numba.errors import InputError, naming
from cnn_numba.escaping import printable
from cnn_numba.files.atomic import write
from cnn_numba.interchange.extras import package

MOST_BYTES = 1 << 31            # what a protobuf message can have
MOST_NODES = 10_000
FLOATS = "FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16"
WHOLE = "INT64", "INT32", "INT8", "UINT8", "BOOL"
OF_ONNX = "", "ai.onnx"         # names of the domain of the standard's operators


@dataclass(frozen=True)
class Node:
    """A node of a graph: its values are known by their names; "" is an input that is left out."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    name: str

    @property
    def label(self) -> str:
        """The node in an error message."""
        return f"node {(self.name or ', '.join(self.outputs))[:100]!r} ({printable(self.op[:40])})"


@dataclass
class Graph:
    """A graph with one input and one output.

    constants : {name: array}
    input_shape, output_shape : sizes; None for one that is not a number, as that of the batch
    metadata : texts by their keys
    """

    input: str
    input_shape: tuple[int | None, ...]
    output: str
    output_shape: tuple[int | None, ...] = ()
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    opset: int = 0


# ---- writing --------------------------------------------------------------------------------------------------------
def write_graph(path: str | os.PathLike, graph: Graph, name: str, description: str) -> None:
    """Write a graph to a file, whole or not at all.

    The version of the file format is the oldest that allows the graph's opset.  Raises InputError when the package onnx
    is missing, or the file cannot be written.
    """
    write(path, serialized(graph, name, description))


def serialized(graph: Graph, name: str, description: str) -> bytes:
    """The bytes of a file; onnx checks them, and adds the shapes of all values."""
    onnx = package("onnx")
    helper, numbers = onnx.helper, onnx.TensorProto.FLOAT

    def described(name, shape):
        return helper.make_tensor_value_info(name, numbers, ["batch" if n is None else n for n in shape])

    nodes = [helper.make_node(node.op, node.inputs, node.outputs, node.name, **node.attributes)
             for node in graph.nodes]
    constants = [onnx.numpy_helper.from_array(np.asarray(array, order="C"), name)
                 for name, array in graph.constants.items()]
    opset = helper.make_opsetid("", graph.opset)
    model = helper.make_model(
        helper.make_graph(nodes, name, [described(graph.input, graph.input_shape)],
                          [described(graph.output, graph.output_shape)], constants),
        opset_imports=[opset], ir_version=helper.find_min_ir_version_for([opset]), producer_name="cnn-numba",
        producer_version=__version__, doc_string=description)
    helper.set_model_props(model, graph.metadata)
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


# ---- reading --------------------------------------------------------------------------------------------------------
def read_graph(path: str | os.PathLike, content: bytes) -> Graph:
    """The graph in the bytes of a file; `path` is where files with its weights may be.

    Raises InputError, without the path, for anything that is not a graph of the standard's operators with one input and
    one output, and when the package onnx is missing.
    """
    onnx = package("onnx")
    from google.protobuf.message import DecodeError

    if len(content) > MOST_BYTES:
        raise InputError(f"the file has {len(content):,} bytes, expected at most {MOST_BYTES:,}")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except (DecodeError, RecursionError):
        raise InputError("this is not an ONNX file, or it is damaged") from None
    graph = model.graph
    if not graph.node or not graph.output or not _is_text(model):
        raise InputError("this is not an ONNX file, or it is damaged")
    if len(graph.node) > MOST_NODES:
        raise InputError(f"the graph has {len(graph.node):,} nodes, expected at most {MOST_NODES:,}")
    nodes = [_node(onnx, node) for node in _needed(graph)]
    constants: dict[str, np.ndarray] = {}
    for tensor in graph.initializer:
        with naming(f"the constant {tensor.name[:100]!r}"):
            constants[tensor.name] = _array(onnx, tensor, Path(path).parent)
    if graph.sparse_initializer:
        raise InputError("the graph has sparse constants, which are not supported")
    inputs = [value for value in graph.input if value.name not in constants]
    for what, values in ("input", inputs), ("output", graph.output):
        if len(values) != 1:
            names = ", ".join(printable(value.name[:40]) for value in values[:5]) or "none"
            raise InputError(f"the graph has {len(values)} {what}s, expected one: {names}")
    opset = max((each.version for each in model.opset_import if each.domain in OF_ONNX), default=1)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return Graph(inputs[0].name, _shape(onnx, inputs[0]), graph.output[0].name, (), nodes, constants, metadata, opset)


def _is_text(value):
    """Whether the texts of a message, of several, or one text are UTF-8: protobuf gives the bytes of others."""
    if isinstance(value, (str, bytes)):
        return isinstance(value, str)
    if hasattr(value, "ListFields"):
        return all(_is_text(inside) for field, inside in value.ListFields()
                   if field.type in (field.TYPE_STRING, field.TYPE_MESSAGE))
    return all(map(_is_text, value))


def _needed(graph):
    """The nodes that the output depends on, in their order."""
    values, needed = {output.name for output in graph.output}, []
    for node in reversed(graph.node):
        if values & set(node.output):
            needed.append(node)
            values.update(node.input)
    return needed[::-1]


def _node(onnx, node):
    found = Node(node.op_type, tuple(node.input), tuple(node.output), {}, node.name)
    with naming(found.label):
        if node.domain not in OF_ONNX:
            raise InputError(f"the operator is of the domain {node.domain[:40]!r}, expected one of the standard's")
        attributes = {each.name: _attribute(onnx, each) for each in node.attribute}
    return Node(found.op, found.inputs, found.outputs, attributes, found.name)


def _attribute(onnx, attribute):
    kinds = onnx.AttributeProto
    readers = {kinds.INT: lambda: int(attribute.i), kinds.FLOAT: lambda: _shortest(attribute.f),
               kinds.STRING: lambda: attribute.s.decode("utf-8", "replace"), kinds.INTS: lambda: list(attribute.ints),
               kinds.FLOATS: lambda: list(map(_shortest, attribute.floats)),
               kinds.TENSOR: lambda: _array(onnx, attribute.t, None)}
    if attribute.type not in readers or attribute.ref_attr_name:
        raise InputError(f"the attribute {attribute.name[:40]!r} is of a type that is not supported")
    return readers[attribute.type]()


def _shortest(number):
    """The float32 number as it was written, 0.1 instead of 0.10000000149."""
    return float(str(np.float32(number)))


def _array(onnx, tensor, folder):
    """The array of a TensorProto, float32 or int64; `folder` is where its numbers may be, None for nowhere."""
    kinds = {onnx.TensorProto.DataType.Value(name): name for name in (*FLOATS, *WHOLE)}
    kind = kinds.get(tensor.data_type)
    if kind is None:
        raise InputError(f"its numbers are of the type {tensor.data_type}, expected one of {', '.join(kinds.values())}")
    if any(size < 0 for size in tensor.dims):
        raise InputError("a size is below 0")
    size = math.prod(tensor.dims)
    of_numbers = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        content = _beside(folder, entries, size * of_numbers.itemsize)
        array = np.frombuffer(content, of_numbers.newbyteorder("<"))
    else:
        there = max(len(tensor.raw_data) // of_numbers.itemsize,
                    *(len(getattr(tensor, name)) for name in ("float_data", "double_data", "int32_data", "int64_data")))
        if size > there:
            raise InputError(f"it has the sizes {list(tensor.dims)[:8]} and {there:,} numbers")
        try:
            array = onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(f"its numbers cannot be read ({str(error)[:100]})") from None
    if array.size != size:
        raise InputError(f"it has the sizes {list(tensor.dims)[:8]} and {array.size:,} numbers")
    array = array.reshape(tuple(tensor.dims))
    return array.astype(np.float32 if kind in FLOATS else np.int64)


def _beside(folder, entries, size):
    """`size` bytes of a file in the folder, {location, offset, length}."""
    name = entries.get("location", "")
    if folder is None or not name or name != os.path.basename(name) or name in (".", "..") or "\\" in name:
        raise InputError(f"its numbers are in {name[:100]!r}, expected the name of a file in the same folder")
    path = Path(folder) / name
    try:
        offset, length = int(entries.get("offset", "0")[:20]), int(entries.get("length", str(size))[:20])
        if length != size or offset < 0:
            raise InputError(f"its numbers take {size:,} bytes, got {length} from byte {offset} of {name[:100]!r}")
        if not path.is_file():
            raise InputError(f"its numbers are in {name[:100]!r}, which is not beside the file")
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size < offset + length:
                raise InputError(f"its numbers are in {name[:100]!r}, which is too short")
            file.seek(offset)
            return file.read(length)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"its place in {name[:100]!r} is not a number") from None
    except OSError as error:
        raise InputError(f"its numbers are in {name[:100]!r}, which cannot be read ({error.strerror})") from None


def _shape(onnx, value):
    tensor = value.type.tensor_type
    allowed = {onnx.TensorProto.DataType.Value(name) for name in (*FLOATS, "UINT8")}
    if tensor.elem_type not in allowed:
        raise InputError(f"the input {value.name[:40]!r} is not an array of float32 numbers")
    return tuple(size.dim_value if size.HasField("dim_value") and size.dim_value > 0 else None
                 for size in tensor.shape.dim)
