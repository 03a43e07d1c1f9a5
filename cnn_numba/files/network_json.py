"""Networks that people write: a preset's name, or a JSON file in the spelling of this library or another one.

{"layers": [{"type": "conv2d", "params": {"out_channels": 16, "kernel_size": 3, "padding": 1}}, ...]}

or the list alone.  Types and parameters are those of the layers, in any case and with or without underscores, or what
other programs call them.  Sizes that follow from the layer before may be left out, and those of the last dense layer
that follow from the classes.  A dense layer flattens images.
"""
import difflib
import json
import math
import os
import re
import stat
from collections import Counter

from cnn_numba.errors import InputError, naming, shortened
from cnn_numba.files.layers_json import (
    BRANCHES,
    TYPES,
    arguments,
    build_layers,
    check_count,
    check_image_shape,
    checked_entry,
    checked_list,
    checked_output_shape,
    construct,
)
from cnn_numba.layers import Flatten, shape_text
from cnn_numba.model import Sequential
from cnn_numba.presets import PRESETS

__all__ = ["read_network"]

LONGEST_FILE = 1 << 20
MOST_DIGITS = 18            # of a whole number
MOST_PARAMETERS = 1 << 28   # a gigabyte, and as much for the gradients
LONGEST_NAME = 40           # for which a similar one is looked up
LOSS = "crossentropy", "crossentropyloss"       # the last entry of some programs; a Trainer brings its own
NORM = "batchnorm"                              # of images or of features
OTHER_TYPES = {
    "Conv2d": "conv convolution convolution2d",
    "Linear": "fc dense fullyconnected affine",
    "MaxPool2d": "maxpool maxpooling maxpooling2d",
    "AvgPool2d": "avgpool averagepool averagepool2d averagepooling averagepooling2d",
    "AdaptiveAvgPool2d": "adaptiveavgpool globalavgpool globalavgpool2d globalaveragepooling globalaveragepooling2d",
    "BatchNorm2d": "bn2d",
    "BatchNorm1d": "bn1d",
    NORM: "batchnorm bn batchnormalization",
    "LeakyReLU": "lrelu",
    "Residual": "residualblock",
}
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
DEFAULTS = {"AdaptiveAvgPool2d": {"output_size": 1}}


def plain(name):
    return re.sub("[_ -]", "", name).lower()


SPELLINGS = {plain(name): name for name in TYPES} | {
    other: name for name, others in OTHER_TYPES.items() for other in others.split()}
PARAMETERS = {plain(other): name for name, others in OTHER_PARAMETERS.items() for other in others.split()}


def build_network(name, image_shape, num_classes, **options):
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


def read_network(path, image_shape, num_classes, **options):
    """A new network from a JSON file; see the top of this module.

    Parameters
    ----------
    path : path of the file
    image_shape : (channels, rows, columns), or (features,)
    num_classes : number of outputs
    **options : of `Sequential`

    Raises InputError, naming the layer, when the file cannot be read, is no JSON, a type or parameter is unknown, a
    value is out of range, or layers do not fit each other, the images, or the classes.
    """
    return Sequential(*read_layers(path, image_shape, num_classes), **options)


def read_layers(path, image_shape, num_classes):
    """The layers of `read_network`."""
    try:
        return build_written(read_json(path), image_shape, num_classes)
    except InputError as error:
        raise InputError(f"{path}: {shortened(str(error))}") from None


def read_json(path):
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
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_object, parse_int=_whole, parse_float=_real,
                          parse_constant=_constant)
    except UnicodeDecodeError:
        raise InputError("is no text in UTF-8, expected a network in JSON") from None
    except json.JSONDecodeError as error:
        raise InputError(f"line {error.lineno}, column {error.colno} is no JSON: {error.msg}") from None
    except RecursionError:
        raise InputError("has too many brackets in each other") from None


def _object(pairs):
    value = dict(pairs)
    if len(value) < len(pairs):
        (twice, _), = Counter(name for name, _ in pairs).most_common(1)
        raise InputError(f"the key {twice!r} stands twice in the same object")
    return value


def _whole(digits):
    if len(digits) > MOST_DIGITS:
        raise InputError(f"the number {digits[:MOST_DIGITS]}... has more than {MOST_DIGITS} digits")
    return int(digits)


def _real(digits):
    value = float(digits)
    if math.isinf(value):
        raise InputError(f"the number {shortened(digits, 40)} is too large")
    return value


def _constant(name):
    raise InputError(f"{name} is no number, and no JSON")


def build_written(description, image_shape, num_classes):
    """The layers of a JSON value that somebody wrote, for images of a shape; InputError as `read_network`."""
    if isinstance(description, dict):
        if set(description) != {"layers"}:
            raise InputError('expected {"layers": [...]} and nothing beside it, or a list of layers')
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
    """Before memory is taken for them."""
    parameters = sum(math.prod(shape) for layer in layers for shape in layer.parameter_shapes().values())
    if parameters > MOST_PARAMETERS:
        raise InputError(f"the network has {parameters:,} parameters, expected at most {MOST_PARAMETERS:,}")


def _is_loss(entry):
    return isinstance(entry, dict) and isinstance(entry.get("type"), str) and plain(entry["type"]) in LOSS \
        and not entry.get("params")


def _build(entries, shape, depth, num_classes=None):
    """The layers of a list of entries for an input shape, and the shape that they give."""
    parsed = []
    for k, entry in enumerate(checked_list(entries, depth)):
        with naming(f"layer {k}"):
            parsed.append(_parsed(entry))
    last_dense = max((k for k, (name, _) in enumerate(parsed) if name == "Linear"), default=None)
    layers = []
    for k, (name, params) in enumerate(parsed):
        with naming(f"layer {k}"):
            if name == NORM:
                name = "BatchNorm2d" if len(shape) == 3 else "BatchNorm1d"
            if name == "Linear" and len(shape) == 3:
                layers.append(Flatten())
                shape = layers[-1].output_shape(shape)
            if num_classes and k == last_dense and params.get("out_features") is None:
                params["out_features"] = num_classes
            layers.append(_layer(TYPES[name], params, shape, depth))
            shape = checked_output_shape(layers[-1], shape)
    return layers, shape


def _parsed(entry):
    """(the name of a class, or NORM, {argument: value}) of an entry."""
    written, given = checked_entry(entry)
    if plain(written) in LOSS:
        raise InputError(f"{written} is the loss, which can only be the last entry, and has no parameters here")
    name = SPELLINGS.get(plain(written))
    if name is None:
        near = _near(written, [*TYPES, *(other for other, kind in SPELLINGS.items() if other != plain(kind))])
        raise InputError(f"unknown type {written!r}, {near or 'expected one of ' + ', '.join(sorted(TYPES))}")
    allowed = {plain(argument): argument for argument in arguments(TYPES["BatchNorm2d" if name == NORM else name])}
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
    return name, DEFAULTS.get(name, {}) | params


def _near(name, names):
    """"did you mean ...?", or "" when nothing is near."""
    if len(name) > LONGEST_NAME:
        return ""
    found = difflib.get_close_matches(plain(name), map(plain, names), 1, 0.7)
    return f"did you mean {next(each for each in names if plain(each) == found[0])!r}?" if found else ""


def _layer(kind, params, shape, depth):
    """A layer with the sizes that an input shape gives it."""
    for branch in BRANCHES:
        if branch in arguments(kind):
            inside = params.get(branch)
            with naming(branch):
                none = branch == "shortcut" and inside in (None, [])
                params[branch] = None if none else _build(inside, shape, depth + 1)[0]
    size = next((name for name in ("in_channels", "in_features", "num_features") if name in arguments(kind)), None)
    if size and params.get(size) is None:
        params[size] = shape[0]
    layer = construct(kind, params)
    if size and getattr(layer, size) != shape[0] and _fits(kind, params | {size: shape[0]}, shape):
        raise InputError(f"{kind.__name__} has {size}={getattr(layer, size)}, but its input is {shape_text(shape)}: "
                         f"{size}={shape[0]} fits, and may be left out")
    return layer


def _fits(kind, params, shape):
    try:
        kind(**params).output_shape(shape)
    except InputError:
        return False
    return True


def rebuild_network(description, image_shape, num_classes, **options):
    """A new network from what `describe_layers` gave; InputError when it does not fit the images or the classes."""
    layers = build_layers(description)
    _check_parameters(layers)
    outputs = check_image_shape(layers, image_shape)
    if outputs != num_classes:
        raise InputError(f"the network has {outputs} outputs, expected one for each of the {num_classes} classes")
    return Sequential(*layers, **options)
