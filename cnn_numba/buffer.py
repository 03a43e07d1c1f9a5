"""A value of a network for all images of a batch, sixteen images per vector."""
import math

import numpy as np

from cnn_numba.kernels.lanes import LANES, aligned, planes


class Buffer:
    """A value of the network for all images of a plan: (blocks, C, H, W, LANES) with a border of zeros, or
    (blocks, K, LANES).  `dense`: without gaps between the channels, as `flat` needs it."""

    def __init__(self, blocks, shape, border=(0, 0, 0, 0), dense=False, array=None):
        self.blocks, self.shape, self.border = blocks, tuple(shape), border
        if array is None:
            top, bottom, left, right = border
            size = shape if len(shape) == 1 else (shape[0], shape[1] + top + bottom, shape[2] + left + right)
            array = aligned((blocks, *size, LANES)) if dense or len(shape) == 1 else planes(blocks, *size)
        self.array = array

    @property
    def inner(self):
        """The value without its border."""
        return self.padded(0, 0, 0, 0)

    def padded(self, top, bottom, left, right):
        """The value with that much of its border."""
        if len(self.shape) == 1:
            return self.array
        t, b, l, r = (have - wanted for have, wanted in zip(self.border, (top, bottom, left, right), strict=True))
        if min(t, b, l, r) < 0:
            raise ValueError(f"a border of {self.border} has no {top, bottom, left, right}")
        rows, cols = self.array.shape[2:4]
        return self.array[:, :, t:rows - b, l:cols - r]

    def image(self):
        """The value as (blocks, C, H, W, LANES), features as 1 x 1 images."""
        return self.inner if len(self.shape) == 3 else self.array[:, :, None, None]

    def flat(self):
        """The same memory as features (blocks, K, LANES)."""
        size = math.prod(self.shape)
        return Buffer(self.blocks, (size,), array=self.array.reshape(self.blocks, size, LANES))

    def put(self, images):
        """Copy ordinary images (n, ...) to the lanes, with zeros in the lanes past n."""
        full = np.zeros((self.blocks * LANES, *self.shape), np.float32)
        full[:len(images)] = images
        self.inner[...] = np.moveaxis(full.reshape(self.blocks, LANES, *self.shape), 1, -1)

    def get(self, n):
        """A copy of the first n images as an ordinary array (n, ...)."""
        return np.moveaxis(self.inner, -1, 1).reshape(self.blocks * LANES, *self.shape)[:n].copy()
