"""Drawings of digits beside those of MNIST: how they differ, and the same preparation."""

import numpy as np

from cnn_numba.data.image import pillow

SIDE, BOX = 28, 20                      # pixels of an image, and of the box that holds its digit
MEAN, STD = 33.3, 78.6                  # of the training images of MNIST
INK = 0.2                               # of the brightest pixel: what is drawn, not noise
OFF_CENTRE = 3                          # pixels from the middle; the digits of MNIST are within 1
SMALLEST, LARGEST = 14, 23              # longer sides of the box on average; 20 in MNIST


def is_of_mnist(shape: tuple[int, ...], mean: np.ndarray, std: np.ndarray) -> bool:
    """Whether the images of a training have the form and the statistics of MNIST, or of a part of it."""
    return tuple(shape) == (1, SIDE, SIDE) and abs(float(mean[0]) - MEAN) < 5 and abs(float(std[0]) - STD) < 6


def dark_on_light(images: np.ndarray, mean: np.ndarray) -> bool:
    """Whether inverted pixels from 0 to 255 have a mean that is closer to that of the training by far."""
    usual, found = float(np.mean(mean)), float(images.mean())
    return images.max() <= 255 and abs(255 - found - usual) < abs(found - usual) / 2


def off_centre(images: np.ndarray) -> bool:
    """Whether light drawings (N, 1, H, W) are not in the middle, or of another size than those of MNIST."""
    middles, sides = [], []
    for image in images[:, 0].astype(np.float64):
        ink = image > INK * image.max()
        if ink.any() and not ink.all():
            rows, columns = np.nonzero(ink)
            weights = image[rows, columns] / image[rows, columns].sum()
            middles.append((rows @ weights, columns @ weights))
            sides.append(max(np.ptp(rows), np.ptp(columns)) + 1)
    if not sides:
        return False
    away = np.abs(np.array(middles) - SIDE / 2).max(axis=1).mean()
    return bool(away > OFF_CENTRE or not SMALLEST <= np.mean(sides) <= LARGEST)


def like_mnist(image: np.ndarray) -> np.ndarray:
    """A drawing (H, W) as uint8 (28, 28), prepared as the images of MNIST were.

    It is made light on dark, its box is scaled to 20 pixels with its proportions kept, and its centre of mass is
    moved to the middle.  A drawing without any ink is black.

    Source: LeCun, Cortes and Burges, The MNIST database of handwritten digits.
    """
    PIL = pillow()
    values = image.astype(np.float32)
    border = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    ground = float(np.median(border))
    values = np.abs(values - ground)
    result = np.zeros((SIDE, SIDE), np.uint8)
    if values.max() == 0:
        return result
    values *= 255 / values.max()
    ink = values > INK * 255
    rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
    box = values[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    scale = BOX / max(box.shape)
    size = [max(1, round(side * scale)) for side in box.shape]
    if box.shape != tuple(size):
        box = np.asarray(PIL.Image.fromarray(box).resize((size[1], size[0]), PIL.Image.Resampling.BICUBIC)).clip(0, 255)
    weights = box / box.sum()
    top, left = (int(np.clip(round(SIDE / 2 - float(middle)), 0, SIDE - side)) for middle, side in zip(
        (weights.sum(axis=1) @ np.arange(size[0]), weights.sum(axis=0) @ np.arange(size[1])), size, strict=True))
    result[top:top + size[0], left:left + size[1]] = np.rint(box)
    return result
