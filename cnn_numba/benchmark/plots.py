"""Pictures of the tables.  A chart is f(axes, table, ...); matplotlib is imported only to draw."""
import math
import textwrap
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cnn_numba.benchmark.report import Report, Table
from cnn_numba.errors import InputError
from cnn_numba.table import number

COLOURS = {"PyTorch": "#e4572e", "JAX": "#7b5ea7", "NumPy": "#4d78b3"}
OURS, INK, GRID = "#17826b", "#333333", "#dddddd"
STAGES = "#b8c4c2", "#6fa8a0", OURS
PASSES = {"forward": OURS, "to input": "#d89c00", "to weights": "#4d78b3"}


def check(file: str) -> None:
    """InputError when matplotlib is not installed, or has no kind of picture with the ending of the file."""
    if find_spec("matplotlib") is None:
        raise InputError("--plot needs matplotlib, which is not installed: pip install matplotlib")
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = FigureCanvasBase.get_supported_filetypes()
    if Path(file).suffix[1:] not in kinds:
        raise InputError(f"--plot: the file must end in one of .{', .'.join(sorted(kinds))}, got {file!r}")


def draw(report: Report, file: str) -> None:
    """Write a picture of all tables to a file; its ending chooses the kind."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "font.size": 9, "axes.edgecolor": GRID, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK,
        "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True}
    with rc_context(style):
        wide = len(report.tables) > 1
        height = 4.6 if wide else min(6.5, 2 + 0.35 * len(report.tables[0].rows))
        figure = Figure(figsize=(5.2 * len(report.tables) if wide else 9, height), layout="constrained")
        for axes, table in zip(figure.subplots(1, len(report.tables), squeeze=False)[0], report.tables, strict=True):
            if wide:
                axes.set_title(textwrap.fill(table.title, 64), fontsize=9, loc="left")
            else:
                figure.suptitle(textwrap.fill(table.title, 115), fontsize=9, x=0.01, ha="left")
            axes.grid(color=GRID, linewidth=0.6)
            table.chart(axes, table)
        machine = [report.machine[key] for key in ("CPU", "execution", "software", "date")]
        figure.supxlabel(textwrap.fill(" · ".join(machine), 150), fontsize=7)
        figure.savefig(file, dpi=160)


def colour(label: str) -> str:
    return next((c for name, c in COLOURS.items() if label.startswith(name)), OURS)


def bars(axes: Any, table: Table, value: str, label: str, log: bool = False) -> None:
    """A bar per row with its median, and a line from the least to the most."""
    spreads = [row[value] for row in table.rows]
    middles = [s["median"] for s in spreads]
    reach = [[s["median"] - s["min"] for s in spreads], [s["max"] - s["median"] for s in spreads]]
    names = [row["label"] for row in table.rows]
    axes.barh(names, middles, xerr=reach, color=[colour(name) for name in names], height=0.7,
              error_kw={"elinewidth": 1, "capsize": 2, "ecolor": INK})
    for k, s in enumerate(spreads):
        _annotate(axes, s["median"], s["max"], k)
    _rows(axes, label)
    axes.set_xscale("log" if log else "linear")
    axes.margins(x=0.12)


def stacked(axes: Any, table: Table, label: str) -> None:
    """A bar per row, made of its stages."""
    stages = [key for key, value in table.rows[0].items() if isinstance(value, dict) and key != "all"]
    names, left = [row["label"] for row in table.rows], [0] * len(table.rows)
    for stage, shade in zip(stages, STAGES, strict=True):
        widths = [row[stage]["median"] for row in table.rows]
        axes.barh(names, widths, left=left, color=shade, height=0.6, label=stage)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for k, row in enumerate(table.rows):
        _annotate(axes, row["all"]["median"], left[k], k)
    _rows(axes, label)
    axes.margins(x=0.1)
    axes.legend(frameon=False, loc="best")


def _annotate(axes: Any, value: float, x: float, y: float) -> None:
    axes.annotate(number(value), (x, y), xytext=(5, 0), textcoords="offset points", va="center")


def _rows(axes: Any, label: str) -> None:
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.tick_params(left=False)
    axes.set_xlabel(label)


def roofline(axes: Any, table: Table, labels: Sequence[str], peak: tuple[float, float] | None) -> None:
    """Speed over operations per byte, below the limits of the cores and of the memory."""
    from matplotlib.lines import Line2D

    rows = [row for row in table.rows if row["operations"]]
    xs = [row["operations"] / row["bytes"] for row in rows] or [1]
    markers = dict(zip(labels, "ox", strict=False))
    low, high = min(xs) / 1.6, max(xs) * 1.6
    if peak:
        roof = sorted({low, max(low, peak[0] / peak[1]), high})
        axes.plot(roof, [min(peak[0], x * peak[1]) / 1e9 for x in roof], color=INK, linewidth=1.2)
    for row, x in zip(rows, xs, strict=True):
        for label, marker in markers.items():
            axes.plot(x, row[label]["gflops"], marker, color=PASSES[row["pass"]], markersize=5.5, alpha=0.85,
                      markeredgewidth=1.3)
    axes.set_xscale("log")
    axes.set_yscale("log")
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom=bottom / (top / bottom)**0.45)             # room for the names
    last = -math.inf
    positions = {row["layer"]: x for row, x in zip(rows, xs, strict=True)}
    for name, x in sorted(positions.items(), key=lambda item: item[1]):
        last = max(x, last * (high / low)**0.02)
        axes.annotate(name, (last, 0.01), xycoords=axes.get_xaxis_transform(), rotation=90, fontsize=6, ha="center")
    axes.set_xlabel("operations per byte, each array moved once")
    axes.set_ylabel("GF/s")
    keys = [("s", shade, name) for name, shade in PASSES.items()]
    keys += [(marker, INK, label) for label, marker in markers.items()]
    handles = [Line2D([], [], linestyle="", marker=marker, color=shade, label=text) for marker, shade, text in keys]
    if peak:
        text = f"peak {number(peak[0] / 1e9)} GF/s,\nmemory {number(peak[1] / 1e9)} GB/s"
        handles.append(Line2D([], [], color=INK, linewidth=1.2, label=text))
    axes.legend(handles=handles, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8)


def loads(axes: Any, table: Table, labels: Sequence[str]) -> None:
    """Images per second of each contender beside more and more processes, for each network and batch size."""
    for label, shade in zip(labels, [*PASSES.values(), COLOURS["PyTorch"]], strict=False):
        speeds = [row[label]["images_per_second"]["median"] if label in row else math.nan for row in table.rows]
        axes.plot(speeds, "o", color=shade, markersize=4, label=label)
    axes.set_xticks(range(len(table.rows)), [f"{row['network']}, {row['batch']}: {row['processes']}"
                                             for row in table.rows], rotation=90, fontsize=7)
    axes.set_yscale("log")
    axes.set_xlabel("network, batch size: processes that compute beside it")
    axes.set_ylabel("training images per second")
    axes.legend(frameon=False)


def curves(axes: Any, table: Table, what: str, labels: Sequence[str]) -> None:
    """Images per second of each contender, with a band from the least to the most."""
    for label in labels:
        points = [(row[what], row[label]["images_per_second"]) for row in table.rows if label in row]
        xs, spreads = zip(*points, strict=True)
        axes.plot(xs, [s["median"] for s in spreads], "o-", color=colour(label), markersize=4, label=label)
        axes.fill_between(xs, [s["min"] for s in spreads], [s["max"] for s in spreads], color=colour(label), alpha=0.2,
                          linewidth=0)
        if what == "threads":
            first = spreads[0]["median"] / xs[0]
            axes.plot(xs, [first * x for x in xs], "--", color=colour(label), linewidth=0.8)
    if what != "threads":
        axes.set_yscale("log")
    axes.set_xscale("log", base=2)
    axes.set_xticks([row[what] for row in table.rows], [str(row[what]) for row in table.rows])
    axes.minorticks_off()
    axes.set_xlabel(what + " (dashed: in proportion)" * (what == "threads"))
    axes.set_ylabel("training images per second")
    axes.legend(frameon=False)
