"""Pictures of what a network gets right and wrong."""
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cnn_numba.errors import InputError
from cnn_numba.pictures.style import HELD_OUT, TRAINING, WIDTH, drawing, empty, grid, pixels, place, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WITH_NUMBERS = 20           # classes up to which the cells of a matrix have numbers
COLUMNS = 4                 # of images


def confusion(matrix: np.ndarray, classes: Sequence[str]) -> Figure:
    """A confusion matrix: a row for each true class, a column for each predicted one; the darker, the larger the share
    of the row.

    matrix : int (K, K) number of images, as from `inference.confusion_matrix`
    """
    count = len(classes)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    with drawing(WIDTH, WIDTH * 0.95) as figure:
        axes = figure.subplots()
        # The root, because off the diagonal most shares are below a hundredth.
        axes.imshow(np.ma.masked_equal(np.sqrt(shares), 0), cmap="Blues", vmin=-0.15, vmax=1.1)
        step = 1 if count <= WITH_NUMBERS else -(-count // WITH_NUMBERS)
        names = [short(name, 12) for name in classes][::step]
        long = max(map(len, names)) > 3
        axes.set_xticks(range(0, count, step), names, rotation=90 if long else 0)
        axes.set_yticks(range(0, count, step), names)
        if count <= WITH_NUMBERS:
            size = 8 if count <= 12 and matrix.max() < 10_000 else 6
            for row, column in zip(*np.nonzero(matrix), strict=True):
                axes.text(column, row, f"{matrix[row, column]}", ha="center", va="center", fontsize=size,
                          color="#ffffff" if shares[row, column] > 0.35 else "#111111", gid=f"cell-{row}-{column}")
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.tick_params(length=0)
    return figure


def precision_and_recall(matrix: np.ndarray, classes: Sequence[str]) -> Figure:
    """Precision and recall of each class, in per cent; the classes with the lowest recall, where there are many."""
    right = matrix.diagonal()
    precision = 100 * right / np.maximum(matrix.sum(axis=0), 1)
    recall = 100 * right / np.maximum(matrix.sum(axis=1), 1)
    shown = np.arange(len(classes)) if len(classes) <= 30 else np.sort(np.argsort(recall, kind="stable")[:30])
    with drawing(WIDTH, 0.9 + 0.24 * len(shown)) as figure:
        axes = figure.subplots()
        rows = np.arange(len(shown))
        axes.hlines(rows, precision[shown], recall[shown], color="#99999977", linewidth=2)
        axes.plot(precision[shown], rows, "o", color=TRAINING, markersize=6, label="precision")
        axes.plot(recall[shown], rows, "D", color=HELD_OUT, markersize=5, label="recall")
        axes.set_yticks(rows, [short(classes[k]) for k in shown])
        axes.invert_yaxis()
        low = min(precision[shown].min(), recall[shown].min())
        axes.set_xlim(max(0, low - 0.12 * (100 - low) - 0.2), 100 + 0.04 * (100.5 - low))
        axes.set_xlabel("%" + f" (the {len(shown)} of {len(classes)} classes with the lowest recall)"
                        * (len(shown) < len(classes)))
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
        grid(axes)
    return figure


def images_with_text(images: np.ndarray, texts: Sequence[str]) -> Figure:
    """Images (N, C, H, W) in raw pixel units, with lines of text below each.

    Raises InputError when there are none.
    """
    if not len(images):
        raise InputError("there are no such images")
    lines = max(text.count("\n") + 1 for text in texts)
    rows, side = -(-len(images) // COLUMNS), WIDTH / COLUMNS
    low, high = float(images.min()), float(images.max())
    ratio = images.shape[2] / images.shape[3]
    width, tall = 0.86 / max(ratio, 1), 0.86 * min(ratio, 1)
    height = side * (tall + 0.05) + lines * 0.165
    with drawing(WIDTH, rows * height, free=True) as figure:
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        empty(axes)
        axes.set_xlim(0, COLUMNS)
        axes.set_ylim(rows * height / side, 0)
        for k, (image, text) in enumerate(zip(images, texts, strict=True)):
            x, y = k % COLUMNS, k // COLUMNS * height / side
            place(axes, pixels(image, low, high), x + (1 - width) / 2, y + 0.03, width, tall)
            axes.text(x + 0.5, y + tall + 0.05, text, ha="center", va="top", fontsize=8)
        axes.set_xlim(0, COLUMNS)
        axes.set_ylim(rows * height / side, 0)
    return figure
