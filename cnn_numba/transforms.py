"""Changes of images, with the names of `torchvision.transforms`, for arrays (N, C, H, W) of many images at a time.

A `Trainer` needs none of these: it normalises, and `Augment` moves and turns images, in kernels.
"""
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cnn_numba.errors import InputError, number, whole_number
from cnn_numba.init import default_seed

__all__ = ["Compose", "Lambda", "Normalize", "Pad", "RandomCrop", "RandomHorizontalFlip", "ToTensor"]


class Compose:
    """Several transforms, one after the other."""

    def __init__(self, transforms: Sequence[Callable]):
        self.transforms = list(transforms)

    def __call__(self, images: Any) -> np.ndarray:
        for transform in self.transforms:
            images = transform(images)
        return images


class Lambda:
    """Any function of images (N, C, H, W)."""

    def __init__(self, function: Callable):
        self.function = function

    def __call__(self, images: Any) -> np.ndarray:
        return self.function(images)


class ToTensor:
    """uint8 images as float32 from 0 to 1; other numbers as float32, unchanged; (N, H, W) gets a channel axis."""

    def __call__(self, images: Any) -> np.ndarray:
        images = np.asarray(images)
        images = images[:, None] if images.ndim == 3 else images
        return images.astype(np.float32) / np.float32(255) if images.dtype == np.uint8 else images.astype(np.float32)


class Normalize:
    """(images - mean) / std, with one mean and one std for each channel; InputError when a std is 0."""

    def __init__(self, mean: Any, std: Any):
        self.mean, self.std = (np.asarray(value, np.float32).reshape(-1, 1, 1) for value in (mean, std))
        if not (self.std != 0).all():
            raise InputError(f"Normalize: std must not be 0, got {std!r}")

    def __call__(self, images: Any) -> np.ndarray:
        return (np.asarray(images, np.float32) - self.mean) / self.std


class Pad:
    """`padding` rows and columns of `fill` at each side."""

    def __init__(self, padding: int, fill: float = 0):
        self.padding, self.fill = whole_number("Pad", "padding", padding, 0), fill

    def __call__(self, images: Any) -> np.ndarray:
        return _padded(np.asarray(images), self.padding, self.fill)


class RandomCrop:
    """A window of each image at a random place, after `padding` rows and columns of zeros at each side.

    size : int or (rows, columns)

    Raises InputError when the window is larger than the image.
    """

    def __init__(self, size: Any, padding: int = 0):
        self.size = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
        self.padding = whole_number("RandomCrop", "padding", padding, 0)
        self._random = np.random.default_rng(default_seed())

    def __call__(self, images: Any) -> np.ndarray:
        images = _padded(np.asarray(images), self.padding, 0)
        rows, cols = (have - want for have, want in zip(images.shape[2:], self.size, strict=True))
        if min(rows, cols) < 0:
            raise InputError(f"RandomCrop: a window of {self.size} does not fit on images of {images.shape[2:]}")
        tops, lefts = (self._random.integers(0, room + 1, len(images)) for room in (rows, cols))
        high, wide = self.size
        return np.stack([image[:, i:i + high, j:j + wide] for image, i, j in zip(images, tops, lefts, strict=True)])


class RandomHorizontalFlip:
    """Each image mirrored left to right with probability p."""

    def __init__(self, p: float = 0.5):
        self.p = number("RandomHorizontalFlip", "p", p, 0, 1)
        self._random = np.random.default_rng(default_seed())

    def __call__(self, images: Any) -> np.ndarray:
        images = np.asarray(images)
        turned = self._random.random(len(images)) < self.p
        return np.where(turned.reshape(-1, 1, 1, 1), images[..., ::-1], images)


def _padded(images, padding, fill):
    sides = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    return np.pad(images, sides, constant_values=fill) if padding else images
