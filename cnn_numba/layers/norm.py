"""Batch normalisation."""
import math

import numpy as np

from cnn_numba.errors import InputError, truth_value, whole_number
from cnn_numba.kernels import norm, norm_add, norm_pool
from cnn_numba.kernels.lanes import Tile, aligned
from cnn_numba.kernels.program import Call
from cnn_numba.layers.base import WIDE, Layer, Shape, Wires, both, shape_text

__all__ = ["BatchNorm1d", "BatchNorm2d"]

OF_CHANNELS = "x", "y", "dx", "dy", "shortcut", "sums", "scales", "weight", "bias"      # arguments of the kernels


class _BatchNorm(Layer):
    """Normalise every channel (or feature) to mean 0 and variance 1 over a batch, then weight * x + bias.

    Ioffe and Szegedy, "Batch Normalization" (2015).

    In training, the layer uses the statistics of the batch and collects their running averages; with `model.eval()`, it
    uses the running averages.  For a batch of a single value, which PyTorch refuses, the output is the bias: a short
    last batch must not end a training.

    Parameters
    ----------
    num_features : int
        Channels of an image, or features.
    eps : float
        Added to the variance.
    momentum : float from 0 to 1, or None
        Share of a new batch in the running averages; None: the plain average over all batches.
    affine : bool
        Whether the layer has weight and bias.
    track_running_stats : bool
        Whether running averages are collected; without them, the layer always uses the statistics of the batch.

    Raises InputError (a ValueError) when an argument is out of range.
    """

    applies_relu = masks_own_relu = masks_relu = applies_pool = adds_shortcut = True

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True):
        name = type(self).__name__
        self.num_features = whole_number(name, "num_features", num_features)
        self.affine = truth_value(name, "affine", affine)
        self.track_running_stats = truth_value(name, "track_running_stats", track_running_stats)
        for what, value, most in ("eps", eps, math.inf), ("momentum", 0 if momentum is None else momentum, 1):
            number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
            if not number or not 0 <= value <= most or value == math.inf:
                expected = "a number of at least 0" if what == "eps" else "a number from 0 to 1, or None"
                raise InputError(f"{name}: {what} must be {expected}, got {value!r}")
        self.eps, self.momentum = float(eps), None if momentum is None else float(momentum)

    def parameter_shapes(self) -> dict[str, Shape]:
        return {"weight": (self.num_features,), "bias": (self.num_features,)} if self.affine else {}

    def statistic_shapes(self) -> dict[str, Shape]:
        if not self.track_running_stats:
            return {}
        return {"running_mean": (self.num_features,), "running_var": (self.num_features,), "num_batches_tracked": ()}

    def reset_parameters(self, values, initialise):
        for name in {"weight", "running_var"} & values.keys():
            values[name][...] = 1

    def calls(self, wires: Wires) -> None:
        x, y, tensors, blocks, C = wires.x.image(), wires.y.image(), wires.parameters, wires.blocks, self.num_features
        H, W = x.shape[2:4]
        most = 8 if WIDE else 2         # enough sums to hide the latency; with AVX2, more would not fit the registers
        tile = Tile(1, max(k for k in range(1, most + 1) if W % k == 0))
        ones = aligned(C)
        ones[:] = 1
        weight = tensors["weight"].value if self.affine else ones
        bias = tensors["bias"].value if self.affine else aligned(C)
        scales, sums = aligned((blocks, C, 2)), aligned((blocks, C, 2), np.float64)
        hyper = np.array([self.eps, -1 if self.momentum is None else self.momentum])
        if self.track_running_stats:
            means, variances, batches = (tensors[name].value.reshape(-1) for name in self.statistic_shapes())
        else:
            means, variances, batches = aligned(C), aligned(C), aligned(1)
        batch, of_batch = wires.setup.batch, wires.setup.trains(self) or not self.track_running_stats

        def call(kernel, after_all=False, **args):
            return Call(kernel, wires.pieces(C), after_all=after_all, cut={
                name: 0 if name in ("weight", "bias") else 1 for name in args if name in OF_CHANNELS}, **args)

        if of_batch:
            wires.forward += [
                call(norm.batch_norm_block, sums=sums, x=x, batch=batch, T=tile),
                Call(norm.batch_norm_statistics, blocks, scales=scales, means=means, variances=variances,
                     batches=batches, sums=sums, batch=batch, pixels=H * W, hyper=hyper,
                     after_all="sums")]
        else:
            wires.prepare.append(Call(
                norm.batch_norm_running, blocks, scales=scales, means=means, variances=variances, hyper=hyper))
        affine, relu = dict(x=x, scales=scales, weight=weight, bias=bias), int(wires.relu_after)
        window = wires.pool_after and dict(T=Tile(*both(wires.pool_after.kernel_size)))
        if window:
            wires.forward.append(call(norm_pool.batch_norm_pool_forward, y=y, relu=relu, **affine, **window))
        elif wires.shortcut:
            wires.forward.append(call(
                norm_add.batch_norm_add_forward, y=y, shortcut=wires.shortcut.image(), relu=relu, **affine))
        else:
            wires.forward.append(call(norm.batch_norm_forward, y=y, relu=relu, **affine))
        if wires.dy is None:
            return
        dy, backward_sums = wires.dy.image(), aligned((blocks, C, 2), np.float64)
        trained = self.affine and (tensors["weight"].requires_grad or tensors["bias"].requires_grad)
        if wires.shortcut and relu:
            relu = 0                    # for what follows, because dy is already masked
            wires.backward.append(call(
                norm_add.batch_norm_add_backward_sums, sums=backward_sums, dy=dy, y=y, x=x, scales=scales, T=tile))
        elif trained or of_batch:
            wires.backward.append(
                call(norm_pool.batch_norm_pool_backward_sums, sums=backward_sums, dy=dy, y=y, relu=relu, **affine,
                     **window) if window else
                call(norm.batch_norm_backward_sums, sums=backward_sums, dy=dy, relu=relu, T=tile, **affine))
        if wires.dx is not None:
            common = dict(dx=wires.dx.image(), dy=dy, sums=backward_sums, batch=batch, of_batch=int(of_batch),
                          relu_after=relu, relu=int(wires.relu_before), after_all="sums" if of_batch else False,
                          **affine)
            wires.backward.append(
                call(norm_pool.batch_norm_pool_backward_input, y=y, **common, **window) if window else
                call(norm.batch_norm_backward_input, **common))
        if trained:
            wires.gradients.append(Call(
                norm.batch_norm_backward_parameters, 1, dweight=tensors["weight"].grad, dbias=tensors["bias"].grad,
                sums=backward_sums))

    def textbook(self, x, parameters, run):
        """As in training, with the mean and the variance of each batch."""
        each = run.batches(x)
        axes = (1, *range(3, each.ndim))
        centred = each - each.mean(axis=axes, keepdims=True)
        variance = (centred * centred).mean(axis=axes, keepdims=True)
        y = (centred / np.sqrt(variance + self.eps)).reshape(x.shape)
        if not self.affine:
            return y
        weight, bias = (parameters[name].reshape(-1, *(1,) * (x.ndim - 2)) for name in ("weight", "bias"))
        return y * weight + bias

    def extra_repr(self) -> str:
        return (f"{self.num_features}, eps={self.eps:g}, momentum={self.momentum}, affine={self.affine}, "
                f"track_running_stats={self.track_running_stats}")


class BatchNorm2d(_BatchNorm):
    aliases = "bn2d", "BatchNorm", "bn", "BatchNormalization"
    __doc__ = f"{_BatchNorm.__doc__}" + """
    Shapes
    ------
    (num_features, H, W) -> the same; as `torch.nn.BatchNorm2d`.
    """

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 3 or shape[0] != self.num_features:
            raise InputError(f"BatchNorm2d expects images of {self.num_features} channels, got {shape_text(shape)}")
        return shape


class BatchNorm1d(_BatchNorm):
    aliases = "bn1d", "BatchNorm", "bn", "BatchNormalization"
    __doc__ = f"{_BatchNorm.__doc__}" + """
    Shapes
    ------
    (num_features,) -> the same; as `torch.nn.BatchNorm1d` for features.
    """

    def output_shape(self, shape: Shape) -> Shape:
        if tuple(shape) != (self.num_features,):
            raise InputError(f"BatchNorm1d expects {self.num_features} features, got {shape_text(shape)}")
        return shape
