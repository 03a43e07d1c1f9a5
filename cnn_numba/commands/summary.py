"""The `summary` command."""
import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from cnn_numba.commands.network import add_network_flags, chosen_network
from cnn_numba.commands.output import put_all
from cnn_numba.commands.parser import Parser
from cnn_numba.table import Column, Table

if TYPE_CHECKING:
    from cnn_numba.inspection.summary import LayerSummary
    from cnn_numba.layers import Layer


def summary(parser: Parser) -> Callable[[argparse.Namespace, float], int]:
    """Print the layers of a network with their shapes, parameters, multiply-adds and bytes."""
    add_network_flags(parser)
    return run_summary


def run_summary(args: argparse.Namespace, _started: float) -> int:
    from cnn_numba.layers import shape_text

    name, model, shape, classes = chosen_network(args)
    lines = list(report(model.layers, shape))
    put_all([f"{name} for images of {shape_text(shape)} and {classes} classes", "", *lines])
    return 0


def report(layers: "Sequence[Layer]", shape: tuple[int, ...]) -> Iterator[str | Table]:
    """The table of a network for images of a shape, and the lines below it.

    Raises InputError when the layers do not fit each other or the shape.
    """
    from cnn_numba.inspection.summary import layer_summaries, layer_text, multiply_adds
    from cnn_numba.layers import shape_text

    summaries = layer_summaries(layers, shape)
    counts = [("parameters", "parameters", 1), ("multiply-adds", "multiply_adds", 1), ("output bytes", "outputs", 4)]
    total = {name: sum(getattr(one, name) for one in summaries) for _, name, _ in counts}
    columns: list[Column] = [
        ("layer", lambda one: indented(one.name)), ("", lambda one: layer_text(one.layer)),
        ("output", lambda one: shape_text(one.after).removesuffix(" features"))]
    columns += [(heading, partial(count_text, name=name, size=size)) for heading, name, size in counts]
    yield Table(columns, summaries, left=2, total=[
        "", "total", "", *(f"{size * total[name]:,}" for _, name, size in counts)])
    yield ""
    yield f"Parameters: {total['parameters']:,}, {bytes_text(4 * total['parameters'])} as float32"
    yield (f"Outputs of all layers: {total['outputs']:,} numbers for one image, {bytes_text(4 * total['outputs'])} as "
           "float32")
    forward, step = multiply_adds(layers, shape)
    yield f"Multiply-adds of one image: {forward:,} in the forward pass, {step:,} in a training step"


def count_text(summary: "LayerSummary", name: str, size: int) -> str:
    """A number of a layer, `size` bytes or one for each."""
    count = size * getattr(summary, name)
    return f"{count:,}" if count else "-"


def indented(name: str) -> str:
    """The name of a layer below that of its container: the branch and the number, indented."""
    depth = name.count(".") // 2
    return "  " * depth + ".".join(name.split(".")[-2:] if depth else [name])


def bytes_text(count: int) -> str:
    """A number of bytes in a unit that suits it."""
    if count < 1000:
        return f"{count} bytes"
    power = 1 if count < 10**6 else 2 if count < 10**9 else 3
    return f"{count / 1000**power:.3g} {('kB', 'MB', 'GB')[power - 1]}"
