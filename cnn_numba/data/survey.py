"""What a data set holds: images per class and part, pixels, images of one colour, duplicates, and what looks wrong."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cnn_numba.data.dataset import Dataset
from cnn_numba.data.fitting import count_flat

PARTS = "training", "validation", "test"
UNEVEN = 20             # times as many images of one class as of another
FEW = 10                # test images of which a percentage says little


@dataclass(frozen=True)
class PartSurvey:
    """What one part holds.

    counts : number of images of each class
    low, high, mean, std : of all pixels
    flat : images of one colour
    repeated : images that are in the part before
    known : images that are also in the training part, 0 for that itself
    """

    name: str
    counts: np.ndarray
    low: float
    high: float
    mean: float
    std: float
    flat: int
    repeated: int
    known: int

    @property
    def images(self) -> int:
        return int(self.counts.sum())


def survey(data: Dataset) -> list[PartSurvey]:
    """What each part of a data set holds, the training part first."""
    found, trained = list[PartSurvey](), set[int]()
    for name, images, labels in parts_of(data):
        prints = [hash(image.tobytes()) for image in images]
        if not found:
            trained = set(prints)
        known = sum(each in trained for each in prints) if found else 0
        mean, std = moments(images)
        found.append(PartSurvey(
            name, np.bincount(labels, minlength=data.num_classes), float(images.min()), float(images.max()),
            mean, std, count_flat(images), len(prints) - len(set(prints)), known))
    return found


def moments(images: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of all pixels, computed in blocks that stay in the CPU's cache."""
    wide = np.uint16 if images.dtype == np.uint8 else np.float64          # which holds the square of a byte
    total = squares = 0.0
    block = max(1, 2**18 // images[0].size)
    for start in range(0, len(images), block):
        pixels: np.ndarray = np.asarray(images[start:start + block]).astype(wide)
        total += float(pixels.sum())
        pixels *= pixels
        squares += float(pixels.sum())
    mean = total / images.size
    return mean, max(squares / images.size - mean**2, 0) ** 0.5


def parts_of(data: Dataset) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name, images, labels) of each part."""
    yield "training", data.train_images, data.train_labels
    if data.validation_images is not None and data.validation_labels is not None:
        yield "validation", data.validation_images, data.validation_labels
    yield "test", data.test_images, data.test_labels


def suspicions(data: Dataset, parts: list[PartSurvey]) -> Iterator[str]:
    """A sentence for each thing that looks wrong."""
    train, classes = parts[0], data.classes
    used = np.sum([part.counts for part in parts], axis=0) > 0
    if lacking := [classes[k] for k in np.flatnonzero(used & (train.counts == 0))]:
        yield f"{classes_text(lacking)} {'has' if len(lacking) == 1 else 'have'} no training images"
    if single := [classes[k] for k in np.flatnonzero(train.counts == 1)]:
        yield f"{classes_text(single)} {'has' if len(single) == 1 else 'have'} a single training image"
    present = train.counts[train.counts > 1]
    if len(present) > 1 and present.max() > UNEVEN * present.min():
        yield (f"classes have {present.min():,} to {present.max():,} training images: --class-weights balanced makes "
               "them count the same")
    for part in parts:
        if part.known:
            yield f"{part.known:,} of {part.images:,} {part.name} images are in the training part, too"
    for part in parts[1:]:
        if part.images < FEW:
            yield f"{part.images} {part.name} image{'s say' if part.images > 1 else ' says'} little about the accuracy"
    if train.images < 2 * np.count_nonzero(train.counts):
        yield (f"{train.images:,} training image{'s are' if train.images > 1 else ' is'} little to learn "
               f"{data.num_classes} classes from")


def classes_text(names: list[str]) -> str:
    """Some classes in a sentence: the class a, or 7 classes (a, b, c, d, e, ...)."""
    shown = ", ".join(names[:5]) + ", ..." * (len(names) > 5)
    return f"the class {shown}" if len(names) == 1 else f"{len(names)} classes ({shown})"
