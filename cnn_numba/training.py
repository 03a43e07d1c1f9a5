"""Training and evaluation over a data set: every batch is one replay of one table, from pixels to update."""
import math
import time
from dataclasses import dataclass

import numpy as np

from cnn_numba.augment import Augment
from cnn_numba.errors import Diverged, InputError, seed_number, whole_number
from cnn_numba.init import ORDER, stream
from cnn_numba.kernels import batch, loss
from cnn_numba.kernels.lanes import LANES
from cnn_numba.kernels.program import Call, Program, at_once, in_order
from cnn_numba.layers import below
from cnn_numba.losses import ClassLoss, CrossEntropyLoss, checked_labels
from cnn_numba.lr_scheduler import ReduceLROnPlateau
from cnn_numba.optim import GradientNorm
from cnn_numba.plan import Buffer

EVALUATION_BATCH = 128
REPORTS = 50                # how often an epoch tells how far it is
REPLAYS = 64                # the most steps of one call of the driver
CALL_SECONDS = 0.05         # which should not take longer, for Ctrl-C and the progress bar


@dataclass(frozen=True)
class Evaluation:
    """loss: mean over the images; accuracy: per cent; predictions: int64 (N,)."""

    loss: float
    accuracy: float
    predictions: np.ndarray


@dataclass(frozen=True)
class EpochResult:
    """What an epoch of training gave.

    loss, accuracy : mean over the images, and per cent, each image judged when it was trained on
    seconds : of the training, without the validation
    images, steps : how many
    learning_rate : of the last step
    gradient_norm : mean over the steps at which it was measured, before clipping; None without any
    validation : Evaluation of the validation part; None without one
    """

    loss: float
    accuracy: float
    seconds: float
    images: int
    steps: int
    learning_rate: float
    gradient_norm: float | None = None
    validation: Evaluation | None = None

    @property
    def images_per_second(self):
        return self.images / self.seconds


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

    def gather(self, plan, augment=None):
        """The calls that lay the batch out for the plan."""
        if augment:
            return augment.calls(self.blocks, plan.x.inner, self.images, self.order, self.window, self.draw, self.mean,
                                 self.scale, self.lanes)
        return [Call(
            batch.gather, self.blocks, plan.x.inner, self.images, self.order, self.window, self.mean, self.scale,
            self.lanes)]

    def loss(self, loss, plan, dz):
        return loss.call(dz, self.losses, self.predictions, plan.z, self.labels, self.order, self.window)

    def step(self, plan, gather, loss, update, before=(), rates=()):
        """The phases of a training step: the calls of `gather`, loss and `update` around those of the plan, with
        some before all, and some that set the rates of the update."""
        phases = in_order(update)
        phases[-1] += at_once([self.tally()])[0]        # among the gradients it made two-conv 5 % slower on 2 threads
        return (at_once([*before, *plan.prepare_calls])
                + in_order([*gather, *plan.forward_calls, loss, *plan.backward_calls])
                + at_once([*plan.gradient_calls, *rates]) + phases)

    def tally(self):
        return Call(loss.tally, 1, self.sums, self.losses, self.predictions, self.labels, self.order, self.window)


class Trainer:
    """Trains a model on a data set and measures it.  Making one compiles every kernel that it needs.

    Parameters
    ----------
    model : Sequential
        A Softmax or LogSoftmax at its end is left out when the loss is the cross-entropy, which has its own.
    data : Dataset
        Its training part is shuffled anew for every epoch; its mean and standard deviation normalise all images.  Where
        it has a validation part, every epoch ends with a look at it, and the best weights are kept (`restore_best`).
    optimizer : Optimizer
        Of this model.
    batch_size : int
        Images per update; a last short batch is trained on too.
    seed : int
        The order of the images derives from it and the number of the epoch.
    loss : CrossEntropyLoss or MSELoss, optional
        CrossEntropyLoss() unless given.
    scheduler : of `lr_scheduler`, optional
        Of this optimizer; changes the learning rate after every epoch or, where it is made for that, every step.
    max_norm : float, optional
        The longest gradient (2-norm over all parameters) that is not scaled down to it.
    measure_norm : bool
        Whether the norm of the gradient is measured for the results of the epochs.
    augment : Augment, optional
        How images are moved while they are trained on; those that are evaluated are not.

    Attributes
    ----------
    epochs : int
        How many are done.
    best : dict or None
        {"epoch", "loss", "accuracy"} of the best epoch so far: the one of the highest accuracy on the validation part
        (of the least loss, among equals) or, without such a part, of the least loss in training.

    Raises InputError (a ValueError) when the batch size is less than 1, labels are out of range, images hold NaN, or
    the network does not fit the images.
    """

    def __init__(self, model, data, optimizer, batch_size=64, seed=0, loss=None, scheduler=None, max_norm=None,
                 measure_norm=False, augment=None):
        batch_size = min(whole_number("Trainer", "batch_size", batch_size), max(1, len(data.train_images)))
        if optimizer.model is not model:
            raise InputError("Trainer: the optimizer updates another model than the one to train")
        if scheduler is not None and scheduler.optimizer is not optimizer:
            raise InputError("Trainer: the scheduler belongs to another optimizer than the one that updates the model")
        if loss is not None and not isinstance(loss, ClassLoss):
            raise InputError(f"Trainer: the loss must be a CrossEntropyLoss or an MSELoss, got {loss!r}")
        if not isinstance(augment, Augment | None):
            raise InputError(f"Trainer: augment must be an Augment, got {augment!r}")
        shape = data.train_images.shape[1:]
        if model.output_shape(shape) != (data.num_classes,):
            raise InputError(f"the model ends in {model.output_shape(shape)}, expected ({data.num_classes},), "
                             f"one logit for each class of {data.name}")
        self.model, self.data, self.optimizer, self.batch_size = model, data, optimizer, batch_size
        self.seed = seed_number("Trainer", seed)
        self.loss, self.scheduler = loss or CrossEntropyLoss(), scheduler
        self.epochs, self._seconds, self.best, self._best_tensors = 0, 0.0, None, None
        model.input_shape, model.mean, model.std, model.classes = shape, data.mean, data.std, data.classes
        model.accuracy = None
        feed = self._feed = self._make_feed(data.train_images, data.train_labels, batch_size, np.zeros(2, np.int64))
        logits = isinstance(self.loss, CrossEntropyLoss)
        plan = model.plan(shape, feed.blocks, logits=logits, input_gradient=False, lanes=feed.lanes,
                          window=feed.window, draw=feed.draw)
        self._norm = GradientNorm(model, max_norm) if measure_norm or max_norm is not None else None
        self._steps = math.ceil(len(feed.images) / batch_size)
        self._rates = np.zeros((self._steps, 2)) if scheduler is not None and scheduler.per == "step" else None
        rate_calls = [] if self._rates is None else [optimizer.rate_call(self._rates, feed.window, batch_size)]
        update_calls = [*(self._norm.calls() if self._norm else []), *optimizer.calls()]
        self._step = Program(feed.step(
            plan, feed.gather(plan, augment), feed.loss(self.loss, plan, plan.dz), update_calls,
            [feed.next_batch()], rate_calls), REPLAYS)
        self._evaluation_plan = model.plan(
            shape, EVALUATION_BATCH // LANES, logits=logits, backward=False, training=False)
        self._validation = None if data.validation_images is None else self._evaluation_program(
            data.validation_images, data.validation_labels)
        self._evaluation_program(data.test_images, data.test_labels)
        Program([])()                                               # compiles the driver

    def _make_feed(self, images, labels, batch_size, window):
        shape = self.data.train_images.shape[1:]
        return Feed(images, labels, shape, self.data.num_classes, batch_size, self.data.mean, self.data.std, window)

    def _evaluation_program(self, images, labels):
        plan = self._evaluation_plan
        feed = self._make_feed(images, labels, EVALUATION_BATCH, plan.window)
        unused = Buffer(plan.blocks, plan.shapes[-1])
        calls = [*feed.gather(plan), *plan.forward_calls, feed.loss(self.loss, plan, unused)]
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

        Raises Diverged when the loss, the norm of the gradient or a weight is no longer finite; the training then
        stands where this call began.
        """
        start, before = time.perf_counter(), self.state()
        feed, images = self._feed, len(self._feed.images)
        feed.order[:] = stream(self.seed, ORDER, self.epochs).permutation(images)
        feed.draw[:] = self.seed, self.epochs
        if self._rates is not None:
            self._rates[:] = self.scheduler.rates(self._steps)
        feed.replay(self._step, advance, lambda: not math.isfinite(feed.sums[0]) or (pause is not None and pause()))
        self._check_finite(before)
        self._seconds += time.perf_counter() - start
        if feed.done < images:
            return None
        loss, right = feed.sums / images
        validation = self._evaluation(*self._validation) if self._validation else None
        result = EpochResult(float(loss), 100 * float(right), self._seconds, images, self._steps, self.optimizer.lr,
                             float(self._norm.norms[1] / self._norm.norms[3]) if self._norm else None, validation)
        self.epochs += 1
        self._keep_best(result)
        self._advance_scheduler(result)
        self._seconds = 0.0
        feed.start()
        if self._norm:
            self._norm.reset()
        return result

    def _check_finite(self, before):
        """Diverged, and back to the state before, unless loss, gradients and weights are finite."""
        feed = self._feed
        step = math.ceil(feed.done / self.batch_size)
        if not math.isfinite(feed.sums[0]):
            losses = feed.losses[feed.order[:feed.done]]
            image = int(np.argmin(np.isfinite(losses)))
            what, step = f"the loss became {losses[image]}", image // self.batch_size + 1
        elif not (np.isfinite(self.model.values).all() and np.isfinite(self.model.statistics).all()):
            what = "the weights are no longer finite"
        elif self._norm and not math.isfinite(self._norm.norms[1]):
            what = "the norm of the gradient is no longer finite"
        else:
            return
        self.load_state(before)
        raise Diverged(self.epochs + 1, step, what)

    def _keep_best(self, result):
        judged = result.validation or result
        new = {"epoch": self.epochs, "loss": judged.loss, "accuracy": judged.accuracy}
        if not math.isfinite(judged.loss):
            return
        if self._validation is None:
            if self.best is None or new["loss"] < self.best["loss"]:
                self.best = new
        elif self.best is None or (-new["accuracy"], new["loss"]) < (-self.best["accuracy"], self.best["loss"]):
            self.best, self._best_tensors = new, self.model.state_dict()

    def _advance_scheduler(self, result):
        if self.scheduler is None:
            return
        if self.scheduler.per == "step":
            self.scheduler.advance(self._steps)
        elif isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(result.loss if result.validation is None else result.validation.loss)
        else:
            self.scheduler.step()

    def restore_best(self):
        """Give the model the weights that were best on the validation part; without one, it keeps those it has."""
        if self._best_tensors is not None:
            self.model.load_state_dict(self._best_tensors)

    def state(self):
        """{name: array, number, or list or dict of them}: all that the rest of the training depends on, but the data.

        The order of the images derives from the seed and the number of the epoch.
        """
        tensors = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                   "best": self._best_tensors or {}}
        return {"batch_size": self.batch_size, "seed": self.seed, "epochs": self.epochs, "step": self.step,
                "sums": self._feed.sums.tolist(), "seconds": self._seconds, "best": self.best,
                "norms": self._norm.norms.tolist() if self._norm else None,
                "scheduler": self.scheduler.state_dict() if self.scheduler else None,
                **{f"{part}.{name}": value for part, state in tensors.items() for name, value in state.items()}}

    def load_state(self, state):
        """Go on where another trainer that was made with the same arguments gave its `state`, to the same bits.

        Only `measure_norm` may be another.  Raises InputError when the state is not of such a trainer.
        """
        for name in "batch_size", "seed":
            if state.get(name) != getattr(self, name):
                raise InputError(f"the training was one with {name} {state.get(name)!r}, not {getattr(self, name)}")
        epochs = whole_number("the state", "epochs", state.get("epochs"), 0)
        step = whole_number("the state", "step", state.get("step"), 0)
        if step * self.batch_size >= len(self._feed.images):
            raise InputError(f"step {step} is past the {len(self._feed.images)} images of an epoch")
        for name in "best", "norms", "scheduler":
            if name not in state:
                raise InputError(f"the state lacks {name!r}")
        numbers, best = [state.get("seconds")], state["best"]
        for sums, size in (state.get("sums"), 2), (state["norms"] or [0] * 4, 4):
            numbers += sums if isinstance(sums, list) and len(sums) == size else [None]
        if best is not None:
            numbers += [best.get(name) for name in ("epoch", "loss", "accuracy")] if isinstance(best, dict) else [None]
        if not all(isinstance(x, (int, float)) and math.isfinite(x) for x in numbers):
            raise InputError("the sums, the norms, the seconds or the best epoch are no finite numbers")
        if (state["scheduler"] is None) != (self.scheduler is None):
            raise InputError(f"the training was one with{'out' if self.scheduler else ''} a schedule")
        parts = {part: below(f"{part}.", state) for part in ("model", "optimizer", "best")}
        if bool(parts["best"]) != (best is not None and self._validation is not None):
            raise InputError("the best weights and the best epoch do not belong together")
        if parts["best"]:
            self.model.load_state_dict(parts["best"])               # checks them
        self._best_tensors = parts["best"] or None
        self.model.load_state_dict(parts["model"])
        self.optimizer.load_state_dict(parts["optimizer"])
        if self._norm:
            self._norm.norms[:] = state["norms"] or 0
        if self.scheduler:
            self.scheduler.load_state_dict(state["scheduler"])
        self.epochs, self._seconds, self.best = epochs, float(state["seconds"]), best
        self._feed.window[:] = 0, step * self.batch_size
        self._feed.sums[:] = state["sums"]

    def evaluate(self, images, labels):
        """Loss and accuracy on other images (N, C, H, W), normalised as those of the training part.

        Raises InputError when labels or images are out of range.
        """
        return self._evaluation(*self._evaluation_program(images, labels))

    @staticmethod
    def _evaluation(feed, program):
        feed.start()
        feed.replay(program)
        loss, right = feed.sums / len(feed.images)
        return Evaluation(float(loss), 100 * float(right), feed.predictions.copy())
