"""The report of one run."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cnn_numba.data.survey import survey, suspicions
from cnn_numba.errors import InputError
from cnn_numba.escaping import html_text
from cnn_numba.files.atomic import write
from cnn_numba.pictures import as_svg
from cnn_numba.recipe import FIELDS, Recipe
from cnn_numba.report import html
from cnn_numba.report.study import PICTURES, Study, percent
from cnn_numba.run_folder import RunFolder

LARGEST = 1_450_000         # bytes of a page
RELOAD = 5                  # seconds
LIVE = "curves", "rates", "architecture", "filters"         # what a training shows while it runs: cheap, without a test

TITLES = {
    "curves": ("Loss and accuracy", ""), "rates": ("Learning rate and gradient", "The mean norm of an epoch's steps."),
    "confusion": ("Confusion matrix", "Test images: a row for each true class, a column for each prediction."),
    "precision": ("Precision and recall", "Precision: how many of a prediction are right. Recall: how many of a class "
                  "are found."),
    "errors": ("Most wrong", "The test images whose class got the smallest probability, the worst first: index, truth, "
               "prediction and its probability."),
    "unsure": ("Most unsure", "The two best classes are almost equally probable."),
    "sample": ("At random", "Test images, right or wrong."),
    "architecture": ("The network, to scale", "Each box is what a layer gives for one image: rows and columns, and a "
                     "depth for the channels."),
    "filters": ("Filters of the first convolution", "Blue is negative, red positive."),
    "features": ("What each layer sees", "Feature maps: blue is negative, red positive; each row has its own scale."),
    "histograms": ("Weights and gradients", "Each with a scale of its own, whose ends are given."),
    "times": ("Time of the layers", "Measured for this report, on this machine as busy as it was."),
    "counts": ("Images of each class", ""), "data": ("The training images", "The first of each class, as they were "
                                                     "read."),
}


def write_report(study: Study, run: RunFolder, live: bool = False) -> list[str]:
    """Write `report.html` and its pictures into a run folder; returns a sentence for each picture that is left out.

    live : only what is known while the training runs
    """
    svgs: dict[str, str] = {}
    left_out = []
    for name in LIVE if live else PICTURES:
        try:
            svgs[name] = as_svg(study.picture(name))
        except InputError as error:
            left_out.append(f"{TITLES[name][0]}: {error}")
    if not live and "features" in svgs:
        for k in range(1, len(study.feature_images())):
            svgs[f"features-{k + 1}"] = as_svg(study.features(k))
    for name, svg in svgs.items():
        _write_picture(run.pictures / f"{name}.svg", svg)
    write(run.report, report_page(study, svgs, [] if live else left_out).encode())
    return [] if live else left_out


def _write_picture(path: Path, svg: str) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{path.parent} cannot be made ({error.strerror})") from None
    write(path, svg.encode())


def report_page(study: Study, svgs: dict[str, str], left_out: list[str] | None = None) -> str:
    """The page with some pictures, {name: SVG}.  It stays below 1.5 MB: pictures that are too much are only named."""
    room = LARGEST

    def shown(name: str, extra: str = "", wide: bool = False, instead: str = "") -> str:
        nonlocal room
        if name not in svgs:
            return ""
        title, caption = TITLES[name.partition("-")[0]]
        if name == "filters" and study.filters.shape[2] == 3:
            caption = "Their weights as colours; grey is 0."
        content = instead or html.picture(name, svgs[name])
        if len(content) > room:
            content = f'<p class="hint">The picture is large: see pictures/{name}.svg</p>\n'
        room -= len(content)
        return html.panel(title, content + extra, caption, wide)

    parts = [
        html.section("Training", shown("curves"), shown("rates"), _epochs(study)),
        html.section("Errors", shown("confusion", _confused(study) if "confusion" in svgs else ""), shown("precision"),
                     shown("errors"), shown("unsure"), shown("sample")),
        html.section("Network", shown("architecture", wide=True),
                     shown("filters", instead=html.player(study.epochs, study.filters) if "filters" in svgs else ""),
                     shown("histograms"), shown("times"),
                     *(shown(name) for name in svgs if name.startswith("features"))),
        html.section("Data", shown("counts", _survey(study) if "counts" in svgs else ""), shown("data")),
        html.section("Recipe", html.panel("Settings", _recipe(study.recipe)),
                     html.panel("Where it ran", f"<pre>{html_text_lines(study.info)}</pre>\n") if study.info else ""),
    ]
    titles = "Training", "Errors", "Network", "Data", "Recipe"
    names = [name for name, part in zip(titles, parts, strict=True) if part]
    links = "".join(f'<a href="#{html.anchor(name)}">{name}</a>' for name in names)
    missing = "".join(f"<p class=\"hint\">Left out: {html_text(line)}</p>\n" for line in left_out or ())
    head = (f"<header>\n<h1>{html_text(study.name)}</h1>\n<p class=\"status\">{html_text(status(study))}</p>\n"
            f"<p>{html_text(summary(study))}</p>\n</header>\n<nav>{links}</nav>\n")
    return html.page(f"{study.name}: {status(study)}", head + "".join(parts) + missing,
                     RELOAD if study.running else 0)


def html_text_lines(text: str) -> str:
    return "\n".join(html_text(line) for line in text.splitlines())


def status(study: Study) -> str:
    """How the run ended, or how far it is, in a sentence without its stop."""
    done = f"{len(study.history)} of {study.recipe.epochs} epochs"
    if study.running:
        return f"Running, {done} done"
    end = study.result.get("end")
    accuracy = study.result.get("test_accuracy")
    tested = f", test accuracy {accuracy:.2f} %" if isinstance(accuracy, (int, float)) else ""
    words = {"finished": "Finished", "early stopping": "Stopped early", "time limit": "Stopped by the limit of time",
             "diverged": "Diverged", "interrupted": "Interrupted"}
    return f"{words.get(str(end), 'Not finished')}, {done}{tested}"


def summary(study: Study) -> str:
    """The network and the data in a line."""
    recipe, parts = study.recipe, []
    if study.model is not None:
        parts.append(f"{recipe.model}: {sum(p.value.size for p in study.model.parameters()):,} parameters")
    if (data := study.data) is not None:
        shape = "x".join(map(str, data.train_images.shape[1:]))
        parts.append(f"{data.name}: {len(data.train_images):,} training and {len(data.test_images):,} test images of "
                     f"{shape}, {data.num_classes} classes")
    if seconds := sum(study.history["seconds"]):
        parts.append(f"trained for {seconds:,.1f} s, {study.history[-1].images_per_second:,.0f} images/s")
    return " · ".join(parts)


def _epochs(study: Study) -> str:
    history = study.history
    if not len(history):
        return ""
    columns: dict[str, tuple[str, Callable[[float], str]]] = {
        "loss": ("loss", "{:.4f}".format), "accuracy": ("accuracy", "{:.2f} %".format),
        "validation_loss": ("validation loss", "{:.4f}".format),
        "validation_accuracy": ("accuracy", "{:.2f} %".format), "test_loss": ("test loss", "{:.4f}".format),
        "test_accuracy": ("accuracy", "{:.2f} %".format), "seconds": ("seconds", "{:.2f}".format)}
    names = [name for name in columns if any(value is not None for value in history[name])]
    shown = list(history) if len(history) <= 20 else [*history[:3], *history[-15:]]
    rows = [[str(result.epoch), *("-" if (value := getattr(result, name)) is None else columns[name][1](value)
                                  for name in names)] for result in shown]
    note = "" if len(history) <= 20 else "The first and the last; metrics.csv has all."
    return html.panel("Epochs", html.table(["epoch", *(columns[name][0] for name in names)], rows, left=0), note,
                      wide=len(names) > 5)


def _confused(study: Study) -> str:
    rows = [(study.classes[true], study.classes[said], f"{images:,}",
             percent(images / max(1, int(study.matrix[true].sum())))) for images, true, said in study.confused()]
    return html.table(["true", "predicted as", "images", "of the class"], rows, left=2) if rows else ""


def _survey(study: Study) -> str:
    data = study.need_data()
    parts = survey(data)
    rows = [(part.name, f"{part.images:,}", f"{part.low:g} to {part.high:g}", f"{part.mean:.3g}", f"{part.std:.3g}",
             f"{part.repeated:,}", f"{part.known:,}" if part is not parts[0] else "-") for part in parts]
    found = html.table(["part", "images", "pixels", "mean", "deviation", "repeated", "in training"], rows)
    return found + "".join(f"<p class=\"hint\">{html_text(sentence)}</p>\n" for sentence in suspicions(data, parts))


def settings(recipe: Recipe) -> dict[str, str]:
    """{field: text} of what is set: fields that are None or off are left out."""
    values = {name: getattr(recipe, name) for name in FIELDS}
    return {name: str(FIELDS[name].metadata["kind"].write(value)) for name, value in values.items()
            if value not in (None, False, (), 0) or name in ("epochs", "seed")}


def _recipe(recipe: Recipe) -> str:
    rows = [(name.replace("_", " "), text) for name, text in settings(recipe).items()]
    return html.table(["setting", "value"], rows, left=2) + (
        "<p class=\"hint\">config.json has all, for train --config</p>\n")
