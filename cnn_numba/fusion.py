"""Fusion: which layers apply the ReLU or the pooling after them, and which apply the gradient of a ReLU."""
from collections.abc import Sequence
from dataclasses import dataclass

from cnn_numba.layers.base import Layer, Shape


@dataclass
class Stage:
    """A layer that runs, with the work that it does for its neighbours.

    position : of the layer in the list
    relu_after : the layer applies the ReLU that follows
    relu_before : the layer applies the gradient of the ReLU before it
    mask : the layer's backward pass begins with the gradient of the ReLU that it applied, as no later layer applies it
    pool_after : the MaxPool2d that follows, and that ReLU, if the layer applies it with its gradient
    applied : the number of layers after it that the layer applies
    """

    position: int
    layer: Layer
    relu_after: bool = False
    relu_before: bool = False
    mask: bool = False
    pool_after: Layer | None = None
    applied: int = 0

    @property
    def end(self) -> int:
        """The position of the next layer that runs."""
        return self.position + 1 + self.applied


def fuse(layers: Sequence[Layer], shared_gradient: bool = False, shapes: Sequence[Shape] = ()) -> list[Stage]:
    """The stages of layers that run one after the other: every layer except those that a neighbour applies.

    A ReLU is fused into the layer before it if that layer can apply one.  If it does not apply the gradient, too, the
    next layer that runs does so if it can; a layer that only reshapes is skipped.  A max pooling whose windows tile the
    image is fused into a layer before it, and before the ReLU between them, that can apply both and their gradients.

    shared_gradient : the gradient of the output has other readers, so the last layer must not change it
    shapes : the input shape of each layer; without them, no pooling is fused
    """
    stages: list[Stage] = []
    relu: Stage | None = None               # has applied a ReLU; no stage applies its gradient yet
    for k, layer in enumerate(layers):
        kept = shared_gradient and k == len(layers) - 1
        if layer.is_relu and k > 0 and layers[k - 1].applies_relu and not kept:
            stages[-1].relu_after, stages[-1].applied = True, 1
            relu = None if layers[k - 1].masks_own_relu else stages[-1]
            continue
        before = stages[-1] if stages else None
        if shapes and before and before.layer.applies_pool and before.end == k and not before.pool_after \
                and layer.tiles(shapes[k]):
            before.pool_after, before.applied, relu = layer, before.applied + 1, None
            continue
        stages.append(Stage(k, layer))
        if relu and not layer.reshapes:
            stages[-1].relu_before, relu.mask, relu = layer.masks_relu, not layer.masks_relu, None
    if relu:
        relu.mask = True
    return stages
