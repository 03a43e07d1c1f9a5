"""What every contender is asked for, in its own process, and what they share: data, first weights, hyperparameters."""
import sys
import time
from pathlib import Path

import numpy as np

from cnn_numba.data import Dataset, load_dataset
from cnn_numba.errors import InputError
from cnn_numba.init import xavier_uniform

CHECKED = 64
HYPER = dict(lr=0.02, momentum=0.9, weight_decay=1e-4)


class Contender:
    """One way to train and run a network.

    threads : how many it may use; other options are those of a library.
    """

    def __init__(self, threads):
        self.threads = threads

    def load(self, **source):
        """Load the data set, and bring it into the form that the library trains on."""
        self.data = load(**source)

    def build(self, network, batch_size):
        """Make the network, its first weights, and what trains it."""
        raise NotImplementedError

    def resize(self, images):
        """Let an epoch be the first `images` of the training part."""
        self.images = images

    def epoch(self):
        """Train on these images once, in a new order."""
        raise NotImplementedError

    def loss(self):
        """The mean loss of the first CHECKED images: contenders that do the same agree on it after the same steps."""
        raise NotImplementedError

    def predict(self, batch_size):
        """The classes of all training images."""
        raise NotImplementedError

    def layer(self, **_):
        """{pass: seconds} of a single layer."""
        raise InputError("its layers are not measured one by one")

    def memory(self):
        """Peak memory of this process in bytes."""
        status = Path("/proc/self/status")
        if status.exists():         # ru_maxrss would count the memory of the process that started this one
            return 1024 * next(int(line.split()[1]) for line in status.open() if line.startswith("VmHWM"))
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def known(layers, name):
    """layers[name], for a library that need not have all layers."""
    if name not in layers:
        raise InputError(f"it knows no layer {name}")
    return layers[name]


def load(name, data_dir, images, image_shape):
    """A Dataset: `images` random ones of a shape, or the first (None: all) of a real one."""
    if name != "random":
        return load_dataset(name, data_dir=data_dir, train_size=images)
    rng = np.random.default_rng(0)
    parts = [(rng.integers(0, 256, (n, *image_shape), np.uint8), rng.integers(0, 10, n)) for n in (images, 1)]
    return Dataset(name, *parts[0], *parts[1], num_classes=10)


def standardised(data):
    """The training images as float32, less their mean, over their standard deviation."""
    x = data.train_images.astype(np.float32)
    x -= data.mean[:, None, None]
    x /= data.std[:, None, None]
    return x


def initial(shapes):
    """The first weights and biases of every contender: those of `Sequential(..., seed=0)`."""
    return [(xavier_uniform(shape, 0, k) if len(shape) > 1 else np.zeros(shape)).astype(np.float32)
            for k, shape in enumerate(shapes)]


def per_call(f, seconds):
    """Seconds per call of f, the mean over calls that take `seconds` together, after two that wake threads up."""
    f()
    start = time.perf_counter()
    f()
    count = max(1, int(seconds / max(1e-9, time.perf_counter() - start)))
    start = time.perf_counter()
    for _ in range(count):
        f()
    return (time.perf_counter() - start) / count
