"""What a network needs for one image: shapes, parameters, multiply-adds and bytes, layer by layer."""
import math
from dataclasses import dataclass

from cnn_numba.layers import Layer, infer_shapes, shape_text


@dataclass(frozen=True)
class Row:
    """A layer in a network: its name in `state_dict`, and the shapes of one image before and after it."""

    name: str
    layer: Layer
    before: tuple
    after: tuple

    @property
    def parameters(self):
        """How many are the layer's own, and not of a layer inside of it."""
        return 0 if self.layer.branches else sum(map(math.prod, self.layer.parameter_shapes().values()))

    @property
    def multiply_adds(self):
        """Of the forward pass; 0 for a container, whose layers have rows of their own."""
        return 0 if self.layer.branches else self.layer.multiply_adds(self.before, self.after)

    @property
    def numbers(self):
        """That the layer writes: none where it only gives its input another shape."""
        return 0 if self.layer.reshapes else math.prod(self.after)


def trace(layers, shape, prefix=""):
    """The rows of a network for an input shape, each followed by those of the layers inside of it.

    Raises InputError, naming the layer, when the layers do not fit each other or the shape.
    """
    rows, shapes = [], infer_shapes(layers, shape)
    for k, layer in enumerate(layers):
        rows.append(Row(f"{prefix}{k}", layer, shapes[k], shapes[k + 1]))
        for branch, inside in layer.branches.items():
            rows += trace(inside, shapes[k], f"{prefix}{k}.{branch}.")
    return rows


def multiply_adds(layers, shape):
    """Of one image: (forward pass, one step of training, in which nobody needs the gradient of the images)."""
    work = sum(row.multiply_adds for row in trace(layers, shape))
    return work, 3 * work - _first(layers, shape)


def _first(layers, shape):
    """Multiply-adds of the first layers that have any: of those, only the gradient of the weights is needed."""
    for k, layer in enumerate(layers):
        if layer.branches:
            work = sum(_first(inside, shape) for inside in layer.branches.values())
        else:
            work = Row(str(k), layer, shape, layer.output_shape(shape)).multiply_adds
        if work:
            return work
        shape = layer.output_shape(shape)
    return 0


def table(layers, shape):
    """The summary of a network for images of a shape, as lines of text; InputError as `trace`."""
    rows = trace(layers, shape)
    cells = [("layer", "", "output", "parameters", "multiply-adds", "output bytes")]
    for row in rows:
        depth = row.name.count(".") // 2
        cells.append(("  " * depth + ".".join(row.name.split(".")[-2:] if depth else [row.name]), _text(row.layer),
                      shape_text(row.after).removesuffix(" features"),
                      *(f"{n:,}" if n else "-" for n in (row.parameters, row.multiply_adds, 4 * row.numbers))))
    parameters, work, numbers = (sum(getattr(row, name) for row in rows)
                                 for name in ("parameters", "multiply_adds", "numbers"))
    cells.append(("", "total", "", f"{parameters:,}", f"{work:,}", f"{4 * numbers:,}"))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(f"{cell:{'<' if k < 2 else '>'}{width}}"
                       for k, (cell, width) in enumerate(zip(line, widths, strict=True))) for line in cells]
    rule = "  ".join("-" * width for width in widths)
    yield from (lines[0], rule, *lines[1:-1], rule, lines[-1])
    yield ""
    yield f"Parameters: {parameters:,}, {_bytes(parameters)} as float32"
    yield f"Outputs of all layers: {numbers:,} numbers for one image, {_bytes(numbers)} as float32"
    forward, step = multiply_adds(layers, shape)
    yield f"Multiply-adds of one image: {forward:,} in the forward pass, {step:,} in a step of training"


def _text(layer):
    """The layer's type, and the window that it moves over the image."""
    text = type(layer).__name__
    if hasattr(layer, "kernel_size"):
        text += f" {_pair(layer.kernel_size)}"
        usual = layer.kernel_size if "Pool" in text else 1
        if _pair(layer.stride) != _pair(usual):
            text += f" / {_pair(layer.stride)}"
    return text


def _pair(value):
    return "x".join(map(str, value if isinstance(value, tuple) else (value, value)))


def _bytes(numbers):
    size = 4 * numbers
    for unit in "bytes", "kB", "MB", "GB":
        if size < 1000 or unit == "GB":
            return f"{size:,} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"
        size /= 1000
