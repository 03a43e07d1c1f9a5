"""Training steps with so few images that other lanes hold strips of them, or features."""
import numpy as np
import pytest
from comparing import by_plan, check, check_network, named, outputs_and_gradients, rejected, same
from networks import build_normal, conv, flatten, linear, pool, relu, whole

from cnn_numba.kernels import strips
from cnn_numba.kernels.lanes import LANES, aligned
from cnn_numba.kernels.program import Call, Program, in_order

LENET = [conv(1, 6, 5, padding=2), relu, pool(2), conv(6, 16, 5), relu, pool(2), flatten, linear(16, 12), relu,
         linear(12, 8)]


@pytest.mark.parametrize("layer, shape", named(
    ("product of 5 taps", conv(2, 4, 5, padding=2), (2, 11, 9)),
    ("product of 3 x 3 taps", conv(3, 5, 3, padding=1), (3, 7, 9)),
    ("direct", conv(2, 3, 3), (2, 7, 6)),
    ("as many rows as lanes", conv(1, 2, 3, padding=1), (1, 16, 4)),
    ("more rows than lanes", conv(2, 4, 3, padding=1), (2, 19, 5)),
    ("one row", conv(2, 3, 3), (2, 3, 5)),
    ("two rows", conv(2, 3, 3), (2, 4, 5)),
    ("same, even kernel", conv(2, 3, (4, 2), padding="same"), (2, 6, 5)),
    ("more padding than image", conv(1, 2, 2, padding=3), (1, 2, 3)),
    ("stride that leaves a rest", conv(3, 5, 3, stride=2), (3, 10, 8)),
    ("stride larger than the kernel", conv(2, 4, 2, stride=3), (2, 11, 12)),
    ("dilation and stride", conv(2, 3, 3, stride=2, dilation=2, padding=2), (2, 9, 8)),
    ("groups, strided, dilated", conv(6, 3, 2, groups=3, stride=2, dilation=2, padding=1), (6, 7, 6)),
    ("pointwise, no bias", conv(7, 5, 1, bias=False), (7, 6, 4)),
))
@pytest.mark.parametrize("images", (1, 3, 8))
def test_convolution_of_strips(layer, shape, images):
    check(layer, shape, images, by_plan)


@pytest.mark.parametrize("layer", named(
    ("one of everything", linear(1, 1)),
    ("fewer features than lanes", linear(7, 3)),
    ("as many features as lanes", linear(16, 10)),
    ("one feature more than lanes", linear(17, 12)),
    ("more units and vectors of features than a tile", linear(450, 37)),
    ("no bias", linear(33, 26, bias=False)),
))
@pytest.mark.parametrize("images", (1, 3, 8))
def test_dense_layer_by_rows(layer, images):
    check(layer, layer[1][:1], images, by_plan)


@pytest.mark.parametrize("images", (1, 3, 8))
def test_network(images):
    """ReLUs at their neighbours, and buffers between layers."""
    check_network(LENET, (1, 12, 12), images, by_plan)


def test_pieces_do_not_change_the_bits():
    layers = [conv(2, 6, 3, padding=1), relu, conv(6, 7, 5, padding=2), conv(7, 32, 3, padding=1),
              conv(32, 8, 2, groups=2, stride=2), flatten, linear(8 * 3 * 6, 50), relu, linear(50, 6)]
    rng, results = np.random.default_rng(0), []
    model = build_normal(layers, rng)
    x, dy = rng.normal(size=(3, 2, 6, 12)), rng.normal(size=(3, 6))
    for pieces in 1, 2, 8:
        got = outputs_and_gradients(model, x, dy, lambda *args, each=pieces: by_plan(*args, pieces=each))
        results.append({what: np.array(numbers) for what, numbers in got.items()})
    assert all(np.array_equal(other[what], numbers) for other in results for what, numbers in results[0].items())
    assert all(numbers.any() for numbers in results[0].values())


@pytest.mark.parametrize("images, kernels", (
    (8, {"split_rows", "join_rows", "linear_forward_by_rows", "linear_backward_input_by_rows"}),
    (9, {"linear_forward", "linear_backward_input"}),
))
def test_lanes_hold_something_else_up_to_half_of_them(images, kernels):
    model = build_normal(LENET, np.random.default_rng(0))
    calls = model.plan((1, 12, 12), 1, lanes=images).calls
    names = {call.kernel.__name__ for call in (*calls.forward, *calls.backward)}
    assert {name for name in names if "rows" in name or "linear" in name} == kernels


@pytest.mark.parametrize("images, high", ((1, 1), (3, 2), (5, 4), (8, 5)))
def test_strips_are_the_rows_of_images_and_their_sum(images, high):
    """Strips of `high` rows and two that the next strip has, too; the last one hangs over the edge, or ends there."""
    rng, shape, step, shared = np.random.default_rng(0), (2, 9, 4), high, 2
    count = -(-shape[1] // high)
    if count * images > LANES:
        count = LANES // images
    whole_rows, cut = aligned((1, *shape, LANES)), aligned((1, shape[0], high + shared, shape[2], LANES))
    whole_rows[..., :images], cut[...] = whole(rng, (1, *shape, images)), np.nan
    options = dict(whole=whole_rows, strips=cut, step=step, count=count, images=images)
    Program(in_order([Call(strips.split_rows, 1, **options)]))()
    want = np.zeros(cut.shape)
    times = np.zeros(shape[1])
    for s in range(count):
        rows = slice(s * step, min(s * step + high + shared, shape[1]))
        lanes = slice(s * images, (s + 1) * images)
        want[:, :, :rows.stop - rows.start, :, lanes] = whole_rows[:, :, rows, :, :images]
        times[rows] += 1
    same(cut, want, "strips")
    rejected(cut, np.roll(want, images, axis=-1))
    joined = aligned((1, shape[0], shape[1] - 1, shape[2], LANES))
    joined[...] = np.nan
    Program(in_order([Call(strips.join_rows, 1, top=1, **(options | dict(whole=joined)))]))()
    same(joined, (whole_rows * times[:, None, None])[:, :, 1:], "joined")
    rejected(joined, whole_rows[:, :, 1:])
