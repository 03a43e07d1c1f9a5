"""Loss functions."""
import inspect
import math
from collections.abc import Callable
from numbers import Real
from typing import Any, ClassVar

import numpy as np

from cnn_numba.buffer import Buffer
from cnn_numba.errors import InputError, number, register
from cnn_numba.forward_pass import send_back
from cnn_numba.kernels import loss as kernels
from cnn_numba.kernels.lanes import LANES
from cnn_numba.kernels.program import Call, Program, in_order

__all__ = ["ClassLoss", "CrossEntropyLoss", "MSELoss"]


def checked_labels(labels: Any, count: int, classes: int) -> np.ndarray:
    """Labels as int64 (count,); InputError when there are more or fewer, or one is not in 0 .. classes - 1."""
    labels = np.asarray(labels)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise InputError(f"labels: expected {count} whole numbers, got an array of {labels.dtype} of shape "
                         f"{labels.shape}")
    if count and not (0 <= labels.min() and labels.max() < classes):
        worst = labels.min() if labels.min() < 0 else labels.max()
        raise InputError(f"labels: {worst} is out of range, expected 0 to {classes - 1}")
    return np.array(labels, np.int64)               # a copy: kernels index with labels, unchecked


class ClassLoss:
    """Base class of losses of class scores: `loss = CrossEntropyLoss()(logits, labels); loss.backward()`."""

    kernel: Callable
    known: ClassVar[dict[str, type["ClassLoss"]]] = {}      # every loss class by its name

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        register(ClassLoss.known, cls)

    def __call__(self, logits: Any, labels: Any) -> "Loss":
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
            raise InputError(f"{type(self).__name__}: expected logits (N, classes), got shape {values.shape}")
        n, classes = values.shape
        labels = checked_labels(labels, n, classes)
        z, dz = (Buffer(math.ceil(n / LANES), (classes,)) for _ in range(2))
        z.put(values)
        losses, predictions = np.zeros(n, np.float32), np.zeros(n, np.int64)
        Program(in_order([self.call(dz, losses, predictions, z, labels, np.arange(n), np.array([0, n]))]))()
        return Loss(float(losses.mean(dtype=np.float64)), [(logits, dz.get(n))])

    def __repr__(self):
        chosen = {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in chosen.items())})"

    def call(self, dz: Buffer, losses: np.ndarray, predictions: np.ndarray, z: Buffer, labels: np.ndarray,
             order: np.ndarray, batch: np.ndarray) -> Call:
        """The kernel call for buffers z, dz (see `kernels.loss`).

        The mean of `losses`, one for each of `labels`, is the loss of all images.
        """
        return Call(self.kernel, z.blocks, dz=dz.array, losses=losses, predictions=predictions, z=z.array,
                    labels=labels, order=order, batch=batch)


class CrossEntropyLoss(ClassLoss):
    """Mean over the images of -log softmax(logits)[label], as `torch.nn.CrossEntropyLoss`.

    Parameters
    ----------
    weight : array (classes,), optional
        Weight of an image of each class; the loss is then the weighted mean, divided by the sum of the labels' weights.
        A trainer divides the gradient of a batch by the sum over the batch, and the loss that it reports by the sum
        over all images.
    label_smoothing : float, 0 to 1
        This share of the target is spread evenly over all classes: Szegedy et al., "Rethinking the Inception
        architecture for computer vision" (2016).

    Raises InputError (a ValueError) when an argument is out of range.
    """

    kernel = staticmethod(kernels.cross_entropy)

    def __init__(self, weight: Any = None, label_smoothing: float = 0.0):
        if weight is not None:
            try:
                weight = np.array(weight, np.float32)
            except (TypeError, ValueError):
                raise InputError(f"CrossEntropyLoss: weight must be an array of numbers, got {weight!r}") from None
            if weight.ndim != 1 or not (np.isfinite(weight) & (weight >= 0)).all():
                raise InputError("CrossEntropyLoss: weight must be finite numbers of at least 0, one for each class, "
                                 f"got {weight.tolist()}")
        self.weight = weight
        self.label_smoothing = number("CrossEntropyLoss", "label_smoothing", label_smoothing, 0, 1)

    def call(self, dz: Buffer, losses: np.ndarray, predictions: np.ndarray, z: Buffer, labels: np.ndarray,
             order: np.ndarray, batch: np.ndarray) -> Call:
        if self.weight is None and not self.label_smoothing:
            return super().call(dz, losses, predictions, z, labels, order, batch)
        classes, = z.shape
        weight = np.ones(classes, np.float32) if self.weight is None else self.weight
        if len(weight) != classes:
            raise InputError(f"CrossEntropyLoss: weight has {len(weight)} numbers, expected {classes}, one for each "
                             "class")
        soft = (weight * (self.label_smoothing / classes)).astype(np.float32)
        hard = (weight * (1 - self.label_smoothing)).astype(np.float32)
        usual = weight[labels].mean(dtype=np.float64, keepdims=True).astype(np.float32)
        return Call(kernels.cross_entropy_weighted, z.blocks, dz=dz.array, losses=losses, predictions=predictions,
                    z=z.array, labels=labels, order=order, batch=batch, hard=hard, soft=soft, weight=weight,
                    usual=usual)


class MSELoss(ClassLoss):
    """Mean over images and classes of (outputs - onehot(label))**2, as `torch.nn.MSELoss` with one-hot targets."""

    kernel = staticmethod(kernels.squared_error)


class Loss(float):
    """A loss: a number with a `backward()`.

    Losses can be added, subtracted and multiplied by numbers: `(loss1 + 0.5 * loss2).backward()`, `sum(losses)`.

    terms : (logits, gradient) of the losses in it
    """

    terms: list[tuple[Any, np.ndarray]]

    def __new__(cls, value: float, terms: list[tuple[Any, np.ndarray]]) -> "Loss":
        loss = super().__new__(cls, value)
        loss.terms = terms
        return loss

    @property
    def dlogits(self) -> np.ndarray:
        """The gradient of the logits, of a loss of one batch."""
        if len(self.terms) > 1:
            raise InputError(f"this is a sum of {len(self.terms)} losses, each with a gradient of its own: see terms")
        return self.terms[0][1]

    def backward(self, gradient: Any = None, retain_graph: bool = False) -> None:
        """Add the gradients of all parameters of the model that gave the logits to those that are there.

        gradient : number, optional
            Factor of the gradients.
        retain_graph : bool
            Whether another `backward` of the same forward pass may follow, as in PyTorch.

        Raises InputError when the logits are not the array that `model(images)` returned, or the weights changed since.
        """
        terms = self.terms if gradient is None else (self * gradient).terms
        send_back(terms, retain_graph)

    def __add__(self, other: Any) -> Any:
        if isinstance(other, Loss):
            return Loss(float(self) + float(other), [*self.terms, *other.terms])
        return Loss(float(self) + float(other), self.terms) if isinstance(other, Real) else NotImplemented

    __radd__ = __add__

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, Loss) or not isinstance(other, Real):
            return NotImplemented
        factor = np.float32(other)
        return Loss(float(self) * float(other), [(logits, factor * gradient) for logits, gradient in self.terms])

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        return self * (1 / other) if isinstance(other, Real) and not isinstance(other, Loss) else NotImplemented

    def __neg__(self) -> "Loss":
        return self * -1

    def __sub__(self, other: Any) -> Any:
        return self + -other

    def __rsub__(self, other: Any) -> Any:
        return -self + other

    def __reduce__(self) -> Any:
        """Copies and pickles are plain numbers."""
        return float, (float(self),)

    def item(self) -> float:
        """The plain number."""
        return float(self)

    detach = cpu = item
