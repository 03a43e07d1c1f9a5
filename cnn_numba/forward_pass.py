"""Forward passes: what `model(images)` returns, and how a gradient goes back through it."""
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cnn_numba.errors import InputError
from cnn_numba.kernels import driver

__all__ = ["Output", "inference_mode", "is_grad_enabled", "no_grad", "set_grad_enabled"]

_state = threading.local()


def is_grad_enabled() -> bool:
    """Whether forward passes are made for a backward pass; see `no_grad`."""
    return getattr(_state, "enabled", True)


class set_grad_enabled:                         # PyTorch's name
    """Choose whether forward passes are made for a backward pass, as `torch.set_grad_enabled`: at once, and until the
    end of a `with` block if it begins one."""

    def __init__(self, mode: bool):
        self._before, self.mode = is_grad_enabled(), bool(mode)
        _state.enabled = self.mode

    def __enter__(self) -> None:
        _state.enabled = self.mode

    def __exit__(self, *error: object) -> None:
        _state.enabled = self._before


@contextmanager
def no_grad() -> Iterator[None]:
    """A `with` block or a function (as a decorator) whose forward passes need no memory for gradients, as
    `torch.no_grad`.  Their outputs have no `backward`."""
    with set_grad_enabled(False):
        yield


def inference_mode(mode: bool = True) -> Any:
    """`no_grad()`, under PyTorch's other name."""
    return set_grad_enabled(not mode) if not mode else no_grad()


class Largest(NamedTuple):
    """The largest numbers along an axis, and where they are."""

    values: np.ndarray
    indices: np.ndarray


class Untracked(np.float32):
    """A number computed from an Output by arithmetic, which has no gradient."""

    def backward(self, *_: Any) -> None:
        """InputError."""
        raise InputError("backward of arithmetic on the output of a model: only losses have a gradient, such as "
                         "CrossEntropyLoss, and what is computed in a subclass of ClassLoss")


class Output(np.ndarray):
    """What `model(x)` returns: an array that knows its forward pass, so that a loss can send its gradient back.

    It is read-only, because the gradient belongs to these values.  Another network, layer or loss can take it as its
    input.  Arrays computed from it by arithmetic do not know the forward pass.
    """

    forward_pass: Any = None            # the ForwardPass
    without_grad = False                # made in `no_grad`

    def max(self, dim: Any = None, keepdim: Any = None, **options: Any) -> Any:     # type: ignore[override]
        """max() and max(axis=...) as in NumPy; max(1) and max(dim=1) give (values, indices), as in PyTorch."""
        if dim is None:
            return np.asarray(self).max(**options)
        values, indices = np.asarray(self), np.asarray(self).argmax(dim)
        best = np.take_along_axis(values, np.expand_dims(indices, dim), dim)
        return Largest(best, np.expand_dims(indices, dim)) if keepdim else Largest(best.squeeze(dim), indices)

    def argmax(self, axis: Any = None, out: Any = None, *, dim: Any = None, keepdim: bool = False,
               keepdims: bool = False) -> Any:
        """The index of the largest number along an axis, with PyTorch's or NumPy's names; an ordinary array."""
        return np.asarray(self).argmax(axis if dim is None else dim, out, keepdims=keepdim or keepdims)

    def sum(self, *args: Any, **options: Any) -> Any:
        """As in NumPy; a number has no gradient."""
        total = np.asarray(self).sum(*args, **options)
        return total if total.ndim else Untracked(total)

    def mean(self, *args: Any, **options: Any) -> Any:
        """As in NumPy; a number has no gradient."""
        mean = np.asarray(self).mean(*args, **options)
        return mean if mean.ndim else Untracked(mean)

    def detach(self) -> np.ndarray:
        """The numbers as an ordinary array."""
        return np.array(self)

    cpu = numpy = detach

    def dim(self) -> int:
        """The number of axes."""
        return self.ndim

    def backward(self, gradient: Any = None, retain_graph: bool = False) -> None:
        """Send the gradient of the output back, as `torch.Tensor.backward`; adds to the gradients of all parameters.

        gradient : array of the output's shape; None: 1, for an output of one number
        """
        if gradient is None and self.size != 1:
            raise InputError(f"backward of an output of shape {self.shape} needs a gradient of that shape")
        send_back([(self, np.ones(self.shape) if gradient is None else gradient)], retain_graph)


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a forward pass depends on.

    The network keeps it, so it must not lead back to the network: a cycle would hold the buffers until a collection.

    images : float32, its own copy of the input
    key : what the layout depends on; see `Sequential._key`
    draw : (seed, pass); see `layers.Setup`
    weights : fingerprint of the weights
    """

    images: np.ndarray
    key: tuple
    draw: tuple[int, int]
    weights: Any


class ForwardPass:
    """One run of a network.

    model : the Sequential
    inputs : what the run depends on
    source : the forward pass that gave the images, if a gradient can go on to it
    """

    def __init__(self, model: Any, inputs: Inputs, source: "ForwardPass | None"):
        self.model, self.inputs, self.source, self.done = model, inputs, source, False

    def backward(self, doutput: np.ndarray, retain_graph: bool) -> None:
        """Add to the gradients of the network, and go on to the source."""
        if self.done:
            raise InputError("backward: this forward pass was used by an earlier backward, which frees it; call the "
                             "model again, or give the earlier one retain_graph=True")
        dx = self.model.run_backward(self.inputs, doutput)
        self.done = not retain_graph
        if self.source is not None:
            self.source.backward(dx, retain_graph)


def send_back(terms: list[tuple[Any, Any]], retain_graph: bool = False) -> None:
    """Backward passes of (output, its gradient); gradients of the same output are added first.

    Raises InputError when something is not what a model returned, was used before, or belongs to other weights.
    """
    gradients: dict[int, tuple[ForwardPass, Any]] = {}
    for output, gradient in terms:
        if getattr(output, "without_grad", False):
            raise InputError("backward: the model ran in no_grad() or inference_mode(), where no gradient is kept")
        forward_pass = output.forward_pass if isinstance(output, Output) else None
        if forward_pass is None:
            raise InputError("loss.backward needs a loss of the array that model(images) returned, not of one computed "
                             "from it")
        _, before = gradients.get(id(forward_pass), (None, None))
        gradients[id(forward_pass)] = forward_pass, gradient if before is None else before + gradient
    with driver.exclusive:
        for forward_pass, gradient in gradients.values():
            forward_pass.backward(gradient, retain_graph)
