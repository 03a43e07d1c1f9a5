"""Makes text of files, models and users safe to print, and to write as CSV, JSON and HTML: one function for each.

Names of classes, layers and files may hold what controls a terminal, ends a line, is a formula to a spreadsheet, or is
no character at all.
"""
import csv
import html
import io
import json
import re
from typing import Any

FORMULA = "=", "+", "-", "@"            # how what a spreadsheet computes begins
NUMBER = re.compile(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?", re.IGNORECASE)


def printable(text: str) -> str:
    """A line of text with escapes in place of all that is not a visible character or a space."""
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode()
                                                   for c in text)


def csv_row(*values: object) -> str:
    """A line of CSV without its end.  What a spreadsheet would compute gets an apostrophe in front."""
    row = io.StringIO()
    csv.writer(row, lineterminator="").writerow([_inert(printable(str(value))) for value in values])
    return row.getvalue()


def _inert(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) and not NUMBER.fullmatch(text) else text


def json_line(value: Any) -> str:
    """A line of JSON that gives the value back, whatever is in its strings."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def html_text(text: str) -> str:
    """Text for an element or an attribute of HTML."""
    return html.escape(printable(text))
