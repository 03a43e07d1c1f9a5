"""Which layers apply the ReLU that follows them, and which its gradient: a pass over a list of layers."""
from collections.abc import Sequence
from dataclasses import dataclass

from cnn_numba.layers import Layer


@dataclass
class Stage:
    """A layer that runs, with what it does for its neighbours.

    position : of the layer in the list
    relu_after : the layer applies the ReLU that follows
    relu_before : the layer applies the gradient of the ReLU before it
    mask : the layer's backward pass begins with the gradient of the ReLU that it applied: no later layer does that
    """

    position: int
    layer: Layer
    relu_after: bool = False
    relu_before: bool = False
    mask: bool = False


def fuse(layers: Sequence[Layer], shared_gradient: bool = False) -> list[Stage]:
    """The stages of layers that run one after the other: every layer but the ReLUs that a neighbour applies.

    A ReLU disappears into the layer before it where that can apply one.  Its gradient is applied by the next layer that
    runs, where that can; a layer that only reshapes passes it on.

    shared_gradient : the gradient of the output has other readers, so the last layer must not change it
    """
    stages: list[Stage] = []
    relu: Stage | None = None               # has applied a ReLU whose gradient nothing applies yet
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
