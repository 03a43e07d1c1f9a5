"""Pooling, activations and shapes against the loops of `reference`, compiled, and interpreted with NUMBA_DISABLE_JIT=1.

The tolerances are those of `comparing`: whole numbers are exact, and a sum of n terms is right to 4 sqrt(n + 2) u of
their absolute sum.
"""
import zlib

import numpy as np
import pytest
import reference
from comparing import ROUNDING, TOOM, check, check_network, named, rejected, same
from networks import (
    adaptive,
    avg,
    build,
    conv,
    flatten,
    leaky,
    linear,
    log_softmax,
    make,
    pool,
    relu,
    reshape,
    sigmoid,
    softmax,
    tanh,
    whole,
)
from numba import njit

import cnn_numba
from cnn_numba import Conv2d, InputError, MaxPool2d, ReLU, Sequential, functional, set_execution
from cnn_numba.kernels import exponential
from cnn_numba.kernels.compiled import JIT, KERNEL
from cnn_numba.kernels.lanes import LANES, aligned, load, store
from cnn_numba.kernels.program import Call, Program, in_order

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


# ---- activations ---------------------------------------------------------------------------------
@njit(**KERNEL)
def exponentials(n, y, x):
    """exp, tanh and sigmoid of x (N, K), to y (3, N, K)."""
    for k in range(x.shape[1]):
        v = load(x, (n, k))
        store(y, (0, n, k), exponential.exp(v))
        store(y, (1, n, k), exponential.tanh(v))
        store(y, (2, n, k), exponential.sigmoid(v))


def exponentials_of(numbers):
    x = aligned((1, -(-len(numbers) // LANES), LANES))
    x.reshape(-1)[:len(numbers)] = numbers
    y = aligned((3, *x.shape))
    Program(in_order([Call(exponentials, 1, y=y, x=x)]))()
    return y.reshape(3, -1)[:, :len(numbers)]


def in_last_places(got, want):
    """Errors in units in the last place of float32, subnormal numbers too."""
    return np.abs(got - want) / np.maximum(np.spacing(np.abs(want).astype(np.float32)), 2.0**-149)


@pytest.mark.parametrize("low, high", ((-1, 1), (-0.01, 0.01), (-20, 20), (-87, 88.5), (-104, -87)))
def test_exponentials_are_right_to_the_last_places(low, high):
    """Measured on 3 million numbers for each range: 0.99, 1.33 and 2.33 units in the last place."""
    x = np.random.default_rng(0).uniform(low, high, 4000).astype(np.float32)
    functions = (np.exp, 1), (reference.tanh, 1.5), (reference.sigmoid, 2.5)
    for got, (f, most) in zip(exponentials_of(x), functions, strict=True):
        want = f(x.astype(np.float64))
        assert in_last_places(got, want).max() <= most
        assert in_last_places(got, (1 + 2.0**-20) * want).max() > most


def test_exponentials_at_their_ends():
    x = np.array([0, np.inf, -np.inf, np.nan, 88.72283, 88.7229, -103.97, -104, 1e30, -1e30, 1e-30, -1e-30], np.float32)
    exp, tanh, sigmoid = exponentials_of(x)
    tiny, big = np.float32(2.0**-149), np.float32(3.4027985e38)
    np.testing.assert_array_equal(exp, [1, np.inf, 0, np.nan, big, np.inf, tiny, 0, np.inf, 0, 1, 1])
    np.testing.assert_array_equal(tanh[:10], [0, 1, -1, np.nan, 1, 1, -1, -1, 1, -1])
    np.testing.assert_allclose(tanh[10:], x[10:], rtol=ROUNDING)
    np.testing.assert_array_equal(sigmoid, [0.5, 1, 0, np.nan, 1, 1, tiny, 0, 1, 0, 0.5, 0.5])


def test_exponentials_have_the_same_bits_everywhere():
    """Compiled or interpreted, on CPUs with and without fused multiply-add."""
    x = np.arange(-30000, 30000, 7).astype(np.float32) / 256
    assert [zlib.crc32(y.tobytes()) for y in exponentials_of(x)] == [895437894, 593105274, 1675100780]


@pytest.mark.parametrize("layer", (leaky(), leaky(0.3), leaky(0), leaky(-2.0)))
@pytest.mark.parametrize("shape, images", (((2, 3, 5), 17), ((21,), 3)))
def test_leaky_relu(layer, shape, images):
    rng = np.random.default_rng(0)
    x, dy = (whole(rng, (images, *shape)) for _ in range(2))
    x.flat[:2] = 0, 3
    _, args, _ = layer
    model = Sequential(*make([layer]))
    y, dx = model(x), model.backward(dy)
    want, gradient = reference.leaky_relu(x, *args), reference.leaky_relu_gradient(dy, x, *args)
    bound = 2 * ROUNDING * 3
    same(y, want, "output", bound)
    same(dx, gradient, "gradient", bound)
    rejected(y, reference.leaky_relu(x, 0.02), bound)
    rejected(dx, reference.leaky_relu_gradient(dy, -x, *args), bound)


@pytest.mark.parametrize("layer", (tanh, sigmoid, softmax(), log_softmax(), log_softmax(1)), ids=lambda layer: layer[0])
@pytest.mark.parametrize("scale", (1, 30))
@pytest.mark.parametrize("shape, images", (((5, 2, 3), 17), ((21,), 3), ((1,), 16)))
def test_smooth_activations(layer, scale, shape, images):
    """With u the rounding error: exp magnifies that of its argument, sums of C numbers add C of them, and what follows
    rounds a handful of times."""
    name, args, _ = layer
    rng = np.random.default_rng(0)
    x = (scale * rng.normal(size=(images, *shape))).astype(np.float32)
    dy = rng.normal(size=x.shape).astype(np.float32)
    model = Sequential(*make([layer]))
    y, dx = model(x), model.backward(dy)
    forward, backward = reference.PLAIN[name]
    want, gradient = forward(x, *args), backward(dy, x, *args)
    size = np.abs(dy)
    if name in ("Tanh", "Sigmoid"):
        bound, of_gradient = 5 * np.abs(want), 10 * size * (1 if name == "Tanh" else want)
    else:
        p, log_p, C = reference.softmax(x), np.abs(reference.log_softmax(x)), shape[0]
        terms = 2 * log_p + 2 * C + 12
        bound = terms * p if name == "Softmax" else terms
        of_gradient = terms * p * (size + (p * size).sum(1, keepdims=True)) if name == "Softmax" else (
            2 * size + terms * p * size.sum(1, keepdims=True))
        of_gradient = of_gradient + (name == "Softmax") * p * (terms * p * size).sum(1, keepdims=True)
    same(y, want, "output", bound * ROUNDING + 2.0**-149)
    same(dx, gradient, "gradient", of_gradient * ROUNDING + 2.0**-148)
    rejected(y, 1.001 * want + 1e-4, bound * ROUNDING + 2.0**-149)
    rejected(dx, gradient + 1e-3 * size, of_gradient * ROUNDING + 2.0**-148)


def test_softmax_of_huge_numbers():
    """Each image is compared with its own largest number, so that neither overflows nor is lost beside another."""
    x = np.array([[1e4, -1e4, 0], [1e38, -1e38, 0], [-1e4, -1e4, -1e4], [5, 5, -1e4]], np.float32)
    y, log_y = Sequential(*make([softmax()]))(x), Sequential(*make([log_softmax()]))(x)
    same(y, np.array([[1, 0, 0], [1, 0, 0], [1 / 3] * 3, [0.5, 0.5, 0]]), "softmax", ROUNDING)
    same(log_y, reference.log_softmax(x), "log softmax", 2 * ROUNDING * np.abs(reference.log_softmax(x)))
    with np.errstate(over="ignore", invalid="ignore"):
        rejected(y, np.exp(x) / np.exp(x).sum(1, keepdims=True), 1.0)


@pytest.mark.parametrize("layer", (leaky(), tanh, sigmoid, softmax(), log_softmax()), ids=lambda layer: layer[0])
def test_nan_stays_visible(layer):
    model = build([linear(2, 2, bias=False), layer], np.random.default_rng(0))
    model.parameters()[0].value[:, 0] = np.nan
    with np.errstate(invalid="ignore"):
        assert np.isnan(model(np.ones((3, 2)))).all()


# ---- among other layers --------------------------------------------------------------------------
@pytest.mark.parametrize("layers", named(
    ("average", [conv(2, 4, 3), relu, avg(2)]),
    ("overlapping average", [conv(2, 4, 3), relu, avg(3, stride=2, padding=1)]),
    ("global average", [conv(2, 4, 3), relu, adaptive(1)]),
    ("dilated maximum", [conv(2, 4, 3), relu, pool(2, stride=1, dilation=2)]),
    ("average first", [avg(2), conv(2, 4, 2, padding=1), relu]),
    ("relu after an average", [conv(2, 4, 3), avg(2), relu]),
    ("leaky relu", [conv(2, 4, 3), leaky(0.1), avg(2), conv(4, 3, 2)]),
    ("tanh and relu", [conv(2, 4, 3), tanh, relu, conv(4, 3, 2)]),
    ("relu and tanh", [conv(2, 4, 3), relu, tanh, pool(2)]),
    ("sigmoid", [conv(2, 4, 3, padding=1), sigmoid, conv(4, 3, 3, padding=1)]),
    ("softmax of channels", [conv(2, 4, 3), softmax(), conv(4, 2, 2, padding=1)]),
    ("softmax of features", [conv(2, 4, 3), flatten, sigmoid, linear(120, 5), softmax(-1)]),
    ("log softmax", [conv(2, 4, 3), relu, adaptive(1), flatten, linear(4, 6), log_softmax()]),
    ("reshape after relu", [conv(2, 4, 3), relu, reshape((2, 5, 12)), conv(2, 3, 3)]),
))
def test_among_others(layers):
    check_network(layers, (2, 7, 8), 17)


@pytest.mark.skipif(not JIT, reason="interpreted, there is one way to run")
def test_serial_and_parallel_give_the_same_bits():
    layers = [conv(2, 4, 3, padding=1), leaky(), pool(3, 2, 1, dilation=1, ceil_mode=True), conv(4, 6, 3), tanh,
              avg(2, 1, 1), sigmoid, adaptive(3), reshape((3, 9, 2)), relu, avg((2, 1)), flatten, linear(24, 5),
              softmax(), log_softmax()]
    x = np.random.default_rng(0).normal(size=(40, 2, 12, 9)).astype(np.float32)
    results = []
    for arguments in (("serial",), ("parallel", 1), ("parallel",)):
        set_execution(*arguments)
        model = Sequential(*make(layers), seed=3)
        results.append((np.array(model(x)), model.backward(np.eye(40, 5)), model.grads.copy()))
    assert results[0][2].any()
    for result in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(result, results[0], strict=True))


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
    (leaky("0.1"), "LeakyReLU: negative_slope must be a finite number, got '0.1'"),
    (leaky(np.nan), "LeakyReLU: negative_slope"),
    (leaky(1e39), "LeakyReLU: negative_slope"),
    (softmax(2), "Softmax: dim must be 1"),
    (log_softmax(None), "LogSoftmax: dim must be 1.*got None"),
    (softmax(True), "Softmax: dim"),
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
    ([relu, log_softmax(-1)], (2, 3, 4), "layer 1: LogSoftmax with dim=-1 expects features, got 2x3x4"),
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


def test_a_last_max_pool_tells_where_the_maxima_stand():
    x = whole(np.random.default_rng(0), (18, 2, 6, 7), 9)
    y, indices = Sequential(Conv2d(2, 2, 1), MaxPool2d(2, return_indices=True)).train()(x)
    assert indices.dtype == np.int64 and indices.shape == y.shape
    model = Sequential(MaxPool2d((2, 3), 1, return_indices=True))
    y, indices = model(x)
    wanted, places = functional.max_pool2d(x, (2, 3), 1, return_indices=True)
    assert np.array_equal(y, wanted) and np.array_equal(indices, places)
    assert np.array_equal(np.take_along_axis(x.reshape(18, 2, -1), indices.reshape(18, 2, -1), 2).reshape(y.shape), y)
    dy = np.ones(y.shape, np.float32)
    assert model.backward(dy).sum() == dy.sum()
    with pytest.raises(InputError, match="put it last"):
        Sequential(MaxPool2d(2, return_indices=True), ReLU())(x)
