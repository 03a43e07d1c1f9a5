"""The forward pass of a network in NumPy, each layer as a textbook has it: what gradients are checked against.

It shares no arithmetic with the kernels.  A layer's part of it is its method `textbook`.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from cnn_numba.errors import naming
from cnn_numba.layers import Layer, below


@dataclass
class Run:
    """What a forward pass needs besides layers, parameters and images.

    batch : images that one batch norm takes together; the images of several batches may come at once
    masks : {Dropout: what it multiplies the images of a batch by}
    margin : None, or the smallest distance of a number from where a ReLU or a maximum decides otherwise, relative to
        the root mean square of the numbers there; the pass keeps it up to date
    """

    batch: int
    masks: dict[Layer, np.ndarray] = field(default_factory=dict)
    margin: float | None = None

    def batches(self, x: np.ndarray) -> np.ndarray:
        """The images (N, ...) as (batches, images of a batch, ...)."""
        return x.reshape(-1, self.batch, *x.shape[1:])

    def decide(self, x: np.ndarray, distances: Callable[[], np.ndarray]) -> None:
        """Note how close x is to other decisions.

        distances : function that gives them, called only where a margin is kept.  Exact ties do not count: they stay
            ties, like the zeros that a ReLU leaves for a maximum.
        """
        if self.margin is not None:
            away, rms = distances(), np.sqrt(np.mean(x * x))
            self.margin = min(self.margin, np.min(away, where=away > 0, initial=np.inf) / rms)

    def forward(self, layers: Sequence[Layer], x: np.ndarray, parameters: dict[str, np.ndarray],
                first: int = 0) -> np.ndarray:
        """The output of layers for x (N, ...).

        parameters : {name: array}, the names as in `state_dict`
        first : the number of the first layer in these names

        Raises InputError for a layer without a method `textbook`.
        """
        for k, layer in enumerate(layers, first):
            with naming(f"layer {k}"):
                x = layer.textbook(x, below(f"{k}.", parameters), self)
        return x


def cross_entropy(z: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The mean cross-entropy loss of each batch: z (batches * N, classes), labels (N,) -> (batches,)."""
    z = z.reshape(-1, len(labels), z.shape[-1])
    z = z - z.max(axis=-1, keepdims=True)
    return (np.log(np.exp(z).sum(axis=-1)) - z[:, np.arange(len(labels)), labels]).mean(axis=-1)
