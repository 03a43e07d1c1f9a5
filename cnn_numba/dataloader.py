"""Data sets of arrays and their batches, with the names of `torch.utils.data`."""
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from cnn_numba.errors import InputError, seed_number, truth_value, whole_number
from cnn_numba.init import ORDER, default_seed, stream

__all__ = ["DataLoader", "Subset", "TensorDataset", "random_split"]


class TensorDataset:
    """Arrays whose first axis is that of the examples, as `torch.utils.data.TensorDataset`.

    Parameters
    ----------
    *tensors : arrays (N, ...), such as images and labels
    transform : function, optional
        Applied to images (N, C, H, W) that are taken from the first array; see `transforms`.

    Raises InputError (a ValueError) when the arrays have different lengths.
    """

    def __init__(self, *tensors: Any, transform: Callable | None = None):
        self.tensors = tuple(map(np.asarray, tensors))
        if not tensors or any(not tensor.ndim or len(tensor) != len(self.tensors[0]) for tensor in self.tensors):
            raise InputError("TensorDataset: expected arrays of the same length, got shapes "
                             f"{', '.join(str(tensor.shape) for tensor in self.tensors) or 'none'}")
        self.transform = transform

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: Any) -> tuple:
        """The examples at a position, or at several: an array of positions or a slice."""
        first, *others = (tensor[index] for tensor in self.tensors)
        if self.transform is not None:
            first = self.transform(first) if np.ndim(index) or isinstance(index, slice) else self.transform(
                first[None])[0]
        return first, *others


class Subset:
    """Some examples of a data set, as `torch.utils.data.Subset`: those at `indices`."""

    def __init__(self, dataset: Any, indices: Any):
        self.dataset, self.indices = dataset, np.asarray(indices, np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[self.indices[index]]


def random_split(dataset: Any, lengths: Sequence[float], generator: int | None = None) -> list[Subset]:
    """Split a data set at random into parts that do not overlap, as `torch.utils.data.random_split`.

    Parameters
    ----------
    dataset : with a length
    lengths : numbers of examples, or fractions that add up to 1
    generator : int, optional
        Seed; default: that of `manual_seed`, or 0.

    Raises InputError (a ValueError) when the lengths do not add up.
    """
    total = len(dataset)
    sizes: list[Any] = list(lengths)
    if not sizes or any(isinstance(size, bool) or not size >= 0 for size in sizes):
        raise InputError(f"random_split: lengths must be numbers of at least 0, got {lengths!r}")
    if any(not hasattr(size, "__index__") for size in sizes):
        if not math.isclose(sum(sizes), 1):
            raise InputError(f"random_split: fractions must add up to 1, got {lengths!r}")
        sizes = [math.floor(total * size) for size in sizes]
        for k in range(total - sum(sizes)):                 # the rest goes round, as in PyTorch
            sizes[k % len(sizes)] += 1
    if sum(sizes) != total:
        raise InputError(f"random_split: the lengths add up to {sum(sizes)}, but the data set has {total} examples")
    seed = default_seed() if generator is None else seed_number("random_split", generator)
    order, ends = stream(seed, ORDER, 0).permutation(total), np.cumsum(sizes)
    return [Subset(dataset, order[end - size:end]) for size, end in zip(sizes, ends, strict=True)]


class DataLoader:
    """Batches of a data set, as `torch.utils.data.DataLoader`: a loop over it is one epoch.

    Parameters
    ----------
    dataset : TensorDataset, or anything with a length whose items are arrays, numbers or tuples of these
    batch_size : int
    shuffle : bool
        Whether each epoch has an order of its own.
    drop_last : bool
        Whether a short last batch is left out.
    generator : int, optional
        Seed of the orders; default: that of `manual_seed`, or 0.
    num_workers, pin_memory, persistent_workers : accepted and not needed: the data are in memory

    Raises InputError (a ValueError) when an argument is out of range.
    """

    def __init__(self, dataset: Any, batch_size: int = 1, shuffle: bool = False, drop_last: bool = False,
                 generator: int | None = None, num_workers: int = 0, pin_memory: bool = False,
                 persistent_workers: bool = False):
        self.dataset, self.batch_size = dataset, whole_number("DataLoader", "batch_size", batch_size)
        self.shuffle = truth_value("DataLoader", "shuffle", shuffle)
        self.drop_last = truth_value("DataLoader", "drop_last", drop_last)
        self.seed = default_seed() if generator is None else seed_number("DataLoader", generator)
        self._epochs = 0

    def __len__(self) -> int:
        """Number of batches."""
        count = len(self.dataset) / self.batch_size
        return math.floor(count) if self.drop_last else math.ceil(count)

    def __iter__(self) -> Iterator[tuple]:
        order = np.arange(len(self.dataset))
        if self.shuffle:
            order = stream(self.seed, ORDER, self._epochs).permutation(len(self.dataset))
            self._epochs += 1
        for k in range(len(self)):
            yield _batch(self.dataset, order[k * self.batch_size:(k + 1) * self.batch_size])


def _batch(dataset, indices):
    """The examples as a tuple of arrays, or one array."""
    if isinstance(dataset, Subset):
        return _batch(dataset.dataset, dataset.indices[indices])
    if isinstance(dataset, TensorDataset):
        return dataset[indices]
    examples = [dataset[int(k)] for k in indices]
    if isinstance(examples[0], (tuple, list)):
        return tuple(np.stack([np.asarray(part) for part in parts]) for parts in zip(*examples, strict=True))
    return np.stack([np.asarray(example) for example in examples])
