"""Layers as JSON values, [{"type": "Conv2d", "params": {"in_channels": 1, ...}}, ...], and layers from such values.

The parameters are the arguments of the layer's constructor, which also checks them.
"""
import inspect
import math

from . import layers as known
from .errors import InputError, shortened
from .layers import Layer, shape_text
from .plan import infer_shapes

TYPES = {name: value for name, value in vars(known).items()
         if isinstance(value, type) and issubclass(value, Layer) and value is not Layer}
MOST_LAYERS = 1000
MOST_VALUES = 1 << 26       # of one image between two layers


def describe_layers(layers):
    """The layers as a list of {"type": name, "params": {argument: value}}; arguments are kept as attributes.

    Raises InputError for a layer that is not of this library, which a file could not bring back.
    """
    description = []
    for k, layer in enumerate(layers):
        name = type(layer).__name__
        if TYPES.get(name) is not type(layer):
            raise InputError(f"layer {k}: {name} is no layer of this library, so that it cannot be saved")
        params = {argument: getattr(layer, argument) for argument in _arguments(TYPES[name])}
        description.append({"type": name, "params": {
            argument: list(value) if isinstance(value, tuple) else value for argument, value in params.items()}})
    return description


def build_layers(description):
    """New layers from what `describe_layers` gave, or what somebody wrote by hand or sent.

    Raises InputError, naming the layer, for unknown types and parameters and for values that a layer refuses.
    """
    if not isinstance(description, list) or not 1 <= len(description) <= MOST_LAYERS:
        raise InputError(f"layers: expected a list of 1 to {MOST_LAYERS} layers")
    built = []
    for k, entry in enumerate(description):
        try:
            built.append(_layer(entry))
        except InputError as error:
            raise InputError(f"layer {k}: {shortened(str(error))}") from None
    return built


def _layer(entry):
    if not isinstance(entry, dict) or not isinstance(entry.get("type"), str) or not {"type"} <= set(entry) <= {
            "type", "params"}:
        raise InputError('expected {"type": name, "params": {...}}')
    kind, params = TYPES.get(entry["type"]), entry.get("params", {})
    if kind is None:
        raise InputError(f"the type must be one of {', '.join(sorted(TYPES))}, got {entry['type']!r}")
    if not isinstance(params, dict):
        raise InputError(f"{entry['type']}: the parameters must be {{name: value}}, got {params!r}")
    arguments = _arguments(kind)
    for name in params:
        if name not in arguments:
            raise InputError(f"{entry['type']} has the parameters {', '.join(arguments) or 'none'}, got {name!r}")
    for name, argument in arguments.items():
        if argument.default is argument.empty and name not in params:
            raise InputError(f"{entry['type']} needs {name}")
    return kind(**params)


def _arguments(kind):
    """{name: inspect.Parameter} of a layer's constructor."""
    return dict(inspect.signature(kind).parameters)


def check_image_shape(layers, shape):
    """The number of outputs for images of a shape, (C, H, W) or (K,); InputError unless they fit, and memory too."""
    shapes = infer_shapes(layers, shape)
    for k, (layer, before, after) in enumerate(zip(layers, shapes, shapes[1:], strict=False)):
        top, bottom, left, right = layer.padding_sides()
        channels, rows, cols = before if len(before) == 3 else (*before, 1, 1)
        if max(channels * (rows + top + bottom) * (cols + left + right), math.prod(after)) > MOST_VALUES:
            raise InputError(f"layer {k}: {shape_text(before)} to {shape_text(after)} takes too much memory, "
                             f"expected at most {MOST_VALUES:,} numbers")
    if len(shapes[-1]) != 1:
        raise InputError(f"the last layer must give one number for each class, it gives {shape_text(shapes[-1])}")
    return shapes[-1][0]
