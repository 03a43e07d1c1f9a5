"""Training and evaluation over a data set: every batch is one replay of one table, from pixels to update."""
import math
import time
from dataclasses import dataclass

import numpy as np

from kernels import batch, loss
from kernels.lanes import LANES
from kernels.program import Call, Program, at_once, in_order

from .errors import InputError, whole_number
from .init import ORDER, stream
from .losses import ClassLoss, CrossEntropyLoss, checked_labels
from .plan import Buffer

EVALUATION_BATCH = 128
REPORTS = 50                # how often an epoch tells how far it is
REPLAYS = 64                # the most steps of one call of the driver
CALL_SECONDS = 0.05         # which should not take longer, for Ctrl-C and the progress bar


@dataclass(frozen=True)
class EpochResult:
    """loss: mean over the images; accuracy: per cent, each image judged when it was trained on; seconds; images."""

    loss: float
    accuracy: float
    seconds: float
    images: int


@dataclass(frozen=True)
class Evaluation:
    """loss: mean over the images; accuracy: per cent; predictions: int64 (N,)."""

    loss: float
    accuracy: float
    predictions: np.ndarray


class Feed:
    """Batches of a set of images, and the sums over them: what one table of calls reads and writes besides the network.

    window = (first, count) is the batch: images order[first : first + count].  draw = (seed, epoch).
    """

    def __init__(self, images, labels, shape, classes, batch_size, mean, std, window):
        images = np.asarray(images)
        if images.shape[1:] != shape or not len(images) or images.dtype.kind not in "iuf":
            raise InputError(f"the images must be numbers of shape (N, {', '.join(map(str, shape))}), N at least 1, "
                             f"got {images.dtype} {images.shape}")
        if images.dtype.kind == "f" and not np.isfinite(images).all():
            raise InputError("the images contain NaN or infinity, expected finite numbers")
        self.images = images if images.dtype in (np.uint8, np.float32) else images.astype(np.float32)
        self.labels = checked_labels(labels, len(images), classes)
        self.mean = np.asarray(mean, np.float32)
        self.scale = (1 / np.where(np.asarray(std) > 0, std, 1)).astype(np.float32)
        self.order, self.window, self.sums = np.arange(len(images)), window, np.zeros(2)
        self.draw = np.zeros(2, np.int64)
        self.blocks, self.lanes = math.ceil(batch_size / LANES), min(batch_size, LANES)
        self.losses, self.predictions = np.zeros(len(images), np.float32), np.zeros(len(images), np.int64)
        self.batch_size = batch_size

    def next_batch(self):
        return Call(batch.next_batch, 1, self.window, self.batch_size, len(self.images))

    def start(self):
        """Before the first batch."""
        self.window[:] = 0
        self.sums[:] = 0

    @property
    def done(self):
        """How many images are through."""
        return int(self.window.sum())

    def replay(self, program, advance=None, pause=None):
        """Replay a program that starts with `next_batch` until all images are through, or `pause()`, asked between
        calls, is true; several batches at a call."""
        images, repeats, told, done = len(self.images), 1, self.done, self.done
        most = min(REPLAYS, math.ceil(images / self.batch_size / REPORTS))
        while done < images and not (pause and pause()):
            start = time.perf_counter()
            program(min(repeats, math.ceil((images - done) / self.batch_size)))
            if time.perf_counter() - start < CALL_SECONDS / 2:
                repeats = min(2 * repeats, most)
            done = self.done
            if advance and (done - told >= images / REPORTS or done == images):
                advance(done - told)
                told = done

    def gather(self, plan):
        return Call(
            batch.gather, self.blocks, plan.x.inner, self.images, self.order, self.window, self.mean, self.scale,
            self.lanes)

    def loss(self, loss, plan, dz):
        return loss.call(dz, self.losses, self.predictions, plan.z, self.labels, self.order, self.window)

    def tally(self):
        return Call(loss.tally, 1, self.sums, self.losses, self.predictions, self.labels, self.order, self.window)


class Trainer:
    """Trains a model on a data set and measures it.  Making one compiles every kernel that it needs.

    Parameters
    ----------
    model : Sequential
    data : Dataset
        Its training part is shuffled anew for every epoch; its mean and standard deviation normalise all images.
    optimizer : SGD
        Of this model.
    batch_size : int
        Images per update; a last short batch is trained on too.
    seed : int
        The order of the images derives from it and the number of the epoch.
    loss : CrossEntropyLoss or MSELoss, optional
        CrossEntropyLoss() unless given.

    Raises InputError (a ValueError) when the batch size is less than 1, labels are out of range, images hold NaN, or
    the network does not fit the images.
    """

    def __init__(self, model, data, optimizer, batch_size=64, seed=0, loss=None):
        batch_size = min(whole_number("Trainer", "batch_size", batch_size), max(1, len(data.train_images)))
        if optimizer.model is not model:
            raise InputError("Trainer: the optimizer updates another model than the one to train")
        shape = data.train_images.shape[1:]
        if model.output_shape(shape) != (data.num_classes,):
            raise InputError(f"the model ends in {model.output_shape(shape)}, expected ({data.num_classes},), "
                             f"one logit for each class of {data.name}")
        self.model, self.data, self.optimizer, self.batch_size, self.seed = model, data, optimizer, batch_size, seed
        self.loss = CrossEntropyLoss() if loss is None else loss
        if not isinstance(self.loss, ClassLoss):
            raise InputError(f"Trainer: the loss must be a CrossEntropyLoss or an MSELoss, got {loss!r}")
        self.epochs, self._seconds, self.best = 0, 0.0, None
        model.input_shape, model.mean, model.std, model.classes = shape, data.mean, data.std, data.classes
        model.accuracy = None
        feed = self._feed = self._make_feed(data.train_images, data.train_labels, batch_size, np.zeros(2, np.int64))
        plan = model.plan(shape, feed.blocks, input_gradient=False, lanes=feed.lanes, window=feed.window,
                          draw=feed.draw)
        forward_and_back = [
            feed.gather(plan), *plan.forward_calls, feed.loss(self.loss, plan, plan.dz), *plan.backward_calls]
        self._step = Program(at_once([feed.next_batch(), *plan.prepare_calls]) + in_order(forward_and_back)
                             + at_once(plan.gradient_calls) + at_once([*optimizer.calls(), feed.tally()]), REPLAYS)
        self._evaluation_plan = model.plan(shape, EVALUATION_BATCH // LANES, backward=False, training=False)
        self._evaluation_program(data.test_images, data.test_labels)
        Program([])()                                               # compiles the driver

    def _make_feed(self, images, labels, batch_size, window):
        shape = self.data.train_images.shape[1:]
        return Feed(images, labels, shape, self.data.num_classes, batch_size, self.data.mean, self.data.std, window)

    def _evaluation_program(self, images, labels):
        plan = self._evaluation_plan
        feed = self._make_feed(images, labels, EVALUATION_BATCH, plan.window)
        unused = Buffer(plan.blocks, plan.shapes[-1])
        calls = [feed.gather(plan), *plan.forward_calls, feed.loss(self.loss, plan, unused)]
        return feed, Program(at_once([feed.next_batch(), *plan.prepare_calls]) + in_order(calls)
                             + at_once([feed.tally()]), REPLAYS)

    @property
    def step(self):
        """How many batches of the current epoch are done."""
        return self._feed.done // self.batch_size

    def epoch(self, advance=None, pause=None):
        """Train on every image once, or on those that a paused epoch has left.

        Parameters
        ----------
        advance : callable, optional
            Called with a number of images, some dozens of times, for a progress bar.
        pause : callable, optional
            Asked before every few batches whether to stop there; the next call goes on from that batch.

        Returns
        -------
        EpochResult, or None when it stopped
        """
        start = time.perf_counter()
        feed, images = self._feed, len(self._feed.images)
        feed.order[:] = stream(self.seed, ORDER, self.epochs).permutation(images)
        feed.draw[:] = self.seed, self.epochs
        feed.replay(self._step, advance, pause)
        self._seconds += time.perf_counter() - start
        if feed.done < images:
            return None
        loss, right = feed.sums / images
        result = EpochResult(float(loss), 100 * float(right), self._seconds, images)
        self.epochs += 1
        if math.isfinite(result.loss) and (self.best is None or result.loss < self.best["loss"]):
            self.best = {"epoch": self.epochs, "loss": result.loss, "accuracy": result.accuracy}
        self._seconds = 0.0
        feed.start()
        return result

    def state(self):
        """{name: array, number, or list or dict of them}: all that the rest of the training depends on, but the data.

        The order of the images derives from the seed and the number of the epoch; best is the epoch of the least loss.
        """
        return {"batch_size": self.batch_size, "seed": self.seed, "epochs": self.epochs, "step": self.step,
                "sums": self._feed.sums.tolist(), "seconds": self._seconds, "best": self.best,
                **{f"model.{name}": value for name, value in self.model.state_dict().items()},
                **{f"optimizer.{name}": value for name, value in self.optimizer.state_dict().items()}}

    def load_state(self, state):
        """Go on where another trainer of the same model, data, batch size and seed gave its `state`, to the same bits.

        Raises InputError when the state is not of such a trainer.
        """
        for name in "batch_size", "seed":
            if state.get(name) != getattr(self, name):
                raise InputError(f"the training was one with {name} {state.get(name)!r}, not {getattr(self, name)}")
        epochs = whole_number("the state", "epochs", state.get("epochs"), 0)
        step = whole_number("the state", "step", state.get("step"), 0)
        if step * self.batch_size >= len(self._feed.images):
            raise InputError(f"step {step} is past the {len(self._feed.images)} images of an epoch")
        numbers, best = [state.get("seconds")], state.get("best")
        numbers += state["sums"] if isinstance(state.get("sums"), list) and len(state["sums"]) == 2 else [None]
        if best is not None:
            numbers += [best.get(name) for name in ("epoch", "loss", "accuracy")] if isinstance(best, dict) else [None]
        if not all(isinstance(x, (int, float)) and math.isfinite(x) for x in numbers):
            raise InputError("the sums, the seconds or the best epoch are no finite numbers")
        parts = {part: {name.removeprefix(f"{part}."): value for name, value in state.items()
                        if name.startswith(f"{part}.")} for part in ("model", "optimizer")}
        self.model.load_state_dict(parts["model"])
        self.optimizer.load_state_dict(parts["optimizer"])
        self.epochs, self._seconds, self.best = epochs, float(state["seconds"]), best
        self._feed.window[:] = 0, step * self.batch_size
        self._feed.sums[:] = state["sums"]

    def evaluate(self, images, labels):
        """Loss and accuracy on other images (N, C, H, W), normalised as those of the training part.

        Raises InputError when labels or images are out of range.
        """
        feed, program = self._evaluation_program(images, labels)
        feed.start()
        feed.replay(program)
        loss, right = feed.sums / len(feed.images)
        return Evaluation(float(loss), 100 * float(right), feed.predictions)
