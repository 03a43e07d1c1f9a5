"""Use of a trained model: the probabilities of images in raw pixel units, and the counts that a test is judged by."""
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from cnn_numba.data.fitting import fitted, in_range
from cnn_numba.errors import InputError
from cnn_numba.few_images import MOST, FewImages, rounded
from cnn_numba.interchange.formats import load
from cnn_numba.kernels import driver
from cnn_numba.kernels.lanes import LANES
from cnn_numba.kernels.program import Program
from cnn_numba.layers import infer_shapes
from cnn_numba.model import Sequential
from cnn_numba.parameter import plain_array
from cnn_numba.plan import Plan, blocks_for

BATCH = 512             # images that are classified together, or fewer where they are large


class Classifier:
    """A model that classifies images in raw pixel units.

    Parameters
    ----------
    model : Sequential
        With input_shape, mean and std, as after a training or `load`.

    Attributes
    ----------
    model : Sequential
    shape : shape of an image
    classes : names of the classes

    Raises InputError when the model lacks input_shape, mean or std.
    """

    def __init__(self, model: Sequential):
        if model.input_shape is None or model.mean is None or model.std is None:
            raise InputError("the model does not say what images it takes: it was saved without input_shape, mean "
                             "and std, which a Trainer sets; after a loop of your own, say it with "
                             "model.takes_images(shape, mean, std)")
        self.model = model
        self.shape, self.mean, self.std = model.input_shape, model.mean, model.std
        self.scale = (1 / np.where(model.std > 0, model.std, 1)).astype(np.float32)
        shapes = infer_shapes(model.layers, self.shape)
        self._most_blocks = blocks_for(shapes, BATCH, BATCH)
        self._plans: dict[int, tuple[Plan | FewImages, Program]] = {}
        outputs, = shapes[-1]
        self.classes = model.classes or tuple(map(str, range(outputs)))

    def __reduce__(self) -> Any:
        """Copies and pickles are made of the model, so that they have buffers of their own."""
        return type(self), (self.model,)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Classifier":
        """The classifier of a saved model; InputError when it cannot be read, or was saved without what it needs."""
        model = load(path)
        try:
            return cls(model)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def fitted(self, images: np.ndarray, where: str, report: Callable[[str], object]) -> np.ndarray:
        """Images (N, C, H, W) with the channels, the size and the range of pixels that the model knows.

        `report` gets a sentence for each of these that had to be changed; `where` names the images in it.  Raises
        InputError when the channels cannot be changed.
        """
        return in_range(fitted(images, self.shape, where, report), self.mean, self.std, where, report)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """float32 (N, classes) for images (N, *input_shape) in raw pixel units; InputError for others."""
        images = plain_array("the images", images)
        if images.shape[1:] != self.shape or images.dtype.kind == "b":
            raise InputError(f"the model takes images of {'x'.join(map(str, self.shape))}, got {images.dtype} "
                             f"{'x'.join(map(str, images.shape[1:]))}")
        logits = np.empty((len(images), len(self.classes)), np.float32)
        channel = (-1, *(1 for _ in self.shape[1:]))
        size = self._most_blocks * LANES
        for first in range(0, len(images), size):
            batch = images[first:first + size].astype(np.float32)
            if not np.isfinite(batch).all():
                raise InputError("the images contain NaN or infinity, expected finite numbers")
            batch = (batch - self.mean.reshape(channel)) * self.scale.reshape(channel)
            with driver.exclusive:          # other Python threads use the same buffers
                plan, forward = self._plan(len(batch) if len(images) <= MOST else max(len(batch), MOST + 1))
                plan.x.put(batch)
                plan.setup.batch[1] = len(batch)
                forward()
                logits[first:first + size] = plan.z.get(len(batch))
        return logits

    def _plan(self, images: int) -> tuple[Plan | FewImages, Program]:
        """A layout for a number of images, and its forward pass: for 1, 2, 4, ... images, the fewest that hold them."""
        size = rounded(images)
        if size not in self._plans:
            blocks = min(self._most_blocks, math.ceil(size / LANES))
            plan = self.model.few_images_plan(self.shape, images) or self.model.plan(
                self.shape, blocks, logits=True, backward=False, training=False)
            self._plans[size] = plan, plan.programs()[0]
        return self._plans[size]

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """float64 (N, classes): the softmax of the logits; InputError when these are not finite."""
        logits = self.logits(images).astype(np.float64)
        if not np.isfinite(logits).all():
            raise InputError("the model gives NaN or infinity instead of numbers")
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)


def labels_in(classes: Sequence[str], labels: np.ndarray, other_classes: Sequence[str]) -> np.ndarray:
    """Labels that index `classes`, for labels that index `other_classes`.

    Classes are matched by the names of the labels that occur.  Numbers mean classes with names only where both are
    published, as those of fashion-mnist.  Raises InputError for a class that is not in `classes`.
    """
    from cnn_numba.data.catalogue import PUBLISHED

    index = {name: k for k, name in enumerate(classes)}
    numbers = all(name == str(k) for k, name in enumerate(other_classes))
    if numbers and any(tuple(classes) == published.classes for published in PUBLISHED.values()):
        index = {str(k): k for k in range(len(classes))}
    found = np.unique(labels).tolist()
    if odd := [other_classes[k] for k in found if other_classes[k] not in index]:
        what = f"the label {odd[0]}, a number" if numbers and not any(name.isdecimal() for name in classes) else (
            f"the class {odd[0]!r}")
        raise InputError(f"the data set has {what}, which is not one of the model's {len(classes)}: "
                         f"{', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''}")
    renumbered = np.zeros(len(other_classes), np.int64)
    renumbered[found] = [index[other_classes[k]] for k in found]
    return renumbered[labels]


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, count: int) -> np.ndarray:
    """int64 (count, count): the number of images of each class (row) that were classified as each class (column)."""
    return np.bincount(labels * count + predictions, minlength=count * count).reshape(count, count)


def image_paths(places: Iterable[str]) -> Iterator[str]:
    """The image files of some paths: files as they are, and all image files inside folders, sorted.

    Raises InputError for a path that does not exist, a folder that cannot be read, or one without images.
    """
    from cnn_numba.data.image import ENDINGS

    def refuse(error):
        raise InputError(f"{error.filename} cannot be read ({error.strerror})")

    for place in places:
        if not os.path.exists(place):
            raise InputError(f"{place} does not exist, expected an image file or a folder of them")
        if not os.path.isdir(place):
            yield place
            continue
        found = [os.path.join(folder, name) for folder, _, names in os.walk(place, onerror=refuse) for name in names
                 if name.lower().endswith(ENDINGS) and not name.startswith(".")]
        if not found:
            raise InputError(f"{place} holds no images ({', '.join(ENDINGS)})")
        yield from sorted(found)
