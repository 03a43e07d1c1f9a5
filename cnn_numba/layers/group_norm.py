"""Normalisation of each image alone."""
import math

import numpy as np

from cnn_numba.errors import InputError, number, truth_value, whole_number
from cnn_numba.kernels import group_norm
from cnn_numba.kernels.lanes import LANES, aligned
from cnn_numba.kernels.program import Call
from cnn_numba.layers.base import Layer, Shape, Wires, shape_text

__all__ = ["GroupNorm", "LayerNorm"]


class _OneImage(Layer):
    """What both have in common.  `groups`: of channels, which are normalised together."""

    groups = 1
    eps: float

    def reset_parameters(self, values, initialise):
        for name in {"weight"} & values.keys():
            values[name][...] = 1

    def calls(self, wires: Wires) -> None:
        x, y, parameters = wires.x.image(), wires.y.image(), wires.parameters
        common = dict(scales=aligned((wires.blocks, self.groups, 2, LANES)), groups=self.groups)
        shape = self._shape(x.shape[1:4])
        weight, bias = (
            parameters[name].value.reshape(shape) if name in parameters else np.full(shape, start, np.float32)
            for name, start in (("weight", 1), ("bias", 0)))
        wires.forward += [
            Call(group_norm.group_norm_scales, wires.blocks, x=x, eps=np.array([self.eps], np.float32), **common),
            Call(group_norm.group_norm_forward, wires.blocks, y=y, x=x, weight=weight, bias=bias, **common)]
        if wires.dx is not None:
            wires.backward.append(Call(group_norm.group_norm_backward_input, wires.blocks, dx=wires.dx.image(),
                                       dy=wires.dy.image(), x=x, weight=weight, **common))
        trained = {name: p.grad.reshape(shape) for name, p in parameters.items() if p.requires_grad}
        if wires.dy is not None and trained:
            unread = np.zeros(shape, np.float32)
            wires.gradients.append(Call(
                group_norm.group_norm_backward_parameters, x.shape[1], dweight=trained.get("weight", unread),
                dbias=trained.get("bias", unread), dy=wires.dy.image(), x=x, **common))

    def _shape(self, image):
        """The shape of weight and bias for the kernels."""
        raise NotImplementedError

    def textbook(self, x, parameters, run):
        groups = x.reshape(len(x), self.groups, -1)
        centred = groups - groups.mean(axis=2, keepdims=True)
        y = (centred / np.sqrt((centred * centred).mean(axis=2, keepdims=True) + self.eps)).reshape(x.shape)
        image = (*x.shape[1:], 1, 1)[:3]
        for name, p in parameters.items():
            p = p.reshape(self._shape(image))
            p = p.reshape(p.shape[:x.ndim - 1])
            y = y * p if name == "weight" else y + p
        return y


class GroupNorm(_OneImage):
    """Groups of channels of each image get mean 0 and variance 1, then weight * x + bias, as `torch.nn.GroupNorm`:
    Wu and He, arXiv:1803.08494 (2018).

    Parameters
    ----------
    num_groups : int
        Must divide num_channels.
    num_channels : int
    eps : float
        Added to the variance.
    affine : bool
        Whether the layer has weight and bias.

    Shapes
    ------
    (num_channels, H, W) or (num_channels,) -> the same; weight, bias (num_channels,).

    Raises InputError (a ValueError) when an argument is out of range.
    """

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        self.num_groups = whole_number("GroupNorm", "num_groups", num_groups)
        self.num_channels = whole_number("GroupNorm", "num_channels", num_channels)
        self.eps, self.affine = number("GroupNorm", "eps", eps), truth_value("GroupNorm", "affine", affine)
        if self.num_channels % self.num_groups:
            raise InputError(f"GroupNorm: num_groups={num_groups} must divide num_channels={num_channels}")

    groups = property(lambda self: self.num_groups)

    def output_shape(self, shape: Shape) -> Shape:
        if shape[0] != self.num_channels:
            raise InputError(f"GroupNorm expects {self.num_channels} channels, got {shape_text(shape)}")
        return shape

    def parameter_shapes(self) -> dict[str, Shape]:
        return {"weight": (self.num_channels,), "bias": (self.num_channels,)} if self.affine else {}

    def _shape(self, image):
        return self.num_channels, 1, 1

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps:g}, affine={self.affine}"


class LayerNorm(_OneImage):
    """All numbers of an image get mean 0 and variance 1, then weight * x + bias, as `torch.nn.LayerNorm` over all axes
    but that of the images: Ba et al., arXiv:1607.06450 (2016).

    Parameters
    ----------
    normalized_shape : int, (features,) or (channels, rows, columns)
        The whole shape of an image.
    eps : float
        Added to the variance.
    elementwise_affine : bool
        Whether the layer has a weight for each number.
    bias : bool
        Whether it then also has a bias for each number.

    Shapes
    ------
    normalized_shape -> the same; weight, bias of that shape.

    Raises InputError (a ValueError) when an argument is out of range.
    """

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        sizes = normalized_shape if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
        self.normalized_shape = tuple(whole_number("LayerNorm", "each size", size) for size in sizes)
        self.eps = number("LayerNorm", "eps", eps)
        self.elementwise_affine = truth_value("LayerNorm", "elementwise_affine", elementwise_affine)
        self.has_bias = truth_value("LayerNorm", "bias", bias)
        if len(sizes) not in (1, 3):
            raise InputError("LayerNorm: normalized_shape must be the whole shape of an image, (features,) or "
                             f"(channels, rows, columns), got {normalized_shape!r}")

    @property
    def bias(self):
        """The bias, or None."""
        return dict(self.named_tensors()).get("bias")

    def argument(self, name):
        return self.has_bias if name == "bias" else super().argument(name)

    def output_shape(self, shape: Shape) -> Shape:
        if tuple(shape) != self.normalized_shape:
            raise InputError(f"LayerNorm expects {shape_text(self.normalized_shape)}, got {shape_text(shape)}")
        return shape

    def parameter_shapes(self) -> dict[str, Shape]:
        if not self.elementwise_affine:
            return {}
        return {"weight": self.normalized_shape} | ({"bias": self.normalized_shape} if self.has_bias else {})

    def _shape(self, image):
        return tuple(image) if self.elementwise_affine else (image[0], 1, 1)

    def multiply_adds(self, before: Shape, after: Shape) -> int:
        return math.prod(after)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps:g}, elementwise_affine={self.elementwise_affine}"
