"""Pictures of data, networks and trainings, as Figure objects of matplotlib: notebooks show them, no display is needed.

`save(figure, "name.svg")` writes one; `inline(as_svg(figure), name)` is its text for a page, light or dark.
"""
from cnn_numba.pictures.data import augmentation, counts, sheet
from cnn_numba.pictures.network import architecture, features, filters, histograms, times
from cnn_numba.pictures.results import confusion, images_with_text, precision_and_recall
from cnn_numba.pictures.style import as_svg, check, inline, save, short
from cnn_numba.pictures.training import curves, rate_range, rates

__all__ = ["architecture", "as_svg", "augmentation", "check", "confusion", "counts", "curves", "features", "filters",
           "histograms", "images_with_text", "inline", "precision_and_recall", "rate_range", "rates", "save", "sheet",
           "short", "times"]
