"""The `inspect` command."""
import argparse
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import cnn_numba.kinds as kinds
from cnn_numba.commands.flags import add_location_flags, add_recipe_flags, check_data_paths, given_fields, reader
from cnn_numba.commands.output import data_line, printers
from cnn_numba.commands.parser import Parser
from cnn_numba.commands.progress import bar
from cnn_numba.errors import InputError
from cnn_numba.recipe import Recipe
from cnn_numba.table import Table, number

if TYPE_CHECKING:
    from cnn_numba.data import Dataset
    from cnn_numba.data.survey import PartSurvey

WIDTH = 30              # of the longest bar
EACH = 10               # images of a class on the sheet
SIDE = 56               # pixels of an image on the sheet, at least


def inspect(parser: Parser) -> Callable[[argparse.Namespace, float], int]:
    """Show what a data set holds and how it was read, before anything is trained."""
    parser.usage = "%(prog)s inspect DATA [flags]"
    parser.group("data").add_argument("data", nargs="*", type=reader(kinds.DATA), metavar="DATA",
                                      help="name of a data set, or the paths of files or a folder")
    add_recipe_flags(parser, "data")
    add_location_flags(parser)
    parser.group("output").add_argument("--plot", metavar="FILE.png",
                                        help="write a sheet of some images of each class (default: no)")
    return run_inspect


def run_inspect(args: argparse.Namespace, _started: float) -> int:
    say, warn = printers(quiet=False)
    given = given_fields(args)
    if args.data:
        given["dataset"] = args.data[0] if len(args.data) == 1 else tuple(args.data)
    recipe = Recipe(**given)
    check_data_paths(recipe)
    if args.plot and not args.plot.lower().endswith(".png"):
        raise InputError(f"argument --plot: expected the name of a .png file, got {args.plot}")
    from cnn_numba.data.survey import survey, suspicions

    reports: list[str] = []
    data = recipe.load_data(data_dir=args.data_dir, mirror=args.mirror, report=reports.append, progress=bar)
    parts = survey(data)
    say(data_line(data))
    say(reading_line(data, parts))
    for each in report(data, parts):
        say(each)
    for sentence in dict.fromkeys([*reports, *suspicions(data, parts)]):
        warn(f"warning: {sentence}")
    if args.plot:
        plot(data, args.plot)
        say(f"Wrote {args.plot}")
    return 0


def reading_line(data: "Dataset", parts: "list[PartSurvey]") -> str:
    """How the data set was read, and its pixels."""
    train = parts[0]
    how = f"Read as {'; '.join(data.notes)}; pixels" if data.notes else "Pixels"
    present = train.counts[train.counts > 0]
    images = f"{present.min():,}" + f" to {present.max():,}" * bool(present.min() < present.max())
    return (f"{how} {train.low:g} to {train.high:g}, mean {number(train.mean)}, standard deviation "
            f"{number(train.std)}; {images} training image{'s' * bool(present.max() > 1)} of a class")


def report(data: "Dataset", parts: "list[PartSurvey]") -> Iterator[str | Table]:
    """Tables of the parts and the classes."""
    yield ""
    yield Table([
        ("part", lambda part: part.name), ("images", lambda part: f"{part.images:,}"),
        ("lowest", lambda part: f"{part.low:g}"), ("highest", lambda part: f"{part.high:g}"),
        ("mean", lambda part: number(part.mean)), ("std", lambda part: number(part.std)),
        ("one colour", lambda part: f"{part.flat:,}"), ("repeated", lambda part: f"{part.repeated:,}"),
        ("in training", lambda part: f"{part.known:,}" if part is not parts[0] else "-")], parts)
    yield ""
    most = max(1, *(int(part.counts.max()) for part in parts))

    def length(k: int) -> str:
        return "#" * -(-WIDTH * int(parts[0].counts[k]) // most)

    yield Table([("class", lambda k: data.classes[k]), ("", length),
                 *((part.name, lambda k, part=part: f"{part.counts[k]:,}") for part in parts)],
                range(data.num_classes), left=2)


def plot(data: "Dataset", path: str) -> None:
    """Write a sheet of some images of each class, a row for each of the first 40."""
    import numpy as np

    from cnn_numba.data.image import pillow
    from cnn_numba.files.atomic import writing

    pillow()
    from PIL import Image, ImageDraw

    images, labels = data.train_images, data.train_labels
    rows, columns = images.shape[2:]
    scale = max(1, SIDE // max(rows, columns))
    low, high = float(images.min()), float(images.max())
    margin = 8 * max(map(len, data.classes[:40])) + 8
    height, width = rows * scale + 2, columns * scale + 2
    sheet = Image.new("RGB", (margin + EACH * width, min(40, data.num_classes) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for k in range(min(40, data.num_classes)):
        name = "".join(c if " " <= c <= "~" else "?" for c in data.classes[k])
        draw.text((4, k * height + height // 2 - 6), name, fill="black")
        for place, index in enumerate(np.flatnonzero(labels == k)[:EACH]):
            grey = ((images[index].astype(np.float64) - low) * (255 / (high - low or 1))).astype(np.uint8)
            pixels = np.stack([grey[0]] * 3, 2) if len(grey) != 3 else grey.transpose(1, 2, 0)
            large = pixels.repeat(scale, 0).repeat(scale, 1)
            sheet.paste(Image.fromarray(np.ascontiguousarray(large)), (margin + place * width, k * height))
    with writing(path) as file:
        sheet.save(file, "PNG")
