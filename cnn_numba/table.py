"""Tables of results: text in aligned columns, and HTML for notebooks."""
import textwrap
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
        return "\n".join(self.lines())

    def lines(self, width: int | None = None) -> list[str]:
        """The lines of the text.  Columns that do not fit into a width follow below, beside those on the left again."""
        cells = self.cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        beside: list[list[int]] = [[]]
        for k in range(self.left, len(widths)):
            shown = [*range(self.left), *beside[-1], k]
            if width and beside[-1] and sum(widths[j] + 2 for j in shown) - 2 > width:
                beside.append([])
            beside[-1].append(k)
        lines = textwrap.wrap(self.title, width, break_long_words=False) if width else [self.title] * bool(self.title)
        for columns in beside:
            lines += [""] * bool(lines) + self._block(cells, widths, [*range(self.left), *columns])
        return lines

    def _block(self, cells, widths, columns):
        """The lines of some columns."""
        lines = ["  ".join(f"{line[k]:{'<' if k < self.left else '>'}{widths[k]}}" for k in columns).rstrip()
                 for line in cells]
        rule = "  ".join("-" * widths[k] for k in columns)
        lines[1:1] = [rule]
        if self.total:
            lines[-1:-1] = [rule]
        return lines

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
