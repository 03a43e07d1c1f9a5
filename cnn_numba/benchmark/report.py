"""Results as text and JSON, and the machine on which they were measured."""
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cnn_numba import table
from cnn_numba.table import number

Row = dict[str, Any]


class Table(table.Table):
    """A table with what draws it.

    rows : what was measured, as it goes to JSON
    columns : (heading, function that gives the text of a row)
    chart : function(axes, table), see `plots`
    left : see `table.Table`
    """

    def __init__(self, title: str, rows: list, columns: Sequence[table.Column], chart: Callable[[Any, "Table"], None],
                 left: int = 1):
        super().__init__(columns, rows, title, left)
        self.chart = chart


@dataclass
class Report:
    """What an experiment found: the flags, the machine, tables, and sentences below them."""

    experiment: str
    settings: dict[str, Any]
    machine: dict[str, str]
    tables: list[Table]
    notes: list[str]

    def parts(self) -> Iterator[str | table.Table]:
        """The lines about the machine, the tables, and the sentences."""
        yield from (f"{name + ':':<10} {value}" for name, value in self.machine.items())
        for one in self.tables:
            yield ""
            yield one
        yield from ["", *self.notes] if self.notes else []

    def json(self) -> str:
        tables = [{"title": one.title, "rows": one.rows} for one in self.tables]
        return json.dumps({"experiment": self.experiment, "settings": self.settings, "machine": self.machine,
                           "tables": tables, "notes": self.notes}, indent=1)


def machine(execution: str, vector_bits: int) -> dict[str, str]:
    """What the numbers depend on: {"CPU": ..., "execution": ..., ...}."""
    return {"CPU": f"{cpu()}, {vector_bits}-bit vectors in use", "execution": execution,
            "software": ", ".join(libraries()),
            "system": f"{platform.system()} {platform.machine()}", "date": f"{datetime.now():%Y-%m-%d %H:%M}",
            "command": shlex.join(["python", *sys.argv])}


def libraries() -> list[str]:
    """The versions of Python and of the libraries that are installed."""
    found = [f"{name} {found}" for name in ("numba", "numpy", "torch", "jax") if (found := _version(name))]
    return [f"Python {platform.python_version()}", *found]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def cpu() -> str:
    """The name of the processor, and the number of its logical cores."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] \
        if info.exists() else []
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} logical cores"


# ---- functions that give the texts of a column ----------------------------------------------------------------------
def middle(key: str, scale: float = 1) -> Callable[[Row], str]:
    """The median of a spread."""
    return lambda row: number(row[key]["median"] * scale)


def reach(key: str, scale: float = 1) -> Callable[[Row], str]:
    """A spread, from the least to the most."""
    return lambda row: f"{number(row[key]['min'] * scale)} - {number(row[key]['max'] * scale)}"


def times(key: str) -> Callable[[Row], str]:
    """A ratio."""
    return lambda row: f"{row[key]:.2f}x"


def of(label: str, text: Callable[[Row], str]) -> Callable[[Row], str]:
    """The text for row[label], the numbers of one contender; "-" where it has none."""
    return lambda row: text(row[label]) if label in row else "-"
