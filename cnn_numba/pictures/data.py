"""Pictures of data sets."""
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cnn_numba.feed import Feed
from cnn_numba.kernels.lanes import LANES
from cnn_numba.kernels.program import Program, at_once, in_order
from cnn_numba.layers import Flatten
from cnn_numba.model import Sequential
from cnn_numba.pictures.style import (
    HELD_OUT,
    INK,
    THIRD,
    TRAINING,
    WIDTH,
    coloured,
    drawing,
    empty,
    enlarged,
    grid,
    pixels,
    place,
    short,
    tiled,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cnn_numba.augment import Augment
    from cnn_numba.data import Dataset
    from cnn_numba.data.survey import PartSurvey

MOST_CLASSES = 20           # rows of a sheet
EACH = 8                    # images in a row
SIDE = 40                   # pixels that are shown of an image


def sheet(data: Dataset) -> Figure:
    """Some training images of each class."""
    shown = [k for k in range(data.num_classes) if (data.train_labels == k).any()][:MOST_CLASSES]
    rows = [(short(data.classes[k]), np.asarray(data.train_images[np.flatnonzero(data.train_labels == k)[:EACH]]))
            for k in shown]
    return _rows(rows, float(data.train_images.min()), float(data.train_images.max()))


def augmented(images: np.ndarray, augment: Augment, seed: int = 0, epoch: int = 0) -> np.ndarray:
    """float32 (N, C, H, W): images as a training with this seed would see them in an epoch, without normalisation."""
    count, shape = len(images), images.shape[1:]
    plan = Sequential(Flatten()).plan(shape, -(-count // LANES))
    feed = Feed(images, np.zeros(count, np.int64), shape, 1, count, np.zeros(shape[0]), np.ones(shape[0]),
                np.zeros(2, np.int64))
    feed.draw[:] = seed, epoch
    Program(at_once([feed.next_batch()]) + in_order(feed.gather(plan, augment)))()
    return plan.x.get(count)


def augmentation(images: np.ndarray, augment: Augment, seed: int = 0) -> Figure:
    """Images (N, C, H, W), a row for each, and beside it what the random changes make of it in the first epochs."""
    changed = [augmented(images, augment, seed, epoch) for epoch in range(EACH - 1)]
    rows = [("", np.stack([image, *(each[k] for each in changed)])) for k, image in enumerate(images)]
    figure = _rows(rows, float(images.min()), float(images.max()), gap=0.35)
    axes = figure.axes[0]
    axes.text(0.47, -0.08, "as it is", ha="center", va="bottom", fontsize=8)
    axes.text(1.3 + len(changed) / 2, -0.08, "as the training may see it", ha="center", va="bottom", fontsize=8)
    return figure


def counts(parts: Sequence[PartSurvey], classes: Sequence[str]) -> Figure:
    """The number of images of each class in each part; the first classes, where there are many."""
    shown = min(len(classes), 30)
    with drawing(WIDTH, 0.9 + 0.24 * shown) as figure:
        axes = figure.subplots()
        left = np.zeros(shown)
        for part, colour in zip(parts, (TRAINING, THIRD, HELD_OUT) if len(parts) == 3 else (TRAINING, HELD_OUT),
                                strict=True):
            axes.barh(np.arange(shown), part.counts[:shown], left=left, color=colour, height=0.7, label=part.name)
            left += part.counts[:shown]
        axes.set_yticks(range(shown), [short(name) for name in classes[:shown]])
        axes.invert_yaxis()
        axes.set_xlabel("images" + f" (the first {shown} of {len(classes)} classes)" * (shown < len(classes)))
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0)
        grid(axes, "x")
    return figure


def _rows(rows: Sequence[tuple[str, np.ndarray]], low: float, high: float, gap: float = 0.0) -> Figure:
    """Rows of images, a name in front of each; gap : between the first image and the others."""
    most = max(len(images) for _, images in rows)
    _, _, height, width = rows[0][1].shape
    longest = max(len(name) for name, _ in rows)
    margin = 0.15 * bool(longest) + 0.075 * longest                     # inches
    side = (WIDTH - margin) / (most + gap)
    tall = side * min(height / width, 2)
    with drawing(WIDTH, len(rows) * tall + 0.25 * bool(gap), free=True) as figure:
        axes = figure.add_axes((margin / WIDTH, 0.0, 1 - margin / WIDTH,
                                len(rows) * tall / (len(rows) * tall + 0.25 * bool(gap))))
        for row, (name, images) in enumerate(rows):
            axes.text(-0.1, (row + 0.5) * tall / side, name, ha="right", va="center", fontsize=8, color=INK)
            shown = [np.moveaxis(enlarged(np.moveaxis(pixels(image, low, high, SIDE), -1, 0), SIDE), 0, -1) / 255
                     for image in images]
            for first, last in ((0, 1), (1, len(shown))) if gap else ((0, len(shown)),):
                strip = coloured(tiled(shown[first:last], last - first, gap=2))
                place(axes, strip, first + gap * (first > 0), row * tall / side, last - first - 0.06,
                      0.94 * tall / side)
        empty(axes)
        axes.set_xlim(0, most + gap)
        axes.set_ylim(len(rows) * tall / side, 0)
    return figure
