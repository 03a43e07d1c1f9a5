"""Fusion of ReLUs: which layers apply the ReLU after them, and which apply its gradient."""
from collections.abc import Sequence
from dataclasses import dataclass

from cnn_numba.layers import Layer


@dataclass
class Stage:
    """A layer that runs, with the work that it does for neighbouring ReLUs.

    position : of the layer in the list
    relu_after : the layer applies the ReLU that follows
    relu_before : the layer applies the gradient of the ReLU before it
    mask : the layer's backward pass begins with the gradient of the ReLU that it applied, as no later layer applies it
    """

    position: int
    layer: Layer
    relu_after: bool = False
    relu_before: bool = False
    mask: bool = False


def fuse(layers: Sequence[Layer], shared_gradient: bool = False) -> list[Stage]:
    """The stages of layers that run one after the other: every layer except the ReLUs that a neighbour applies.

    A ReLU is fused into the layer before it if that layer can apply one.  The next layer that runs applies its gradient
    if it can; a layer that only reshapes is skipped.

    shared_gradient : the gradient of the output has other readers, so the last layer must not change it
    """
    stages: list[Stage] = []
    relu: Stage | None = None               # has applied a ReLU; no stage applies its gradient yet
    for k, layer in enumerate(layers):
        kept = shared_gradient and k == len(layers) - 1
        if layer.is_relu and k > 0 and layers[k - 1].applies_relu and not kept:
            relu = stages[-1]
            relu.relu_after = True
            continue
        stages.append(Stage(k, layer))
        if relu and not layer.reshapes:
            stages[-1].relu_before, relu.mask, relu = layer.masks_relu, not layer.masks_relu, None
    if relu:
        relu.mask = True
    return stages
