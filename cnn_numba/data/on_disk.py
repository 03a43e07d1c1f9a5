"""Images that stay in their file: the ones that are needed are read when they are needed."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cnn_numba.errors import InputError
from cnn_numba.files.opening import open_regular

LEAST_BYTES = 1 << 28       # of a file whose images stay in it; smaller ones are read, which is faster
BLOCK_BYTES = 1 << 22       # that are read at a time, where all images are looked at


class ImagesOnDisk:
    """Images (N, C, H, W) in a file, with the attributes of an array that holds them.

    An index that is a number reads that image.  A slice, or an array of numbers or truth values, chooses images without
    reading them; `numpy.asarray` reads.  A memory map would do the same, but it counts against a limit of the address
    space (`ulimit -v`) as if all had been read.

    Parameters
    ----------
    path : of the file
    offset : of the first image, in bytes
    dtype : uint8 or float32
    count : number of images in the file
    stored : shape of an image in the file
    channels_last : whether it is (H, W, C) there

    Raises OSError when the file cannot be opened; reading raises InputError when it cannot be read, or has changed.
    """

    ndim = 4

    def __init__(self, path: str | os.PathLike, offset: int, dtype: np.dtype, count: int, stored: tuple[int, ...],
                 channels_last: bool = False):
        self._file, self._path = open_regular(path), Path(path).resolve()
        self._version = self._stamp()
        self._offset, self._stored, self._last, self._rows = offset, stored, channels_last, np.arange(count)
        self.dtype = np.dtype(dtype)
        self._image = (stored[2], stored[0], stored[1]) if channels_last else stored

    def _stamp(self):
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_file"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Copies in other processes open the file again, which must be the same one."""
        vars(self).update(state)
        try:
            self._file = open_regular(self._path)
        except OSError as error:
            raise InputError(f"{self._path} cannot be read ({error.strerror})") from None
        if self._stamp() != self._version:
            raise InputError(f"{self._path} has changed since the training began")

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self._rows), *self._image

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, (int, np.integer)):
            return self.read(self._rows[key:key + 1 or None])[0]
        chosen = object.__new__(type(self))
        vars(chosen).update(vars(self))
        chosen._rows = self._rows[key]
        return chosen

    def __iter__(self) -> Iterator[np.ndarray]:
        for block in self.blocks():
            yield from block

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.read(self._rows).astype(dtype or self.dtype, copy=False)

    def blocks(self) -> Iterator[np.ndarray]:
        """All images, some megabytes at a time."""
        size = max(1, BLOCK_BYTES // (math.prod(self._image) * self.dtype.itemsize))
        for start in range(0, len(self), size):
            yield self.read(self._rows[start:start + size])

    def min(self) -> float:
        """The smallest pixel."""
        return min(float(block.min()) for block in self.blocks())

    def max(self, initial: float = -math.inf) -> float:
        """The largest pixel, or `initial` if that is larger."""
        return max([initial, *(float(block.max()) for block in self.blocks())])

    def fetch(self, images: np.ndarray, into: np.ndarray) -> None:
        """Read the images of these numbers to the front of `into` (M, C, H, W)."""
        into[:len(images)] = self.read(self._rows[images])

    def expect(self, images: np.ndarray) -> None:
        """Ask the operating system to have the images of these numbers ready soon; does nothing where it cannot."""
        if hasattr(os, "posix_fadvise"):
            size = self._bytes()
            for row in self._rows[images].tolist():
                os.posix_fadvise(self._file.fileno(), self._offset + row * size, size, os.POSIX_FADV_WILLNEED)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The images at these places of the file."""
        size, pixels = self._bytes(), np.empty((len(rows), *self._stored), self.dtype)
        buffer = pixels.reshape(-1).view(np.uint8).data
        order = np.argsort(rows, kind="stable")                     # ascending: neighbours are read at once
        inverse = np.empty_like(order)
        inverse[order] = np.arange(len(rows))
        ends = np.flatnonzero(np.diff(rows[order], append=-2) != 1) + 1
        begin = 0
        try:
            for end in ends.tolist():
                at, stop = begin * size, end * size
                while at < stop:
                    place = self._offset + int(rows[order[begin]]) * size + at - begin * size
                    if not (got := os.preadv(self._file.fileno(), [buffer[at:stop]], place)):
                        raise InputError(f"{self._path} has become shorter since the training began")
                    at += got
                begin = end
        except OSError as error:
            raise InputError(f"{self._path} cannot be read ({error.strerror})") from None
        if (np.diff(order) < 0).any():
            pixels = pixels[inverse]
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)) if self._last else pixels.reshape(-1, *self._image)

    def _bytes(self) -> int:
        return math.prod(self._stored) * self.dtype.itemsize
