"""What every layer of a network gives for some images."""
import copy
from collections.abc import Sequence

import numpy as np

from cnn_numba.execution import algorithms
from cnn_numba.inspection.summary import layer_summaries
from cnn_numba.kernels import driver
from cnn_numba.kernels.lanes import LANES
from cnn_numba.layers import Layer, below, infer_shapes
from cnn_numba.layers.base import Shape
from cnn_numba.model import Sequential
from cnn_numba.parameter import Wired
from cnn_numba.plan import Plan


class Activations:
    """The outputs of all layers of a model, also of those inside others and of ReLUs that a neighbour applies.

    Each layer runs alone, on the output of the one before, in evaluation mode; its numbers are to the bit those inside
    the whole network.  The weights are a copy, so a training of the model may go on.  Safe with threads.

    Parameters
    ----------
    model : Sequential
    shape : shape of an image

    Attributes
    ----------
    layers : list of LayerSummary
        The layers in the order of their outputs; a container comes before the layers inside it.

    Raises InputError when the layers do not fit the shape.
    """

    def __init__(self, model: Sequential, shape: Shape):
        self.layers = layer_summaries(model.layers, shape)
        model = copy.deepcopy(model)
        tensors = {f"{k}.{name}": p.wired(False)
                   for k, of_layer in enumerate(model.bind()) for name, p in of_layer.items()}
        self._steps = self._prepared(model.layers, tensors, shape)

    def _prepared(self, layers: Sequence[Layer], tensors: dict[str, Wired], shape: Shape) -> list:
        """[(plan of the layer, its forward pass, [the same for the layers of each branch])]"""
        steps, shapes = [], infer_shapes(layers, shape)
        for k, layer in enumerate(layers):
            mine = below(f"{k}.", tensors)
            plan = Plan([layer], [mine], shapes[k:k + 2], 1, backward=False, training=False,
                        **algorithms())
            branches = [self._prepared(inside, below(f"{name}.", mine), shapes[k])
                        for name, inside in layer.branches.items()]
            steps.append((plan, plan.programs()[0], branches))
        return steps

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """[float32 (N, *output shape)] of all `layers`, for float32 (N, *shape), normalised as the model expects."""
        with driver.exclusive:          # other Python threads use the same buffers
            parts = [self._run(self._steps, images[k:k + LANES]) for k in range(0, len(images), LANES)]
        return [np.concatenate(of_layer) for of_layer in zip(*parts, strict=True)]

    def _run(self, steps: list, x: np.ndarray) -> list[np.ndarray]:
        outputs = []
        for plan, forward, branches in steps:
            plan.x.inner[0, ..., :len(x)] = np.moveaxis(x, 0, -1)
            plan.setup.batch[1] = len(x)
            forward()
            y = np.moveaxis(plan.z.inner[0, ..., :len(x)], -1, 0).copy()
            outputs += [y, *(inside for branch in branches for inside in self._run(branch, x))]
            x = y
        return outputs
