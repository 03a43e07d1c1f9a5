"""Feeds: images, their labels and order, and the sums over them, as arrays that kernel calls read and write."""
import math
import time
from collections.abc import Iterator

import numpy as np

from cnn_numba.augment import Augment
from cnn_numba.buffer import Buffer
from cnn_numba.data.on_disk import ImagesOnDisk
from cnn_numba.errors import InputError
from cnn_numba.kernels import batch, loss
from cnn_numba.kernels.lanes import LANES
from cnn_numba.kernels.program import Call, Program
from cnn_numba.losses import ClassLoss, checked_labels
from cnn_numba.parameter import plain_array
from cnn_numba.plan import Plan

REPORTS = 50                # least number of reports per epoch
REPLAYS = 64                # largest number of batches per call of the driver
STAGED_BYTES = 1 << 25      # of images that are read from the disk at a time
CALL_SECONDS = 0.05         # longest duration of such a call, for Ctrl-C and the progress bar


class Feed:
    """Images, labels, the order in which batches take them, and the sums over the batches.

    Parameters
    ----------
    images : array (N, C, H, W) of numbers, or ImagesOnDisk
    labels : int array (N,)
    shape : (C, H, W), the required shape of an image
    classes : int
    batch_size : int
    mean, std : float arrays (C,), which normalise the images
    batch : int64 (2,)
        first, count: the batch holds the images order[first : first + count].

    Raises InputError when images or labels are not such arrays, or contain NaN, infinity or labels out of range.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, shape: tuple[int, ...], classes: int, batch_size: int,
                 mean: np.ndarray, std: np.ndarray, batch: np.ndarray):
        on_disk = isinstance(images, ImagesOnDisk)          # checked when the file was opened
        images = images if on_disk else plain_array("the images", images)
        if images.shape[1:] != shape or not len(images) or images.dtype.kind not in "iuf":
            raise InputError(f"the images must be numbers of shape (N, {', '.join(map(str, shape))}), N at least 1, "
                             f"got {images.dtype} {images.shape}")
        if images.dtype.kind == "f" and not on_disk and not np.isfinite(images).all():
            raise InputError("the images contain NaN or infinity, expected finite numbers")
        self.images = images if images.dtype in (np.uint8, np.float32) else images.astype(np.float32)
        self.labels = checked_labels(labels, len(images), classes)
        self.mean = np.asarray(mean, np.float32)
        self.scale = (1 / np.where(np.asarray(std) > 0, std, 1)).astype(np.float32)
        self.order, self.batch, self.sums = np.arange(len(images)), batch, np.zeros(2)
        self.draw = np.zeros(2, np.int64)
        self.blocks, self.lanes = math.ceil(batch_size / LANES), min(batch_size, LANES)
        self.losses, self.predictions = np.zeros(len(images), np.float32), np.zeros(len(images), np.int64)
        self.batch_size = batch_size
        self.pixels, self.places, self._most = self.images, self.order, REPLAYS
        if on_disk:                                         # the next batches are copied to `pixels`, from its start
            image = self.images[:1].nbytes
            self._most = max(1, min(REPLAYS, STAGED_BYTES // (batch_size * image)))
            self.pixels = np.empty((min(len(images), self._most * batch_size), *shape), images.dtype)
            self.places = np.zeros(len(images), np.int64)

    @property
    def steps(self) -> int:
        """Number of batches of an epoch."""
        return math.ceil(len(self.images) / self.batch_size)

    @property
    def done(self) -> int:
        """Number of images of the epoch that are done."""
        return int(self.batch.sum())

    def start(self) -> None:
        """Go back to before the first batch, and reset the sums."""
        self.batch[:] = 0
        self.sums[:] = 0

    def replay(self, program: Program) -> Iterator[int]:
        """Replay a program that begins with `next_batch` until all images are done, several batches per call.

        Yields the number of images of each call.
        """
        images, repeats = len(self.images), 1
        most = min(self._most, math.ceil(self.steps / REPORTS))
        while (before := self.done) < images:
            start = time.perf_counter()
            repeats_left = math.ceil((images - before) / self.batch_size)
            self._stage(before, min(repeats, repeats_left) * self.batch_size)
            program(min(repeats, repeats_left))
            if time.perf_counter() - start < CALL_SECONDS / 2:
                repeats = min(2 * repeats, most)
            yield self.done - before

    def _stage(self, before: int, count: int) -> None:
        """Copy the next images from the disk, if they are there, and announce those after them."""
        if isinstance(self.images, ImagesOnDisk):
            batches = self.order[before:before + count]
            self.images.fetch(batches, self.pixels)
            self.images.expect(self.order[before + count:before + 2 * count])
            self.places[before:before + count] = np.arange(len(batches))

    # ---- kernel calls -----------------------------------------------------------------------------------------------
    def next_batch(self) -> Call:
        return Call(batch.next_batch, 1, batch=self.batch, size=self.batch_size, images=len(self.images))

    def gather(self, plan: Plan, augment: Augment | None = None) -> list[Call]:
        """The calls that fill the input of a plan: pick, augment and normalise the images of the batch."""
        arrays = dict(x=plan.x.inner, images=self.pixels, order=self.places, batch=self.batch, mean=self.mean,
                      scale=self.scale, lanes=self.lanes)
        if augment:
            return augment.calls(self.blocks, draw=self.draw, numbers=self.order, **arrays)
        return [Call(batch.gather, self.blocks, **arrays)]

    def loss(self, loss: ClassLoss, plan: Plan, dz: Buffer) -> Call:
        return loss.call(dz, self.losses, self.predictions, plan.z, self.labels, self.order, self.batch)

    def tally(self) -> Call:
        """The call that adds the losses and correct predictions of the batch to the sums."""
        return Call(loss.tally, 1, sums=self.sums, losses=self.losses, predictions=self.predictions,
                    labels=self.labels, order=self.order, batch=self.batch)
