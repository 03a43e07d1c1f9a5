"""A small network, data that it can learn, and trainings of it, for tests of the trainer and of what it is told."""
import numpy as np
from networks import conv, flatten, linear, make, pool, relu

from cnn_numba import SGD, Dataset, Sequential, Trainer
from cnn_numba.callbacks import Callback

LAYERS = [conv(2, 6, 3, padding=1), relu, pool(2), conv(6, 4, 3), relu, flatten, linear(16, 12), relu, linear(12, 5)]
SHAPE, CLASSES = (2, 8, 8), 5


def dataset(train=70, test=20, dtype=np.uint8, seed=0, **changes):
    """Images of which the brightest part tells the class."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for part, n in ("train", train), ("test", test):
        labels = rng.integers(0, CLASSES, n)
        images = rng.integers(0, 120, (n, *SHAPE))
        images[np.arange(n), labels % 2, labels] += 130
        arrays |= {f"{part}_images": images.astype(dtype), f"{part}_labels": labels}
    return Dataset(**{"name": "made up", "num_classes": CLASSES, **arrays, **changes})


def network():
    return Sequential(*make(LAYERS), seed=7)


def optimizer_of(model):
    return SGD(model, lr=0.05, momentum=0.9, weight_decay=1e-3)


def trained(data, epochs=2, batch_size=64):
    """A model after some epochs, and their History."""
    model = network()
    trainer = Trainer(model, data, optimizer_of(model), batch_size=batch_size, seed=3)
    return model, trainer.fit(epochs)


def normalised(data, images):
    """As the trainer does it: less the mean of the training part, times what makes its deviation 1, in float32."""
    scale = (1 / data.std).astype(np.float32)
    return (images.astype(np.float32) - data.mean[:, None, None]) * scale[:, None, None]


class StopAfter(Callback):
    """Ends a training after so many calls of `on_batch_end`; in a short epoch that is after every batch."""

    def __init__(self, batches):
        self.left = batches

    def on_batch_end(self, trainer):
        self.left -= 1
        if not self.left:
            trainer.stop()
