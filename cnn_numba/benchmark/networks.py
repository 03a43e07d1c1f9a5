"""What is measured: networks and single layers.

Importing this module does not import Numba, so that `benchmark --help` is quick.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cnn_numba as nn
from cnn_numba.presets import PRESETS

Shape = tuple[int, ...]
Description = list[list[Any]]       # see `description`


def online(image_shape: Shape, num_classes: int) -> nn.Sequential:
    """Two small convolutions and one dense layer, for training on one image at a time."""
    features: list[nn.Layer] = [nn.Conv2d(image_shape[0], 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 2), nn.ReLU(), nn.Flatten()]
    return _classifier(features, image_shape, num_classes)


def plain8(image_shape: Shape, num_classes: int) -> nn.Sequential:
    """Seven 3x3 convolutions of 16, 32 and 64 channels and one dense layer: a ResNet-8 without its shortcuts."""
    features: list[nn.Layer] = []
    before = image_shape[0]
    for channels, stride in (16, 1), (16, 1), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1):
        features += [nn.Conv2d(before, channels, 3, stride, padding=1), nn.ReLU()]
        before = channels
    return _classifier([*features, nn.MaxPool2d(2), nn.Flatten()], image_shape, num_classes)


def wide(channels: int) -> Callable[[Shape, int], nn.Sequential]:
    """The two-conv preset with another number of channels."""
    def network(image_shape: Shape, num_classes: int) -> nn.Sequential:
        features: list[nn.Layer] = [
            nn.Conv2d(image_shape[0], channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        return _classifier(features, image_shape, num_classes)
    return network


def _classifier(features: list[nn.Layer], image_shape: Shape, num_classes: int) -> nn.Sequential:
    return nn.Sequential(*features, nn.Linear(nn.layers.infer_shapes(features, image_shape)[-1][0], num_classes))


NETWORKS = {**{name: PRESETS[name] for name in ("two-conv", "lenet5", "bn-cnn", "resnet8")},
            "online": online, "plain8": plain8}


def image_shape(name: str) -> Shape:
    """The shape of random images for a network."""
    return (3, 32, 32) if name in ("resnet8", "plain8") else (1, 28, 28)


def description(layers: Sequence[nn.Layer]) -> Description:
    """[[PyTorch's name of a layer, {argument: value}]], from which every contender builds the same network.

    Sizes of windows are pairs; the layers inside a Residual are described in the same way.
    """
    from cnn_numba.files.layers_json import describe_layers

    return _plain(describe_layers(layers))


def _plain(entries: list[dict[str, Any]]) -> Description:
    return [[entry["type"], {name: _argument(name, value) for name, value in entry["params"].items() if name != "init"}]
            for entry in entries]


def _argument(name: str, value: Any) -> Any:
    if name in ("body", "shortcut"):
        return value and _plain(value)
    pair = name in ("kernel_size", "stride", "padding", "dilation") and isinstance(value, int)
    return [value, value] if pair else value


def make(network: Sequence[Any]) -> list[nn.Layer]:
    """The layers of a description."""
    return [getattr(nn, name)(**{key: make(value) if key in ("body", "shortcut") and value else value
                                 for key, value in arguments.items()}) for name, arguments in network]


def conv(channels: int, filters: int, kernel: int, size: int, stride: int = 1,
         groups: int = 1) -> tuple[str, nn.Layer, Shape]:
    """(name, layer, input shape) of a convolution with padding kernel // 2 on images of size x size."""
    kind = "depthwise " if groups == channels > 1 else f"{groups} groups " if groups > 1 else ""
    text = f"conv {kind}{kernel}x{kernel}{f'/{stride}' * (stride > 1)} {channels}-{filters} on {size}x{size}"
    return text, nn.Conv2d(channels, filters, kernel, stride, kernel // 2, groups=groups), (channels, size, size)


def layers() -> list[tuple[str, nn.Layer, Shape]]:
    """[(name, layer, input shape)] of the `kernels` experiment."""
    dense: list[tuple[str, nn.Layer, Shape]] = [
        (f"dense {k}-{o}", nn.Linear(k, o), (k,)) for k, o in ((400, 120), (5408, 128), (1024, 1024))]
    image = (32, 32, 32)
    return [
        conv(32, 32, 3, 32), conv(64, 64, 3, 16), conv(128, 128, 3, 8),
        conv(32, 32, 3, 32, stride=2), conv(64, 64, 3, 16, stride=2), conv(128, 128, 3, 8, stride=2),
        conv(64, 64, 1, 16), conv(128, 128, 1, 8), conv(64, 64, 3, 16, groups=64), conv(64, 64, 3, 16, groups=4),
        conv(1, 6, 5, 28), conv(6, 16, 5, 14), conv(32, 32, 5, 16), conv(3, 64, 7, 64, stride=2), *dense,
        ("max pool 2x2 on 32x32x32", nn.MaxPool2d(2), image),
        ("max pool 3x3/2 on 32x32x32", nn.MaxPool2d(3, 2, 1), image),
        ("ReLU on 32x32x32", nn.ReLU(), image),
    ]
