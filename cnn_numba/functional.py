"""Layers and losses as functions, without a model, as in `torch.nn.functional`.

The first argument is an array, or what a network, a layer or one of these functions gave; then a gradient goes back to
it.
"""
import math
from functools import lru_cache
from typing import Any

import numpy as np

from cnn_numba.buffer import Buffer
from cnn_numba.errors import InputError
from cnn_numba.forward_pass import Output
from cnn_numba.kernels.lanes import LANES
from cnn_numba.kernels.program import Program, by_one
from cnn_numba.layers import (
    ELU,
    GELU,
    AdaptiveAvgPool2d,
    AvgPool2d,
    Dropout,
    Layer,
    LeakyReLU,
    LogSoftmax,
    MaxPool2d,
    ReLU,
    Setup,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
    Wires,
)
from cnn_numba.losses import CrossEntropyLoss, NLLLoss
from cnn_numba.model import Sequential


@lru_cache(64)
def _network(kind: type[Layer], *arguments: Any) -> Sequential:
    return Sequential(kind(*arguments))


def relu(input: Any) -> Output:
    """max(0, input)"""
    return _network(ReLU)(input)


def leaky_relu(input: Any, negative_slope: float = 0.01) -> Output:
    """As `LeakyReLU`."""
    return _network(LeakyReLU, negative_slope)(input)


def elu(input: Any, alpha: float = 1.0) -> Output:
    """As `ELU`."""
    return _network(ELU, alpha)(input)


def gelu(input: Any, approximate: str = "none") -> Output:
    """As `GELU`."""
    return _network(GELU, approximate)(input)


def silu(input: Any) -> Output:
    """As `SiLU`."""
    return _network(SiLU)(input)


def softplus(input: Any, beta: float = 1.0, threshold: float = 20.0) -> Output:
    """As `Softplus`."""
    return _network(Softplus, beta, threshold)(input)


def tanh(input: Any) -> Output:
    """As `Tanh`."""
    return _network(Tanh)(input)


def sigmoid(input: Any) -> Output:
    """As `Sigmoid`."""
    return _network(Sigmoid)(input)


def softmax(input: Any, dim: int = 1) -> Output:
    """As `Softmax`."""
    return _network(Softmax, dim)(input)


def log_softmax(input: Any, dim: int = 1) -> Output:
    """As `LogSoftmax`."""
    return _network(LogSoftmax, dim)(input)


def avg_pool2d(input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
               count_include_pad: bool = True, divisor_override: int | None = None) -> Output:
    """As `AvgPool2d`."""
    return _network(AvgPool2d, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)(input)


def adaptive_avg_pool2d(input: Any, output_size: Any) -> Output:
    """As `AdaptiveAvgPool2d`."""
    return _network(AdaptiveAvgPool2d, output_size)(input)


def dropout(input: Any, p: float = 0.5, training: bool = True) -> Output:
    """As `Dropout`, in training or in evaluation."""
    return _network(Dropout, p).train(training)(input)


def cross_entropy(input: Any, target: Any, weight: Any = None, ignore_index: int = -100, reduction: str = "mean",
                  label_smoothing: float = 0.0) -> Any:
    """As `CrossEntropyLoss`, of logits and labels."""
    return CrossEntropyLoss(weight, label_smoothing, ignore_index, reduction)(input, target)


def nll_loss(input: Any, target: Any, ignore_index: int = -100, reduction: str = "mean") -> Any:
    """As `NLLLoss`, of logarithms of probabilities and labels."""
    return NLLLoss(ignore_index, reduction)(input, target)


def max_pool2d(images: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
               ceil_mode: bool = False, return_indices: bool = False) -> Any:
    """The maximum over a window, as `torch.nn.functional.max_pool2d`.

    Parameters
    ----------
    images : array (N, C, H, W), taken as float32
    return_indices : bool
    kernel_size, stride, padding, dilation, ceil_mode : as in `MaxPool2d`

    Returns
    -------
    float32 (N, C, rows, columns); with return_indices also int64 of that shape: row * W + column of each maximum

    Raises InputError (a ValueError) when an argument is out of range or the window does not fit.
    """
    layer = MaxPool2d(kernel_size, stride, padding, dilation, return_indices, ceil_mode)
    if isinstance(images, Output) and not return_indices:
        return _network(MaxPool2d, kernel_size, stride, padding, dilation, False, ceil_mode)(images)
    try:
        images = np.asarray(images, np.float32)
    except (TypeError, ValueError):
        raise InputError(f"max_pool2d: the images must be an array of numbers, got {type(images).__name__}") from None
    if images.ndim != 4 or not len(images):
        raise InputError(f"max_pool2d: expected images (N, C, H, W), got shape {images.shape}")
    blocks, shape = math.ceil(len(images) / LANES), layer.output_shape(images.shape[1:])
    x, y, indices = Buffer(blocks, images.shape[1:]), Buffer(blocks, shape), Buffer(blocks, shape)
    x.put(images)
    wires = Wires(x=x, y=y, setup=Setup(LANES, False, False, np.zeros(2, np.int64), np.zeros(2, np.int64)),
                  indices=indices)
    layer.calls(wires)
    Program(by_one(wires.forward))()
    y = y.get(len(images))
    return (y, indices.get(len(images)).astype(np.int64)) if return_indices else y
