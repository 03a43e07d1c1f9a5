"""The trainer: the same training as the loop a user would write, in every way to run."""
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import reference
from networks import conv, flatten, linear, make, pool, relu

from cnn_numba import SGD, CrossEntropyLoss, Dataset, InputError, Sequential, Trainer, set_execution
from cnn_numba.init import ORDER, stream
from cnn_numba.kernels.program import JIT, execution, max_threads

ROOT = Path(__file__).resolve().parents[1]
LAYERS = [conv(2, 6, 3, padding=1), relu, pool(2), conv(6, 4, 3), relu, flatten, linear(16, 12), relu, linear(12, 5)]
SHAPE, CLASSES = (2, 8, 8), 5


def dataset(train=70, test=20, dtype=np.uint8, seed=0, **changes):
    """Images of which the brightest part tells the class."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for part, n in ("train", train), ("test", test):
        labels = rng.integers(0, CLASSES, n)
        images = rng.integers(0, 120, (n, *SHAPE))
        images[np.arange(n), labels % 2, labels] += 130
        arrays |= {f"{part}_images": images.astype(dtype), f"{part}_labels": labels}
    return Dataset(**{"name": "made up", "num_classes": CLASSES, **arrays, **changes})


def network():
    return Sequential(*make(LAYERS), seed=7)


def optimizer_of(model):
    return SGD(model, lr=0.05, momentum=0.9, weight_decay=1e-3)


def trained(data, epochs=2, batch_size=64):
    """A model after some epochs, and what the epochs returned."""
    model = network()
    trainer = Trainer(model, data, optimizer_of(model), batch_size=batch_size, seed=3)
    return model, [trainer.epoch() for _ in range(epochs)]


def normalised(data, images):
    """As the trainer does it: less the mean of the training part, times what makes its deviation 1, in float32."""
    scale = (1 / data.std).astype(np.float32)
    return (images.astype(np.float32) - data.mean[:, None, None]) * scale[:, None, None]


@pytest.fixture
def any_execution():
    """For tests that change it."""
    mode, threads = execution()
    yield
    set_execution(mode, threads)


# ---- the same bits in every way to run ------------------------------------------------------------------------
@pytest.mark.parametrize("mode", (
    ("parallel", 1),
    pytest.param(("parallel", 2), marks=pytest.mark.skipif(max_threads() < 2, reason="one processor only")),
))
def test_serial_and_parallel_train_the_same_bits(mode, any_execution):
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
        Trainer(model, data, optimizer_of(model), batch_size=16, seed=seed).epoch()
        results.append(model.values.copy())
    assert np.array_equal(results[0], results[1]) and not np.array_equal(results[0], results[2])


STEPS = """
import sys
sys.path[:0] = {path!r}
import numpy as np
from cnn_numba.kernels.program import JIT
from test_training import dataset, trained
assert not JIT
model, epochs = trained(dataset(train=40), epochs=2, batch_size=16)
np.savez({file!r}, losses=[e.loss for e in epochs], **model.state_dict())
"""


@pytest.mark.skipif(not JIT, reason="compares with the compiled kernels")
def test_interpreted_trains_the_same_network(tmp_path):
    """Six steps.  Interpreted sums round at other places than fused ones: a few units in the last place of each."""
    file = str(tmp_path / "interpreted.npz")
    script = STEPS.format(path=[str(ROOT), str(ROOT / "tests")], file=file)
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | {"NUMBA_DISABLE_JIT": "1"})
    model, epochs = trained(dataset(train=40), epochs=2, batch_size=16)
    start = network().state_dict()
    with np.load(file) as interpreted:
        np.testing.assert_allclose([e.loss for e in epochs], interpreted["losses"], rtol=1e-5)
        for name, value in model.state_dict().items():
            moved = np.abs(value - start[name]).max()
            assert np.abs(value - interpreted[name]).max() < 1e-5 * moved, name


# ---- the same training as the loop of the library, and as the textbook ----------------------------------------
@pytest.mark.parametrize("images, batch_size", ((70, 64), (48, 16), (5, 64), (20, 3), (33, 1)))
def test_epochs_are_the_loop_of_the_library(images, batch_size):
    """To the bit; 70 images make batches of 64 and 6."""
    data = dataset(train=images)
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
            loss.backward()
            optimizer.step()
            losses += loss * len(chosen)
            right += (logits.argmax(1) == labels).sum()
        assert result.images == images
        assert result.loss == pytest.approx(losses / images, rel=1e-6)
        assert result.accuracy == pytest.approx(100 * right / images)
    assert np.array_equal(model.values, other.values)


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


def test_progress_is_told_in_steps_that_add_up():
    model = network()
    trainer = Trainer(model, dataset(train=300), optimizer_of(model), batch_size=1)
    told = []
    trainer.epoch(told.append)
    assert sum(told) == 300 and 10 <= len(told) <= 100 and min(told) > 0


# ---- evaluation -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("images", (1, 20, 530))
def test_evaluation(images):
    data = dataset(test=images)
    model = network()
    trainer = Trainer(model, data, optimizer_of(model))
    trainer.epoch()
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
    (np.full((3, 2, 8, 8), "1"), [0, 1, 2], "must be numbers"),
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


# ---- memory ---------------------------------------------------------------------------------------------------
@pytest.mark.skipif(not JIT, reason="interpreted kernels are NumPy expressions, each with a new array")
def test_steps_allocate_nothing():
    """NumPy tells tracemalloc of every buffer.  The smallest that a step could make, the logits of its 64 images, is
    1280 bytes; Python itself uses some 200 for a moment."""
    model = network()
    trainer = Trainer(model, dataset(train=640), optimizer_of(model), batch_size=64)
    trainer.epoch()

    def largest(spoil):
        """The most memory that a step of an epoch takes, when each is spoiled by an array of that shape."""
        taken = []

        def after_each_step(done):
            taken.append(tracemalloc.get_traced_memory()[1] - start[0])
            tracemalloc.reset_peak()
            start[0] = tracemalloc.get_traced_memory()[0]
            np.empty(spoil, np.float32)

        start = [0]
        tracemalloc.start()
        try:
            trainer.epoch(after_each_step)
        finally:
            tracemalloc.stop()
        assert len(taken) == 10
        return max(taken[1:])                                   # the first holds the order of the epoch

    assert largest(spoil=0) < 1000
    assert largest(spoil=(64, CLASSES)) > 1000
