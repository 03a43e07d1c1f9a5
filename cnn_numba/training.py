"""Training and evaluation on a data set: a step is one replay of a table, from the pixels to the update."""
import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnn_numba.augment import Augment
from cnn_numba.buffer import Buffer
from cnn_numba.callbacks import Callback, Notifier
from cnn_numba.data import Dataset
from cnn_numba.errors import Diverged, InputError, seed_number, whole_number
from cnn_numba.execution import bf16, checked_precision, get_float32_matmul_precision
from cnn_numba.feed import REPLAYS, Feed
from cnn_numba.history import EpochResult, History
from cnn_numba.init import ORDER, stream
from cnn_numba.kernels import driver
from cnn_numba.kernels.compiled import compile_requested
from cnn_numba.kernels.lanes import LANES
from cnn_numba.kernels.program import Call, Program, at_once, in_order
from cnn_numba.layers import BatchNorm1d, BatchNorm2d, below, infer_shapes
from cnn_numba.losses import ClassLoss, CrossEntropyLoss
from cnn_numba.lr_scheduler import LRScheduler, ReduceLROnPlateau
from cnn_numba.model import Sequential
from cnn_numba.optim import GradientNorm, Optimizer
from cnn_numba.plan import Plan, blocks_for, pieces_for
from cnn_numba.reuse import reuse
from cnn_numba.team import Alone

__all__ = ["Evaluation", "Trainer"]

EVALUATION_BATCH = 128


@dataclass(frozen=True)
class Evaluation:
    """loss: mean over the images; accuracy: per cent; predictions: int64 (N,)."""

    loss: float
    accuracy: float
    predictions: np.ndarray


def training_step(feed: Feed, plan: Plan, gather: Sequence[Call], loss: Call, update: Sequence[Call],
                  before: Sequence[Call] = (), rates: Sequence[Call] = ()) -> list:
    """The phases of one training step, for `Program`: forward pass, loss, backward pass and update in one table.

    before : calls that run first, such as `Feed.next_batch`
    rates : calls that set the learning rate of the step
    """
    calls = plan.calls
    return reuse(at_once([*before, *calls.prepare])
                 + in_order([*gather, *calls.forward, loss, *calls.backward])
                 + end_of_step(feed, plan, update, rates), calls.buffers)


def end_of_step(feed: Feed, plan: Plan, update: Sequence[Call], rates: Sequence[Call] = ()) -> list:
    """The phases of a training step after the backward pass, when all blocks are done."""
    phases = in_order(update) or [[]]
    phases[-1] += at_once([feed.tally()])[0]        # beside the gradients, it made two-conv 5 % slower on 2 threads
    return at_once([*plan.calls.gradients, *rates]) + phases


def with_one_value(plan: Plan) -> list[str]:
    """The names of the batch normalisations that get a single value for each channel from a batch of one image."""
    return [f"{name} {type(layer).__name__}" for name, layer, wires in plan.stages
            if isinstance(layer, (BatchNorm1d, BatchNorm2d)) and wires.setup.trains(layer)
            and math.prod(wires.x.shape[1:]) == 1]


class Trainer:
    """Trains a model on a data set and evaluates it.  The constructor compiles every kernel that it needs.

    Parameters
    ----------
    model : Sequential
        A Softmax or LogSoftmax at its end is left out with the cross-entropy loss, which contains it.
    data : Dataset
        Its training part is shuffled for every epoch; its mean and standard deviation normalise all images.  If it has
        a validation part, every epoch is evaluated on it, and the best weights are kept (`restore_best`).
    optimizer : Optimizer
        An optimizer of this model.
    batch_size : int
        Images per step; a short last batch is used, too.
    seed : int
        The order of the images derives from the seed and the number of the epoch.
    loss : CrossEntropyLoss, MSELoss or another ClassLoss, optional
        Default: CrossEntropyLoss().
    scheduler : of `lr_scheduler`, optional
        A scheduler of this optimizer; changes the learning rate after every epoch, or after every step (OneCycleLR).
    max_norm : float, optional
        Gradients whose 2-norm over all parameters exceeds this are scaled down to it.
    measure_norm : bool
        Whether the results of the epochs include the norm of the gradient.
    measure_test : bool
        Whether the results of the epochs include loss and accuracy on the test part, by which nothing is chosen.
    augment : Augment, optional
        Random changes of the training images, not of those for evaluation.
    precision : "highest", "high" or "medium", optional
        See `set_float32_matmul_precision`.  Default: the one in use.
    team : mpi.Ranks, optional
        The processes that train together.  Default: this one alone.
    report : callable
        Called with a sentence when the last batch of an epoch is too small for the network.  Default: a warning.

    Attributes
    ----------
    epochs : int
        Number of epochs done.
    history : History
        Their results.
    best : dict or None
        {"epoch", "loss", "accuracy"} of the best epoch so far: that with the highest validation accuracy (and among
        equals the lowest loss) or, without a validation part, with the lowest training loss.

    Raises InputError (a ValueError) when the batch size is below 1, labels are out of range, images contain NaN, or the
    network does not fit the images.
    """

    def __init__(self, model: Sequential, data: Dataset, optimizer: Optimizer, batch_size: int = 64, seed: int = 0,
                 loss: ClassLoss | None = None, scheduler: LRScheduler | ReduceLROnPlateau | None = None,
                 max_norm: float | None = None, measure_norm: bool = False, measure_test: bool = False,
                 augment: Augment | None = None, precision: str | None = None, team: Alone | None = None,
                 report: Callable[[str], object] = warnings.warn):
        batch_size = min(whole_number("Trainer", "batch_size", batch_size), max(1, len(data.train_images)))
        if not {id(p) for p in optimizer.parameters} <= {id(p) for p in model.parameters()}:
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
        self.precision = checked_precision("Trainer", precision or get_float32_matmul_precision())
        self.model, self.data, self.optimizer, self.batch_size = model, data, optimizer, batch_size
        self._arguments = dict(model=model, data=data, optimizer=optimizer, batch_size=batch_size, seed=seed, loss=loss,
                               scheduler=scheduler, max_norm=max_norm, measure_norm=measure_norm,
                               measure_test=measure_test, augment=augment, precision=self.precision)
        self.seed = seed_number("Trainer", seed)
        self.loss, self.scheduler = loss or CrossEntropyLoss(), scheduler
        self.loss.refuse_in_training(data.num_classes)
        self.epochs, self.history, self.best = 0, History(), None
        self._seconds, self._best_tensors, self._stopping = 0.0, None, False
        model.input_shape, model.mean, model.std, model.classes = shape, data.mean, data.std, data.classes
        model.accuracy = model.recipe = None
        self.team = team or Alone()
        mine = self.team.share(data.train_images, data.train_labels, batch_size)
        feed = self._feed = self._make_feed(*mine, np.zeros(2, np.int64))
        logits = isinstance(self.loss, CrossEntropyLoss)
        self._norm = GradientNorm(model, max_norm) if measure_norm or max_norm is not None else None
        of_steps = scheduler is not None and scheduler.per == "step"
        self._rates = np.zeros((len(optimizer.param_groups), feed.steps, 2)) if of_steps else None
        self._augment, self._report = augment, report
        self._trained: Any = None
        self._make_step()
        most = max(map(len, (data.test_images, *([] if data.validation_images is None else [data.validation_images]))))
        blocks = blocks_for(infer_shapes(model.layers, shape), most, EVALUATION_BATCH)
        self._evaluation_plan = model.plan(shape, blocks, logits=logits, backward=False, training=False,
                                            bf16=bf16(self.precision), pieces=pieces_for(blocks))
        self._validation = None if data.validation_images is None else self._evaluation_program(
            data.validation_images, data.validation_labels)
        test = self._evaluation_program(data.test_images, data.test_labels)
        self._test = test if measure_test else None
        compile_requested()

    def _make_step(self):
        """Make the program of a step, unless it is there and the same parameters are frozen."""
        trained = [p.requires_grad for p in self.model.parameters()], self.optimizer.trained()
        if self._trained == trained:
            return
        feed, model, optimizer, self._trained = self._feed, self.model, self.optimizer, trained
        if not any(optimizer.trained()) and optimizer.parameters:
            raise InputError("Trainer: all parameters are frozen (requires_grad is False), nothing can be trained")
        logits = isinstance(self.loss, CrossEntropyLoss)
        plan = model.plan(self.data.train_images.shape[1:], feed.blocks, logits=logits, input_gradient=False,
                          lanes=feed.lanes, batch=feed.batch, draw=feed.draw, bf16=bf16(self.precision),
                          pieces=self.team.pieces(feed.blocks))
        if (len(feed.images) % feed.batch_size or feed.batch_size) == 1 and (names := with_one_value(plan)):
            self._report(f"the last batch of an epoch has a single image, so {', '.join(names)} gets one value for "
                         "each channel and gives its shift, whatever that value is: choose another batch size")
        rate_calls = [] if self._rates is None else [
            group.rate_call(rates, feed.batch, feed.batch_size)
            for group, rates in zip(optimizer.param_groups, self._rates, strict=True)]
        update_calls = [*(self._norm.calls() if self._norm else []), *optimizer.calls()]
        self._step = self.team.program(
            model, optimizer, feed, plan, feed.gather(plan, self._augment), feed.loss(self.loss, plan, plan.dz),
            update_calls, [feed.next_batch()], rate_calls)

    def _make_feed(self, images, labels, batch_size, batch):
        shape = self.data.train_images.shape[1:]
        return Feed(images, labels, shape, self.data.num_classes, batch_size, self.data.mean, self.data.std, batch)

    def _evaluation_program(self, images, labels):
        plan = self._evaluation_plan
        feed = self._make_feed(images, labels, plan.blocks * LANES, plan.setup.batch)
        unused = Buffer(plan.blocks, plan.z.shape)
        calls = [*feed.gather(plan), *plan.calls.forward, feed.loss(self.loss, plan, unused)]
        phases = at_once([feed.next_batch(), *plan.calls.prepare]) + in_order(calls) + at_once([feed.tally()])
        return feed, Program(reuse(phases, plan.calls.buffers), REPLAYS)

    def fit(self, epochs: int, callbacks: Callback | Callable | Iterable = ()) -> History:
        """Train until `epochs` epochs are done, or a callback calls `stop`; a later call continues from there.

        Parameters
        ----------
        epochs : int
            Counted from the start of the training: after `fit(3)`, `fit(5)` trains two more.
        callbacks : Callback or callable(trainer, result), or several of them
            See `callbacks.Callback`; a function is called after every epoch.

        Returns
        -------
        History : of all epochs so far

        Raises Diverged when the loss, the norm of the gradient or a weight is no longer finite; the trainer then has
        the state before the epoch, or before this call if the call began within the epoch.
        """
        epochs = whole_number("fit", "epochs", epochs, 0)
        notify, self._stopping = Notifier(self, callbacks), False
        self._make_step()
        try:
            notify("on_train_begin")
            while self.epochs < epochs and not self._stopping:
                before, start = self.state(), time.perf_counter()
                self._begin_epoch()
                for _ in self._feed.replay(self._step):         # forward, loss, backward, update: `training_step`
                    if not self.team.finite(self._feed.sums[0]):
                        break
                    notify("on_batch_end")
                    if self.team.stops(self._stopping):
                        break
                self._check_finite(before)
                self._seconds += time.perf_counter() - start
                if self._feed.done < len(self._feed.images):
                    break                                       # stopped within the epoch
                self.team.end_epoch(self._feed.sums)
                validation = self._evaluation(*self._validation) if self._validation else None
                test = self._evaluation(*self._test) if self._test else None
                self.epochs += 1
                result = self._epoch_result(validation, test)
                self.history.append(result)
                self._keep_best(result)
                self._advance_scheduler(result)
                self._end_epoch()
                notify("on_epoch_end", result)                  # log, checkpoint, early stopping
                self._stopping = self.team.agree(self._stopping)
        finally:
            notify("on_train_end")
        return self.history

    def epoch(self) -> EpochResult:
        """Train one more epoch: `fit(epochs + 1)[-1]`.  Raises Diverged, as `fit` does."""
        return self.fit(self.epochs + 1)[-1]

    def __reduce__(self) -> tuple:
        """Rebuild copies and pickles as independent trainers in the same state."""
        return _rebuilt, (type(self), self._arguments, self.state())

    def stop(self) -> None:
        """End `fit` after the batches that are running; for callbacks."""
        self._stopping = True

    @property
    def steps(self) -> int:
        """Number of batches of an epoch."""
        return self._feed.steps

    @property
    def step(self) -> int:
        """Number of batches done in the current epoch; equals `steps` in the last `on_batch_end` of an epoch."""
        return math.ceil(self._feed.done / self._feed.batch_size)

    @property
    def images_done(self) -> int:
        """Number of images done in the current epoch."""
        return self._feed.done * len(self.data.train_images) // len(self._feed.images)

    @property
    def running_loss(self) -> float:
        """Mean loss of the images done in the current epoch; NaN before the first batch."""
        return float(self._feed.sums[0] / self._feed.done) if self._feed.done else math.nan

    def _begin_epoch(self):
        """Shuffle, and set what changes from epoch to epoch; an epoch that was interrupted gets the same again."""
        feed = self._feed
        feed.order[:] = stream(self.seed, ORDER, self.epochs).permutation(len(feed.images))
        feed.draw[:] = self.seed, self.epochs
        if self._rates is not None:
            for k, rates in enumerate(self._rates):
                rates[:] = self.scheduler.rates(feed.steps, k)

    def _end_epoch(self):
        self._seconds = 0.0
        self._feed.start()
        if self._norm:
            self._norm.reset()

    def _epoch_result(self, validation, test):
        loss, right = self._feed.sums / len(self._feed.images)
        return EpochResult(
            epoch=self.epochs, loss=float(loss), accuracy=100 * float(right), seconds=self._seconds,
            images=len(self.data.train_images), steps=self._feed.steps, learning_rate=self.optimizer.lr,
            gradient_norm=float(self._norm.norms[1] / self._norm.norms[3]) if self._norm else None,
            validation_loss=validation.loss if validation else None,
            validation_accuracy=validation.accuracy if validation else None,
            test_loss=test.loss if test else None, test_accuracy=test.accuracy if test else None)

    def _check_finite(self, before):
        """Unless loss, gradients and weights are finite, restore the state `before` and raise Diverged."""
        feed = self._feed
        step = self.step
        if not self.team.finite(feed.sums[0]):
            losses = feed.losses[feed.order[:feed.done]]
            image = int(np.argmin(np.isfinite(losses)))
            what, step = f"the loss became {losses[image]}", image // feed.batch_size + 1
            if np.isfinite(losses[image]):
                what, step = "the loss of another process is no longer finite", self.step
        elif not self.model.is_finite():
            what = "the weights are no longer finite"
        elif self._norm and not math.isfinite(self._norm.norms[1]):
            what = "the norm of the gradient is no longer finite"
        else:
            return
        self.load_state(before)
        raise Diverged(self.epochs + 1, step, what)

    def _keep_best(self, result):
        judged = [result.loss, result.accuracy]
        if self._validation:
            judged = [result.validation_loss, result.validation_accuracy]
        loss, accuracy = judged
        if not math.isfinite(loss):
            return
        best = self.best
        if self._validation:
            better = best is None or (-accuracy, loss) < (-best["accuracy"], best["loss"])
        else:
            better = best is None or loss < best["loss"]
        if better:
            self.best = {"epoch": self.epochs, "loss": loss, "accuracy": accuracy}
            self._best_tensors = self.model.state_dict() if self._validation else None

    def _advance_scheduler(self, result):
        if self.scheduler is None:
            return
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(result.loss if result.validation_loss is None else result.validation_loss)
        else:
            self.scheduler.advance(self._feed.steps if self.scheduler.per == "step" else 1)

    def restore_best(self):
        """Load the weights with the best validation result into the model; without a validation part, do nothing."""
        if self._best_tensors is not None:
            self.model.load_state_dict(self._best_tensors)

    def state(self):
        """{name: array, number, or list or dict of them}: all that the further training depends on, except the data.

        The order of the images derives from the seed and the number of the epoch.
        """
        tensors = {"model": self.model.state_dict(), "optimizer": self.optimizer.state(),
                   "best": self._best_tensors or {}}
        other = {} if self.precision == "highest" else {"precision": self.precision}    # older files have none
        return {"batch_size": self.batch_size, "seed": self.seed, **other, "epochs": self.epochs, "step": self.step,
                "sums": self._feed.sums.tolist(), "seconds": self._seconds, "best": self.best,
                "history": self.history.state(),
                "norms": self._norm.norms.tolist() if self._norm else None,
                "scheduler": self.scheduler.state() if self.scheduler else None,
                **{f"{part}.{name}": value for part, state in tensors.items() for name, value in state.items()}}

    def load_state(self, state):
        """Restore the `state` of another trainer with the same arguments; training continues to the same bits.

        Only `measure_norm` and `measure_test` may differ.  Raises InputError when the state is not that of such a
        trainer.
        """
        for name in "batch_size", "seed", "precision":
            before = state.get(name, "highest" if name == "precision" else None)
            if before != getattr(self, name):
                raise InputError(f"the training had {name} {before!r}, not {getattr(self, name)}")
        epochs = whole_number("the state", "epochs", state.get("epochs"), 0)
        step = whole_number("the state", "step", state.get("step"), 0)
        if step > self.steps:
            raise InputError(f"step {step} is past the {self.steps} steps of an epoch")
        for name in "best", "norms", "scheduler":
            if name not in state:
                raise InputError(f"the state lacks {name!r}")
        history = History.from_state(state.get("history"))
        if len(history) != epochs or history["epoch"] != list(range(1, epochs + 1)):
            raise InputError(f"the history is not that of {epochs} epochs")
        numbers, best = [state.get("seconds")], state["best"]
        for sums, size in (state.get("sums"), 2), (state["norms"] or [0] * 4, 4):
            numbers += sums if isinstance(sums, list) and len(sums) == size else [None]
        if best is not None:
            numbers += [best.get(name) for name in ("epoch", "loss", "accuracy")] if isinstance(best, dict) else [None]
        if not all(isinstance(x, (int, float)) and math.isfinite(x) for x in numbers):
            raise InputError("the sums, the norms, the seconds or the best epoch are not finite numbers")
        if (state["scheduler"] is None) != (self.scheduler is None):
            raise InputError(f"the training had {'no' if self.scheduler else 'a'} schedule")
        parts = {part: below(f"{part}.", state) for part in ("model", "optimizer", "best")}
        if bool(parts["best"]) != (best is not None and self._validation is not None):
            raise InputError("the best weights and the best epoch do not belong together")
        if parts["best"]:
            self.model.load_state_dict(parts["best"])               # checks them
        self._best_tensors = parts["best"] or None
        self.model.load_state_dict(parts["model"])
        self.optimizer.load_state(parts["optimizer"])
        if self._norm:
            self._norm.norms[:] = state["norms"] or 0
        if self.scheduler:
            self.scheduler.load_state(state["scheduler"])
        self.epochs, self.history, self.best = epochs, history, best
        self._seconds = float(state["seconds"])
        self._feed.batch[:] = 0, min(step * self._feed.batch_size, len(self._feed.images))
        self._feed.sums[:] = state["sums"]

    def evaluate(self, images, labels):
        """Loss and accuracy on other images (N, C, H, W), normalised like the training images.

        Raises InputError when labels or images are out of range.
        """
        return self._evaluation(*self._evaluation_program(images, labels))

    @staticmethod
    def _evaluation(feed, program):
        with driver.exclusive:              # other Python threads may evaluate in the same buffers
            feed.start()
            for _ in feed.replay(program):
                pass
        loss, right = feed.sums / len(feed.images)
        return Evaluation(float(loss), 100 * float(right), feed.predictions.copy())


def _rebuilt(kind, arguments, state):
    trainer = kind(**arguments)
    trainer.load_state(state)
    return trainer
