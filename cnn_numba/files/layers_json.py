"""Layers as JSON values, [{"type": "Conv2d", "params": {"in_channels": 1, ...}}, ...], and layers from such values.

The parameters are the arguments of the layer's constructor, which also checks them; those that are lists of layers are
described in the same way.  This is the form in files of this program; `network_json` reads files that people write.
"""
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnn_numba.errors import InputError, naming, shortened
from cnn_numba.layers import Layer, every_layer, shape_text

MOST_LAYERS = 1000              # in all, including those inside others
DEEPEST = 8                     # levels of layers inside layers
MOST_VALUES = 1 << 26           # numbers of one image between two layers


def describe_layers(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """The layers as a list of {"type": name, "params": {argument: value}}; arguments are kept as attributes.

    Raises InputError for a layer that cannot be restored from a file.
    """
    description = []
    for k, layer in enumerate(layers):
        with naming(f"layer {k}"):
            name = type(layer).__name__
            if name not in Layer.known:
                raise InputError(f"{name} cannot be saved: a layer's name must not begin with an underscore")
            params = {argument: _described(layer, argument) for argument in layer.arguments()}
            description.append({"type": name, "params": params})
    return description


def _described(layer, argument):
    try:
        value = layer.argument(argument)
    except AttributeError:
        raise InputError(f"{type(layer).__name__} cannot be saved: it does not keep its argument {argument} as an "
                         "attribute") from None
    if argument in layer.branches:
        with naming(argument):
            return describe_layers(value) or None
    value = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    value = list(value) if isinstance(value, tuple) else value
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, (int, float, str, type(None))) for part in parts):
        raise InputError(f"{type(layer).__name__} cannot be saved: its argument {argument} is {value!r}, expected "
                         "numbers, text, true, false or a list of them")
    return value


def build_layers(description: Any) -> list[Layer]:
    """New layers from a description that `describe_layers` made, or from an untrusted one.

    Raises InputError, which names the layer, for unknown types and parameters and for values that a layer refuses.
    """
    try:
        layers = _build(description, 0)
        check_count(layers)
    except InputError as error:
        raise InputError(shortened(str(error))) from None
    return layers


def _build(description, depth):
    built = []
    for k, entry in enumerate(checked_list(description, depth)):
        with naming(f"layer {k}"):
            name, params = checked_entry(entry)
            kind = Layer.known.get(name)
            if kind is None:
                raise InputError(f"unknown type {name!r}: import the module that defines it first, or choose one of "
                                 f"{', '.join(sorted(Layer.known))}")
            for branch in kind.branch_names:
                if params.get(branch) is not None:
                    with naming(branch):
                        params[branch] = _build(params[branch], depth + 1)
            built.append(construct(kind, params))
    return built


def checked_list(description: Any, depth: int) -> list:
    """The list of layers at a depth of nesting; InputError unless it is a list within MOST_LAYERS and DEEPEST."""
    if not isinstance(description, list) or not 1 <= len(description) <= MOST_LAYERS:
        raise InputError(f"layers: expected a list of 1 to {MOST_LAYERS} layers")
    if depth > DEEPEST:
        raise InputError(f"layers: nested more than {DEEPEST} deep")
    return description


def checked_entry(entry: Any) -> tuple[str, dict[str, Any]]:
    """(name, {parameter: value}) of {"type": name, "params": {...}}; InputError when it is something else."""
    if not isinstance(entry, dict) or not isinstance(entry.get("type"), str) or not {"type"} <= set(entry) <= {
            "type", "params"}:
        raise InputError('expected {"type": name, "params": {...}}')
    params = entry.get("params", {})
    if not isinstance(params, dict):
        raise InputError(f"the parameters must be {{name: value}}, got {params!r}")
    return entry["type"], dict(params)


def construct(kind: type[Layer], params: dict[str, Any]) -> Layer:
    """A layer of a class; InputError for unknown and for missing parameters."""
    name, allowed = kind.__name__, kind.arguments()
    for param in params:
        if param not in allowed:
            raise InputError(f"{name} has the parameters {', '.join(allowed) or 'none'}, got {param!r}")
    for param, argument in allowed.items():
        if argument.default is argument.empty and param not in params:
            raise InputError(f"{name} needs {param}")
    return kind(**params)


def check_count(layers: Sequence[Layer]) -> None:
    """InputError when there are too many layers."""
    if sum(1 for _ in every_layer(layers)) > MOST_LAYERS:
        raise InputError(f"layers: expected 1 to {MOST_LAYERS} layers, also counting those inside others")


def check_image_shape(layers: Sequence[Layer], shape: tuple[int, ...]) -> int:
    """The number of outputs for images of a shape, (C, H, W) or (K,); InputError unless layers and memory fit."""
    for k, layer in enumerate(layers):
        with naming(f"layer {k}"):
            shape = checked_output_shape(layer, shape)
    if len(shape) != 1:
        raise InputError(f"the last layer must give one number for each class, it gives {shape_text(shape)}")
    return shape[0]


def checked_output_shape(layer: Layer, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The layer's output shape; InputError also when it, or a layer inside it, takes too much memory."""
    after = tuple(layer.output_shape(shape))
    for name, inside in layer.branches.items():
        between = shape
        for k, other in enumerate(inside):
            with naming(f"{name}: layer {k}"):
                between = checked_output_shape(other, between)
    top, bottom, left, right = layer.padding_sides()
    channels, rows, cols = shape if len(shape) == 3 else (*shape, 1, 1)
    if max(channels * (rows + top + bottom) * (cols + left + right), math.prod(after)) > MOST_VALUES:
        raise InputError(f"{shape_text(shape)} to {shape_text(after)} takes too much memory, "
                         f"expected at most {MOST_VALUES:,} numbers")
    return after
