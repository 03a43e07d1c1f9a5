"""The parts of pages: one file, with nothing from elsewhere, and all text escaped."""
from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Sequence
from importlib.resources import files

import numpy as np

from cnn_numba.escaping import html_text
from cnn_numba.pictures import inline, network, style

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
MOST_FRAMES = 60            # of the filters


def page(title: str, body: str, reload: int = 0) -> str:
    """A page; reload : seconds after which it loads itself again, 0 for never."""
    folder = files("cnn_numba.report")
    css, script = ((folder / name).read_text("utf-8") for name in ("report.css", "player.js"))
    again = f'<meta http-equiv="refresh" content="{reload}">\n' if reload else ""
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n{again}'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{html_text(title)}</title>\n'
            f"<style>\n{css}</style>\n</head>\n<body>\n{body}\n<script>\n{script}</script>\n</body>\n</html>\n")


def section(title: str, *panels: str) -> str:
    """A heading and the panels below it; "" without panels."""
    shown = [panel for panel in panels if panel]
    if not shown:
        return ""
    return f'<h2 id="{anchor(title)}">{html_text(title)}</h2>\n<div class="grid">\n{"".join(shown)}</div>\n'


def anchor(title: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in title.lower())


def panel(title: str, content: str, caption: str = "", wide: bool = False) -> str:
    """A box with a title and a line of explanation; content : HTML."""
    note = f"<p class=\"hint\">{html_text(caption)}</p>\n" if caption else ""
    return f'<section class="panel{" wide" * wide}">\n<h3>{html_text(title)}</h3>\n{note}{content}</section>\n'


def picture(name: str, svg: str) -> str:
    return f'<div class="scroll">{inline(svg, name)}</div>\n'


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1, marked: Iterable[int] = ()) -> str:
    """A table of texts, whose first `left` columns are aligned left; marked : rows that stand out."""
    def line(tag: str, cells: Sequence[str], kind: str = "") -> str:
        texts = (f"<{tag}{' class=number' * (k >= left)}>{html_text(cell)}</{tag}>" for k, cell in enumerate(cells))
        return f"<tr{kind}>{''.join(texts)}</tr>\n"
    shown = set(marked)
    body = "".join(line("td", row, ' class="differs"' * (k in shown)) for k, row in enumerate(rows))
    return f'<div class="scroll"><table>\n{line("th", headings)}{body}</table></div>\n'


def player(epochs: Sequence[int], filters: np.ndarray) -> str:
    """The filters (epochs, F, C, kh, kw) as a strip that can be played."""
    chosen = np.unique(np.linspace(0, len(epochs) - 1, min(len(epochs), MOST_FRAMES)).round().astype(int))
    tiles = network.filter_tiles(filters)[chosen]
    columns = min(tiles.shape[1], 8)
    frames = [style.coloured(style.tiled(list(each), columns)) for each in tiles]
    height, width = frames[0].shape[:2]
    numbers = html_text(json.dumps([int(epochs[k]) for k in chosen]))
    return (f'<div class="player" data-epochs="{numbers}" data-strip="{png(np.concatenate(frames))}">\n'
            f'<canvas width="{width}" height="{height}"></canvas>\n<div><button type="button">Play</button>'
            f'<input type="range" min="0" max="{len(chosen) - 1}" value="{len(chosen) - 1}" aria-label="epoch">'
            f"<output></output></div>\n</div>\n")


def png(pixels: np.ndarray) -> str:
    """uint8 (rows, columns, 4) as the address of a PNG picture."""
    from matplotlib.image import imsave

    file = io.BytesIO()
    imsave(file, pixels, format="png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
