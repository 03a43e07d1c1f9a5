"""Dropout: what it drops, in the forward and the backward pass, in any batch and in every way to run."""
import copy

import numpy as np
import pytest
from both_ways import dropout
from random_numbers import masks
from trainings import StopAfter, dataset, optimizer_of

from cnn_numba import (
    SGD,
    Conv2d,
    CrossEntropyLoss,
    Dropout,
    Flatten,
    InputError,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
    Trainer,
    set_execution,
)
from cnn_numba.kernels.compiled import JIT
from cnn_numba.kernels.driver import max_threads

SURE = 6                # standard errors
SHAPES = (4, 5, 6), (7,)


# ---- what is dropped ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", ((300,), (3, 10, 10)))
@pytest.mark.parametrize("p", (0.1, 0.5, 0.75))
def test_numbers_are_zero_or_grow(p, shape):
    """The right share of them, in all, in each image and at each place, and nothing that a neighbour tells."""
    mask, = masks(p, 80, shape)
    assert {*np.unique(mask)} == {np.float32(0), np.float32(1 / (1 - p))}
    kept = (mask > 0).reshape(80, 300)
    spread = np.sqrt(p * (1 - p))
    for axis, count in (None, 80 * 300), (0, 80), (1, 300):
        assert np.abs(kept.mean(axis) - (1 - p)).max() < SURE * spread / np.sqrt(count)
    score = (kept - (1 - p)) / spread
    for a, b in (score[1:], score[:-1]), (score[16:], score[:-16]), (score[:, 1:], score[:, :-1]):
        assert abs((a * b).mean()) < SURE / np.sqrt(a.size)


def test_negative_control_of_independence():
    """Every image dropped alike does not pass."""
    mask, = masks(0.5, 80)
    score = 2.0 * (np.tile(mask[:1], (80, 1)) > 0) - 1
    assert abs((score[1:] * score[:-1]).mean()) > SURE / np.sqrt(score.size)


def test_every_pass_seed_and_layer_drops_others():
    passes = masks(passes=3)
    other_seed, = masks(seed=2)
    two = Sequential(Dropout(0.5), Dropout(0.5), seed=1)
    second = np.array(two(np.ones((20, 300), np.float32)))[passes[0] > 0] / 2
    different = [*passes, other_seed]
    for k, a in enumerate(different):
        for b in different[:k]:
            assert abs((a == b).mean() - 0.5) < SURE * 0.5 / np.sqrt(a.size)
    assert abs((second > 0).mean() - 0.5) < SURE * 0.5 / np.sqrt(second.size)
    assert np.array_equal(masks(passes=3), passes)


@pytest.mark.parametrize("shape", SHAPES)
def test_p_zero_and_one(shape):
    x = np.random.default_rng(0).normal(size=(18, *shape)).astype(np.float32)
    for p in 0, 1:
        model = Sequential(Dropout(p))
        assert np.array_equal(model(x), x * (1 - p))
        assert np.array_equal(model.backward(x + 1), (x + 1) * (1 - p))


def test_nan_stays_visible():
    """Also where it is dropped, as in PyTorch.  0 * inf makes it."""
    model = Sequential(Linear(1, 64), Dropout(0.5))
    model.parameters()[0].value[...] = np.inf
    with np.errstate(invalid="ignore"):
        assert np.isnan(model(np.zeros((3, 1)))).all()


# ---- forward and backward -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("images", (1, 16, 37))
@pytest.mark.parametrize("shape", SHAPES)
def test_backward_uses_the_mask_of_the_forward_pass(shape, images):
    rng = np.random.default_rng(images)
    x, dy = (rng.integers(1, 9, (images, *shape)).astype(np.float32) for _ in range(2))
    model = Sequential(Dropout(0.5), seed=3)
    for _ in range(3):
        mask = np.array(model(x)) / x
        assert {*np.unique(mask)} <= {0, 2}
        assert np.array_equal(model.backward(dy), dy * mask)


@pytest.mark.parametrize("before", ([ReLU()], [ReLU(), ReLU()], [MaxPool2d(1), ReLU()]))
@pytest.mark.parametrize("after", ([], [ReLU()], [Conv2d(4, 4, 3, padding=1, bias=False)], [MaxPool2d(2)]))
@pytest.mark.parametrize("training", (True, False))
def test_between_other_layers(before, after, training):
    """A ReLU before it whose gradient it applies, borders for the layer after it: against the parts, one by one."""
    rng = np.random.default_rng(4)
    model = Sequential(Conv2d(2, 4, 1), *before, Dropout(0.5), *after, seed=2).train(training)
    for p in model.parameters():
        p.value[...] = rng.integers(-2, 3, p.value.shape)
    x = rng.integers(-3, 4, (18, 2, 4, 6)).astype(np.float32)
    values, parts = x, []
    for k, layer in enumerate(model.layers):
        part = Sequential(copy.deepcopy(layer))
        if isinstance(layer, Dropout):
            alike = Sequential(*[ReLU() for _ in range(k)], Dropout(0.5), seed=2).train(training)
            mask = alike(np.ones_like(values))      # the same place in the network
            values = values * mask
        else:
            values = part(values)
        parts.append(part)
    y = model(x)
    assert np.array_equal(y, values) and y.any()
    dy = rng.integers(-3, 4, y.shape).astype(np.float32)
    dx = dy
    for layer, part in zip(reversed(model.layers), reversed(parts), strict=True):
        dx = dx * mask if isinstance(layer, Dropout) else part.backward(dx)
    assert np.array_equal(model.backward(dy), dx) and dx.any()


@pytest.mark.parametrize("shape", SHAPES)
def test_eval_changes_nothing(shape):
    x = np.random.default_rng(0).normal(size=(18, *shape)).astype(np.float32)
    model = Sequential(Dropout(0.9)).eval()
    assert np.array_equal(model(x), x) and np.array_equal(model.backward(2 * x), 2 * x)
    assert not np.array_equal(model.train()(x), x)


def test_pytorch_agrees():
    """In eval mode on everything, and in training on the values that it may give."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    for p in 0, 0.3, 1:
        theirs, mine = torch.nn.Dropout(p), Sequential(Dropout(p))
        x = np.ones((16, 1000), np.float32)
        want = theirs(torch.from_numpy(x)).numpy()
        assert {*np.unique(mine(x))} == {*np.unique(want)}
        assert np.array_equal(mine.eval()(x), theirs.eval()(torch.from_numpy(x)).numpy())


# ---- the same in every way to run -----------------------------------------------------------------------------------
def network():
    return Sequential(Conv2d(2, 6, 3, padding=1), ReLU(), Dropout(0.2), MaxPool2d(2), Flatten(), Linear(96, 12), ReLU(),
                      Dropout(0.5), Linear(12, 5), seed=7)


def trained(data, epochs=2, batch_size=64, seed=3, lr=0.05):
    model = network()
    trainer = Trainer(model, data, SGD(model, lr=lr), batch_size=batch_size, seed=seed)
    return model, trainer.fit(epochs)["loss"]


@pytest.mark.skipif(not JIT, reason="interpreted, there is one way to run")
@pytest.mark.parametrize("mode", (
    ("parallel", 1),
    pytest.param(("parallel", 2), marks=pytest.mark.skipif(max_threads() < 2, reason="one processor only")),
))
def test_serial_and_parallel_train_the_same_bits(mode):
    found = []
    for how in ("serial",), mode:
        set_execution(*how)
        found.append(trained(dataset(train=70)))
    assert np.array_equal(found[0][0].values, found[1][0].values) and found[0][1] == found[1][1]


@pytest.mark.parametrize("batch_size", (1, 16, 17))
def test_the_batch_size_does_not_decide_what_is_dropped(batch_size):
    """Without updates, every image of an epoch has the same loss in batches of any size, short last ones too; to the
    bit where a batch has more than the few images whose layers add in another order."""
    data = dataset(train=19)
    _, want = trained(data, lr=0.0)
    _, got = trained(data, batch_size=batch_size, lr=0.0)
    other = trained(data, seed=4, lr=0.0)[1][1]
    assert got == (want if batch_size > 8 else pytest.approx(want, rel=1e-6))
    assert min(abs(want[0] - want[1]), abs(want[1] - other)) > 1e-4 * want[1]


def test_the_library_drops_the_same_in_any_batch():
    """Image k of a batch does not depend on how many follow."""
    mask, = masks(images=40)
    assert np.array_equal(masks(images=23)[0], mask[:23])


def test_interpreted_drops_the_same(interpreted):
    assert np.array_equal(interpreted("dropout")["masks"], dropout()["masks"])


def test_a_training_goes_on_between_two_steps():
    """Another trainer goes on with the same masks, to the same bits."""
    data, models = dataset(train=70), [network() for _ in range(3)]
    whole, begun, goes_on = (Trainer(model, data, optimizer_of(model), batch_size=16, seed=3) for model in models)
    whole.fit(2)
    begun.fit(1)
    begun.fit(2, StopAfter(3))
    assert begun.epochs == 1 and 0 < begun.step < 5
    goes_on.load_state(begun.state())
    goes_on.fit(2)
    assert np.array_equal(models[0].values, models[2].values)


def test_evaluation_drops_nothing():
    data, model = dataset(), network()
    trainer = Trainer(model, data, optimizer_of(model))
    got = [trainer.evaluate(data.test_images, data.test_labels).loss for _ in range(2)]
    scale = (1 / data.std).astype(np.float32)
    images = (data.test_images.astype(np.float32) - data.mean[:, None, None]) * scale[:, None, None]
    want = float(CrossEntropyLoss()(model.eval()(images), data.test_labels))
    assert got[0] == got[1] == pytest.approx(want, rel=1e-6)
    assert float(CrossEntropyLoss()(model.train()(images), data.test_labels)) != pytest.approx(want, rel=1e-3)


@pytest.mark.skipif(not JIT, reason="takes a while")
def test_training_learns():
    _, losses = trained(dataset(train=300), epochs=8, batch_size=16)
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("p", (-0.1, 1.1, float("nan"), "a", None, True))
def test_bad_probabilities(p):
    with pytest.raises(InputError, match="Dropout: p must be a number from 0 to 1, got"):
        Dropout(p)
