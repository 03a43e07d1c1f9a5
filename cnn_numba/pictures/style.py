"""What all pictures share: colours, sizes, and how they are written.  matplotlib is imported only to draw."""
from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn_numba.errors import InputError
from cnn_numba.escaping import printable
from cnn_numba.files.atomic import writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INSTALL = "pip install matplotlib"
ENDINGS = ".svg", ".png", ".pdf"
WIDTH = 4.9                         # inches: readable in a column of a page, and on a phone
WIDE = 9.8
INK, LINE = "#333333", "#dddddd"    # which a page replaces by its own
TRAINING, HELD_OUT, THIRD = "#4c8bd6", "#e0762f", "#2fa37c"
SEVERAL = TRAINING, HELD_OUT, THIRD, "#b065c9", "#c9a227", "#d6567c", "#6b7f8f", "#5aa9c9"
GROUND = '<rect width="100%" height="100%" fill="#ffffff"/>'
STYLE = {
    "font.size": 10, "axes.titlesize": 10, "axes.titlelocation": "left", "axes.edgecolor": LINE, "axes.labelcolor": INK,
    "text.color": INK, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.axisbelow": True, "axes.grid": False, "grid.color": LINE, "grid.linewidth": 0.6, "legend.frameon": False,
    "svg.fonttype": "none", "svg.hashsalt": "cnn-numba", "image.interpolation": "none", "text.parse_math": False,
}


def check(path: str | os.PathLike | None = None, what: str = "a picture") -> None:
    """InputError when matplotlib is not installed, or a file is not one that a picture can be written to."""
    if find_spec("matplotlib") is None:
        raise InputError(f"{what} needs matplotlib, which is not installed: {INSTALL}")
    if path is not None and not os.fspath(path).lower().endswith(ENDINGS):
        raise InputError(f"{path}: a picture ends in {' or '.join(ENDINGS)}")


@contextmanager
def drawing(width: float, height: float, free: bool = False) -> Iterator[Figure]:
    """A new figure of some inches, in the style of all pictures.

    free : whether the axes are put into places by hand
    """
    check()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):             # type: ignore[arg-type]
        yield Figure(figsize=(width, height), layout=None if free else "constrained")


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure; the ending of the file, .svg, .png or .pdf, chooses the kind.

    Raises InputError for another ending, or when the file cannot be written.
    """
    check(path)
    kind = Path(path).suffix[1:].lower()
    content = as_svg(figure).encode() if kind == "svg" else _bytes(figure, kind)
    with writing(path) as file:
        file.write(content)


def as_svg(figure: Figure) -> str:
    """A figure as the text of an SVG file, on a white ground."""
    text = _bytes(figure, "svg", transparent=True).decode()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"\n\s*", "\n", text)
    text = re.sub("<[^>]*>", lambda tag: re.sub(r"(\d+\.\d\d)\d+", r"\1", tag[0]), text)   # not in texts
    return re.sub(r"(<svg [^>]*>)", rf"\1{GROUND}", text, count=1)


def inline(svg: str, name: str) -> str:
    """What `as_svg` gives as an element of HTML: transparent, with text and lines in the colours of the page.

    name : begins the ids in it, which must be unique in a page
    """
    text = svg[svg.index("<svg"):].replace(GROUND, "", 1)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', text, count=1)
    return text.replace(INK, "currentColor").replace(LINE, "var(--line)")


def _bytes(figure: Figure, kind: str, dpi: int = 160, transparent: bool = False) -> bytes:
    from matplotlib import rc_context

    file, date = io.BytesIO(), {"svg": "Date", "pdf": "CreationDate"}.get(kind)
    with rc_context(STYLE):             # type: ignore[arg-type]
        figure.savefig(file, format=kind, dpi=dpi, transparent=transparent, metadata={date: None} if date else None)
    return file.getvalue()


def grid(axes: Axes, axis: str = "both") -> None:
    axes.grid(True, axis=axis)          # type: ignore[arg-type]
    axes.tick_params(length=0)


def empty(axes: Axes) -> None:
    """Take the frame and the ticks away."""
    axes.set_axis_off()


def short(text: str, longest: int = 18) -> str:
    """A name that fits a picture, without characters that cannot be shown."""
    text = printable(text)
    return text if len(text) <= longest else f"{text[:longest - 1]}…"


def reduced(image: np.ndarray, side: int) -> np.ndarray:
    """An image (..., H, W) with at most `side` rows and columns: means of square blocks, less what is left at the
    edges."""
    size = -(-max(image.shape[-2:]) // side)
    rows, columns = (max(1, length // size) for length in image.shape[-2:])
    cut = image[..., :rows * size, :columns * size]
    blocks = cut.reshape(*image.shape[:-2], rows, cut.shape[-2] // rows, columns, cut.shape[-1] // columns)
    return blocks.mean(axis=(-3, -1))


def enlarged(images: np.ndarray, side: int) -> np.ndarray:
    """Images (..., H, W) with each pixel repeated, as long as they have at most `side` rows and columns."""
    times = max(1, side // max(images.shape[-2:]))
    return images.repeat(times, axis=-2).repeat(times, axis=-1)


def pixels(image: np.ndarray, low: float, high: float, side: int = 64) -> np.ndarray:
    """uint8 (rows, columns, 3) to show for an image (C, H, W) whose numbers go from low to high: one or three channels,
    or the mean of others; with at most `side` rows and columns."""
    image = reduced(np.asarray(image, np.float64), side)
    scaled = ((np.asarray(image, np.float64) - low) * (255 / ((high - low) or 1))).clip(0, 255)
    if len(scaled) != 3:
        scaled = np.repeat(scaled.mean(axis=0, keepdims=True), 3, axis=0)
    return np.ascontiguousarray(np.rint(scaled).astype(np.uint8).transpose(1, 2, 0))


def place(axes: Axes, picture: np.ndarray, x: float, y: float, width: float, height: float, **options: Any) -> None:
    """Show pixels in a rectangle of axes whose y axis points down; (x, y) is its upper left corner."""
    axes.imshow(picture, extent=(x, x + width, y + height, y), aspect="auto", **options)


def tiled(tiles: Sequence[np.ndarray], columns: int, gap: int = 1) -> np.ndarray:
    """float (rows, columns), NaN between tiles (H, W), which are shown side by side in rows of some columns."""
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    whole = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, *tiles[0].shape[2:]), np.nan)
    for k, tile in enumerate(tiles):
        top, left = k // columns * (height + gap), k % columns * (width + gap)
        whole[top:top + height, left:left + width] = tile
    return whole


def coloured(numbers: np.ndarray) -> np.ndarray:
    """uint8 (rows, columns, 4) for numbers from -1 to 1, blue to red, or colours (rows, columns, 3) from 0 to 1; NaN is
    transparent."""
    if numbers.ndim == 3:
        solid = np.isfinite(numbers).all(axis=2, keepdims=True)
        return np.rint(np.concatenate([np.where(solid, numbers, 0), solid], axis=2) * 255).astype(np.uint8)
    from matplotlib import colormaps

    return colormaps["RdBu_r"](np.ma.masked_invalid(numbers) / 2 + 0.5, bytes=True)
