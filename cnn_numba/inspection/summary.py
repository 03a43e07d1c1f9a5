"""What a network needs for one image, layer by layer: shapes, parameters, multiply-adds and numbers in memory."""
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cnn_numba.layers import Layer, infer_shapes
from cnn_numba.layers.base import Shape


@dataclass(frozen=True)
class LayerSummary:
    """A layer in a network: its name in `state_dict`, and the shapes of one image before and after it."""

    name: str
    layer: Layer
    before: Shape
    after: Shape

    @property
    def parameters(self) -> int:
        """The number of parameters; 0 for a container, whose layers have summaries of their own."""
        return 0 if self.layer.branches else sum(map(math.prod, self.layer.parameter_shapes().values()))

    @property
    def multiply_adds(self) -> int:
        """Those of the forward pass; 0 for a container, whose layers have summaries of their own."""
        return 0 if self.layer.branches else self.layer.multiply_adds(self.before, self.after)

    @property
    def outputs(self) -> int:
        """How many numbers the layer writes: 0 where it only gives its input another shape."""
        return 0 if self.layer.reshapes else math.prod(self.after)


def layer_summaries(layers: Sequence[Layer], shape: Shape, prefix: str = "") -> list[LayerSummary]:
    """The summaries of all layers for an input shape; a container is followed by the layers inside it.

    Raises InputError, naming the layer, when the layers do not fit each other or the shape.
    """
    summaries, shapes = [], infer_shapes(layers, shape)
    for k, layer in enumerate(layers):
        summaries.append(LayerSummary(f"{prefix}{k}", layer, shapes[k], shapes[k + 1]))
        for branch, inside in layer.branches.items():
            summaries += layer_summaries(inside, shapes[k], f"{prefix}{k}.{branch}.")
    return summaries


def layer_text(layer: Layer) -> str:
    """The type of a layer, with the size of its window, and the stride where it is unusual."""
    text = type(layer).__name__
    window, stride = getattr(layer, "kernel_size", None), getattr(layer, "stride", None)
    if window is None:
        return text
    usual = window if "Pool" in text else 1
    unusual = stride is not None and size_text(stride) != size_text(usual)
    return f"{text} {size_text(window)}" + f" / {size_text(stride)}" * unusual


def size_text(value: Any) -> str:
    """A number, or a pair of them, (rows, columns)."""
    return "x".join(map(str, value if isinstance(value, tuple) else (value, value)))


def multiply_adds(layers: Sequence[Layer], shape: Shape) -> tuple[int, int]:
    """Multiply-adds of one image: (forward pass, training step).  A step does not compute the images' gradient."""
    work = sum(summary.multiply_adds for summary in layer_summaries(layers, shape))
    return work, 3 * work - _first(layers, shape)


def _first(layers: Sequence[Layer], shape: Shape) -> int:
    """Multiply-adds of the first layers that have any: training them needs only the gradient of the weights."""
    for k, layer in enumerate(layers):
        if layer.branches:
            work = sum(_first(inside, shape) for inside in layer.branches.values())
        else:
            work = LayerSummary(str(k), layer, shape, layer.output_shape(shape)).multiply_adds
        if work:
            return work
        shape = layer.output_shape(shape)
    return 0
