"""Networks with a name."""
import math

import cnn_numba as nn


def two_conv(image_shape, num_classes, seed=0):
    """Two 3x3 convolutions and one dense layer.

    Parameters
    ----------
    image_shape : (channels, rows, columns)
    num_classes : number of outputs
    seed : seed of the initial weights

    Raises
    ------
    InputError : when the images are too small for the layers.
    """
    features = (
        nn.Conv2d(image_shape[0], 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
    )
    return nn.Sequential(*features, nn.Linear(_size(features, image_shape), num_classes), seed=seed)


def lenet5(image_shape, num_classes, seed=0):
    """LeNet-5 (LeCun et al. 1998) as it is built today: ReLU, maximum pooling, fully connected maps.

    Parameters
    ----------
    image_shape : (channels, rows, columns)
    num_classes : number of outputs
    seed : seed of the initial weights

    Raises
    ------
    InputError : when the images are too small for the layers.
    """
    features = (
        nn.Conv2d(image_shape[0], 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
    )
    return nn.Sequential(
        *features,
        nn.Linear(_size(features, image_shape), 120), nn.ReLU(),
        nn.Linear(120, 84), nn.ReLU(),
        nn.Linear(84, num_classes),
        seed=seed,
    )


def _size(layers, shape):
    """Number of values per image that come out of `layers`."""
    for layer in layers:
        shape = layer.output_shape(shape)
    return math.prod(shape)


PRESETS = {"two-conv": two_conv, "lenet5": lenet5}
