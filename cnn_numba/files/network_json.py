"""Networks that people write: a preset's name, or a JSON file in the spelling of this library or another one.

{"layers": [{"type": "conv2d", "params": {"out_channels": 16, "kernel_size": 3, "padding": 1}}, ...]}

or the list alone.  Types and parameters are those of the layers, in any case and with or without underscores, or the
names of other programs.  Sizes that follow from the layer before may be left out; so may the size of the last dense
layer, which follows from the classes.  A dense layer flattens images.
"""
import inspect
import math
import os
import stat
from typing import Any

from cnn_numba.errors import InputError, naming, shortened
from cnn_numba.files import strict_json
from cnn_numba.files.layers_json import (
    build_layers,
    check_count,
    check_image_shape,
    checked_entry,
    checked_list,
    checked_output_shape,
    construct,
)
from cnn_numba.kinds import nearest, plain
from cnn_numba.layers import Flatten, Layer, Linear, shape_text
from cnn_numba.model import Sequential
from cnn_numba.presets import PRESETS

__all__ = ["read_network"]

LONGEST_FILE = 1 << 20
MOST_PARAMETERS = 1 << 28   # a gigabyte, and as much for the gradients
LOSS = "crossentropy", "crossentropyloss"       # the last entry in files of some programs; a Trainer has its own loss
SIZES = "in_channels", "in_features", "num_features"            # follow from the layer before
OTHER_PARAMETERS = {
    "in_channels": "in_ch_size in_ch input_channels",
    "out_channels": "out_ch_size out_ch output_channels filters num_filters",
    "kernel_size": "kernel filter_size pool_size",
    "stride": "strides",
    "padding": "pad pad_size",
    "dilation": "dilation_rate",
    "bias": "use_bias",
    "in_features": "input_size in_size input_features",
    "out_features": "output_size out_size output_features units",
    "num_features": "num_channels",
    "eps": "epsilon",
    "negative_slope": "alpha slope",
    "p": "rate",
    "dim": "axis",
    "shape": "target_shape",
}


PARAMETERS = {plain(other): name for name, others in OTHER_PARAMETERS.items() for other in others.split()}


def spellings() -> dict[str, list[type[Layer]]]:
    """{name of a layer, without case and underscores: the classes that it can mean}"""
    found: dict[str, list[type[Layer]]] = {}
    for name, kind in Layer.known.items():
        for spelling in (name, *kind.aliases):
            found.setdefault(plain(spelling), []).append(kind)
    return found


def build_network(name: str, image_shape: tuple[int, ...], num_classes: int, **options: Any) -> Sequential:
    """A new network.

    Parameters
    ----------
    name : a preset, or the path of a JSON file
    image_shape : (channels, rows, columns)
    num_classes : number of outputs
    **options : of `Sequential`

    Raises InputError for what `read_network` refuses, and when the images are too small for a preset.
    """
    if name in PRESETS:
        return PRESETS[name](image_shape, num_classes, **options)
    return read_network(name, image_shape, num_classes, **options)


def read_network(path: str | os.PathLike, image_shape: tuple[int, ...], num_classes: int,
                 **options: Any) -> Sequential:
    """A new network from a JSON file; see the top of this module.

    Parameters
    ----------
    path : path of the file
    image_shape : (channels, rows, columns), or (features,)
    num_classes : number of outputs
    **options : of `Sequential`

    Raises InputError, naming the layer, when the file cannot be read, is not JSON, a type or parameter is unknown, a
    value is out of range, or layers do not fit each other, the images, or the classes.
    """
    return Sequential(*read_layers(path, image_shape, num_classes), **options)


def read_layers(path: str | os.PathLike, image_shape: tuple[int, ...], num_classes: int) -> list[Layer]:
    """The layers of `read_network`."""
    try:
        return build_written(read_json(path), image_shape, num_classes)
    except InputError as error:
        raise InputError(f"{path}: {shortened(str(error))}") from None


def read_json(path: str | os.PathLike) -> Any:
    """The JSON value of a file; InputError unless it is one, of a sensible size."""
    try:
        content = None
        if stat.S_ISREG(os.stat(path).st_mode):         # a pipe would wait
            with open(path, "rb") as file:
                content = file.read(LONGEST_FILE + 1)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})") from None
    if content is None:
        raise InputError("is not a file, expected a network in JSON")
    if len(content) > LONGEST_FILE:
        raise InputError(f"is longer than the {LONGEST_FILE:,} bytes that a network may have")
    return strict_json.loads(content)


def build_written(description: Any, image_shape: tuple[int, ...], num_classes: int) -> list[Layer]:
    """The layers of an untrusted JSON value, for images of a shape; InputError as in `read_network`."""
    if isinstance(description, dict):
        if set(description) != {"layers"}:
            raise InputError('expected {"layers": [...]} without other keys, or a list of layers')
        description = description["layers"]
    entries = list(checked_list(description, 0))
    if len(entries) > 1 and _is_loss(entries[-1]):
        entries.pop()
    layers, shape = _build(entries, image_shape, 0, num_classes)
    check_count(layers)
    _check_parameters(layers)
    if shape != (num_classes,):
        raise InputError(f"layer {len(entries) - 1}: the last layer must give {num_classes} features, one for each "
                         f"class, it gives {shape_text(shape)}")
    return layers


def _check_parameters(layers):
    """Check the number of parameters before memory is taken for them."""
    parameters = sum(math.prod(shape) for layer in layers for shape in layer.parameter_shapes().values())
    if parameters > MOST_PARAMETERS:
        raise InputError(f"the network has {parameters:,} parameters, expected at most {MOST_PARAMETERS:,}")


def _is_loss(entry):
    return isinstance(entry, dict) and isinstance(entry.get("type"), str) and plain(entry["type"]) in LOSS \
        and not entry.get("params")


def _build(entries, shape, depth, num_classes=None):
    """The layers of a list of entries for an input shape, and their output shape."""
    parsed = []
    for k, entry in enumerate(checked_list(entries, depth)):
        with naming(f"layer {k}"):
            parsed.append(_parsed(entry))
    last_dense = max((k for k, (kinds, _) in enumerate(parsed) if kinds == [Linear]), default=None)
    layers = []
    for k, (kinds, params) in enumerate(parsed):
        with naming(f"layer {k}"):
            if kinds == [Linear] and len(shape) == 3:
                layers.append(Flatten())
                shape = layers[-1].output_shape(shape)
            if num_classes and k == last_dense and params.get("out_features") is None:
                params["out_features"] = num_classes
            kind = next((kind for kind in kinds if _fits(kind, params, shape)), kinds[0])
            layers.append(_layer(kind, params, shape, depth))
            shape = checked_output_shape(layers[-1], shape)
    return layers, shape


def _parsed(entry):
    """(the classes that an entry can mean, {argument: value})"""
    written, given = checked_entry(entry)
    if plain(written) in LOSS:
        raise InputError(f"{written} is the loss, which must be the last entry and has no parameters here")
    names = spellings()
    kinds = names.get(plain(written))
    if kinds is None:
        near = _near(written, [*Layer.known, *(name for kind in Layer.known.values() for name in kind.aliases)])
        raise InputError(f"unknown type {written!r}, {near or 'expected one of ' + ', '.join(sorted(Layer.known))}")
    allowed = {plain(argument): argument for argument in kinds[0].arguments()}
    params, spelled = {}, {}
    for key, value in given.items():
        argument = allowed.get(plain(key), PARAMETERS.get(plain(key)))
        if argument not in allowed.values():
            near = _near(key, [*allowed.values()])
            expected = f"expected {', '.join(allowed.values())}" if allowed else "expected none"
            raise InputError(f"{written} has no parameter {key!r}, {near or expected}")
        if argument in params:
            raise InputError(f"{written} has {argument} twice, as {spelled[argument]!r} and {key!r}")
        params[argument], spelled[argument] = value, key
    return kinds, kinds[0].written_defaults | params


def _near(name, names):
    """"did you mean ...?", or "" when no name is similar."""
    found = nearest(name, names)
    return f"did you mean {found!r}?" if found else ""


def _layer(kind, params, shape, depth):
    """A layer with the sizes that follow from an input shape."""
    for branch in kind.branch_names:
        inside = params.get(branch)
        with naming(branch):
            needed = kind.arguments()[branch].default is inspect.Parameter.empty
            params[branch] = _build(inside, shape, depth + 1)[0] if needed or inside not in (None, []) else None
    size = next((name for name in SIZES if name in kind.arguments()), None)
    given = params.get(size) if size else None
    layer = construct(kind, _with_size(kind, params, shape))
    if given is not None and getattr(layer, size) != shape[0] and _fits(kind, params | {size: None}, shape):
        raise InputError(f"{kind.__name__} has {size}={getattr(layer, size)}, but its input is {shape_text(shape)}: "
                         f"{size}={shape[0]} fits, and may be left out")
    return layer


def _with_size(kind, params, shape):
    """The parameters; a size that is left out follows from the input shape."""
    size = next((name for name in SIZES if name in kind.arguments()), None)
    return params | {size: shape[0]} if size and params.get(size) is None else params


def _fits(kind, params, shape):
    try:
        kind(**_with_size(kind, params, shape)).output_shape(shape)
    except (InputError, TypeError):
        return False
    return True


def rebuild_network(description: Any, image_shape: tuple[int, ...], num_classes: int,
                    most_parameters: int | None = None, **options: Any) -> Sequential:
    """A new network from the output of `describe_layers`.

    Raises InputError unless it fits the images and the classes, and has at most so many parameters and statistics.
    """
    layers = build_layers(description)
    _check_parameters(layers)
    parameters = sum(math.prod(shape) for layer in layers
                     for shape in (layer.parameter_shapes() | layer.statistic_shapes()).values())
    if most_parameters is not None and parameters > most_parameters:
        raise InputError(f"its layers have {parameters:,} parameters, but it holds {most_parameters:,}")
    outputs = check_image_shape(layers, image_shape)
    if outputs != num_classes:
        raise InputError(f"the network has {outputs} outputs, expected one for each of the {num_classes} classes")
    return Sequential(*layers, **options)
