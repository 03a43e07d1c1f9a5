"""The requests that a contender answers in its process, and what all share: data, first weights, hyperparameters."""
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_numba.data import Dataset, load_dataset
from cnn_numba.errors import InputError
from cnn_numba.init import xavier_uniform

CHECKED = 64                # images whose loss all contenders must agree on
HYPER: dict[str, Any] = dict(lr=0.02, momentum=0.9, weight_decay=1e-4)


class Contender:
    """One way to train and run a network.

    threads : how many it may use; other options are those of a library
    """

    def __init__(self, threads: int):
        self.threads = threads

    def load(self, **source: Any) -> None:
        """Load the data set (see the function `load`), and convert it to what the library trains on."""
        self.data = load(**source)

    def build(self, network: Sequence[Any], batch_size: int) -> None:
        """Make the network from its description, with the first weights, and the optimizer."""
        raise NotImplementedError

    def resize(self, images: int) -> None:
        """Let an epoch be the first `images` of the training part."""
        self.images = images

    def epoch(self) -> None:
        """Train on these images once, in a new order."""
        raise NotImplementedError

    def loss(self) -> float:
        """The mean loss of the first CHECKED images: it is the same for all contenders after the same steps."""
        raise NotImplementedError

    def predict(self, batch_size: int) -> None:
        """Compute the classes of all training images."""
        raise NotImplementedError

    def latency(self, images: int, seconds: float) -> dict[str, float]:
        """{way: seconds} from the first images to their logits, the median of calls; the network is in evaluation from
        now on."""
        raise NotImplementedError

    def layer(self, **_: Any) -> dict[str, float]:
        """{pass: seconds} of a single layer."""
        raise InputError("its layers are not measured one by one")

    def memory(self) -> int:
        """Peak memory of this process in bytes."""
        status = Path("/proc/self/status")
        if status.exists():         # ru_maxrss would count the memory of the process that started this one
            return 1024 * next(int(line.split()[1]) for line in status.open() if line.startswith("VmHWM"))
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def known(layers: Mapping[str, Any], name: str) -> Any:
    """layers[name]; InputError for a layer that a library does not have here."""
    if name not in layers:
        raise InputError(f"it knows no layer {name}")
    return layers[name]


def load(name: str, data_dir: str | None, images: int | None, image_shape: Sequence[int] | None) -> Dataset:
    """A Dataset of `images` images: random ones of a shape, or the first ones of a real data set (None: all)."""
    if name != "random":
        return load_dataset(name, data_dir=data_dir, train_size=images)
    assert images is not None and image_shape is not None
    rng = np.random.default_rng(0)
    parts = [(rng.integers(0, 256, (n, *image_shape), np.uint8), rng.integers(0, 10, n)) for n in (images, 1)]
    return Dataset(name, *parts[0], *parts[1], num_classes=10)


def standardised(data: Dataset) -> np.ndarray:
    """The training images as float32 (N, C, H, W), with mean 0 and standard deviation 1 in each channel."""
    x = data.train_images.astype(np.float32)
    x -= data.mean[:, None, None]
    x /= data.std[:, None, None]
    return x


def initial(shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """The first weights and biases of every contender, float32: those of `Sequential(..., seed=0)`."""
    return [(xavier_uniform(shape, 0, k) if len(shape) > 1 else np.zeros(shape)).astype(np.float32)
            for k, shape in enumerate(shapes)]
