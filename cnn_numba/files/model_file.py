"""Model files: the layers, the parameters, and the facts about images that a model needs for its use."""
import math
import numbers
import os
from typing import Any

import numpy as np

from cnn_numba import __version__
from cnn_numba.errors import InputError, naming, shortened
from cnn_numba.files import container
from cnn_numba.files.atomic import write
from cnn_numba.files.layers_json import build_layers, check_image_shape, describe_layers
from cnn_numba.model import Sequential

FORMAT = "cnn-numba model"
VERSION = 1
KIND = "model file"
LONGEST_NAME = 200
FACTS = "input_shape", "mean", "std", "classes", "accuracy", "recipe"


def save(model: Sequential, path: str | os.PathLike, **facts: Any) -> None:
    """Write a model to an .npz file, whole or not at all; see `Sequential.save`."""
    write(path, container.pack(*describe(model, **facts)))


def describe(model: Sequential, **facts: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a file of a model holds: the description, as JSON values, and {name: float32 array} of its `state_dict`.

    Raises InputError for an unknown fact, a layer that cannot be restored, and numbers that are not finite.
    """
    unknown = sorted(set(facts) - set(FACTS))
    if unknown:
        raise InputError(f"model.save has the options {', '.join(FACTS)}, got {unknown[0]!r}")
    facts = {name: getattr(model, name) for name in FACTS} | facts
    checked = checked_facts(model.layers, facts)
    state = model.state_dict()
    for name, values in state.items():
        _check_finite(name, values)
    facts = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in checked.items()}
    description = {"format": FORMAT, "version": VERSION, "library": __version__,
                   "layers": describe_layers(model.layers), **facts}
    if model.names != [str(k) for k in range(len(model.names))]:
        description["names"] = model.names
    return description, state


def read_model(path: str | os.PathLike) -> Sequential:
    """Read a model that `model.save` wrote; InputError for any other file.  See `cnn_numba.load`."""
    description, state = container.read(path, KIND)
    with naming(str(path)):
        return rebuild(description, state)


def rebuild(description: dict[str, Any], state: dict[str, np.ndarray]) -> Sequential:
    """The model, in evaluation mode, of an untrusted description and its arrays; InputError unless they fit."""
    try:
        check_format(description, FORMAT, VERSION)
        layers = build_layers(description.get("layers"))
        facts = checked_facts(layers, description)
        names = _checked_names(description.get("names"), len(layers))
        _check_sizes(names, layers, state)
        model = Sequential(_nested(names, layers))
        model.load_state_dict(state)
    except InputError as error:
        raise InputError(shortened(str(error))) from None
    for name, value in facts.items():
        setattr(model, name, value)
    return model.eval()


def check_format(description: dict[str, Any], name: str, version: int) -> None:
    """InputError unless a description names this format and a version that can be read."""
    if description.get("format") != name:
        raise InputError(f"this is not a {name}")
    if description.get("version") != version or isinstance(description["version"], bool):
        raise InputError(f"the version of the format is not {version}: another version of the library wrote it")


def _checked_names(names, count):
    """The names of the layers, "features.0"; without any, their numbers."""
    if names is None:
        return [str(k) for k in range(count)]
    if not isinstance(names, list) or len(names) != count or not all(
            isinstance(name, str) and len(name) <= LONGEST_NAME and all(name.split(".")) for name in names):
        raise InputError(f"names must be {count} texts, one for each layer")
    return names


def _nested(names, layers):
    """{name: layer or Sequential} for dotted names."""
    found: dict[str, Any] = {}
    for name, layer in zip(names, layers, strict=True):
        *path, last = name.split(".")
        place = found
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise InputError(f"the layer {name[:100]!r} is inside another layer")
        if last in place:
            raise InputError(f"two layers have the name {name[:100]!r}")
        place[last] = layer
    return {name: inside if not isinstance(inside, dict) else _network(inside) for name, inside in found.items()}


def _network(inside):
    return Sequential({name: _network(part) if isinstance(part, dict) else part for name, part in inside.items()})


def _check_sizes(names, layers, state):
    """Check, before memory is taken for the parameters, that the file holds all of them."""
    for k, layer in zip(names, layers, strict=True):
        for name, shape in (layer.parameter_shapes() | layer.statistic_shapes()).items():
            there = state.get(f"{k}.{name}")
            if there is None or there.shape != shape:
                what = "missing" if there is None else f"of shape {there.shape}"
                raise InputError(f"the parameter {k}.{name} is {what}, expected shape {shape}")
    for name, values in state.items():
        _check_finite(name, values)


def _check_finite(name, values):
    if not np.isfinite(values).all():
        raise InputError(f"the parameter {name[:100]!r} holds NaN or infinity, expected finite numbers")


def checked_facts(layers, facts):
    """{name: value or None} of FACTS, with the types of the attributes of a model."""
    shape, mean, std, classes, accuracy, recipe = (facts.get(name) for name in FACTS)
    outputs = None
    if shape is not None:
        sizes = isinstance(shape, (list, tuple)) and len(shape) in (1, 3)
        if not sizes or any(isinstance(n, bool) or not isinstance(n, numbers.Integral) or n < 1 for n in shape):
            raise InputError("input_shape must be (channels, rows, columns) or (features,)")
        shape = tuple(int(n) for n in shape)
        outputs = check_image_shape(layers, shape)
    mean, std = (_statistic(name, values, shape) for name, values in (("mean", mean), ("std", std)))
    if std is not None and std.min() < 0:
        raise InputError("std must not be below 0")
    if classes is not None:
        if not isinstance(classes, (list, tuple)) or not all(isinstance(name, str) for name in classes):
            raise InputError("classes must be a list of names")
        if len(classes) != outputs:
            raise InputError(f"classes must name the {outputs} outputs of the model, got {len(classes)} names")
        classes = tuple(classes)
    if accuracy is not None:
        number = isinstance(accuracy, numbers.Real) and not isinstance(accuracy, bool)
        if not number or not 0 <= accuracy <= 100:
            raise InputError("accuracy must be a number from 0 to 100")
        accuracy = float(accuracy)
    if not isinstance(recipe, dict | None):
        raise InputError("recipe must be an object with the settings of the training")
    return dict(zip(FACTS, (shape, mean, std, classes, accuracy, recipe), strict=True))


def _statistic(name, values, shape):
    """The mean or standard deviation of each channel as float32 (C,); None if not given."""
    if values is None:
        return None
    if isinstance(values, np.ndarray):
        values = values.tolist()
    most = float(np.finfo(np.float32).max)
    if not isinstance(values, (list, tuple)) or shape is None or len(values) != shape[0] or not all(
            isinstance(v, numbers.Real) and not isinstance(v, bool) and math.isfinite(v) and abs(v) <= most
            for v in values):
        raise InputError(f"{name} must be one finite number for each channel of input_shape")
    return np.array(values, np.float32)
