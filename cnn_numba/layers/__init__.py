"""The layers, with PyTorch's names and arguments: each checks its arguments, knows its shapes, and its kernel calls.

A layer holds no arrays.  `calls(wires)` gets the buffers that a plan made for it and appends kernel calls to four
lists: what the forward pass needs of the parameters, the forward pass, the backward pass, and the gradients of the
parameters (which need the backward pass of all images).
"""
from .activation import LeakyReLU, LogSoftmax, ReLU, Sigmoid, Softmax, Tanh
from .base import Layer, Wires, below, container_text, every_layer, infer_shapes, shape_text
from .conv import Conv2d
from .dropout import Dropout
from .linear import Linear
from .norm import BatchNorm1d, BatchNorm2d
from .pool import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from .residual import Residual
from .shape import Flatten, Reshape

__all__ = [
    "AdaptiveAvgPool2d", "AvgPool2d", "BatchNorm1d", "BatchNorm2d", "Conv2d", "Dropout", "Flatten", "Layer",
    "LeakyReLU", "Linear", "LogSoftmax", "MaxPool2d", "ReLU", "Reshape", "Residual", "Sigmoid", "Softmax", "Tanh",
    "Wires", "below", "container_text", "every_layer", "infer_shapes", "shape_text",
]
