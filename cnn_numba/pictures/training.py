"""Pictures of how a training went."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cnn_numba.errors import InputError
from cnn_numba.history import History
from cnn_numba.pictures.style import HELD_OUT, SEVERAL, TRAINING, WIDTH, drawing, grid, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cnn_numba.lr_range import RateRange


def curves(runs: History | Mapping[str, History]) -> Figure:
    """Loss and accuracy over the epochs: of the training (dashed where there are several runs) and of the validation
    part or, without one, of the test part.

    runs : a History, or {name: History} of several runs, whose curves have a colour each

    Raises InputError when no run has finished an epoch.
    """
    several = _several(runs)
    with drawing(WIDTH, 5.2) as figure:
        losses, accuracies = figure.subplots(2, 1, sharex=True)
        for (name, history), colour in zip(several.items(), _colours(several), strict=False):
            part = next((part for part in ("validation", "test") if history[f"{part}_loss"][0] is not None), None)
            for axes, column in (losses, "loss"), (accuracies, "accuracy"):
                alone = len(several) == 1
                _line(axes, history, column, TRAINING if alone else colour, "training" if alone else None,
                      "-" if alone or part is None else "--")
                if part:
                    _line(axes, history, f"{part}_{column}", HELD_OUT if alone else colour,
                          part if alone else short(name, 30))
                elif not alone:
                    axes.lines[-1].set_label(short(name, 30))
        losses.set_ylabel("loss")
        accuracies.set_ylabel("accuracy, %")
        accuracies.set_xlabel("epoch" + " (dashed: training)" * (len(several) > 1))
        if min(min(history["loss"]) for history in several.values()) > 0:
            losses.set_yscale("log")
            _plain_numbers(losses.yaxis)
        losses.legend()
        _whole_epochs(accuracies, several)
    return figure


def rates(runs: History | Mapping[str, History]) -> Figure:
    """Learning rate and norm of the gradient over the epochs; see `curves`."""
    several = _several(runs)
    measured = any(history["gradient_norm"][0] is not None for history in several.values())
    with drawing(WIDTH, 4.2 if measured else 2.4) as figure:
        subplots = figure.subplots(2 if measured else 1, 1, sharex=True, squeeze=False)[:, 0]
        for (name, history), colour in zip(several.items(), _colours(several), strict=False):
            for axes, column in zip(subplots, ("learning_rate", "gradient_norm"), strict=False):
                if history[column][0] is not None:
                    _line(axes, history, column, colour, short(name, 30) if len(several) > 1 else None)
        for axes, label in zip(subplots, ("learning rate", "norm of the gradient"), strict=False):
            axes.set_ylabel(label)
            axes.set_ylim(bottom=0)
        subplots[-1].set_xlabel("epoch")
        if len(several) > 1:
            subplots[0].legend()
        _whole_epochs(subplots[-1], several)
    return figure


def rate_range(found: RateRange) -> Figure:
    """The loss over the learning rate of a range test, as measured and smoothed, and the rate that it suggests."""
    with drawing(WIDTH, 3.2) as figure:
        axes = figure.subplots()
        axes.plot(found.rates, found.losses, color=TRAINING, alpha=0.35, linewidth=1, label="loss of a batch")
        axes.plot(found.rates, found.smoothed, color=TRAINING, linewidth=1.6, label="smoothed")
        axes.axvline(found.suggestion, color=HELD_OUT, linewidth=1.2, linestyle="--")
        axes.plot([found.suggestion], [found.smoothed_at(found.suggestion)], "o", color=HELD_OUT, markersize=6,
                  label=f"steepest: {found.suggestion:.2g}")
        axes.set_xscale("log")
        _plain_numbers(axes.xaxis, (1.0,))
        low, high = min(found.smoothed), max(found.smoothed[:1] + found.smoothed[:len(found.smoothed) // 2])
        axes.set_ylim(max(0.0, low - 0.15 * (high - low)), high + 0.4 * (high - low))
        axes.set_xlabel("learning rate")
        axes.set_ylabel("loss")
        axes.legend(loc="best")
        grid(axes)
    return figure


def _several(runs: History | Mapping[str, History]) -> Mapping[str, History]:
    several = {"": runs} if isinstance(runs, History) else {name: each for name, each in runs.items() if len(each)}
    if not several or not all(len(history) for history in several.values()):
        raise InputError("there are no curves before the first epoch is done")
    return several


def _colours(several: Mapping[str, History]) -> Sequence[str]:
    return [SEVERAL[k % len(SEVERAL)] for k in range(len(several))]


def _line(axes: Axes, history: History, column: str, colour: str, label: str | None, style: str = "-") -> None:
    axes.plot(history["epoch"], history[column], style, color=colour, linewidth=1.5, label=label,
              marker="o" if len(history) <= 30 else "", markersize=3)
    grid(axes)


def _plain_numbers(axis: Any, steps: Sequence[float] = (1.0, 2.0, 5.0)) -> None:
    """Numbers such as 0.05 on a logarithmic axis, at these multiples of the powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _whole_epochs(axes: Axes, several: Mapping[str, History]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    last = max(history["epoch"][-1] for history in several.values())
    axes.set_xlim(0.5 if last < 10 else 1 - 0.02 * last, last + max(0.5, 0.02 * last))
