"""Networks with a name.

Each is a function (image_shape, num_classes, **options) that gives a `Sequential`; options are those of `Sequential`,
such as seed.  InputError when the images, (channels, rows, columns), are too small for the layers.
"""
import cnn_numba as nn


def two_conv(image_shape, num_classes, **options):
    """Two 3x3 convolutions and one dense layer."""
    features = (
        nn.Conv2d(image_shape[0], 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
    )
    return nn.Sequential(*features, nn.Linear(_size(features, image_shape), num_classes), **options)


def lenet5(image_shape, num_classes, **options):
    """LeNet-5 (LeCun et al. 1998) as it is built today: ReLU, maximum pooling, fully connected maps."""
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
        **options,
    )


def bn_cnn(image_shape, num_classes, **options):
    """One convolution of 32 filters and a dense layer of 128, both with batch normalisation."""
    features = (nn.Conv2d(image_shape[0], 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    return nn.Sequential(
        *features,
        nn.Linear(_size(features, image_shape), 128), nn.BatchNorm1d(128), nn.ReLU(),
        nn.Linear(128, num_classes),
        **options,
    )


def two_conv_bn(image_shape, num_classes, **options):
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


def _size(features, image_shape):
    """Number of values per image that come out of layers that end in Flatten."""
    # Imported here, because it needs Numba, which `--help` does without.
    from cnn_numba.plan import infer_shapes

    return infer_shapes(features, image_shape)[-1][0]


PRESETS = {"two-conv": two_conv, "lenet5": lenet5, "bn-cnn": bn_cnn, "two-conv-bn": two_conv_bn}
