"""Weights of one network for another: which tensors belong to which, and which layer keeps its new ones."""
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cnn_numba.errors import InputError
from cnn_numba.escaping import printable
from cnn_numba.layers import shape_text
from cnn_numba.model import Sequential

UNTRAINED = "num_batches_tracked"       # which some programs leave out

Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Weights:
    """tensors: {name: float32 array} as in a `state_dict`; ordered: whether they are in the order of the layers."""

    tensors: Tensors
    ordered: bool

    def of_layers(self) -> dict[str, Tensors]:
        """{name of a layer: {name: array}}"""
        found: dict[str, Tensors] = {}
        for name, array in self.tensors.items():
            layer, _, tensor = name.rpartition(".")
            found.setdefault(layer, {})[tensor] = array
        return found


def transfer(model: Sequential, weights: Weights, report: Callable[[str], object]) -> tuple[int, ...]:
    """Copy weights into a model; see `formats.load_weights`."""
    mine, theirs = Weights(model.state_dict(), ordered=True).of_layers(), weights.of_layers()
    if not theirs:
        raise InputError("there are no weights in it")
    state = model.state_dict()
    names = _names(mine, theirs, weights.ordered, report)
    kept = _kept(mine, theirs, names)
    for layer in kept:
        here, there = (_sizes(layers[name]) for layers, name in ((mine, layer), (theirs, names[layer])))
        report(f"layer {layer} starts anew: the file has {there}, the network {here}")
        del names[layer]
    for layer, other in names.items():
        for name in mine[layer].keys() & theirs[other].keys():
            state[f"{layer}.{name}"] = theirs[other][name]
    model.load_state_dict(state)
    return tuple({int(layer.partition(".")[0]) for layer in kept})


def _names(mine, theirs, ordered, report):
    """{layer: the layer in the file}"""
    if mine.keys() == theirs.keys():
        return {layer: layer for layer in mine}
    if len(mine) != len(theirs):
        raise InputError(f"there are weights of {len(theirs)} layers ({_some(theirs)}), expected those of {len(mine)} "
                         f"({_some(mine)})")
    if ordered:
        return dict(zip(mine, theirs, strict=True))
    return _by_shape(mine, theirs, report)


def _by_shape(mine, theirs, report):
    """Layers whose shapes occur once in each network; and the one that is left over on both sides."""
    names, left = {}, dict.fromkeys(theirs)
    for layer, tensors in mine.items():
        alike = [other for other in theirs if _shapes(theirs[other]) == _shapes(tensors)]
        mates = [other for other in mine if _shapes(mine[other]) == _shapes(tensors)]
        if len(alike) == len(mates) == 1:
            names[layer] = alike[0]
            del left[alike[0]]
    rest = [layer for layer in mine if layer not in names]
    if len(rest) > 1 or rest and rest[0] != list(mine)[-1]:
        raise InputError(f"the names are {_some(theirs)}, expected {_some(mine)}, and the shapes do not tell which is "
                         "which: rename them, or export the network to ONNX, which keeps the order")
    names |= zip(rest, left, strict=True)
    report(f"weights are found by their shapes: {', '.join(f'{names[layer]} is layer {layer}' for layer in mine)}")
    return names


def _kept(mine, theirs, names):
    """The layers at the end that keep their new weights, because those of the file have other shapes.

    Raises InputError when another layer has other shapes.
    """
    unlike = [layer for layer in mine if _shapes(mine[layer]) != _shapes(theirs[names[layer]])]
    last = list(mine)[len(mine) - len(unlike):]
    if unlike != last or sum(_is_trained(mine[layer]) for layer in unlike) > 1:
        layer = unlike[0]
        raise InputError(f"layer {layer} has {_sizes(mine[layer])}, but the file has {_sizes(theirs[names[layer]])}: "
                         "only the last layer may differ")
    return unlike


def _is_trained(tensors):
    return any(array.ndim > 1 for array in tensors.values())


def _shapes(tensors):
    return sorted((name, array.shape) for name, array in tensors.items() if name != UNTRAINED)


def _sizes(tensors):
    return ", ".join(f"{name} {shape_text(array.shape).removesuffix(' features')}"
                     for name, array in tensors.items() if name != UNTRAINED)


def _some(layers):
    names = [printable(name[:40]) for name in layers]
    return ", ".join(names[:6] + ["..."] * (len(names) > 6))
