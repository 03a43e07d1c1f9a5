"""Pictures of a network: its layers to scale, its filters, what it makes of an image, its weights, and its times."""
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cnn_numba.errors import InputError
from cnn_numba.inspection.summary import LayerSummary, layer_summaries, layer_text
from cnn_numba.layers.base import Shape
from cnn_numba.pictures.style import (
    HELD_OUT,
    LINE,
    THIRD,
    TRAINING,
    WIDE,
    WIDTH,
    coloured,
    drawing,
    empty,
    enlarged,
    grid,
    pixels,
    place,
    reduced,
    short,
    tiled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cnn_numba.inspection.profile import Profile
    from cnn_numba.layers import Layer

MOST_FILTERS = 32
MOST_EPOCHS = 8             # rows of the picture of filters
SIDE = 28                   # pixels that are shown of a map
MAPS = 10                   # of a layer, in a row
MOST_ROWS = 24              # layers whose maps are shown
UNSEEN = "Flatten", "Reshape", "Dropout", "BatchNorm2d", "BatchNorm1d"      # layers without maps of their own
COLOURS = {"Conv2d": TRAINING, "Linear": THIRD}


# ---- the layers, to scale -------------------------------------------------------------------------------------------
def architecture(layers: Sequence[Layer], shape: Shape) -> Figure:
    """The images between the layers as boxes to scale: rows and columns as they are, a depth for the channels, and a
    column for a vector.  Layers that keep the shape are named with the one before them; an arc is a shortcut.

    Raises InputError when the layers do not fit the shape.
    """
    stages, arcs = _stages(layer_summaries(layers, shape), shape)
    largest = max(max(each[1:]) for each, *_ in stages if len(each) == 3) if len(shape) == 3 else 1
    most = max(each[0] for each, *_ in stages if len(each) == 3) if len(shape) == 3 else 1
    unit = 1.7 / largest                                # inches of a pixel
    thick = min(unit, 0.9 / most)                       # inches of a channel
    longest = max((each[0] for each, *_ in stages if len(each) == 1), default=1)
    with drawing(WIDE, 3.1 + 0.35 * bool(arcs), free=True) as figure:
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        empty(axes)
        x, middles, tops = 0.0, [], []
        for each, names, kind in stages:
            colour = COLOURS.get(kind, "#8f9aa5")
            if len(each) == 3:
                width, height, depth = each[0] * thick, each[1] * unit, each[2] * unit * 0.4
            else:
                width, height, depth = 0.12, max(0.15, 1.9 * each[0] / longest), 0.0
            text = "\n".join([*names, "x".join(map(str, each))])
            room = max(width + depth, 0.068 * max(map(len, text.split("\n"))))
            left = x + (room - width - depth) / 2
            _box(axes, left, height, width, depth, colour)
            axes.text(x + room / 2, -height / 2 - 0.12, text, ha="center", va="top", fontsize=8, linespacing=1.25)
            middles.append(left + (width + depth) / 2)
            tops.append(height / 2 + depth * 0.5)
            x += room + 0.16
        for first, last in arcs:
            top = max(tops[first:last + 1]) + 0.1
            axes.annotate("", (middles[last], top), (middles[first], top), arrowprops={
                "arrowstyle": "->", "color": HELD_OUT, "connectionstyle": "arc3,rad=-0.18", "linewidth": 1.2,
                "gid": "shortcut"})
        low = max(len(names) + 1 for _, names, _ in stages) * 0.155 + 0.3
        axes.set_xlim(-0.1, max(x - 0.06, 4.0))
        axes.set_ylim(-0.95 - low, max(tops) + 0.2 + 0.45 * bool(arcs))
        span, tall = max(x - 0.06, 4.0) + 0.1, 0.95 + low + max(tops) + 0.2 + 0.45 * bool(arcs)
        figure.set_size_inches(max(WIDTH, span), tall)
    return figure


def _stages(summaries: Sequence[LayerSummary], shape: Shape) -> tuple[list[tuple[Shape, list[str], str]],
                                                                     list[tuple[int, int]]]:
    """[(shape, names of the layers that gave it, kind of the first)], and (first, last) stage of each residual."""
    stages: list[tuple[Shape, list[str], str]] = [(tuple(shape), ["image"], "image")]
    arcs, opened = [], list[tuple[str, int]]()
    for one in summaries:
        while opened and not one.name.startswith(opened[-1][0]):
            arcs.append((opened.pop()[1], len(stages) - 1))
        if one.layer.branches:
            opened.append((f"{one.name}.", len(stages) - 1))
            continue
        if ".shortcut." in f".{one.name}":
            continue                                    # is beside the body
        text = short(layer_text(one.layer))
        if one.layer.reshapes or one.after == stages[-1][0] and type(one.layer).__name__ not in COLOURS:
            if not one.layer.reshapes:
                stages[-1][1].append(f"+ {text}")
            elif one.after != stages[-1][0]:
                stages.append((tuple(one.after), [text], text))
        else:
            stages.append((tuple(one.after), [text], type(one.layer).__name__))
    arcs += [(first, len(stages) - 1) for _, first in reversed(opened)]
    return stages, arcs


def _box(axes: Axes, x: float, height: float, width: float, depth: float, colour: str) -> None:
    """A box whose front is width x height, drawn from the side; its middle is at 0."""
    from matplotlib.patches import Polygon

    y, lift = height / 2, depth * 0.5
    front = [(x, -y), (x + width, -y), (x + width, y), (x, y)]
    top = [(x, y), (x + depth, y + lift), (x + width + depth, y + lift), (x + width, y)]
    side = [(x + width, -y), (x + width + depth, -y + lift), (x + width + depth, y + lift), (x + width, y)]
    for corners, alpha in (front, 0.9), (top, 0.55), (side, 0.7):
        axes.add_patch(Polygon(corners, closed=True, facecolor=colour, edgecolor="#ffffff", linewidth=0.5, alpha=alpha))


# ---- filters --------------------------------------------------------------------------------------------------------
def filter_tiles(filters: np.ndarray) -> np.ndarray:
    """(F', kh, kw), or (F', kh, kw, 3) with colours from 0 to 1, to show for filters (..., F, C, kh, kw).

    One channel is shown as it is, from -1 to 1 with the largest weight of all; three as colours; of others, the
    channels one by one.  Dimensions in front of F stay, so that filters of several epochs share a scale.
    """
    *several, count, channels, rows, columns = filters.shape
    most = float(np.abs(filters).max()) or 1.0
    if channels == 3:
        return np.moveaxis(filters[..., :MOST_FILTERS, :, :, :], -3, -1) / (2 * most) + 0.5
    flat = filters.reshape(*several, count * channels, rows, columns)
    return flat[..., :MOST_FILTERS, :, :] / most


def filters(epochs: Sequence[int], weights: np.ndarray) -> Figure:
    """The filters of a convolution after some epochs: a row for each of at most eight of these.

    weights : (len(epochs), F, C, kh, kw)

    Raises InputError when there are none.
    """
    if not len(epochs):
        raise InputError("the network has no convolution, so there are no filters")
    chosen = np.unique(np.linspace(0, len(epochs) - 1, min(len(epochs), MOST_EPOCHS)).round().astype(int))
    tiles = filter_tiles(weights)[chosen]
    columns = min(tiles.shape[1], 16)
    strips = [tiled(list(each), columns) for each in tiles]
    ratio = strips[0].shape[0] / strips[0].shape[1]
    margin = 0.75
    tall = (WIDTH - margin) * ratio + 0.08
    with drawing(WIDTH, tall * len(chosen), free=True) as figure:
        axes = figure.add_axes((margin / WIDTH, 0.0, 1 - margin / WIDTH, 1.0))
        for row, (k, strip) in enumerate(zip(chosen, strips, strict=True)):
            place(axes, coloured(strip), 0, row * tall, 1, tall - 0.08)
            axes.text(-0.02, row * tall + (tall - 0.08) / 2, "start" if epochs[k] == 0 else f"epoch {epochs[k]}",
                      ha="right", va="center", fontsize=8)
        empty(axes)
        axes.set_xlim(0, 1)
        axes.set_ylim(len(chosen) * tall, 0)
    return figure


# ---- feature maps ---------------------------------------------------------------------------------------------------
def features(image: np.ndarray, layers: Sequence[LayerSummary], outputs: Sequence[np.ndarray],
             low: float = 0.0, high: float = 255.0) -> Figure:
    """What each layer makes of an image: a row of feature maps for each layer that has some of its own.

    Parameters
    ----------
    image : (C, H, W) in raw pixel units, which go from low to high
    layers, outputs : as `inspection.activations.Activations` gives them, for one image each: (channels, rows, columns)
        or (features,)
    """
    rows = [(one, np.asarray(y)) for one, y in zip(layers, outputs, strict=True)
            if type(one.layer).__name__ not in UNSEEN]
    rows = rows[:MOST_ROWS]
    margin, side = 1.4, (WIDTH - 1.4) / MAPS
    heights = [side if y.ndim == 3 else side * 0.6 for _, y in rows]
    whole = 2 * side + sum(heights) + 0.06 * (len(rows) + 1)
    with drawing(WIDTH, whole, free=True) as figure:
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        width = 2 * side * min(1, image.shape[2] / image.shape[1])
        place(axes, pixels(image, low, high), margin, 0.0, width, width * image.shape[1] / image.shape[2])
        axes.text(margin - 0.08, side, "image", ha="right", va="center", fontsize=8)
        y = 2 * side + 0.06
        for (one, output), height in zip(rows, heights, strict=True):
            most = float(np.abs(output).max()) or 1.0
            name = short(f"{one.name} {layer_text(one.layer).partition(' /')[0]}", 22)
            axes.text(margin - 0.08, y + height / 2, name, ha="right", va="center", fontsize=8)
            if output.ndim == 3:
                maps = enlarged(reduced(output[:MAPS], SIDE), SIDE)
                strip = coloured(tiled(list(maps / most), len(maps), gap=2))
                place(axes, strip, margin, y, side * (len(maps) - 0.06), height * 0.94)
            else:
                place(axes, output[None], margin, y, MAPS * side * 0.994, height * 0.8, cmap="RdBu_r", vmin=-most,
                      vmax=most)
            y += height + 0.06
        empty(axes)
        axes.set_xlim(0, WIDTH)
        axes.set_ylim(whole, 0)
    return figure


# ---- weights, gradients and times -----------------------------------------------------------------------------------
def histograms(tensors: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> Figure:
    """How weights and gradients are spread, a ridge for each tensor; each has a scale of its own, which ends at the
    largest number in it.

    tensors : (name, weights, gradients)
    """
    tensors = list(tensors)[:MOST_ROWS]
    with drawing(WIDTH, 0.6 + 0.38 * len(tensors)) as figure:
        left, right = figure.subplots(1, 2)
        for axes, what, arrays, colour in ((left, "weights", [each for _, each, _ in tensors], TRAINING),
                                           (right, "gradients", [each for _, _, each in tensors], HELD_OUT)):
            for row, array in enumerate(arrays):
                values = array.ravel()
                most = float(np.abs(values).max()) or 1.0
                heights = np.histogram(values / most, bins=41, range=(-1, 1))[0]
                ys = row - 0.85 * heights / max(1, heights.max())
                axes.fill_between(np.linspace(-1, 1, 41), row, ys, step="mid", color=colour, alpha=0.75, linewidth=0)
                axes.plot([-1, 1], [row, row], color=LINE, linewidth=0.6)
                axes.text(1.05, row, f"±{most:.2g}", ha="left", va="bottom", fontsize=8)
            axes.set_yticks(range(len(tensors)), [short(name) if axes is left else "" for name, *_ in tensors])
            axes.set_ylim(len(tensors) - 0.6, -1.1)
            axes.set_xticks([-1, 0, 1], ["-", "0", "+"])
            axes.set_title(what)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
    return figure


def times(profile: Profile) -> Figure:
    """The time of each part of a training step, forward and backward; parts that do not run are left out."""
    parts = [part for part in profile.parts if part.runs]
    with drawing(WIDTH, 0.9 + 0.24 * len(parts)) as figure:
        axes = figure.subplots()
        rows = range(len(parts))
        forward, backward = ([1000 * (getattr(part, way) or 0) for part in parts] for way in ("forward", "backward"))
        axes.barh(rows, forward, color=TRAINING, height=0.7, label="forward")
        axes.barh(rows, backward, left=forward, color=HELD_OUT, height=0.7, label="backward")
        axes.set_yticks(rows, [short(part.name, 24) for part in parts])
        axes.invert_yaxis()
        axes.set_xlabel("milliseconds of a training step")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
        grid(axes, "x")
    return figure
