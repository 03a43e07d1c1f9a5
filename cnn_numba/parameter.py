"""Parameters: weights, biases and statistics, as views of flat vectors that kernels read and write."""
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnn_numba.errors import InputError, truth_value
from cnn_numba.kernels.lanes import LANES, aligned

__all__ = ["Parameter"]


class Memory:
    """The flat vectors of some parameters, each of which starts on a 64-byte boundary.

    values, grads : float32 (total,)
    fresh : float32 (total,), what one backward pass of `model(images)` writes, before it is added to `grads`; and the
        gradients of frozen parameters, which nobody reads
    """

    def __init__(self, size: int):
        self.values, self.grads = aligned(size), aligned(size)
        self._fresh: np.ndarray | None = None

    @property
    def fresh(self) -> np.ndarray:
        if self._fresh is None:
            self._fresh = aligned(len(self.values))
        return self._fresh

    def __reduce__(self) -> Any:
        """Copies start on a 64-byte boundary, too."""
        return _copied_memory, (self.values.copy(), self.grads.copy())


def _copied_memory(values, grads):
    memory = Memory(len(values))
    memory.values[:], memory.grads[:] = values, grads
    return memory


@dataclass(frozen=True)
class Wired:
    """A parameter as kernels of one plan see it: `grad` is where they write, `grad_vectors` the same memory as
    float32 (vectors, LANES) up to the start of the next parameter; numbers past the end are always 0."""

    name: str
    value: np.ndarray
    grad: np.ndarray
    grad_vectors: np.ndarray
    requires_grad: bool


class Parameter:
    """A weight, a bias or a statistic of a layer.  Networks that share the layer share the parameter.

    Parameters
    ----------
    name : as in the `state_dict` of the network that made it, "0.weight"
    memory, start, shape : where its numbers are
    statistic : whether it is collected instead of trained: it has no gradient

    Attributes
    ----------
    value, data : float32 view; assigned numbers are copied into it
    grad : float32 view, the sum of the gradients since `zero_grad`; None for statistics and frozen parameters
    requires_grad : bool
        Whether it is trained.  A frozen parameter gets neither gradients nor updates.

    Raises InputError when assigned numbers have another shape.
    """

    def __init__(self, name: str, memory: Memory, start: int, shape: tuple[int, ...], statistic: bool = False):
        self.name, self.memory, self.start, self.statistic = name, memory, start, statistic
        self._trained = not statistic
        self.end = start + math.ceil(math.prod(shape) / LANES) * LANES
        self._value, self._grad = (_view(flat, start, shape) for flat in (memory.values, memory.grads))

    def __reduce__(self) -> Any:
        return _copied, (self.name, self.memory, self.start, self.shape, self.statistic, self._trained)

    def wired(self, accumulate: bool) -> Wired:
        """For a plan; accumulate : whether the gradient goes to `Memory.fresh`, to be added afterwards."""
        flat = self.memory.grads if self._trained and not accumulate else self.memory.fresh
        return Wired(self.name, self._value, _view(flat, self.start, self.shape),
                     flat[self.start:self.end].reshape(-1, LANES), self._trained)

    @property
    def value(self) -> np.ndarray:
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        _copy_into(self._value, value, self.name)

    data = value

    @property
    def grad(self) -> Any:
        return self._grad if self._trained else None

    @grad.setter
    def grad(self, value: Any) -> None:
        if not self._trained:
            what = "a statistic" if self.statistic else "frozen"
            raise InputError(f"{self.name} is {what}, which has no gradient")
        _copy_into(self._grad, 0 * self._grad if value is None else value, f"the gradient of {self.name}")

    @property
    def grad_vectors(self) -> np.ndarray:
        """float32 (vectors, LANES): the gradient's memory up to the start of the next parameter."""
        return self.memory.grads[self.start:self.end].reshape(-1, LANES)

    @property
    def requires_grad(self) -> bool:
        return self._trained

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        value = truth_value(self.name, "requires_grad", value)
        if self.statistic and value:
            raise InputError(f"{self.name} is a statistic, which has no gradient")
        self._trained = value

    def requires_grad_(self, requires_grad: bool = True) -> "Parameter":
        """Set `requires_grad`; returns the parameter."""
        self.requires_grad = requires_grad
        return self

    def zero_grad(self) -> None:
        """Set the gradient to zero."""
        self.memory.grads[self.start:self.end] = 0

    def clear(self) -> None:
        """Set all numbers to 0, also those past the end, where a step with an infinite learning rate leaves NaN."""
        self.memory.values[self.start:self.end] = 0

    shape = property(lambda self: self._value.shape)
    dtype = property(lambda self: self._value.dtype)
    ndim = property(lambda self: self._value.ndim)

    def size(self, dim: int | None = None) -> Any:
        """The shape, or its size along an axis."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """The number of axes."""
        return self.ndim

    def numel(self) -> int:
        """The number of elements."""
        return self._value.size

    def detach(self) -> np.ndarray:
        """The value, a view, as in PyTorch."""
        return self._value

    numpy = cpu = detach

    def item(self) -> float:
        """The only element, as a number."""
        return self._value.item()

    def copy_(self, value: Any) -> "Parameter":
        """Copy numbers of the same shape into the value; returns the parameter."""
        self.value = value
        return self

    def fill_(self, value: float) -> "Parameter":
        """Set all numbers to one; returns the parameter."""
        self._value[...] = value
        return self

    def zero_(self) -> "Parameter":
        """Set all numbers to 0; returns the parameter."""
        return self.fill_(0)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._value, dtype, copy=copy)

    def __len__(self) -> int:
        return len(self._value)

    def __getitem__(self, index: Any) -> Any:
        return self._value[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._value[index] = value

    def __repr__(self) -> str:
        frozen = "" if self._trained or self.statistic else ", requires_grad=False"
        return f"Parameter({self.name!r}, {'x'.join(map(str, self.shape))}{frozen})"


def _copied(name, memory, start, shape, statistic, trained):
    parameter = Parameter(name, memory, start, shape, statistic)
    parameter.requires_grad = trained
    return parameter


def _view(flat, start, shape):
    return flat[start:start + math.prod(shape)].reshape(shape)


def _copy_into(array, value, name):
    value = float32_array(name, value)
    if value.shape != array.shape:
        raise InputError(f"{name} has shape {array.shape}, got an array of shape {value.shape}")
    array[...] = value


def float32_array(owner: str, value: Any) -> np.ndarray:
    """The value as float32; InputError, which names `owner`, when it is not an array of numbers."""
    return plain_array(owner, value).astype(np.float32, copy=False)


def plain_array(owner: str, value: Any) -> np.ndarray:
    """The value as an array; InputError, which names `owner`, for text, complex numbers, objects and masked arrays.

    A mask would be ignored without a word, and so would the imaginary parts.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise InputError(f"{owner} must be an array without a mask: fill it first")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        raise InputError(f"{owner} must be an array of numbers, got {type(value).__name__}") from None
    if array.dtype.kind not in "buif":
        raise InputError(f"{owner} must be an array of numbers, got {array.dtype} of {type(value).__name__}")
    return array


def allocate(shapes: Sequence[tuple[str, tuple[int, ...]]], statistic: bool = False) -> list[Parameter]:
    """New parameters, all zeros, for (name, shape), side by side in one memory."""
    sizes = [math.ceil(math.prod(shape) / LANES) * LANES for _, shape in shapes]
    memory, starts = Memory(sum(sizes)), np.cumsum([0, *sizes]).tolist()
    return [Parameter(name, memory, start, shape, statistic)
            for (name, shape), start in zip(shapes, starts, strict=False)]


@dataclass
class Run:
    """Parameters that lie side by side in a memory, from `start` to `end`."""

    memory: Memory
    start: int
    end: int
    parameters: list[Parameter]

    @property
    def values(self) -> np.ndarray:
        return self.memory.values[self.start:self.end]

    @property
    def grads(self) -> np.ndarray:
        return self.memory.grads[self.start:self.end]


def runs(parameters: Iterable[Parameter]) -> list[Run]:
    """The parameters, in their order, as runs that are as long as possible."""
    found: list[Run] = []
    for p in parameters:
        if found and found[-1].memory is p.memory and found[-1].end == p.start:
            found[-1].end = p.end
            found[-1].parameters.append(p)
        else:
            found.append(Run(p.memory, p.start, p.end, [p]))
    return found


def fingerprint(parts: Iterable[Run]) -> tuple[int, ...]:
    """Numbers that change when a value changes: the sums of the columns of the vectors' bits, hashed.

    It takes 10 us for LeNet-5, a hash of all bytes 200 us.
    """
    return tuple(zlib.crc32(part.values.view(np.uint64).reshape(-1, LANES // 2).sum(axis=0, dtype=np.uint64))
                 for part in parts)
