"""The page: its HTML, style and scripts, and the facts about the network that it shows."""
import base64
import json
import math
import re
from functools import cache
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np

from cnn_numba.data.drawing import SIDE, is_of_mnist
from cnn_numba.errors import InputError
from cnn_numba.files.layers_json import describe_layers
from cnn_numba.inference import Classifier
from cnn_numba.inspection.summary import layer_summaries, layer_text

MOST_CHANNELS = 64              # of a layer that are shown,
MOST_NUMBERS = 1 << 18          # and the most numbers of a layer
WHITES = 1, 16, 255             # usual pixels of white: of floats, of the digits that come with the project, of bytes


def served_page(classifier: Classifier, title: str, white: float | None = None) -> str:
    """The HTML of a page that asks a server for the answers; see `serve`.

    title : what the page calls the model
    white : the largest pixel in the images of the training; by default as the model's mean and std show

    Raises InputError for a model that takes no greyscale or colour images.
    """
    return _page(_facts(classifier, title, white), "page.js")


def exported_page(classifier: Classifier, title: str, white: float | None = None) -> str:
    """The HTML of a page that needs no server: the weights and the script that runs the network are in it.

    Arguments and errors are those of `served_page`; InputError, too, for a layer that the script does not have.
    """
    model = classifier.model
    known = script_layers()
    for one in layer_summaries(model.layers, classifier.shape):
        if type(one.layer).__name__ not in known:
            raise InputError(f"layer {one.name}: {type(one.layer).__name__} is missing in the script of an exported "
                             f"page, which has {', '.join(known)}")
    state = model.state_dict()
    numbers = b"".join(value.astype("<f4").tobytes() for value in state.values())
    return _page(_facts(classifier, title, white) | {
        "network": describe_layers(model.layers), "mean": classifier.mean.tolist(),
        "scale": classifier.scale.tolist(),
        "weights": {"tensors": [[name, value.shape] for name, value in state.items()],
                    "numbers": base64.b64encode(numbers).decode()}}, "network.js", "page.js")


@cache
def script_layers() -> tuple[str, ...]:
    """The types of layers that the script of an exported page has: the entries of its table LAYERS."""
    table = _asset("network.js").partition("const LAYERS = {")[2].partition("\n};")[0]
    return tuple(re.findall(r"^    (\w+)\(", table, re.MULTILINE))


def shown(shape: tuple[int, ...]) -> int:
    """How many channels of a layer's output are shown; all of the features."""
    if len(shape) == 1:
        return shape[0]
    return min(shape[0], MOST_CHANNELS, max(1, MOST_NUMBERS // (shape[1] * shape[2])))


def _facts(classifier: Classifier, title: str, white: float | None) -> dict[str, Any]:
    model, shape = classifier.model, classifier.shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise InputError(f"{title} takes inputs of shape {shape}, expected greyscale or colour images")
    white = white or _white(classifier.mean, classifier.std)
    layers = layer_summaries(model.layers, shape)
    cut = model.layers[-1].takes_logits and len(model.layers) > 1
    logits = f"{len(model.layers) - 1 - cut}"
    parameters = sum(parameter.value.size for parameter in model.parameters())
    facts = [f"{' × '.join(map(str, shape))} pixels", f"{len(classifier.classes)} classes",
             f"{parameters:,} parameters"]
    facts += [f"white is {white:g}"] * (white != 255)
    if model.accuracy is not None:
        facts.append(f"{model.accuracy:.2f} % of its test images right")
    return {"title": title, "facts": ", ".join(facts), "shape": shape, "classes": classifier.classes, "white": white,
            "light": bool(classifier.mean.mean() > white / 2), "preparable": shape == (1, SIDE, SIDE),
            "prepare": is_of_mnist(shape, classifier.mean, classifier.std),
            "logits": next(k for k, one in enumerate(layers) if one.name == logits),
            "layers": [{"name": one.name, "text": layer_text(one.layer), "shape": one.after, "shown": shown(one.after)}
                       for one in layers]}


def _white(mean: np.ndarray, std: np.ndarray) -> int:
    """The least usual white above the root of the pixels' mean square; 255 where the statistics say nothing."""
    if not mean.any() and (std == 1).all():
        return 255
    size = math.sqrt(float(np.mean(mean.astype(np.float64)**2 + std.astype(np.float64)**2)))
    return next((white for white in WHITES if size <= white), 255)


def _page(facts: dict[str, Any], *scripts: str) -> str:
    data = json.dumps(facts, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")      # no </script> in names
    return Template(_asset("page.html")).substitute(
        style=_asset("page.css"), facts=data, scripts="\n".join(map(_asset, scripts)))


def _asset(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")
