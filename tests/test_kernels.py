"""Every kernel against the loops of `reference`, compiled, and interpreted with NUMBA_DISABLE_JIT=1.

`comparing` derives the tolerances.
"""
import numpy as np
import pytest
import reference
from comparing import (
    NETWORK,
    ROUNDING,
    TOOM,
    both,
    check,
    check_network,
    is_toom,
    named,
    outputs_and_gradients,
    rejected,
    same,
    toom_axes,
)
from networks import build, build_normal, conv, decided, flatten, linear, pool, relu, whole

from cnn_numba import SGD, CrossEntropyLoss, Sequential, set_execution
from cnn_numba.kernels import batch
from cnn_numba.kernels.compiled import JIT
from cnn_numba.kernels.conv import conv2d_plain
from cnn_numba.kernels.lanes import LANES, aligned
from cnn_numba.kernels.program import Call, PerWorker, Program, in_order
from cnn_numba.layers import Conv2d, Linear, MaxPool2d, ReLU
from cnn_numba.layers import linear as linear_layer

# ---- convolution ---------------------------------------------------------------------------------
# Kernels are compiled for each tile, and a tile is as wide as the image up to some columns: the widths here are few.
CONVOLUTIONS = named(
    ("one of everything", conv(1, 1, 1), (1, 5, 4), 1),
    ("lenet 1", conv(1, 6, 5, padding=2), (1, 9, 7), 3),
    ("lenet 2", conv(6, 16, 5), (6, 6, 6), 2),
    ("odd sizes", conv(3, 5, 3), (3, 7, 5), 16),
    ("one image more than the lanes", conv(3, 5, 3, padding=1), (3, 7, 5), 17),
    ("three blocks", conv(2, 4, (2, 3), padding=(1, 0)), (2, 4, 6), 33),
    ("filters no multiple of the tile", conv(2, 11, 3, padding=1), (2, 4, 5), 1),
    ("channels no multiple of the tile", conv(11, 2, 3, padding=1), (11, 4, 8), 1),
    ("columns no multiple of the tile", conv(1, 8, 3), (1, 4, 13), 1),
    ("wide tile", conv(1, 2, 3, padding=1), (1, 3, 19), 1),
    ("fewer columns than the tile", conv(2, 4, 3, padding=1), (2, 6, 1), 3),
    ("kernel columns no multiple of the tile", conv(1, 3, (1, 11), padding=(0, 5)), (1, 3, 8), 3),
    ("tall kernel", conv(2, 3, (5, 1), padding=(2, 0)), (2, 6, 6), 3),
    ("window as large as the image", conv(2, 3, (4, 5)), (2, 4, 5), 3),
    ("more padding than image", conv(1, 2, 2, padding=3), (1, 2, 3), 3),
    ("same, odd kernel", conv(2, 3, 3, padding="same"), (2, 5, 6), 3),
    ("same, even kernel", conv(2, 3, 2, padding="same"), (2, 5, 6), 3),
    ("same, mixed kernel, dilated", conv(2, 3, (4, 3), padding="same", dilation=(1, 3)), (2, 5, 6), 3),
    ("valid", conv(2, 3, 3, padding="valid"), (2, 5, 6), 3),
    ("stride", conv(2, 4, 3, stride=2), (2, 8, 9), 3),
    ("stride that leaves a rest", conv(2, 4, 3, stride=2), (2, 9, 8), 3),
    ("stride and padding", conv(2, 4, 3, stride=2, padding=1), (2, 8, 9), 17),
    ("stride by rows only", conv(2, 4, 3, stride=(3, 1), padding=(0, 1)), (2, 8, 6), 3),
    ("stride by columns only", conv(2, 4, (3, 2), stride=(1, 3)), (2, 5, 12), 3),
    ("stride larger than the kernel", conv(2, 4, 2, stride=3), (2, 8, 12), 3),
    ("stride larger than the image", conv(2, 4, 2, stride=4, padding=1), (2, 3, 3), 3),
    ("dilation", conv(2, 3, 3, dilation=2), (2, 7, 8), 3),
    ("dilation and stride", conv(2, 3, 3, stride=2, dilation=2, padding=2), (2, 7, 8), 3),
    ("dilation prime to the stride", conv(2, 3, 2, stride=2, dilation=3, padding=1), (2, 7, 8), 3),
    ("dilation by rows only", conv(2, 3, 3, dilation=(2, 1), padding=(2, 1)), (2, 5, 6), 3),
    ("groups", conv(4, 6, 3, groups=2, padding=1), (4, 5, 6), 3),
    ("groups, strided, dilated", conv(6, 3, 2, groups=3, stride=2, dilation=2, padding=1), (6, 7, 6), 17),
    ("filters of a group no multiple of the tile", conv(2, 22, 2, groups=2), (2, 4, 4), 3),
    ("depthwise", conv(5, 5, 3, groups=5, padding=1), (5, 4, 6), 3),
    ("depthwise, two filters each", conv(3, 6, 3, groups=3), (3, 5, 6), 17),
    ("pointwise", conv(7, 5, 1), (7, 3, 4), 17),
    ("no bias", conv(3, 5, 3, bias=False), (3, 7, 5), 3),
    ("no bias, direct", conv(3, 2, 3, bias=False), (3, 7, 5), 3),
    ("five taps in fours", conv(2, 4, 5), (2, 6, 8), 3),
    ("five taps in fives", conv(2, 4, 5, padding=2), (2, 5, 10), 17),
    ("taps along the rows only", conv(2, 5, (1, 3)), (2, 4, 8), 3),
    ("both axes", conv(4, 8, 3, padding=1), (4, 8, 12), 3),
    ("both axes, nothing a multiple", conv(5, 7, 3, padding=1), (5, 9, 14), 17),
    ("both axes, more filters than lanes", conv(4, 18, 3), (4, 6, 7), 3),
    ("both axes, more channels than lanes", conv(18, 4, 3, padding=1), (18, 6, 6), 3),
    ("both axes, one row", conv(4, 5, 3, padding=(0, 1)), (4, 3, 6), 3),
    ("both axes, two rows and three columns", conv(5, 4, 3), (5, 4, 5), 3),
    ("both axes, one pixel", conv(5, 4, 3, padding=1), (5, 1, 1), 3),
    ("both axes, more padding than image", conv(5, 4, 3, padding=4), (5, 2, 3), 3),
    ("two taps, padding", conv(3, 4, 2, padding=1), (3, 5, 8), 3),
    ("stride and as many taps", conv(4, 3, 4, stride=2, padding=1), (4, 8, 7), 3),
    ("stride and five taps", conv(3, 4, 5, stride=2, padding=2), (3, 9, 12), 3),
    ("as many filters as lanes", conv(8, 16, 3, stride=2, padding=1), (8, 8, 9), 17),
    ("as many filters as lanes, large image", conv(64, 16, 1), (64, 9, 7), 3),
    ("as many filters as lanes in a group", conv(24, 32, 3, dilation=2, groups=2), (24, 6, 5), 3),
    ("both axes, five taps", conv(16, 17, 5, padding=2), (16, 5, 6), 3),
    ("both axes, weights too", conv(32, 64, 3, padding=1), (32, 2, 3), 3),
    ("both axes, weights too, nothing a multiple", conv(59, 35, 3), (59, 3, 5), 17),
    ("both axes, more padding than taps give", conv(5, 4, 3, padding=2), (5, 2, 3), 3),
    ("both axes, other products for the gradient", conv(16, 17, 5, padding=(4, 0)), (16, 1, 9), 3),
    ("too much padding for both axes", conv(5, 4, 3, padding=3), (5, 4, 5), 3),
    ("both axes, no bias", conv(6, 4, 3, bias=False), (6, 7, 7), 17),
    ("even rows, odd taps, same", conv(2, 5, (2, 3), padding="same"), (2, 5, 7), 3),
)


@pytest.mark.parametrize("layer, shape, images", CONVOLUTIONS)
def test_conv2d(layer, shape, images):
    check(layer, shape, images)


def test_tiles_that_only_a_panel_has_do_not_count():
    """Their memory can hold anything: layers share it."""
    model, _, x, dy = both([conv(32, 64, 3, padding=1)], (32, 2, 6), 2)

    def run(model, x, dy, waste):
        plan = model.plan(x.shape[1:], 1)
        for call in plan.calls.forward + plan.calls.backward:
            for name in {"d", "v"} & call.args.keys():
                assert call.args["high"] * call.args["wide"] == 3
                of_panels = call.args[name]
                for array in of_panels.arrays if isinstance(of_panels, PerWorker) else [of_panels]:
                    array[...] = waste
        forward, backward = plan.programs()
        plan.x.put(x)
        forward()
        plan.dz.put(dy)
        backward()
        return plan.z.get(len(x)), plan.dx.get(len(x))

    want, got = ([numbers.copy() for numbers in outputs_and_gradients(
        model, x, dy, lambda *args, waste=waste: run(*args, waste)).values()] for waste in (0, np.nan))
    assert all(numbers.any() and np.array_equal(numbers, others) for numbers, others in zip(want, got, strict=True))


def test_convolutions_of_all_kinds_are_tested():
    kinds = [toom_axes(Conv2d(*case.values[0][1], **case.values[0][2]), case.values[1]) for case in CONVOLUTIONS]
    assert kinds.count(0) >= 20 and kinds.count(1) >= 6 and kinds.count(2) >= 8


@pytest.mark.parametrize("layer, shape, images", named(
    ("direct", conv(3, 5, 3, stride=2, padding=1), (3, 9, 7), 17),
    ("direct, many filters", conv(8, 32, 3, stride=2, padding=1), (8, 8, 9), 17),
    ("pointwise", conv(7, 5, 1), (7, 3, 4), 17),
    ("product of 3 taps", conv(2, 5, 3, padding=1), (2, 7, 9), 17),
    ("product of 3 x 3 taps", conv(3, 5, 3, padding=1), (3, 7, 9), 17),
    ("product of 5 x 5 taps", conv(16, 16, 5, padding=2), (16, 5, 6), 3),
    ("product of 3 x 3 taps, many channels", conv(64, 5, 3), (64, 6, 6), 3),
    ("product of 5 taps", conv(3, 5, 5, padding=2), (3, 7, 9), 17),
))
def test_conv2d_rounds_as_float32_does(layer, shape, images):
    rng = np.random.default_rng(1)
    _, _, options = layer
    model = build_normal([layer], rng)
    weight, bias = (p.value for p in model.parameters())
    x = rng.normal(size=(images, *shape)).astype(np.float32)
    y = model(x)
    dy = rng.normal(size=y.shape).astype(np.float32)
    dx = model.backward(dy)

    def bound(products, n):
        toom = is_toom(model.layers[0], shape)
        return TOOM * products.max() if toom else 4 * np.sqrt(n + 2) * ROUNDING * products

    same(y, reference.conv2d(x, weight, bias, **options), "output",
         bound(reference.conv2d(abs(x), abs(weight), abs(bias), **options), weight[0].size))
    wanted = reference.conv2d_gradients(dy, x, weight, **options)
    products = reference.conv2d_gradients(abs(dy), abs(x), abs(weight), **options)
    outputs = dy[:, 0].size
    got = dx, *(p.grad for p in model.parameters())
    for g, w, p, n in zip(got, wanted, products, (weight[:, 0].size, outputs, outputs), strict=True):
        same(g, w, "gradient", bound(p, n))
        rejected(g, 1.001 * w, bound(p, n))


@pytest.mark.parametrize("stride, dilation", ((1, 1), (2, 1), (1, 2), (3, 2)))
def test_the_plain_loops_that_readers_begin_with(stride, dilation):
    """`conv2d_plain` overwrites y with what the reference and the kernels compute."""
    rng, options = np.random.default_rng(6), dict(stride=stride, dilation=dilation)
    model = build([conv(2, 3, (2, 3), **options)], rng)
    weight, bias = (p.value for p in model.parameters())
    x = whole(rng, (2, 2, 6, 8))
    want = reference.conv2d(x, weight, bias, **options)
    y = np.full(want.shape, np.nan, np.float32)
    conv2d_plain(y, x, weight, bias, **options)
    same(y, want, "plain loops")
    same(np.asarray(model(x)), want, "kernels", is_toom(model.layers[0], x.shape[1:]) * TOOM * np.abs(want).max())
    rejected(y, reference.conv2d(x, weight, **options))
    rejected(y, reference.conv2d(x, weight[..., ::-1], bias, **options))


def test_conv2d_negative_controls():
    """What the comparison must notice: a tap dropped, the bias forgotten, padding at the wrong side, an image lost."""
    model, _, x, dy = both([conv(2, 3, 2, padding="same")], (2, 5, 6), 17)
    y, dx = model(x), model.backward(dy)
    weight, bias = (p.value.copy() for p in model.parameters())
    grad = model.parameters()[0].grad
    dropped = weight.copy()
    dropped[weight != 0] = np.concatenate([[0], weight[weight != 0][1:]])
    rejected(y, reference.conv2d(x, dropped, bias, padding="same"))
    rejected(y, reference.conv2d(x, weight, None, padding="same"))
    rejected(y, reference.conv2d(np.pad(x, ((0, 0), (0, 0), (1, 0), (1, 0))), weight, bias))
    rejected(dx, reference.conv2d_gradients(dy, x, dropped, padding="same")[0])
    rejected(grad, reference.conv2d_gradients(dy[:-1], x[:-1], weight, padding="same")[1])
    rejected(grad, 1.001 * reference.conv2d_gradients(dy, x, weight, padding="same")[1])


# ---- pooling -------------------------------------------------------------------------------------
@pytest.mark.parametrize("layer, shape, images", named(
    ("the usual", pool(2), (2, 6, 4), 3),
    ("two blocks", pool(2), (3, 4, 4), 17),
    ("sizes that do not divide", pool(2), (2, 7, 5), 3),
    ("overlapping", pool(3, stride=2), (2, 7, 9), 3),
    ("overlapping everywhere", pool(3, stride=1), (2, 5, 6), 16),
    ("overlapping by rows only", pool((3, 2), stride=(1, 2)), (2, 5, 6), 3),
    ("stride larger than the kernel", pool(2, stride=3), (2, 8, 7), 3),
    ("padding", pool(2, padding=1), (2, 5, 6), 3),
    ("overlapping with padding", pool(3, stride=2, padding=1), (2, 6, 7), 33),
    ("padding by columns only", pool((2, 3), stride=2, padding=(0, 1)), (2, 5, 6), 3),
    ("one place", pool(1), (2, 3, 4), 3),
    ("one place, strided", pool(1, stride=2), (2, 4, 5), 3),
    ("the whole image", pool((3, 4)), (2, 3, 4), 1),
    ("a padded window larger than the image", pool(3, padding=1), (2, 1, 2), 3),
))
def test_max_pool2d(layer, shape, images):
    """Whole numbers from -3 to 3: most windows hold their maximum more than once."""
    check(layer, shape, images)


def test_max_pool2d_ties_go_to_the_first_place():
    x = np.zeros((3, 2, 4, 6), np.float32)
    model = Sequential(MaxPool2d(2))
    model(x)
    dx = model.backward(np.ones((3, 2, 2, 3)))
    first = np.zeros(x.shape)
    first[:, :, ::2, ::2] = 1
    same(dx, first, "gradient of ties")
    rejected(dx, first[:, :, ::-1, ::-1])                           # the last place instead


def test_max_pool2d_of_negative_numbers_ignores_the_padding():
    x = -1 - np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    y = Sequential(MaxPool2d(2, padding=1))(x)
    same(y, reference.max_pool2d(x, 2, padding=1), "output")
    rejected(y, np.maximum(y, 0))                                   # zeros that win


# ---- dense ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("layer, images", named(
    ("one of everything", linear(1, 1), 1),
    ("fewer features than lanes", linear(7, 3), 3),
    ("as many features as lanes", linear(16, 10), 16),
    ("one feature more than lanes", linear(17, 12), 17),
    ("features no multiple of the lanes", linear(45, 5), 33),
    ("units and features no multiple of the tile", linear(37, 13), 1),
    ("many units", linear(33, 26), 3),
    ("no bias", linear(20, 10, bias=False), 3),
    ("weights too many to read for each block", linear(2064, 128), 17, pytest.mark.skipif(
        not JIT, reason="takes long, and `test_large_linear_in_small` runs the same kernels")),
))
def test_linear(layer, images):
    check(layer, layer[1][:1], images)


def test_large_linear_in_small(monkeypatch):
    """Weights that are read once for all blocks, however few: two items, the second with a single line of lanes."""
    monkeypatch.setattr(linear_layer, "LARGE", 0)
    check(linear(80, 21), (80,), 17)


def test_linear_rounds_as_float32_does():
    rng = np.random.default_rng(2)
    model = Sequential(Linear(45, 5), seed=1)
    weight, bias = (p.value for p in model.parameters())
    x, dy = (rng.normal(size=(33, n)).astype(np.float32) for n in (45, 5))
    y, dx = model(x), model.backward(dy)
    got = y, dx, *(p.grad for p in model.parameters())
    wanted = reference.linear(x, weight, bias), *reference.linear_gradients(dy, x, weight)
    a, b, c = abs(x), abs(weight), abs(dy)
    products = reference.linear(a, b), *reference.linear_gradients(c, a, b)
    for g, w, p, n in zip(got, wanted, products, (45, 5, 33, 33), strict=True):
        bound = 4 * np.sqrt(n + 2) * ROUNDING * p
        same(g, w, "linear", bound)
        rejected(g, 1.001 * w, bound)


def test_linear_negative_controls():
    model, network, x, dy = both([linear(17, 12)], (17,), 17)
    y, dx = model(x), model.backward(dy)
    weight, bias = (p.value for p in model.parameters())
    rejected(y, reference.linear(x[:, :16], weight[:, :16], bias))
    rejected(dx, reference.linear_gradients(dy[:, :-1], x, weight[:-1])[0])
    rejected(model.parameters()[0].grad, reference.linear_gradients(dy[:16], x[:16], weight)[1])
    rejected(model.parameters()[1].grad, dy[:16].sum(0))


# ---- networks: a plan fuses ReLUs with their neighbours and lays one layer's output out for the ne
@pytest.mark.parametrize("layers, shape", named(
    ("conv-conv", [conv(2, 4, 3), conv(4, 2, 3)], (2, 6, 7)),
    ("conv, padded conv", [conv(2, 4, 3), conv(4, 2, 3, padding=1)], (2, 6, 7)),
    ("conv, conv padded at one side", [conv(2, 4, 3), conv(4, 2, 2, padding="same")], (2, 6, 7)),
    ("conv, strided padded conv", [conv(2, 4, 3), conv(4, 2, 3, stride=2, padding=(2, 1))], (2, 6, 7)),
    ("direct conv, padded conv", [conv(2, 3, 2), conv(3, 4, 3, padding=1)], (2, 6, 7)),
    ("padded conv, relu, padded conv", [conv(2, 4, 3, padding=1), relu, conv(4, 4, 3, padding=1)], (2, 6, 7)),
    ("pool-conv", [pool(2), conv(2, 4, 3, padding=1)], (2, 6, 7)),
    ("conv-pool-pool", [conv(2, 4, 3), pool(2), pool(2, stride=1)], (2, 8, 8)),
    ("relu alone", [relu], (2, 5, 6)),
    ("relu of features", [relu], (21,)),
    ("relu first", [relu, conv(2, 4, 3, padding=1)], (2, 5, 6)),
    ("relu first, pool", [relu, pool(2)], (2, 5, 6)),
    ("relu first, linear", [relu, linear(21, 4)], (21,)),
    ("relu last, after conv", [conv(2, 4, 3), relu], (2, 5, 6)),
    ("relu last, after linear", [linear(21, 4), relu], (21,)),
    ("relu last, after pool", [pool(2), relu], (2, 5, 6)),
    ("relu between convs", [conv(2, 4, 3), relu, conv(4, 2, 3, padding=1)], (2, 6, 7)),
    ("relu before a strided conv", [conv(2, 4, 3), relu, conv(4, 2, 3, stride=2, padding=1)], (2, 6, 7)),
    ("relu between conv and pool", [conv(2, 4, 3), relu, pool(2)], (2, 6, 8)),
    ("relu before overlapping pool", [conv(2, 4, 3), relu, pool(3, stride=1, padding=1)], (2, 6, 8)),
    ("relu between pool and conv", [pool(2), relu, conv(2, 4, 3, padding=1)], (2, 6, 8)),
    ("relu between linears", [linear(21, 12), relu, linear(12, 4)], (21,)),
    ("two relus after conv", [conv(2, 4, 3), relu, relu], (2, 5, 6)),
    ("two relus between convs", [conv(2, 4, 3), relu, relu, conv(4, 2, 3)], (2, 6, 7)),
    ("three relus between linears", [linear(21, 12), relu, relu, relu, linear(12, 4)], (21,)),
    ("flatten alone", [flatten], (2, 3, 4)),
    ("flatten-linear", [flatten, linear(24, 4)], (2, 3, 4)),
    ("conv-flatten", [conv(2, 4, 3), flatten], (2, 5, 6)),
    ("conv-relu-flatten", [conv(2, 4, 3), relu, flatten], (2, 5, 6)),
    ("conv-flatten-relu", [conv(2, 4, 3), flatten, relu], (2, 5, 6)),
    ("direct conv-relu-flatten", [conv(2, 3, 2), relu, flatten], (2, 5, 6)),
    ("conv-relu-flatten-relu", [conv(2, 4, 3), relu, flatten, relu], (2, 5, 6)),
    ("conv-flatten-linear", [conv(2, 4, 3), flatten, linear(48, 4)], (2, 5, 6)),
    ("direct conv-relu-flatten-linear", [conv(2, 3, 2), relu, flatten, linear(60, 4)], (2, 5, 6)),
    ("conv-relu-flatten-linear", [conv(2, 4, 3), relu, flatten, linear(48, 4)], (2, 5, 6)),
    ("conv-relu-relu-flatten-linear", [conv(2, 4, 3), relu, relu, flatten, linear(48, 4)], (2, 5, 6)),
    ("conv-flatten-relu-linear", [conv(2, 4, 3), flatten, relu, linear(48, 4)], (2, 5, 6)),
    ("conv-relu-flatten-relu-linear", [conv(2, 4, 3), relu, flatten, relu, linear(48, 4)], (2, 5, 6)),
    ("conv-relu-flatten-flatten-linear", [conv(2, 4, 3), relu, flatten, flatten, linear(48, 4)], (2, 5, 6)),
    ("flatten of features", [linear(21, 12), relu, flatten, linear(12, 4)], (21,)),
    ("pool-flatten-linear", [pool(2), flatten, linear(12, 4)], (2, 5, 6)),
    ("conv-pool-relu-flatten-linear", [conv(2, 4, 3), pool(2), relu, flatten, linear(16, 4)], (2, 6, 7)),
    ("lenet", [conv(1, 6, 5, padding=2), relu, pool(2), conv(6, 16, 5), relu, pool(2), flatten,
               linear(16, 12), relu, linear(12, 8), relu, linear(8, 10)], (1, 12, 12)),
))
@pytest.mark.parametrize("images", (3, 17))
def test_network(layers, shape, images):
    check_network(layers, shape, images)


def test_a_large_dense_layer_with_as_many_items_as_blocks(monkeypatch):
    """Three: its gradient of the input reads dy of all blocks, so that it must not join the chain of a block."""
    monkeypatch.setattr(linear_layer, "LARGE", 0)
    layers, rng = [linear(12, 192), relu, linear(192, 24), relu, linear(24, 5)], np.random.default_rng(4)
    model = build_normal(layers, rng)
    apart = [call.items for call in model.plan((12,), 3).calls.backward if call.apart]
    assert apart == [3]
    network = reference.Network(layers, model.state_dict())
    x = decided(rng, layers, model, (40, 12))
    dy = rng.normal(size=(40, 5)).astype(np.float32)
    wanted = {"output": network.forward(x)}
    wanted["input gradient"], gradients = network.backward(dy)
    set_execution("serial")
    got = outputs_and_gradients(model, x, dy)
    for what, want in (wanted | gradients).items():
        same(got[what], want, what, NETWORK * np.abs(want).max())
    serial = {what: array.copy() for what, array in got.items()}
    set_execution("parallel")
    for what, array in outputs_and_gradients(model, x, dy).items():
        same(array, serial[what], what)


def test_relu_gradient_at_zero_is_zero():
    x = np.array([[-1, 0, 2]], np.float32)
    model = Sequential(ReLU())
    same(model(x), np.array([[0, 0, 2]]), "output")
    dx = model.backward(np.ones((1, 3)))
    same(dx, np.array([[0, 0, 1]]), "gradient")
    rejected(dx, np.array([[0, 1, 1]]))


@pytest.mark.parametrize("layers", named(
    ("applied by conv", [conv(1, 2, 1), relu]),
    ("of its own", [conv(1, 2, 1), pool(1), relu]),
    ("masked by pool", [conv(1, 2, 1), relu, pool(1)]),
    ("applied by linear", [flatten, linear(4, 2), relu]),
))
def test_nan_stays_visible_through_relu(layers):
    model = build(layers, np.random.default_rng(0))
    model.parameters()[-1].value[0] = np.nan
    y = model(np.ones((3, 1, 2, 2)))
    assert np.isnan(y[:, 0]).all() and np.isfinite(y[:, 1]).all()


@pytest.mark.parametrize("place", range(4))
def test_nan_stays_visible_through_max_pool2d(place):
    """0 * inf makes one NaN, wherever it stands in the window."""
    x = np.ones((1, 1, 2, 2), np.float32)
    x.flat[place] = 0
    model = Sequential(Conv2d(1, 1, 1), MaxPool2d(2))
    model.parameters()[0].value[...] = -np.inf
    with np.errstate(invalid="ignore"):
        assert np.isnan(model(x)).all()


# ---- loss ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("images, classes", ((1, 2), (3, 10), (16, 3), (17, 10), (33, 26)))
def test_cross_entropy(images, classes):
    """Exponentials and quotients are right to a few rounding errors; a sum of positive numbers to one per term."""
    rng = np.random.default_rng(images)
    logits = (4 * rng.normal(size=(images, classes))).astype(np.float32)
    labels = rng.integers(0, classes, images)
    loss = CrossEntropyLoss()(logits, labels)
    want, gradient = reference.cross_entropy(logits, labels)
    spread = np.ptp(logits, axis=1).max()                       # the rounding of z - max(z), which exp magnifies
    assert abs(loss - want) <= (spread + classes + 4) * ROUNDING * want + 4 * ROUNDING
    bound = (spread + classes + 8) * ROUNDING * (np.abs(gradient) + 1 / images)
    same(loss.dlogits, gradient, "gradient", bound)
    rejected(loss.dlogits, 1.001 * gradient, bound)
    rejected(loss.dlogits, reference.cross_entropy(logits, (labels + 1) % classes)[1], bound)


def test_cross_entropy_of_huge_logits():
    """exp(1e4) overflows; what is left when the largest logit is taken off does not."""
    logits = np.array([[1e4, -1e4, 0], [1e4, -1e4, 0], [-1e4, -1e4, -1e4], [1e4, 1e4, -1e4]], np.float32)
    labels = np.array([0, 1, 2, 0])
    loss = CrossEntropyLoss()(logits, labels)
    want, gradient = reference.cross_entropy(logits, labels)
    assert abs(loss - want) <= 4 * ROUNDING * want
    same(loss.dlogits, gradient, "gradient", 4 * ROUNDING)
    with np.errstate(over="ignore", invalid="ignore"):
        naive = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    rejected(loss.dlogits, naive, 1.0)


def test_cross_entropy_shows_nan():
    logits = np.zeros((3, 4), np.float32)
    logits[1, 2] = np.nan
    loss = CrossEntropyLoss()(logits, [0, 1, 2])
    assert np.isnan(loss) and np.isnan(loss.dlogits[1]).any() and np.isfinite(loss.dlogits[[0, 2]]).all()


# ---- update --------------------------------------------------------------------------------------
@pytest.mark.parametrize("lr, momentum, decay", ((0.1, 0.0, 0.0), (0.05, 0.9, 0.0), (0.05, 0.9, 0.01)))
def test_sgd(lr, momentum, decay):
    """Ten steps.  Each rounds a handful of times, and the velocity sums at most ten errors."""
    rng = np.random.default_rng(5)
    model = Sequential(Linear(70, 61), seed=3)                  # more than 256 vectors, and a remainder
    weight, bias = model.parameters()
    optimizer = SGD(model, lr, momentum, decay)
    state = {p.name: (p.value.astype(np.float64), np.zeros(p.value.shape)) for p in (weight, bias)}
    plain = state
    for _ in range(10):
        for p in (weight, bias):
            p.grad[...] = rng.normal(size=p.value.shape)
        state = {p.name: reference.sgd(state[p.name][0], p.grad, state[p.name][1], lr, momentum, decay)
                 for p in (weight, bias)}
        plain = {p.name: reference.sgd(*plain[p.name][:1], p.grad, 0.0, lr) for p in (weight, bias)}
        optimizer.step()
    for p in (weight, bias):
        bound = 10 * 8 * ROUNDING * np.abs(state[p.name][0]).max()
        same(p.value, state[p.name][0], p.name, bound)
        rejected(p.value, 1.001 * state[p.name][0], bound)
        if momentum:
            rejected(p.value, plain[p.name][0], bound)


# ---- batches -------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", (np.uint8, np.int16, np.float32, np.float64))
@pytest.mark.parametrize("first, count, lanes", ((0, 33, LANES), (5, 17, LANES), (20, 3, LANES), (20, 3, 5)))
def test_gather(dtype, first, count, lanes):
    """The right images, normalised per channel, and zeros past the end, whatever was there; nothing past `lanes`."""
    rng = np.random.default_rng(7)
    images = rng.integers(0, 256, (40, 3, 4, 5)).astype(dtype)
    mean, scale = np.array([100, 0, 7.5], np.float32), np.array([0.5, 1, 0.25], np.float32)
    order, blocks = rng.permutation(40), 3
    x = aligned((blocks, 3, 4, 5, LANES))
    x[...] = -1
    call = Call(batch.gather, blocks, x=x, images=images, order=order, batch=np.array([first, count]), mean=mean,
                scale=scale, lanes=lanes)
    Program(in_order([call]))()
    want = np.zeros((blocks * LANES, 3, 4, 5))
    want[np.arange(len(want)) % LANES >= lanes] = -1
    chosen = images[order[first:first + count]].astype(np.float64)
    want[:count] = (chosen - mean[:, None, None]) * scale[:, None, None]
    got = np.moveaxis(x, -1, 1).reshape(want.shape)
    same(got, want, "batch")
    rejected(got, np.roll(want, 1, axis=1))
