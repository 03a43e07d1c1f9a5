"""Tables of results: text in aligned columns, and HTML for notebooks."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cnn_numba.escaping import html_text, printable

Column = tuple[str, Callable[[Any], str]]


@dataclass
class Table:
    """Rows under headings; `str(table)` is the text, and a notebook shows HTML.

    Parameters
    ----------
    columns : list of (heading, function(row) -> text)
    rows : list of objects
    title : str, optional
        A line above the headings.
    left : int
        The number of columns, from the first, that are aligned left; the others are aligned right.
    total : list of str, optional
        The last line, one text for each column.
    """

    columns: Sequence[Column]
    rows: Sequence[Any]
    title: str = ""
    left: int = 1
    total: Sequence[str] | None = None

    def cells(self) -> list[list[str]]:
        """The headings, the texts of each row, and the total."""
        body = [[printable(text(row)) for _, text in self.columns] for row in self.rows]
        return [[heading for heading, _ in self.columns], *body, *([list(self.total)] if self.total else [])]

    def __str__(self) -> str:
        cells = self.cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(f"{cell:{'<' if k < self.left else '>'}{widths[k]}}" for k, cell in enumerate(line)).rstrip()
                 for line in cells]
        rule = "  ".join("-" * width for width in widths)
        lines[1:1] = [rule]
        if self.total:
            lines[-1:-1] = [rule]
        return "\n".join([self.title, "", *lines] if self.title else lines)

    def _repr_html_(self) -> str:
        caption = f"<caption>{html_text(self.title)}</caption>" if self.title else ""
        tags = ["th"] + ["td"] * len(self.rows) + ["th"]
        sides = ["left" if k < self.left else "right" for k in range(len(self.columns))]
        lines = ["".join(f'<{tag} style="text-align: {side}">{html_text(cell)}</{tag}>'
                         for side, cell in zip(sides, line, strict=True))
                 for tag, line in zip(tags, self.cells(), strict=False)]
        return f"<table>{caption}{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def number(value: float) -> str:
    """Three significant digits, or all digits before the decimal point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")
