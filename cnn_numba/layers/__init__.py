"""The layers, with PyTorch's names and arguments: each checks its arguments, and knows its shapes and kernel calls.

A layer holds no arrays.  `base` has the protocol of layers.
"""
from cnn_numba.layers import activation, conv, dropout, group_norm, linear, norm, pool, residual, shape, smooth
from cnn_numba.layers.activation import *
from cnn_numba.layers.base import (
    Calls,
    Layer,
    Setup,
    Wires,
    any_on_unit,
    below,
    container_text,
    every_layer,
    infer_shapes,
    shape_text,
)
from cnn_numba.layers.conv import *
from cnn_numba.layers.dropout import *
from cnn_numba.layers.group_norm import *
from cnn_numba.layers.linear import *
from cnn_numba.layers.norm import *
from cnn_numba.layers.pool import *
from cnn_numba.layers.residual import *
from cnn_numba.layers.shape import *
from cnn_numba.layers.smooth import *

__all__ = ["Calls", "Layer", "Setup", "Wires", "any_on_unit", "below", "container_text", "every_layer", "infer_shapes"]
__all__ += ["shape_text"]
__all__ += activation.__all__
__all__ += conv.__all__
__all__ += dropout.__all__
__all__ += group_norm.__all__
__all__ += linear.__all__
__all__ += norm.__all__
__all__ += pool.__all__
__all__ += residual.__all__
__all__ += shape.__all__
__all__ += smooth.__all__
