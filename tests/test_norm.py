"""Batch normalisation and residual branches against float64 NumPy, compiled and interpreted."""
import copy

import numpy as np
import pytest
import reference

from cnn_numba import (
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    InputError,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    Tanh,
    set_execution,
)
from cnn_numba.kernels.compiled import JIT
from cnn_numba.kernels.driver import max_threads

ROUNDING = 2.0**-24
SMALL = 64 * ROUNDING           # of the largest number; measured: up to 12 roundings


def same(got, want, what):
    assert got.shape == want.shape, what
    assert np.abs(np.asarray(got) - want).max() <= SMALL * np.abs(want).max(), what


def layer_and_batch(images, shape, **options):
    rng = np.random.default_rng(images)
    layer = (BatchNorm2d if len(shape) == 3 else BatchNorm1d)(shape[0], **options)
    model = Sequential(layer)
    for p in model.parameters():
        p.value[:] = rng.normal(1, 0.5, p.value.shape)
    x = rng.normal(3, 2, (images, *shape)).astype(np.float32)
    return model, x, rng.normal(size=x.shape).astype(np.float32)


SHAPES = (3, 4, 5), (2, 1, 1), (4, 3, 8), (5,)
CASES = [(n, shape) for n in (1, 3, 16, 17, 40) for shape in SHAPES if n > 1 or shape[1:]]


@pytest.mark.parametrize("images, shape", CASES)
def test_training(images, shape):
    model, x, dy = layer_and_batch(images, shape)
    weight, bias = (p.value for p in model.parameters())
    want, backward = reference.batch_norm(x, weight, bias)
    same(model(x), want, "output")
    got = [model.backward(dy), *(p.grad for p in model.parameters())]
    wanted = backward(dy)
    for g, w, what in zip(got, wanted, ("input gradient", "weight", "bias"), strict=True):
        if images * np.prod(shape[1:]) > 1 or what == "bias":           # one value each: the rest is 0 by nature
            same(g, w, what)
    with pytest.raises(AssertionError, match="output"):
        same(model(x), reference.batch_norm(x, weight, bias + 0.001)[0], "output")


@pytest.mark.parametrize("momentum", (0.1, 0.7, None))
def test_running_statistics(momentum):
    model, x, dy = layer_and_batch(40, (3, 4, 5), momentum=momentum)
    mean, variance = np.zeros(3), np.ones(3)
    for step in range(1, 4):
        share = 1 / step if momentum is None else momentum
        batch = x[:10 * step] * step
        mean += share * (batch.mean((0, 2, 3), dtype=np.float64) - mean)
        variance += share * (batch.var((0, 2, 3), dtype=np.float64, ddof=1) - variance)
        model(batch)
    state = model.state_dict()
    same(state["0.running_mean"], mean, "mean")
    same(state["0.running_var"], variance, "variance")
    assert state["0.num_batches_tracked"] == 3
    model.eval()
    weight, bias = (p.value for p in model.parameters())
    want, backward = reference.batch_norm(x, weight, bias, mean=mean, variance=variance)
    same(model(x), want, "output")
    for got, w in zip([model.backward(dy), *(p.grad for p in model.parameters())], backward(dy), strict=True):
        same(got, w, "gradient")
    assert all((value == state[name]).all() for name, value in model.state_dict().items()), "eval collects nothing"


def test_without_weights_and_without_running_statistics():
    model, x, dy = layer_and_batch(17, (3, 4, 5), affine=False, track_running_stats=False)
    assert model.state_dict() == {}
    want, backward = reference.batch_norm(x, np.ones(3), np.zeros(3))
    for mode in model.train(), model.eval():
        same(mode(x), want, "output")
        same(mode.backward(dy), backward(dy)[0], "input gradient")


def network(seed=0):
    """Convolutions, ReLUs on either side of the normalisation, and both kinds of short cuts."""
    return Sequential(
        Conv2d(2, 8, 3, padding=1, bias=False), BatchNorm2d(8), ReLU(),
        Residual([Conv2d(8, 8, 3, padding=1, groups=2), BatchNorm2d(8), ReLU(), Conv2d(8, 8, 5, padding=2),
                  BatchNorm2d(8)]), ReLU(),
        Residual([Conv2d(8, 4, 3, stride=2, padding=1), ReLU(), BatchNorm2d(4)],
                 [Conv2d(8, 4, 1, stride=2), BatchNorm2d(4, momentum=None)]),
        Flatten(), Linear(4 * 2 * 3, 12, bias=False), BatchNorm1d(12), ReLU(), Residual([Linear(12, 12), ReLU()]),
        Linear(12, 5), seed=seed)


def bits_of(images, before=()):
    """What a network gives and collects for some images, after others."""
    model, rng = network(), np.random.default_rng(1)
    for n in before:
        model(9 * rng.normal(size=(n, 2, 4, 5)))
    model.load_state_dict(network().state_dict())
    rng = np.random.default_rng(2)
    x, dy = rng.normal(size=(images, 2, 4, 5)), rng.normal(size=(images, 5))
    arrays = [model(x), model.backward(dy), model.grads, *model.state_dict().values()]
    return [np.asarray(a).tobytes() for a in arrays]


@pytest.mark.parametrize("images", (5, 20))
def test_lanes_without_an_image_count_for_nothing(images):
    full = -(-images // 16) * 16
    assert bits_of(images, before=[full]) == bits_of(images)
    assert bits_of(images) != bits_of(images - 1), "another batch does not pass"


@pytest.mark.skipif(not JIT, reason="interpreted, there is one way to run")
def test_serial_and_parallel_give_the_same_bits():
    set_execution("serial")
    want = bits_of(70)
    for n in range(1, max_threads() + 1):
        set_execution("parallel", n)
        assert bits_of(70) == want, n


@pytest.mark.parametrize("training", (True, False))
@pytest.mark.parametrize("before, after", (([], []), ([], [ReLU()]), ([ReLU()], []), ([ReLU()], [ReLU()])))
def test_pooling_at_once_is_pooling_after_normalisation(monkeypatch, before, after, training):
    def run(images, pool=MaxPool2d):
        model = Sequential(*before, BatchNorm2d(3), *after, pool((2, 3)), Tanh())
        rng = np.random.default_rng(4)
        for parameter in model.parameters():
            parameter.value[:] = rng.normal(size=3)                     # negative weights, too
        model.train(training)
        x = rng.integers(-3, 4, (images, 3, 4, 6)).astype(np.float32)   # with ties
        y = model(x)
        return y, model.backward(rng.normal(size=y.shape)), *(p.grad for p in model.parameters()), model.state_dict()

    for images in (37, 3):
        *at_once, statistics = run(images)
        with monkeypatch.context() as apart:
            apart.setattr(BatchNorm2d, "applies_pool", False)
            *in_steps, expected = run(images)
        assert (at_once[0] == in_steps[0]).all()
        assert all((value == expected[name]).all() for name, value in statistics.items())
        for got, want in zip(at_once[1:], in_steps[1:], strict=True):
            same(got, want, "gradient")
    with pytest.raises(AssertionError, match="gradient"):
        same(run(37, AvgPool2d)[1], run(37)[1], "gradient")


@pytest.mark.parametrize("images", (20, 5))
@pytest.mark.parametrize("training", (True, False))
@pytest.mark.parametrize("shortcut", (None, [Conv2d(4, 4, 1), BatchNorm2d(4)]))
@pytest.mark.parametrize("before, after", (([], []), ([], [ReLU()]), ([Conv2d(4, 4, 1), ReLU()], [ReLU()])))
def test_normalisation_that_adds_the_shortcut_gives_the_same(monkeypatch, before, after, shortcut, training, images):
    def run(end=after):
        body = Conv2d(4, 4, 3, padding=1), BatchNorm2d(4), ReLU(), Conv2d(4, 4, 3, padding=1), BatchNorm2d(4)
        model = Sequential(*copy.deepcopy([*before, Residual(body, shortcut), *end]), Tanh(), seed=2)
        rng = np.random.default_rng(4)
        for parameter in model.parameters():
            if parameter.value.ndim == 1:
                parameter.value[:] = rng.normal(size=parameter.value.shape)
        model.train(training)
        y = model(rng.normal(size=(images, 4, 3, 5)).astype(np.float32))
        return model.state_dict(), y, model.backward(rng.normal(size=y.shape)), *(p.grad for p in model.parameters())

    statistics, y, *gradients = run()
    with monkeypatch.context() as apart:
        apart.setattr(BatchNorm2d, "adds_shortcut", False)
        expected, right, *wanted = run()
    assert (y == right).all() and all((value == expected[name]).all() for name, value in statistics.items())
    for got, want in zip(gradients, wanted, strict=True):
        same(got, want, "gradient")
    with pytest.raises(AssertionError, match="gradient"):
        same(run([] if after else [ReLU()])[2], gradients[0], "gradient")


@pytest.mark.parametrize("body, before, shares", (
    ([Conv2d(4, 4, 3, padding=1), BatchNorm2d(4)], [], True),
    ([Conv2d(4, 4, 3, padding=1), BatchNorm2d(4)], [Conv2d(4, 4, 1), ReLU()], False),       # which x has to mask
    ([Conv2d(4, 4, 3, padding=1), ReLU()], [], False),                                      # which reads dy to the end
    ([Conv2d(4, 4, 1), BatchNorm2d(4)], [], False),                                         # which cannot add
))
def test_the_gradient_of_a_shortcut_stays_in_its_memory(body, before, shares):
    model = Sequential(BatchNorm2d(4), *before, Residual(body), Tanh())
    wires = next(wires for _, layer, wires in model.plan((4, 6, 7), 1).stages if isinstance(layer, Residual))
    assert (wires.dx is wires.dy) == shares


def test_a_residual_is_the_sum_of_its_branches():
    body, shortcut = [Conv2d(2, 4, 3, padding=1), ReLU(), Conv2d(4, 3, 1)], [Conv2d(2, 3, 1)]
    both = Sequential(Residual(body, shortcut), seed=3)
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(19, 2, 5, 6)), rng.normal(size=(19, 3, 5, 6))
    y, dx = both(x), both.backward(dy)
    alone = {name: Sequential(*copy.deepcopy(layers)) for name, layers in (("body", body), ("shortcut", shortcut))}
    for model in alone.values():
        model.zero_grad()                               # a copy has a copy of the gradients
    same(y, sum(np.asarray(model(x), np.float64) for model in alone.values()), "output")
    same(dx, sum(np.asarray(model.backward(dy), np.float64) for model in alone.values()), "input gradient")
    mine = {p.name: p.grad for p in both.parameters()}
    theirs = {f"0.{name}.{inside}": p.grad for name, model in alone.items() for inside, p in model.named_parameters()}
    assert mine.keys() == theirs.keys() and all((mine[name] == grad).all() for name, grad in theirs.items())


@pytest.mark.parametrize("make, sentence", (
    (lambda: BatchNorm2d(0), "BatchNorm2d: num_features must be a whole number of at least 1, got 0"),
    (lambda: BatchNorm2d(3, eps=-1), "BatchNorm2d: eps must be a number of at least 0, got -1"),
    (lambda: BatchNorm1d(3, momentum=2), "BatchNorm1d: momentum must be a number from 0 to 1, or None, got 2"),
    (lambda: BatchNorm1d(3, affine=1), "BatchNorm1d: affine must be True or False, got 1"),
    (lambda: BatchNorm2d(3).output_shape((2, 5, 5)), "BatchNorm2d expects images of 3 channels, got 2x5x5"),
    (lambda: BatchNorm2d(3).output_shape((3,)), "BatchNorm2d expects images of 3 channels, got 3 features"),
    (lambda: BatchNorm1d(3).output_shape((4,)), "BatchNorm1d expects 3 features, got 4 features"),
    (lambda: Residual([]), "Residual: body needs at least one layer, got none"),
    (lambda: Residual(3), "Residual: body must be a layer or a list of layers, got 3"),
    (lambda: Residual([Flatten(), Linear(3, 3)]), "Residual: body must not begin or end in Flatten"),
    (lambda: Residual(Conv2d(2, 3, 3)).output_shape((2, 5, 5)),
     "Residual adds body and shortcut, which give 3x3x3 and 2x5x5, expected the same shape"),
    (lambda: Residual([ReLU(), Conv2d(3, 3, 3)]).output_shape((2, 5, 5)),
     "body: layer 1: Conv2d expects 3 channels, got 2 (2x5x5)"),
))
def test_bad_arguments(make, sentence):
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value) == sentence


def test_a_layer_inside_of_a_residual_cannot_stand_elsewhere():
    layer = Conv2d(2, 2, 1)
    with pytest.raises(InputError, match="occurs twice"):
        Sequential(layer, Residual(layer))


def test_print():
    assert repr(Sequential(Residual([Linear(2, 2), ReLU()]))) == """Sequential(
  (0): Residual(
    (body): Sequential(
      (0): Linear(in_features=2, out_features=2, bias=True)
      (1): ReLU()
    )
    (shortcut): Identity()
  )
)"""
