"""Operations on ordinary arrays, without a model, as in `torch.nn.functional`."""
import math
from typing import Any

import numpy as np

from cnn_numba.buffer import Buffer
from cnn_numba.errors import InputError
from cnn_numba.kernels.lanes import LANES
from cnn_numba.kernels.program import Program, in_order
from cnn_numba.layers import MaxPool2d, Setup, Wires


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
    Program(in_order(wires.forward))()
    y = y.get(len(images))
    return (y, indices.get(len(images)).astype(np.int64)) if return_indices else y
