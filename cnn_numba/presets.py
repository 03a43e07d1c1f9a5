"""Networks with a name.

Each is a function (image_shape, num_classes, **options) that returns a `Sequential`; the options are those of
`Sequential`, such as seed.  InputError when the images, (channels, rows, columns), are too small for the layers.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import cnn_numba as nn

if TYPE_CHECKING:
    from cnn_numba.layers import Layer
    from cnn_numba.model import Sequential

__all__ = ["PRESETS"]

Shape = tuple[int, ...]


def two_conv(image_shape: Shape, num_classes: int, **options: Any) -> Sequential:
    """Two 3x3 convolutions and one dense layer."""
    features = (
        nn.Conv2d(image_shape[0], 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
    )
    return nn.Sequential(*features, nn.Linear(_size(features, image_shape), num_classes), **options)


def lenet5(image_shape: Shape, num_classes: int, **options: Any) -> Sequential:
    """LeNet-5 (LeCun et al. 1998) in its usual modern form: ReLU, max pooling, fully connected maps."""
    return _lenet5(lambda: (nn.ReLU(), nn.MaxPool2d(2)), image_shape, num_classes, options)


def lenet5_avg(image_shape: Shape, num_classes: int, **options: Any) -> Sequential:
    """LeNet-5 with average pooling before the ReLU, as the original has its subsampling before the sigmoid."""
    return _lenet5(lambda: (nn.AvgPool2d(2), nn.ReLU()), image_shape, num_classes, options)


def _lenet5(shrink: Callable[[], Sequence[Layer]], image_shape: Shape, num_classes: int,
            options: dict[str, Any]) -> Sequential:
    features = (
        nn.Conv2d(image_shape[0], 6, 5, padding=2), *shrink(),
        nn.Conv2d(6, 16, 5), *shrink(),
        nn.Flatten(),
    )
    return nn.Sequential(
        *features,
        nn.Linear(_size(features, image_shape), 120), nn.ReLU(),
        nn.Linear(120, 84), nn.ReLU(),
        nn.Linear(84, num_classes),
        **options,
    )


def bn_cnn(image_shape: Shape, num_classes: int, **options: Any) -> Sequential:
    """One convolution of 32 filters and a dense layer of 128, both with batch normalisation."""
    features = (nn.Conv2d(image_shape[0], 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    return nn.Sequential(
        *features,
        nn.Linear(_size(features, image_shape), 128), nn.BatchNorm1d(128), nn.ReLU(),
        nn.Linear(128, num_classes),
        **options,
    )


def two_conv_bn(image_shape: Shape, num_classes: int, **options: Any) -> Sequential:
    """Two convolutions of five filters and two dense layers of 256, all with batch normalisation."""
    features = (
        nn.Conv2d(image_shape[0], 5, 5, padding=2), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(5, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
    )
    return nn.Sequential(
        *features,
        nn.Linear(_size(features, image_shape), 256), nn.BatchNorm1d(256), nn.ReLU(),
        nn.Linear(256, 256), nn.BatchNorm1d(256), nn.ReLU(),
        nn.Linear(256, num_classes),
        **options,
    )


def fast(image_shape: Shape, num_classes: int, **options: Any) -> Sequential:
    """Three convolutions that reach 99 % on MNIST in the least time: a stride of two where the image is large, channels
    where it is small, and batch normalisation after the pooling, which allows the high rates that make one epoch
    enough."""
    features = (
        nn.Conv2d(image_shape[0], 8, 5, stride=2), nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 64, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Flatten(),
    )
    return nn.Sequential(*features, nn.Linear(_size(features, image_shape), num_classes), **options)


def resnet8(image_shape: Shape, num_classes: int, **options: Any) -> Sequential:
    """The smallest residual network for small images: He et al., "Deep Residual Learning for Image Recognition" (2015),
    section 4.2, with n = 1 and projections where the shape changes."""
    def conv(before: int, channels: int, kernel_size: int, stride: int = 1) -> tuple[Layer, ...]:
        return (nn.Conv2d(before, channels, kernel_size, stride, padding=kernel_size // 2, bias=False),
                nn.BatchNorm2d(channels))

    def block(before: int, channels: int, stride: int) -> tuple[Layer, ...]:
        body = *conv(before, channels, 3, stride), nn.ReLU(), *conv(channels, channels, 3)
        shortcut = conv(before, channels, 1, stride) if before != channels else None
        return nn.Residual(body, shortcut), nn.ReLU()

    return nn.Sequential(
        *conv(image_shape[0], 16, 3), nn.ReLU(),
        *block(16, 16, 1), *block(16, 32, 2), *block(32, 64, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes),
        **options,
    )


def small(image_shape: Shape, num_classes: int, **options: Any) -> Sequential:
    """Two convolutions of two filters and one dense layer: a network for plain loops in Python."""
    features = (nn.Conv2d(image_shape[0], 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 2), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*features, nn.Linear(_size(features, image_shape), num_classes), **options)


def _size(features: Sequence[Layer], image_shape: Shape) -> int:
    """Number of values per image that come out of layers that end in Flatten."""
    # Imported here, because it needs Numba, which `--help` does without.
    from cnn_numba.layers import infer_shapes

    return infer_shapes(features, image_shape)[-1][0]


PRESETS: dict[str, Callable[..., Sequential]] = {
    "two-conv": two_conv, "lenet5": lenet5, "lenet5-avg": lenet5_avg, "bn-cnn": bn_cnn, "two-conv-bn": two_conv_bn,
    "fast": fast, "resnet8": resnet8, "small": small}
