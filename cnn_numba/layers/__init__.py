"""The layers, with PyTorch's names and arguments: each checks its arguments, knows its shapes, and its kernel calls.

A layer holds no arrays.  `calls(wires)` gets the buffers that a plan made for it and appends kernel calls to four
lists: what the forward pass needs of the parameters, the forward pass, the backward pass, and the gradients of the
parameters (which need the backward pass of all images).
"""
from cnn_numba.layers.activation import LeakyReLU, LogSoftmax, ReLU, Sigmoid, Softmax, Tanh
from cnn_numba.layers.base import Layer, Wires, below, container_text, every_layer, infer_shapes, shape_text
from cnn_numba.layers.conv import Conv2d
from cnn_numba.layers.dropout import Dropout
from cnn_numba.layers.linear import Linear
from cnn_numba.layers.norm import BatchNorm1d, BatchNorm2d
from cnn_numba.layers.pool import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from cnn_numba.layers.residual import Residual
from cnn_numba.layers.shape import Flatten, Reshape

__all__ = [
    "AdaptiveAvgPool2d", "AvgPool2d", "BatchNorm1d", "BatchNorm2d", "Conv2d", "Dropout", "Flatten", "Layer",
    "LeakyReLU", "Linear", "LogSoftmax", "MaxPool2d", "ReLU", "Reshape", "Residual", "Sigmoid", "Softmax", "Tanh",
    "Wires", "below", "container_text", "every_layer", "infer_shapes", "shape_text",
]
