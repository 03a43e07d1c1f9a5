"""The trainer: the same training as the loop a user would write, in every way to run."""
import tracemalloc

import numpy as np
import pytest
import reference
from both_ways import training
from trainings import CLASSES, LAYERS, dataset, network, normalised, optimizer_of, trained

from cnn_numba import (
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    CrossEntropyLoss,
    Flatten,
    InputError,
    Linear,
    ReLU,
    Sequential,
    Trainer,
    set_execution,
)
from cnn_numba.callbacks import Callback
from cnn_numba.init import ORDER, stream
from cnn_numba.kernels.compiled import JIT
from cnn_numba.kernels.driver import max_threads
from cnn_numba.kernels.lanes import LANES


# ---- the same bits in every way to run ------------------------------------------------------------------------
@pytest.mark.skipif(not JIT, reason="interpreted, there is one way to run")
@pytest.mark.parametrize("mode", (
    ("parallel", 1),
    pytest.param(("parallel", 2), marks=pytest.mark.skipif(max_threads() < 2, reason="one processor only")),
))
def test_serial_and_parallel_train_the_same_bits(mode):
    set_execution("serial")
    data = dataset(train=150)
    model, epochs = trained(data)
    set_execution(*mode)
    other, others = trained(data)
    assert np.array_equal(model.values, other.values)
    assert [(e.loss, e.accuracy) for e in epochs] == [(e.loss, e.accuracy) for e in others]
    assert not np.array_equal(model.values, network().values)


def test_the_seed_decides_the_order():
    data = dataset()
    results = []
    for seed in (1, 1, 2):
        model = network()
        Trainer(model, data, optimizer_of(model), batch_size=16, seed=seed).fit(1)
        results.append(model.values.copy())
    assert np.array_equal(results[0], results[1]) and not np.array_equal(results[0], results[2])


def test_interpreted_trains_the_same_network(interpreted):
    """Six steps.  Interpreted sums round at other places than fused ones: a few units in the last place of each."""
    start, want, got = network().state_dict(), interpreted("training"), training()
    np.testing.assert_allclose(got.pop("losses"), want["losses"], rtol=1e-5)
    for name, value in got.items():
        change = np.abs(value - start[name]).max()
        assert np.abs(value - want[name]).max() < 1e-5 * change, name


# ---- the same training as the loop of the library, and as the textbook ----------------------------------------
@pytest.mark.parametrize("images, batch_size", ((70, 64), (48, 16), (5, 64), (20, 3), (33, 1)))
def test_epochs_are_the_loop_of_the_library(images, batch_size):
    """To the bit; 70 images make batches of 64 and 6.  Only a Trainer with few images per step fills the lanes that
    they leave, and adds in another order."""
    data, start = dataset(train=images), network().values.copy()
    model, epochs = trained(data, batch_size=batch_size)
    other = network()
    optimizer = optimizer_of(other)
    for epoch, result in enumerate(epochs):
        order = stream(3, ORDER, epoch).permutation(images)
        losses = right = 0
        for first in range(0, images, batch_size):
            chosen = order[first:first + batch_size]
            labels = data.train_labels[chosen]
            logits = other(normalised(data, data.train_images[chosen]))
            loss = CrossEntropyLoss()(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += loss * len(chosen)
            right += (logits.argmax(1) == labels).sum()
        assert result.images == images
        assert result.loss == pytest.approx(losses / images, rel=1e-6)
        assert result.accuracy == pytest.approx(100 * right / images)
    change = np.abs(other.values - start).max()
    tolerance = 1e-5 * change if min(batch_size, images) <= LANES // 2 else 0
    assert np.abs(model.values - other.values).max() <= tolerance < change


def reference_epochs(data, batches, epochs=2):
    """Parameters and mean losses after epochs over batches of these sizes, in float64."""
    start = network().state_dict()
    values = {name: value.astype(np.float64) for name, value in start.items()}
    velocities = {name: np.zeros(value.shape) for name, value in start.items()}
    losses = []
    for epoch in range(epochs):
        order, first, total = stream(3, ORDER, epoch).permutation(len(data.train_images)), 0, 0
        for size in batches:
            chosen = order[first:first + size]
            textbook = reference.Network(LAYERS, values)
            logits = textbook.forward(normalised(data, data.train_images[chosen]))
            loss, dz = reference.cross_entropy(logits, data.train_labels[chosen])
            _, gradients = textbook.backward(dz)
            for name in values:
                values[name], velocities[name] = reference.sgd(
                    values[name], gradients[name], velocities[name], lr=0.05, momentum=0.9, weight_decay=1e-3)
            total, first = total + loss * size, first + size
        losses.append(total / first)
    return values, losses


def test_epochs_are_the_textbook():
    data = dataset(train=70)
    model, epochs = trained(data)

    def error(batches):
        values, losses = reference_epochs(data, batches)
        moved = max(np.abs(values[name] - start).max() for name, start in network().state_dict().items())
        off = max(np.abs(values[name] - value).max() for name, value in model.state_dict().items())
        return max(off / moved, max(abs(e.loss - loss) for e, loss in zip(epochs, losses, strict=True)))

    assert error([64, 6]) < 1e-4
    assert error([64]) > 1e-2, "an epoch without its last batch does not pass"


@pytest.mark.parametrize("dtype", (np.int16, np.float32, np.float64))
def test_images_of_other_types_train_the_same(dtype):
    want, _ = trained(dataset())
    got, _ = trained(dataset(dtype=dtype))
    np.testing.assert_allclose(got.values, want.values, rtol=0, atol=1e-6 * np.abs(want.values).max())


def test_training_learns():
    model, epochs = trained(dataset(train=300), epochs=12, batch_size=16)
    assert epochs[-1].accuracy > 90 and epochs[-1].loss < 0.5 * epochs[0].loss


class Batches(Callback):
    """Notes how many images of the epoch are done, whenever that is told."""

    def __init__(self):
        self.done = []

    def on_batch_end(self, trainer):
        self.done.append(trainer.images_done)


def test_progress_is_told_in_steps_that_add_up():
    """At least every fiftieth of an epoch."""
    model, batches = network(), Batches()
    trainer = Trainer(model, dataset(train=300), optimizer_of(model), batch_size=1)
    trainer.fit(1, batches)
    told = np.diff(batches.done, prepend=0)
    assert told.sum() == 300 and 0 < told.min() and told.max() <= 6


# ---- evaluation -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("images", (1, 20, 530))
def test_evaluation(images):
    data = dataset(test=images)
    model = network()
    trainer = Trainer(model, data, optimizer_of(model))
    trainer.fit(1)
    before = model.values.copy()
    result = trainer.evaluate(data.test_images, data.test_labels)
    logits = reference.Network(LAYERS, model.state_dict()).forward(normalised(data, data.test_images))
    loss, _ = reference.cross_entropy(logits, data.test_labels)
    assert result.loss == pytest.approx(loss, rel=1e-5)
    assert result.predictions.dtype == np.int64 and np.array_equal(result.predictions, logits.argmax(1))
    assert result.accuracy == pytest.approx(100 * (logits.argmax(1) == data.test_labels).mean())
    assert np.array_equal(model.values, before)


def test_evaluation_does_not_disturb_training():
    data = dataset()
    want, _ = trained(data)
    model = network()
    trainer = Trainer(model, data, optimizer_of(model), seed=3)
    for _ in range(2):
        trainer.evaluate(data.test_images, data.test_labels)
        trainer.epoch()
    assert np.array_equal(model.values, want.values)


# ---- what a user gets wrong -----------------------------------------------------------------------------------
def with_nan(images):
    images = images.astype(np.float32)
    images[-1, 0, 3, 3] = np.nan
    return images


GOOD = dataset()


@pytest.mark.parametrize("changes, what", (
    ({"train_images": with_nan(GOOD.train_images)}, "NaN"),
    ({"test_images": with_nan(GOOD.test_images)}, "NaN"),
    ({"train_labels": np.where(np.arange(70) == 69, 5, GOOD.train_labels)}, "5 is out of range, expected 0 to 4"),
    ({"test_labels": GOOD.test_labels - 5}, "out of range"),
    ({"train_labels": GOOD.train_labels[:-1]}, "expected 70 whole numbers"),
    ({"train_labels": GOOD.train_labels.astype(float)}, "float64"),
    ({"num_classes": 6}, r"\(5,\), expected \(6,\)"),
    ({"train_images": GOOD.train_images[:, :1], "test_images": GOOD.test_images[:, :1]}, "layer 0.*2 channels, got 1"),
    ({"train_images": GOOD.train_images[..., :7], "test_images": GOOD.test_images[..., :7]}, "layer 6"),
))
def test_bad_data(changes, what):
    model = network()
    with pytest.raises(InputError, match=what) as error:
        Trainer(model, dataset(**changes), optimizer_of(model))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("batch_size", (0, -1, 2.5, "64", None, True))
def test_bad_batch_size(batch_size):
    model = network()
    with pytest.raises(InputError, match="batch_size"):
        Trainer(model, GOOD, optimizer_of(model), batch_size=batch_size)


@pytest.mark.parametrize("images, labels, what", (
    (with_nan(GOOD.test_images), GOOD.test_labels, "NaN"),
    (GOOD.test_images, GOOD.test_labels + 5, "out of range"),
    (GOOD.test_images, GOOD.test_labels[:-1], "expected 20 whole numbers"),
    (np.zeros((3, 2, 9, 8), np.uint8), [0, 1, 2], r"\(N, 2, 8, 8\), N at least 1, got uint8 \(3, 2, 9, 8\)"),
    (np.zeros((3, 3, 8, 8), np.uint8), [0, 1, 2], r"\(N, 2, 8, 8\)"),
    (np.zeros((3, 8, 8), np.uint8), [0, 1, 2], r"\(N, 2, 8, 8\)"),
    (np.zeros((0, 2, 8, 8), np.uint8), [], "N at least 1"),
    (np.full((3, 2, 8, 8), "1"), [0, 1, 2], "must be an array of numbers"),
))
def test_bad_evaluation(images, labels, what):
    model = network()
    trainer = Trainer(model, GOOD, optimizer_of(model))
    with pytest.raises(InputError, match=what):
        trainer.evaluate(images, np.asarray(labels, np.int64))


def test_test_images_of_another_size():
    model = network()
    with pytest.raises(InputError, match=r"\(N, 2, 8, 8\)"):
        Trainer(model, dataset(test_images=np.zeros((20, 2, 9, 8), np.uint8)), optimizer_of(model))


@pytest.mark.parametrize("images, batch_size, alone", [(65, 16, True), (3, 1, True), (64, 16, False), (66, 16, False)])
def test_batch_normalisations_that_get_one_value_are_named(images, batch_size, alone):
    """But not those that see more pixels, or are in evaluation mode."""
    model = Sequential(Conv2d(2, 3, 5), BatchNorm2d(3), ReLU(), Conv2d(3, 2, 4), BatchNorm2d(2), Flatten(),
                       BatchNorm1d(2), BatchNorm1d(2), Linear(2, CLASSES))
    model.layers[-2].eval()
    said = []
    Trainer(model, dataset(train=images), optimizer_of(model), batch_size=batch_size, report=said.append)
    assert len(said) == alone and all("so 4 BatchNorm2d, 6 BatchNorm1d gets one value" in each for each in said)


# ---- memory ---------------------------------------------------------------------------------------------------
@pytest.mark.skipif(not JIT, reason="interpreted kernels are NumPy expressions, each with a new array")
def test_steps_allocate_nothing():
    """NumPy tells tracemalloc of every buffer.  The smallest that a step could make, the logits of its 64 images, is
    1280 bytes; Python itself uses some 200 for a moment."""
    model = network()
    trainer = Trainer(model, dataset(train=640), optimizer_of(model), batch_size=64)
    trainer.fit(1)

    class Watch(Callback):
        """The most memory that each step of an epoch takes, when it is spoiled by an array of a shape."""

        def __init__(self, spoil):
            self.spoil, self.taken = spoil, []

        def on_train_begin(self, trainer):
            tracemalloc.start()
            self.start = 0

        def on_batch_end(self, trainer):
            self.taken.append(tracemalloc.get_traced_memory()[1] - self.start)
            tracemalloc.reset_peak()
            self.start = tracemalloc.get_traced_memory()[0]
            np.empty(self.spoil, np.float32)

        def on_train_end(self, trainer):
            tracemalloc.stop()

    def largest(spoil):
        watch = Watch(spoil)
        trainer.fit(trainer.epochs + 1, watch)
        assert len(watch.taken) == 10
        return max(watch.taken[1:])                             # the first holds the order of the epoch

    assert largest(spoil=0) < 1000
    assert largest(spoil=(64, CLASSES)) > 1000
