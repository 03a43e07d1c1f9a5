"""Pooling, activations and shapes against the loops of `reference`, compiled, and interpreted with NUMBA_DISABLE_JIT=1.

The tolerances are those of test_kernels.py: whole numbers are exact, and a sum of n terms is right to 4 sqrt(n + 2) u
of their absolute sum.
"""
import numpy as np
import pytest
import reference
from networks import (
    adaptive,
    avg,
    build,
    build_normal,
    conv,
    decided,
    flatten,
    linear,
    make,
    pool,
    relu,
    reshape,
    whole,
)
from test_kernels import NETWORK, ROUNDING, TOOM, check, named, rejected, same

import cnn_numba
from cnn_numba import InputError, Sequential, functional

# ---- pooling -------------------------------------------------------------------------------------
MAXIMA = named(
    ("dilation", pool(2, dilation=2), (2, 6, 5), 3),
    ("dilation by rows only", pool((2, 3), stride=1, dilation=(3, 1)), (2, 6, 5), 17),
    ("dilation and padding", pool(3, stride=1, padding=1, dilation=2), (2, 5, 6), 3),
    ("dilation, as many windows as parts", pool(2, dilation=(1, 2), padding=(0, 1)), (2, 4, 4), 3),
    ("one place, dilated", pool(1, dilation=3), (2, 3, 4), 3),
    ("ceil", pool(2, ceil_mode=True), (2, 5, 7), 3),
    ("ceil of what divides", pool(2, ceil_mode=True), (2, 4, 6), 3),
    ("ceil with stride and padding", pool(3, stride=2, padding=1, ceil_mode=True), (2, 6, 7), 17),
    ("ceil, no window in the padding behind", pool(2, stride=3, padding=1, ceil_mode=True), (2, 5, 5), 3),
    ("ceil with dilation", pool(2, stride=3, dilation=2, ceil_mode=True), (2, 7, 6), 3),
    ("ceil, window larger than the image", pool(3, ceil_mode=True), (2, 2, 1), 3),
)


@pytest.mark.parametrize("layer, shape, images", MAXIMA)
def test_max_pool2d(layer, shape, images):
    check(layer, shape, images)


@pytest.mark.parametrize("layer, shape, images", MAXIMA)
def test_max_pool2d_indices(layer, shape, images):
    _, (kernel,), options = layer
    x = whole(np.random.default_rng(0), (images, *shape))
    y, indices = functional.max_pool2d(x, kernel, **options, return_indices=True)
    same(y, reference.max_pool2d(x, kernel, **options), "output")
    assert np.array_equal(y, functional.max_pool2d(x, kernel, **options))
    assert indices.dtype == np.int64 and np.array_equal(indices, reference.max_pool2d_indices(x, kernel, **options))
    rows = x.reshape(*x.shape[:2], -1)
    assert np.array_equal(np.take_along_axis(rows, indices.reshape(*x.shape[:2], -1), 2).reshape(y.shape), y)


def test_max_pool2d_indices_of_the_smallest_and_of_nan():
    x = np.full((1, 1, 2, 4), -np.inf, np.float32)
    x[0, 0, 1, 2] = np.nan
    y, indices = functional.max_pool2d(x, 2, return_indices=True)
    assert y[0, 0, 0, 0] == -np.inf and np.isnan(y[0, 0, 0, 1])
    assert indices.tolist() == [[[[0, 6]]]]


def test_a_window_without_a_place():
    """Dilation can step over a small image: minus infinity, and a gradient of 0."""
    model = Sequential(*make([pool(2, stride=1, padding=1, dilation=2)]))
    assert np.array_equal(model(np.ones((3, 1, 1, 1))), np.full((3, 1, 1, 1), -np.inf))
    assert np.array_equal(model.backward(np.ones((3, 1, 1, 1))), np.zeros((3, 1, 1, 1)))
    _, indices = functional.max_pool2d(np.ones((1, 1, 1, 1)), 2, 1, 1, 2, return_indices=True)
    assert indices.item() == -1


AVERAGES = named(
    ("the usual", avg(2), (2, 6, 4), 3),
    ("two blocks, sizes that do not divide", avg(2), (3, 5, 7), 17),
    ("three by three", avg(3), (2, 6, 9), 3),
    ("overlapping", avg(3, stride=1), (2, 5, 6), 16),
    ("stride larger than the kernel", avg(2, stride=3), (2, 8, 7), 3),
    ("by rows", avg((3, 1), stride=(1, 2)), (2, 5, 6), 3),
    ("padding", avg(3, stride=2, padding=1), (2, 6, 7), 33),
    ("padding not counted", avg(3, stride=2, padding=1, count_include_pad=False), (2, 6, 7), 3),
    ("padding by columns only", avg((2, 3), padding=(0, 1), count_include_pad=False), (2, 4, 5), 3),
    ("ceil", avg(2, ceil_mode=True), (2, 5, 7), 3),
    ("ceil and padding", avg(3, stride=2, padding=1, ceil_mode=True), (2, 6, 6), 3),
    ("ceil and padding not counted", avg((3, 2), 2, 1, True, False), (2, 6, 5), 3),
    ("ceil, no window in the padding behind", avg(2, stride=3, padding=1, ceil_mode=True), (2, 5, 5), 3),
    ("another divisor", avg(2, stride=1, padding=1, divisor_override=3), (2, 4, 5), 3),
    ("one place", avg(1), (2, 3, 4), 3),
    ("global", adaptive(1), (3, 5, 4), 17),
    ("parts that divide", adaptive((2, 3)), (2, 4, 6), 3),
    ("parts that overlap", adaptive((2, 3)), (2, 5, 7), 3),
    ("more parts than pixels", adaptive(5), (2, 3, 2), 3),
    ("rows only", adaptive((1, None)), (2, 3, 4), 3),
    ("nothing to do", adaptive((None, None)), (2, 3, 4), 3),
)


@pytest.mark.parametrize("layer, shape, images", AVERAGES)
def test_averages(layer, shape, images):
    name, args, options = layer
    forward, gradient = reference.PLAIN[name]
    rng = np.random.default_rng(0)
    model = Sequential(*make([layer]))
    x = rng.normal(size=(images, *shape)).astype(np.float32)
    y = model(x)
    dy = rng.normal(size=y.shape).astype(np.float32)
    dx = model.backward(dy)
    terms = 4 * np.sqrt(x[0, 0].size + 2) * ROUNDING
    for got, want, sums in ((y, forward(x, *args, **options), forward(abs(x), *args, **options)),
                            (dx, gradient(dy, x, *args, **options), gradient(abs(dy), x, *args, **options))):
        same(got, want, name, terms * sums)
        rejected(got, 1.001 * want, terms * sums)


def test_averages_of_powers_of_two_are_exact():
    """And a gradient of one number shows which windows it lies in."""
    check(avg(2), (2, 6, 4), 17)
    check(avg((2, 4), stride=(1, 2), padding=(1, 0)), (2, 5, 6), 3)
    check(adaptive(2), (2, 4, 8), 3)
    model = Sequential(*make([avg(2, stride=1, padding=1)]))
    x = np.ones((3, 1, 2, 2), np.float32)
    y = model(x)
    same(y, np.broadcast_to(np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4, (3, 1, 3, 3)), "output")
    rejected(y, reference.avg_pool2d(x, 2, 1, 1, count_include_pad=False))
    dx = model.backward(np.arange(9).reshape(1, 1, 3, 3).repeat(3, 0))
    same(dx, np.broadcast_to(np.array([[8, 12], [20, 24]]) / 4, (3, 1, 2, 2)), "gradient")


@pytest.mark.parametrize("layers", named(
    ("average", [conv(2, 4, 3), relu, avg(2)]),
    ("overlapping average", [conv(2, 4, 3), relu, avg(3, stride=2, padding=1)]),
    ("global average", [conv(2, 4, 3), relu, adaptive(1)]),
    ("dilated maximum", [conv(2, 4, 3), relu, pool(2, stride=1, dilation=2)]),
    ("average first", [avg(2), conv(2, 4, 2, padding=1), relu]),
    ("relu after an average", [conv(2, 4, 3), avg(2), relu]),
))
def test_pooling_among_others(layers):
    rng = np.random.default_rng(0)
    shape = 2, 7, 8
    model = build_normal(layers, rng)
    network = reference.Network(layers, model.state_dict())
    x = decided(rng, layers, model, (17, *shape))
    dy = rng.normal(size=(17, *model.output_shape(shape))).astype(np.float32)
    got = {"output": model(x), "input gradient": model.backward(dy)} | {p.name: p.grad for p in model.parameters()}
    wanted = {"output": network.forward(x)}
    wanted["input gradient"], gradients = network.backward(dy)
    for what, want in (wanted | gradients).items():
        tolerance = NETWORK * np.abs(want).max()
        same(got[what], want, what, tolerance)
        rejected(got[what], 1.001 * want, tolerance)


# ---- shapes --------------------------------------------------------------------------------------
@pytest.mark.parametrize("layers, shape", named(
    ("image to image", [reshape((4, 3, 5))], (3, 4, 5)),
    ("image to image, one size left open", [reshape((6, -1, 2))], (3, 4, 5)),
    ("image to features", [reshape(60)], (3, 4, 5)),
    ("features to image", [reshape((2, 3, -1))], (24,)),
    ("features to features", [reshape(-1)], (24,)),
    ("between convolutions", [conv(2, 4, 3), reshape((3, 4, 4)), conv(3, 5, 2, padding=1)], (2, 6, 5)),
    ("between dense layers", [linear(10, 24), relu, reshape((2, 3, 4)), avg((1, 2)), flatten, linear(12, 3)], (10,)),
    ("direct convolution, flatten", [conv(2, 3, 2), relu, flatten], (2, 5, 6)),
))
@pytest.mark.parametrize("images", (3, 17))
def test_reshape(layers, shape, images):
    """Whole numbers and powers of two: exact, but for Cook-Toom products."""
    rng = np.random.default_rng(0)
    model = build(layers, rng)
    network = reference.Network(layers, model.state_dict())
    x = whole(rng, (images, *shape))
    y = model(x)
    dy = whole(rng, y.shape)
    want = network.forward(x)
    tolerance = TOOM * np.abs(want).max()
    same(y, want, "output", tolerance)
    rejected(y, np.roll(want, 1, axis=1), tolerance)
    dx, (want, _) = model.backward(dy), network.backward(dy)
    same(dx, want, "gradient", TOOM * np.abs(want).max())


# ---- what a user gets wrong ----------------------------------------------------------------------
@pytest.mark.parametrize("layer, what", (
    (pool(2, dilation=0), "MaxPool2d: dilation"),
    (pool(2, ceil_mode=1), "MaxPool2d: ceil_mode"),
    (pool(2, return_indices="yes"), "MaxPool2d: return_indices"),
    (avg(0), "AvgPool2d: kernel_size"),
    (avg(2, stride=0), "AvgPool2d: stride"),
    (avg(2, padding=-1), "AvgPool2d: padding"),
    (avg(3, padding=2), "AvgPool2d: padding must be at most half the kernel size 3, got 2"),
    (avg(2, ceil_mode=None), "AvgPool2d: ceil_mode"),
    (avg(2, count_include_pad=0), "AvgPool2d: count_include_pad"),
    (avg(2, divisor_override=0), "AvgPool2d: divisor_override"),
    (adaptive(0), "AdaptiveAvgPool2d: output_size"),
    (adaptive((1, 2, None)), "AdaptiveAvgPool2d: output_size"),
    (adaptive("1"), "AdaptiveAvgPool2d: output_size"),
    (reshape(0), "Reshape: each size must be a whole number of at least 1, got 0"),
    (reshape((2, 3.0, 1)), "Reshape: each size"),
    (reshape((2, 3)), r"Reshape: shape must be .* got \(2, 3\)"),
    (reshape((-1, -1, 2)), "Reshape: shape must be .* at most one -1"),
    (reshape(()), "Reshape: shape must be"),
))
def test_bad_arguments(layer, what):
    with pytest.raises(InputError, match=what) as error:
        make([layer])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("layers, shape, what", (
    ([pool(2, dilation=4)], (1, 4, 5), "layer 0: MaxPool2d with a 5x5 window does not fit on an image of 4x5"),
    ([pool(4, ceil_mode=True, stride=2)], (1, 2, 1), "layer 0: MaxPool2d with a 4x4 window does not fit"),
    ([relu, avg(3)], (1, 2, 5), "layer 1: AvgPool2d with a 3x3 window does not fit on an image of 2x5"),
    ([avg(3)], (9,), "layer 0: AvgPool2d expects images"),
    ([adaptive(1)], (9,), "layer 0: AdaptiveAvgPool2d expects images"),
    ([reshape((2, 3, 4))], (1, 5, 5), r"layer 0: Reshape to \(2, 3, 4\) needs as many numbers, got 1x5x5"),
    ([relu, reshape((-1, 3, 3))], (15,), r"layer 1: Reshape to \(-1, 3, 3\) needs as many numbers, got 15 features"),
    ([pool(2, return_indices=True), relu], (1, 4, 4), "two results.*functional.max_pool2d"),
))
def test_layers_that_cannot_meet(layers, shape, what):
    with pytest.raises(InputError, match=what) as error:
        Sequential(*make(layers))(np.zeros((2, *shape)))
    assert "\n" not in str(error.value)


def test_functional_refuses_what_are_no_images():
    for images, what in ((np.zeros((1, 4, 4)), r"got shape \(1, 4, 4\)"), (np.zeros((0, 1, 4, 4)), "got shape"),
                         ("images", "array of numbers, got str")):
        with pytest.raises(InputError, match=what):
            functional.max_pool2d(images, 2)


def test_indices_are_exact_or_refused():
    """Places are numbered in float32, which holds whole numbers up to 2**24."""
    layer = cnn_numba.MaxPool2d(2, return_indices=True)
    assert layer.output_shape((1, 4096, 4096)) == (1, 2048, 2048)
    with pytest.raises(InputError, match="at most 16,777,216 pixels"):
        layer.output_shape((1, 4096, 4098))
