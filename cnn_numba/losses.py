"""Loss functions."""
import inspect
import math
from collections.abc import Callable
from numbers import Real
from typing import Any, ClassVar

import numpy as np

from cnn_numba.buffer import Buffer
from cnn_numba.errors import MOST_SEED, InputError, choice, number, register, whole_number
from cnn_numba.forward_pass import send_back
from cnn_numba.kernels import loss as kernels
from cnn_numba.kernels.lanes import LANES
from cnn_numba.kernels.program import Call, Program, by_one

__all__ = ["ClassLoss", "CrossEntropyLoss", "MSELoss", "NLLLoss"]


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
    reduction = "mean"                  # over the images: "mean", "sum" or "none"
    ignore_index: int | None = None     # a label whose images do not count
    known: ClassVar[dict[str, type["ClassLoss"]]] = {}      # every loss class by its name

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        register(ClassLoss.known, cls)

    def __call__(self, logits: Any, labels: Any) -> Any:
        """The loss of a batch.

        Parameters
        ----------
        logits : array (N, classes); for `backward`, what `model(images)` returned
        labels : int array (N,), in 0 .. classes - 1

        Returns
        -------
        Loss; with reduction "none", Losses

        Raises InputError when shapes or labels are out of range.
        """
        values = np.asarray(logits, np.float32)
        if values.ndim != 2 or not len(values):
            raise InputError(f"{type(self).__name__}: expected logits (N, classes), got shape {values.shape}")
        n = len(values)
        kept = np.arange(n)
        if self.ignore_index is not None and np.shape(labels) == (n,):
            kept = np.flatnonzero(np.not_equal(labels, self.ignore_index))
        losses, gradient, divisor = np.zeros(n, np.float32), np.zeros(values.shape, np.float32), 0.0
        if len(kept) == n:
            losses, gradient, divisor = self._of_batch(values, labels)
        elif len(kept):
            losses[kept], gradient[kept], divisor = self._of_batch(values[kept], np.asarray(labels)[kept])
        if self.reduction == "mean":            # of no image, it is NaN, as in PyTorch
            return Loss(float(losses.sum(dtype=np.float64) / len(kept)) if len(kept) else math.nan,
                        [(logits, gradient)])
        each = Losses(losses * np.float32(divisor / max(1, len(kept))), gradient * np.float32(divisor), logits)
        return each.sum() if self.reduction == "sum" else each

    def _of_batch(self, values, labels):
        """(parts of the loss, whose mean it is; its gradient; what the mean over the batch divides by)"""
        n, classes = values.shape
        labels = checked_labels(labels, n, classes)
        z, dz = (Buffer(math.ceil(n / LANES), (classes,)) for _ in range(2))
        z.put(values)
        losses, predictions = np.zeros(n, np.float32), np.zeros(n, np.int64)
        Program(by_one([self.call(dz, losses, predictions, z, labels, np.arange(n), np.array([0, n]))]))()
        return losses, dz.get(n), self.divisor(labels)

    def divisor(self, labels: np.ndarray) -> float:
        """What the mean over a batch with these labels divides by: the number of images or the sum of their weights."""
        return len(labels)

    def _set_reduction(self, reduction, ignore_index):
        name = type(self).__name__
        self.reduction = choice(name, "reduction", reduction, "mean", "sum", "none")
        self.ignore_index = whole_number(name, "ignore_index", ignore_index, -MOST_SEED)

    def refuse_in_training(self, classes: int) -> None:
        """InputError for what a Trainer does not do: a reduction other than the mean, or a class that is ignored."""
        name = type(self).__name__
        if self.reduction != "mean":
            raise InputError(f"Trainer: the reduction of the loss must be 'mean', got {self.reduction!r}")
        if self.ignore_index is not None and 0 <= self.ignore_index < classes:
            raise InputError(f"Trainer: {name} with ignore_index={self.ignore_index} would train on that class; leave "
                             "its images out of the data set")

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
    ignore_index : int
        Images with this label do not count.
    reduction : "mean", "sum" or "none"
        Of the losses of the images; a trainer needs the mean.

    Raises InputError (a ValueError) when an argument is out of range.
    """

    kernel = staticmethod(kernels.cross_entropy)

    def __init__(self, weight: Any = None, label_smoothing: float = 0.0, ignore_index: int = -100,
                 reduction: str = "mean"):
        self._set_reduction(reduction, ignore_index)
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


    def divisor(self, labels: np.ndarray) -> float:
        return len(labels) if self.weight is None else float(self.weight[labels].sum(dtype=np.float64))


class NLLLoss(ClassLoss):
    """Mean over the images of -log_probabilities[label], as `torch.nn.NLLLoss`: after a LogSoftmax, the cross-entropy.

    Parameters
    ----------
    ignore_index, reduction : as in CrossEntropyLoss

    Raises InputError (a ValueError) when an argument is out of range.
    """

    kernel = staticmethod(kernels.negative_log_likelihood)

    def __init__(self, ignore_index: int = -100, reduction: str = "mean"):
        self._set_reduction(reduction, ignore_index)


class MSELoss(ClassLoss):
    """Mean over images and classes of (outputs - onehot(label))**2, as `torch.nn.MSELoss` with one-hot targets."""

    kernel = staticmethod(kernels.squared_error)


class Losses:
    """The losses of the images of a batch, of a loss with reduction "none": an array with `mean`, `sum` and products.

    values : float32 (N,)
    gradients : float32 (N, classes), of each loss
    """

    def __init__(self, values: np.ndarray, gradients: np.ndarray, logits: Any):
        self.values, self.gradients, self._logits = values, gradients, logits

    def sum(self) -> "Loss":
        """Their sum, with a `backward`."""
        return Loss(float(self.values.sum(dtype=np.float64)), [(self._logits, self.gradients)])

    def mean(self) -> "Loss":
        """Their mean, with a `backward`."""
        return self.sum() / len(self)

    def __mul__(self, weights: Any) -> "Losses":
        """Each loss times a number, or a number of its own."""
        weights = np.broadcast_to(np.asarray(weights, np.float32), self.values.shape)
        return Losses(self.values * weights, self.gradients * weights[:, None], self._logits)

    __rmul__ = __mul__
    __array_ufunc__ = None              # an array times these is `__rmul__`

    def detach(self) -> np.ndarray:
        """The numbers as an ordinary array."""
        return self.values.copy()

    shape = property(lambda self: self.values.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> Any:
        return self.values[index]

    def __repr__(self) -> str:
        return f"Losses({self.values})"


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
