"""Layers as JSON values, [{"type": "Conv2d", "params": {"in_channels": 1, ...}}, ...], and layers from such values.

The parameters are the arguments of the layer's constructor, which also checks them; those that are lists of layers are
described in the same way.  This is the form in files of this program; `network_file` reads what people write.
"""
import inspect
import math

from cnn_numba import layers as known
from cnn_numba.errors import InputError, naming, shortened
from cnn_numba.layers import Layer, every_layer, shape_text

TYPES = {name: value for name, value in vars(known).items()
         if isinstance(value, type) and issubclass(value, Layer) and value is not Layer}
BRANCHES = "body", "shortcut"   # arguments that are lists of layers
MOST_LAYERS = 1000              # in all, also of those inside of others
DEEPEST = 8                     # layers in layers in ...
MOST_VALUES = 1 << 26           # of one image between two layers


def describe_layers(layers):
    """The layers as a list of {"type": name, "params": {argument: value}}; arguments are kept as attributes.

    Raises InputError for a layer that is not of this library, which a file could not bring back.
    """
    description = []
    for k, layer in enumerate(layers):
        name = type(layer).__name__
        if TYPES.get(name) is not type(layer):
            raise InputError(f"layer {k}: {name} is no layer of this library, so that it cannot be saved")
        params = {}
        for argument in arguments(TYPES[name]):
            value = getattr(layer, argument)
            if argument in layer.branches:
                with naming(f"layer {k}: {argument}"):
                    params[argument] = describe_layers(value) or None
            else:
                params[argument] = list(value) if isinstance(value, tuple) else value
        description.append({"type": name, "params": params})
    return description


def build_layers(description):
    """New layers from what `describe_layers` gave, or what somebody sent.

    Raises InputError, naming the layer, for unknown types and parameters and for values that a layer refuses.
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
            kind = TYPES.get(name)
            if kind is None:
                raise InputError(f"the type must be one of {', '.join(sorted(TYPES))}, got {name!r}")
            for branch in BRANCHES:
                if branch in arguments(kind) and params.get(branch) is not None:
                    with naming(branch):
                        params[branch] = _build(params[branch], depth + 1)
            built.append(construct(kind, params))
    return built


def checked_list(description, depth):
    """A list of layers that stands in so many layers; InputError unless it is one, of a sensible length and depth."""
    if not isinstance(description, list) or not 1 <= len(description) <= MOST_LAYERS:
        raise InputError(f"layers: expected a list of 1 to {MOST_LAYERS} layers")
    if depth > DEEPEST:
        raise InputError(f"layers: more than {DEEPEST} of them in each other")
    return description


def checked_entry(entry):
    """(name, {parameter: value}) of {"type": name, "params": {...}}; InputError when it is something else."""
    if not isinstance(entry, dict) or not isinstance(entry.get("type"), str) or not {"type"} <= set(entry) <= {
            "type", "params"}:
        raise InputError('expected {"type": name, "params": {...}}')
    params = entry.get("params", {})
    if not isinstance(params, dict):
        raise InputError(f"the parameters must be {{name: value}}, got {params!r}")
    return entry["type"], dict(params)


def construct(kind, params):
    """A layer of a class; InputError for parameters that it does not have, or needs."""
    name, allowed = kind.__name__, arguments(kind)
    for param in params:
        if param not in allowed:
            raise InputError(f"{name} has the parameters {', '.join(allowed) or 'none'}, got {param!r}")
    for param, argument in allowed.items():
        if argument.default is argument.empty and param not in params:
            raise InputError(f"{name} needs {param}")
    return kind(**params)


def arguments(kind):
    """{name: inspect.Parameter} of a layer's constructor."""
    return dict(inspect.signature(kind).parameters)


def check_count(layers):
    """InputError when these layers are too many."""
    if sum(1 for _ in every_layer(layers)) > MOST_LAYERS:
        raise InputError(f"layers: expected 1 to {MOST_LAYERS} layers, also counting those inside of others")


def check_image_shape(layers, shape):
    """The number of outputs for images of a shape, (C, H, W) or (K,); InputError unless they fit, and memory too."""
    for k, layer in enumerate(layers):
        with naming(f"layer {k}"):
            shape = checked_output_shape(layer, shape)
    if len(shape) != 1:
        raise InputError(f"the last layer must give one number for each class, it gives {shape_text(shape)}")
    return shape[0]


def checked_output_shape(layer, shape):
    """The layer's output shape; InputError also when it takes too much memory, or a layer inside of it does."""
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
