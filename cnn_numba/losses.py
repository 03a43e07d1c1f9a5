"""Loss functions."""
import math

import numpy as np

from kernels import loss as kernels
from kernels.lanes import LANES
from kernels.program import Call, Program, in_order

from .errors import InputError
from .model import Output
from .plan import Buffer


def checked_labels(labels, count, classes):
    """Labels as int64 (count,); InputError when there are more or fewer, or one is not in 0 .. classes - 1."""
    labels = np.asarray(labels)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise InputError(f"labels: expected {count} whole numbers, got an array of {labels.dtype} of shape "
                         f"{labels.shape}")
    if count and not (0 <= labels.min() and labels.max() < classes):
        worst = labels.min() if labels.min() < 0 else labels.max()
        raise InputError(f"labels: {worst} is out of range, expected 0 to {classes - 1}")
    return np.ascontiguousarray(labels, np.int64)


class CrossEntropyLoss:
    """Mean over the images of -log softmax(logits)[label], as `torch.nn.CrossEntropyLoss`.

    `loss = CrossEntropyLoss()(logits, labels); loss.backward()`
    """

    def __call__(self, logits, labels):
        """The loss of a batch.

        Parameters
        ----------
        logits : array (N, classes); for `backward`, what `model(images)` returned
        labels : int array (N,), in 0 .. classes - 1

        Returns
        -------
        Loss

        Raises InputError when shapes or labels are out of range.
        """
        values = np.asarray(logits, np.float32)
        if values.ndim != 2 or not len(values):
            raise InputError(f"CrossEntropyLoss: expected logits (N, classes), got shape {values.shape}")
        n, classes = values.shape
        labels = checked_labels(labels, n, classes)
        z, dz = (Buffer(math.ceil(n / LANES), (classes,)) for _ in range(2))
        z.put(values)
        losses, predictions = np.zeros(n, np.float32), np.zeros(n, np.int64)
        Program(in_order([self.call(dz, losses, predictions, z, labels, np.arange(n), np.array([0, n]))]))()
        return Loss(float(losses.mean(dtype=np.float64)), dz.get(n), logits)

    @staticmethod
    def call(dz, losses, predictions, z, labels, order, window):
        """The kernel call for buffers z, dz (see `kernels.loss.cross_entropy`)."""
        return Call(kernels.cross_entropy, z.blocks, dz.array, losses, predictions, z.array, labels, order, window)


class Loss(float):
    """A loss: a number with a `backward()`."""

    def __new__(cls, value, dlogits, logits):
        loss = super().__new__(cls, value)
        loss.dlogits, loss._logits = dlogits, logits
        return loss

    def backward(self):
        """Compute the gradients of all parameters of the model that gave the logits (they overwrite what was there).

        Raises InputError when the logits are not what `model(images)` returned, or the model has run again since.
        """
        model = self._logits.model if isinstance(self._logits, Output) else None
        if model is None:
            raise InputError("loss.backward needs a loss of the very array that model(images) returned")
        if not model.ran_last(self._logits.forward_pass):
            raise InputError("loss.backward: the model has run on other images since; call it again first")
        model.backward(self.dlogits)

    def item(self):
        """The plain number."""
        return float(self)
