"""Brings images into the form that a model, or the training part, has: channels, size and range of pixels."""

import math

import numpy as np

from cnn_numba.data.reading import Say, shape_text
from cnn_numba.errors import InputError

LUMINANCE = np.array([19595, 38470, 7471])      # of red, green and blue in 65,536, as Pillow has them
OTHER_RANGE = 8             # times the pixels of the training: dark and bright images differ less
FLAT = 1 / 128              # of the range of all pixels: an image that uses less is of one colour


def fitted(images: np.ndarray, shape: tuple[int, ...], where: str, report: Say) -> np.ndarray:
    """Images (N, C, H, W) with the channels and the size of `shape`, as image files get them.

    Raises InputError when the numbers of channels are not 1 and 3, or when Pillow, which resizes, is missing.
    """
    before = images.shape[1:]
    if before == tuple(shape):
        return images
    images = np.asarray(images)
    if before[0] != shape[0]:
        if (before[0], shape[0]) == (1, 3):
            images = np.repeat(images, 3, axis=1)
        elif (before[0], shape[0]) == (3, 1):
            images = grey(images)
        else:
            raise InputError(f"{where} holds images of {shape_text(before)}, expected {shape_text(shape)}, and "
                             f"{before[0]} channels cannot become {shape[0]}")
    if before[1:] != shape[1:]:
        images = resized(images, shape[1:])
    report(f"{where} holds images of {shape_text(before)}: they were brought to {shape_text(shape)}")
    return images


def grey(images: np.ndarray) -> np.ndarray:
    """The luminance of images of three channels."""
    if images.dtype == np.uint8:
        total = np.einsum("nchw,c->nhw", images.astype(np.uint32), LUMINANCE.astype(np.uint32))
        return ((total + 0x8000) >> 16).astype(np.uint8)[:, None]
    return np.einsum("nchw,c->nhw", images, LUMINANCE / 65536).astype(np.float32)[:, None]


def resized(images: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    from cnn_numba.data.image import pillow

    PIL = pillow()
    result = np.empty((*images.shape[:2], *size), images.dtype)
    for image, target in zip(images.reshape(-1, *images.shape[2:]), result.reshape(-1, *size), strict=True):
        target[...] = PIL.Image.fromarray(image).resize((size[1], size[0]), PIL.Image.Resampling.BILINEAR)
    return result


def in_range(images: np.ndarray, mean: np.ndarray, std: np.ndarray, where: str, report: Say) -> np.ndarray:
    """The images in the range of pixels that a training had, which `mean` and `std` of its images show.

    Pixels from 0 to 1 and from 0 to 255 are brought to each other's range; any other difference is only reported.
    """
    highest = float(images.max(initial=0))
    size, known = _size(images), float(np.sqrt(np.mean(mean.astype(np.float64)**2 + std.astype(np.float64)**2)))
    if not mean.any() and (std == 1).all() or size == 0 or known == 0:
        return images                               # pixels as they were, of an unknown range
    if not mean.any() and (std == 255).all():
        known = known if highest <= 1 else size     # from 0 to 255, and any mean
    if 1 / OTHER_RANGE <= size / known <= OTHER_RANGE:
        return images
    words = (f"the pixels of {where} reach {highest:g} and have a mean square of {size**2:.3g}, those of the training "
             f"{known**2:.3g}")
    if highest <= 1 and known > 1 and images.dtype.kind == "f":
        report(f"{words}: they were multiplied by 255")
        return np.asarray(images) * np.float32(255)
    if known <= 1 and 1 < highest <= 255 and float(images.min()) >= 0:
        report(f"{words}: they were divided by 255")
        return np.asarray(images).astype(np.float32) / np.float32(255)
    report(f"{words}: another range of pixels gives wrong answers")
    return images


def _size(images: np.ndarray) -> float:
    """The root of the mean square of the pixels."""
    block = max(1, 2**20 // images[0].size)
    blocks = (np.asarray(images[k:k + block]) for k in range(0, len(images), block))
    total = sum(float(np.square(pixels, dtype=np.float64).sum()) for pixels in blocks)
    return math.sqrt(total / images.size)


def count_flat(images: np.ndarray) -> int:
    """How many images are of one colour, or nearly so."""
    if not len(images):
        return 0
    block = max(1, 2**20 // images[0].size)
    found = []
    for k in range(0, len(images), block):
        flat = np.asarray(images[k:k + block])
        flat = flat.reshape(len(flat), -1)
        found.append(np.stack([flat.min(axis=1), flat.max(axis=1)]))
    low, high = np.concatenate(found, axis=1)
    limit = (float(high.max()) - float(low.min())) * FLAT
    return int((high.astype(np.float64) - low <= (limit if math.isfinite(limit) else 0)).sum())
