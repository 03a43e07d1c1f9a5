"""A data set in memory: its parts, and the statistics that normalise them."""

import base64
import io
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from cnn_numba.errors import InputError
from cnn_numba.escaping import html_text
from cnn_numba.init import HELD_OUT, stream

SHOWN = 10                  # classes of which notebooks show an image
NORMALIZE = {"standard": None, "unit": 255, "none": 1}          # the divisor of the pixels


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels of a training part, a test part and optionally a validation part.

    Parameters
    ----------
    name : name of the data set or of its file
    train_images, test_images, validation_images : (N, C, H, W), uint8, or float32 when the source holds other numbers;
        of a large .npy file, `on_disk.ImagesOnDisk`, which `numpy.asarray` reads
    train_labels, test_labels, validation_labels : (N,) int64, from 0 to num_classes - 1
    num_classes : number of classes
    classes : names of the classes in the order of their labels; by default "0", "1", ...
    normalize : the meaning of `mean` and `std`: "standard", the statistics of the training images per channel;
        "unit", 0 and 255; "none", 0 and 1
    notes : how the files were read
    statistics : `mean` and `std`, where those of other images shall be used

    Raises
    ------
    InputError : another value of `normalize`.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int
    classes: tuple[str, ...] = ()
    validation_images: np.ndarray | None = None
    validation_labels: np.ndarray | None = None
    normalize: str = "standard"
    notes: tuple[str, ...] = ()
    statistics: tuple[np.ndarray, np.ndarray] | None = None

    def __post_init__(self) -> None:
        if self.normalize not in NORMALIZE:
            raise InputError(f"Dataset: normalize must be one of {', '.join(NORMALIZE)}, got {self.normalize!r}")
        object.__setattr__(self, "classes", self.classes or tuple(map(str, range(self.num_classes))))

    def __repr__(self) -> str:
        parts = [f"{len(images)} {part}" for part, images in (
            ("training", self.train_images), ("validation", self.validation_images), ("test", self.test_images))
            if images is not None]
        shape = " x ".join(map(str, self.train_images.shape[1:]))
        names = ", ".join(self.classes[:10]) + ", ..." * (self.num_classes > 10)
        return (f"Dataset {self.name}: {', '.join(parts[:-1])} and {parts[-1]} images of {shape}, "
                f"{self.train_images.dtype}\n{self.num_classes} classes: {names}")

    def _repr_html_(self) -> str:
        """For notebooks: the sentences of the repr, and an image of each of the first classes where Pillow is there."""
        lines = "<br>".join(map(html_text, repr(self).split("\n")))
        firsts = [int(k) for k in np.unique(self.train_labels, return_index=True)[1][:SHOWN]]
        try:
            images = [_picture(self.train_images[k], float(self.train_images[firsts].max())) for k in firsts]
        except ImportError:
            return f"<p>{lines}</p>"
        figures = "".join(
            f'<figure style="display: inline-block; margin: 4px; text-align: center">{image}'
            f"<figcaption>{html_text(self.classes[self.train_labels[k]])}</figcaption></figure>"
            for k, image in zip(firsts, images, strict=True))
        return f"<p>{lines}</p><div>{figures}</div>"

    @property
    def mean(self) -> np.ndarray:
        """What the pixels of each channel are shifted by, float32 (C,): by default the mean of the training part."""
        return self._statistics[0]

    @property
    def std(self) -> np.ndarray:
        """What the pixels of each channel are divided by, float32 (C,): by default the standard deviation of the
        training part, which is 0 for a constant channel."""
        return self._statistics[1]

    @cached_property
    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        if self.statistics is not None:
            return self.statistics
        if self.normalize != "standard":
            mean = np.zeros(self.train_images.shape[1], np.float32)
            return mean, mean + np.float32(NORMALIZE[self.normalize])
        # Blocks that stay in the CPU's cache, and exact integer sums: 30 ms for MNIST, where `np.std` takes 850 ms.
        images = self.train_images
        wide, exact = (np.uint16, np.uint64) if images.dtype == np.uint8 else (np.float64, np.float64)
        block = max(1, 2**18 // images[0].size)
        total, squares = np.zeros((2, images.shape[1]))
        for start in range(0, len(images), block):
            pixels: np.ndarray = np.asarray(images[start:start + block]).astype(wide)
            total += pixels.sum(axis=(0, 2, 3), dtype=exact)
            pixels *= pixels
            squares += pixels.sum(axis=(0, 2, 3), dtype=exact)
        count = images.size // images.shape[1]
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 0))
        return mean.astype(np.float32), std.astype(np.float32)

    def head(self, train_size: int | None = None, test_size: int | None = None) -> "Dataset":
        """The same data set with fewer images of each part; None keeps all of them.

        They are the first ones or, where these have other classes than the whole part, as in a sorted file, evenly
        spaced in the order of the classes: always the same ones.

        Raises InputError for a size below 1 or above the number of images.
        """
        parts: dict[str, Any] = {}
        for part, size in ("train", train_size), ("test", test_size):
            images, labels = getattr(self, f"{part}_images"), getattr(self, f"{part}_labels")
            if size is not None and not 1 <= size <= len(images):
                raise InputError(f"{part}_size must be 1 to {len(images)} for {self.name}, got {size}")
            chosen = representative(labels, size)
            parts |= {f"{part}_images": images[chosen], f"{part}_labels": labels[chosen]}
        return replace(self, **parts)

    def hold_out(self, count: int, seed: int = 0) -> "Dataset":
        """The same data set with `count` of its training images, chosen at random, as the validation part.

        Raises InputError when the validation part or the training part would be empty.
        """
        images = len(self.train_images)
        if not 1 <= count < images:
            raise InputError(f"the validation part must be 1 to {images - 1} of the {images} training images of "
                             f"{self.name}, got {count}")
        chosen = np.zeros(images, bool)
        chosen[stream(seed, HELD_OUT, 0).permutation(images)[:count]] = True
        return replace(
            self, train_images=self.train_images[~chosen], train_labels=self.train_labels[~chosen],
            validation_images=self.train_images[chosen], validation_labels=self.train_labels[chosen])


def _picture(image: np.ndarray, white: float) -> str:
    """An image (C, H, W) as an element of HTML; ImportError without Pillow.

    white : the largest pixel; of more than 3 channels, or of 2, the first is shown
    """
    import PIL.Image

    pixels = np.clip(image.astype(np.float64) * (255 / (white or 1)), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(np.moveaxis(pixels, 0, -1) if len(pixels) == 3 else pixels[0]).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="" style="height: 56px; image-rendering: pixelated">'


def representative(labels: np.ndarray, size: int | None) -> slice | np.ndarray:
    """Which `size` of the labels to use, so that they have the same classes as all: the first ones where these do."""
    if size is None or size >= len(labels):
        return slice(size)
    counts = np.bincount(labels)
    shares = counts[counts > 0] / len(labels)
    changes, usual = np.count_nonzero(np.diff(labels)), len(labels) * (1 - (shares**2).sum())
    found = np.bincount(labels[:size], minlength=len(counts))[counts > 0]
    difference, freedom = ((found - size * shares)**2 / (size * shares)).sum(), len(shares) - 1
    # In random order, the first is never seen, and the second in one of 10,000 data sets (chi squared).
    if changes >= usual / 2 and difference <= freedom + 6 * np.sqrt(2 * freedom) + 10:
        return slice(size)
    order = np.argsort(labels, kind="stable")
    return np.sort(order[(2 * np.arange(size) + 1) * len(labels) // (2 * size)])
