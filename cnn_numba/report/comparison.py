"""The comparison of several runs: curves over each other, a table, and where their recipes differ."""
from __future__ import annotations

from collections.abc import Sequence

from cnn_numba.pictures import as_svg, curves, rates
from cnn_numba.report import html
from cnn_numba.report.page import settings, status
from cnn_numba.report.study import Study


def comparison_page(studies: Sequence[Study]) -> str:
    """A page for several runs, as they are now.

    Raises InputError when none has finished an epoch.
    """
    names = labels(studies)
    histories = {name: study.history for name, study in zip(names, studies, strict=True)}
    body = (f"<header>\n<h1>{len(studies)} runs</h1>\n</header>\n"
            + html.section("Results", html.panel("Runs", _results(names, studies), wide=True))
            + html.section("Training", *(html.panel(title, html.picture(name, as_svg(draw(histories))))
                                         for name, title, draw in (("curves", "Loss and accuracy", curves),
                                                                   ("rates", "Learning rate and gradient", rates))))
            + html.section("Recipes", html.panel("Where they differ", differences(names, studies), wide=True)))
    return html.page(f"{len(studies)} runs", body)


def labels(studies: Sequence[Study]) -> list[str]:
    """A different name for each run."""
    names = [study.name for study in studies]
    return [name if names.count(name) == 1 else f"{name} ({k + 1})" for k, name in enumerate(names)]


def _results(names: Sequence[str], studies: Sequence[Study]) -> str:
    def number(value: object, form: str) -> str:
        return form.format(value) if isinstance(value, (int, float)) else "-"
    rows = []
    for name, study in zip(names, studies, strict=True):
        parameters = sum(p.value.size for p in study.model.parameters()) if study.model else None
        last = study.history[-1] if len(study.history) else None
        rows.append([name, status(study).partition(", test")[0], number(study.result.get("test_accuracy"), "{:.2f} %"),
                     number(study.result.get("test_loss"), "{:.4f}"), number(last and last.loss, "{:.4f}"),
                     number(parameters, "{:,}"), f"{sum(study.history['seconds']):,.1f}",
                     number(last and last.images_per_second, "{:,.0f}")])
    return html.table(["run", "", "test accuracy", "test loss", "training loss", "parameters", "seconds", "images/s"],
                      rows, left=2)


def differences(names: Sequence[str], studies: Sequence[Study]) -> str:
    """A table of the settings that are not the same in all runs."""
    all_settings = [settings(study.recipe) for study in studies]
    fields = dict.fromkeys(name for each in all_settings for name in each)
    rows = [[field.replace("_", " "), *(each.get(field, "-") for each in all_settings)] for field in fields
            if len({each.get(field) for each in all_settings}) > 1]
    if not rows:
        return '<p class="hint">The recipes are the same.</p>\n'
    return html.table(["setting", *names], rows, left=len(names) + 1)


