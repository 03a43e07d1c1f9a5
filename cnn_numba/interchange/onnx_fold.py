"""Constant parts of an ONNX graph, such as the target shapes that exporters compute from the shapes of activations.

The number of images is unknown, so the shape of an activation begins with BATCH.  Operations that only move numbers
take it along; arithmetic with it is refused.
"""
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cnn_numba.errors import InputError
from cnn_numba.interchange.onnx_graph import Node

BATCH = -(2**40)                # stands for the number of images in the shape of an activation
MOST_NUMBERS = 1 << 16          # of a result, unless it is an array of the file in another form

Arrays = list[np.ndarray]


def _axes(node, arrays):
    """The axes of an operator that takes them as an attribute or as its second input."""
    axes = node.attributes.get("axes", arrays[1].tolist() if len(arrays) > 1 else None)
    return None if axes is None else tuple(axes)


def _slice(node, arrays):
    data = arrays[0]
    if "starts" in node.attributes:
        starts, ends = node.attributes["starts"], node.attributes["ends"]
        axes, steps = node.attributes.get("axes"), None
    else:
        starts, ends, axes, steps = (arrays[k].tolist() if k < len(arrays) else None for k in (1, 2, 3, 4))
    axes, steps = axes or list(range(len(starts))), steps or [1] * len(starts)
    window = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        window[axis] = slice(start, None if step < 0 and end < -data.shape[axis] else end, step)
    return data[tuple(window)]


def _reshape(node, arrays):
    sizes = [arrays[0].shape[k] if size == 0 and not node.attributes.get("allowzero") else size
             for k, size in enumerate(arrays[1].tolist())]
    return arrays[0].reshape(sizes)


def _cast(node, arrays):
    return arrays[0].astype(np.float32 if node.attributes.get("to") in (1, 10, 11, 16) else np.int64)


def _filled(node, arrays):
    value = np.ravel(node.attributes.get("value", np.zeros(1, np.float32)))
    sizes = arrays[0].tolist()
    if not 0 <= math.prod(sizes) <= MOST_NUMBERS or len(value) != 1:
        raise InputError(f"the constant of the shape {sizes[:8]} is too large")
    return np.full(sizes, value[0])


def _given(node, arrays):
    for name, kind in ("value", None), ("value_float", np.float32), ("value_floats", np.float32), \
            ("value_int", np.int64), ("value_ints", np.int64):
        if name in node.attributes:
            return np.asarray(node.attributes[name], kind)
    raise InputError("the constant has no value that is supported")


MOVES: dict[str, Callable[[Node, Arrays], Any]] = {
    "Constant": _given,
    "Identity": lambda node, arrays: arrays[0],
    "Cast": _cast,
    "Concat": lambda node, arrays: np.concatenate(arrays, axis=node.attributes["axis"]),
    "ConstantOfShape": _filled,
    "Flatten": lambda node, arrays: arrays[0].reshape(
        math.prod(arrays[0].shape[:node.attributes.get("axis", 1)]), -1),
    "Gather": lambda node, arrays: np.take(arrays[0], arrays[1], axis=node.attributes.get("axis", 0)),
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": lambda node, arrays: np.squeeze(arrays[0], _axes(node, arrays)),
    "Transpose": lambda node, arrays: np.transpose(arrays[0], node.attributes.get("perm")),
    "Unsqueeze": lambda node, arrays: np.expand_dims(arrays[0], _axes(node, arrays)),
}
ARITHMETIC: dict[str, Callable[..., Any]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Mod": np.mod, "Neg": np.negative, "Sqrt": np.sqrt,
    "Div": lambda a, b: a // b if a.dtype == b.dtype == np.int64 else a / b,
    "Reciprocal": lambda a: 1 / a,
}


def can_fold(node: Node) -> bool:
    """Whether the node is constant when its inputs are."""
    return node.op in MOVES or node.op in ARITHMETIC


def fold(node: Node, constants: Mapping[str, np.ndarray]) -> np.ndarray:
    """The value of a node whose inputs are constants; InputError when it cannot be computed."""
    arrays = [constants[name] for name in node.inputs if name]
    try:
        with np.errstate(all="ignore"):
            if node.op in MOVES:
                found = np.asarray(MOVES[node.op](node, arrays))
            else:
                if any(array.dtype == np.int64 and (array == BATCH).any() for array in arrays):
                    raise InputError("the arithmetic with the number of images is not supported")
                found = np.asarray(ARITHMETIC[node.op](*arrays))
    except (ValueError, IndexError, TypeError, KeyError, OverflowError, ZeroDivisionError) as error:
        raise InputError(f"the constant cannot be computed ({str(error)[:100]})") from None
    if found.size > max(MOST_NUMBERS, *(array.size for array in arrays), 0):
        raise InputError(f"the constant of the shape {found.shape[:8]} is too large")
    return found.astype(np.int64 if found.dtype.kind in "iub" else np.float32)
