"""Results as text and JSON, and the machine that they are from."""
import json
import os
import platform
import shlex
import sys
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@dataclass
class Table:
    """rows : what was measured, as it goes to JSON; columns : (heading, function(row) -> text), the first to the left.

    chart : function(axes, table) that draws it (see `plots`).
    """

    title: str
    rows: list
    columns: list
    chart: object

    def __str__(self):
        cells = [[heading for heading, _ in self.columns]]
        cells += [[text(row) for _, text in self.columns] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        widths[0] *= -1                                             # to the left
        lines = ["  ".join(f"{cell:{'<' if width < 0 else '>'}{abs(width)}}"
                           for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
        return "\n".join([self.title, "", lines[0], "  ".join("-" * abs(width) for width in widths), *lines[1:]])


@dataclass
class Report:
    """All that one experiment says."""

    experiment: str
    settings: dict
    machine: dict
    tables: list
    notes: list

    def __str__(self):
        machine = [f"{name + ':':<10} {value}" for name, value in self.machine.items()]
        return "\n\n".join(["\n".join(machine), *map(str, self.tables), "\n".join(self.notes)]).rstrip()

    def json(self):
        tables = [{"title": table.title, "rows": table.rows} for table in self.tables]
        return json.dumps({"experiment": self.experiment, "settings": self.settings, "machine": self.machine,
                           "tables": tables, "notes": self.notes}, indent=1)


def machine(execution, vector_bits):
    """What the numbers depend on: {"CPU": ..., "execution": ..., ...}."""
    libraries = [f"{name} {found}" for name in ("numba", "numpy", "torch", "jax") if (found := _version(name))]
    return {"CPU": f"{_cpu()}, {os.cpu_count()} logical cores, {vector_bits}-bit vectors in use",
            "execution": execution,
            "software": ", ".join([f"Python {platform.python_version()}", *libraries]),
            "system": f"{platform.system()} {platform.machine()}", "date": f"{datetime.now():%Y-%m-%d %H:%M}",
            "command": shlex.join(["python", *sys.argv])}


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu():
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] \
        if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def number(value):
    """Three digits, or all of a larger number."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def middle(key, scale=1):
    """The text of a column: the median of a spread."""
    return lambda row: number(row[key]["median"] * scale)


def reach(key, scale=1):
    """The text of a column: from the least to the most of a spread."""
    return lambda row: f"{number(row[key]['min'] * scale)} - {number(row[key]['max'] * scale)}"


def times(key):
    """The text of a column: a ratio."""
    return lambda row: f"{row[key]:.2f}x"


def of(label, text):
    """The text of a column that takes its numbers from row[label], where there are any."""
    return lambda row: text(row[label]) if label in row else "-"
