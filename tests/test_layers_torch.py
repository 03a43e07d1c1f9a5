"""Layers by themselves with random arguments, in PyTorch and here: shapes, outputs, gradients, text, and refusals."""
import examples
import numpy as np
import pytest
from networks import adaptive, avg, leaky, make, pool, sigmoid, softmax, tanh
from pytorch import PARITY, differences, distance, modules, one_thread_each, run, torch  # noqa: F401

from cnn_numba import InputError, Sequential, functional

ACTIVATIONS = [example.layer for example in examples.LAYERS if example.kind.__module__.endswith(".activation")]


def pick(rng, *choices):
    return choices[rng.integers(len(choices))]


def random_window(rng):
    return dict(stride=pick(rng, None, 1, 2, 3, (2, 1)), padding=pick(rng, 0, 0, 1, (0, 1)),
                ceil_mode=bool(rng.random() < 0.5))


def random_maximum(rng):
    return pool(pick(rng, 1, 2, 3, (2, 3), (3, 1)), dilation=pick(rng, 1, 1, 2, (2, 1), 3), **random_window(rng))


def random_average(rng):
    return avg(pick(rng, 1, 2, 3, (2, 3), (3, 1)), **random_window(rng), count_include_pad=bool(rng.random() < 0.5),
               divisor_override=pick(rng, None, None, 3))


def random_shares(rng):
    return adaptive(pick(rng, 1, 2, 3, 5, (2, None), (None, 3), (1, 4)))


def random_images(rng):
    """Images (N, C, H, W) of small whole numbers: with ties, and batches that fill no block."""
    shape = rng.integers(1, 35), rng.integers(1, 4), rng.integers(1, 12), rng.integers(1, 12)
    return rng.integers(-3, 4, shape).astype(np.float32)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("random_layer", (random_maximum, random_average, random_shares))
def test_pooling(random_layer, seed):
    rng = np.random.default_rng(seed)
    layer, x = random_layer(rng), random_images(rng)
    other = torch.nn.Sequential(*make([layer], modules))
    try:
        y = other(torch.from_numpy(x)).numpy()
    except RuntimeError:
        with pytest.raises(InputError):
            Sequential(*make([layer]))(x)
        return
    model = Sequential(*make([layer]))
    assert repr(model) == repr(other)
    dy = rng.normal(size=y.shape).astype(np.float32)
    if np.isfinite(y).all():                        # PyTorch writes somewhere for a window without a place
        found = differences(model, other, x, dy)
        assert max(found.values()) < PARITY, (layer, x.shape, found)
    assert np.array_equal(np.isfinite(model(x)), np.isfinite(y))


@pytest.mark.parametrize("seed", range(30))
def test_max_pool2d_indices(seed):
    rng = np.random.default_rng(seed)
    (_, args, options), x = random_maximum(rng), random_images(rng)
    try:
        want, places = torch.nn.functional.max_pool2d(torch.from_numpy(x), *args, **options, return_indices=True)
    except RuntimeError:
        with pytest.raises(InputError):
            functional.max_pool2d(x, *args, **options, return_indices=True)
        return
    y, indices = functional.max_pool2d(x, *args, **options, return_indices=True)
    finite = np.isfinite(want.numpy())
    assert np.array_equal(y, want) and np.array_equal(indices[finite], places.numpy()[finite])


def test_most_random_poolings_fit():
    """The tests above would pass if PyTorch refused everything."""
    refused = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        layer, x = random_maximum(rng), random_images(rng)
        try:
            make([layer], modules)[0](torch.from_numpy(x))
        except RuntimeError:
            refused += 1
    assert 0 < refused < 15


@pytest.mark.parametrize("scale", (0.1, 3, 40))
@pytest.mark.parametrize("layer", [*ACTIVATIONS, leaky(), leaky(-1.5)], ids=str)
def test_activation(layer, scale):
    for shape in ((17, 23), (5, 3, 4, 2), (1, 2), (33, 2, 1, 2)):
        if layer[2].get("dim") == -1 and len(shape) > 2:                # other axes than that of the features
            continue
        rng = np.random.default_rng(0)
        x, dy = ((s * rng.normal(size=shape)).astype(np.float32) for s in (scale, 1))
        model, other = Sequential(*make([layer])), torch.nn.Sequential(*make([layer], modules))
        y, dx = run(other, x, dy)
        assert distance(model(x), y) < PARITY
        error = np.abs(model.backward(dy) - dx.numpy())                 # a difference of numbers of this size
        assert error.max() < PARITY * max(np.abs(dy).max(), dx.abs().max())


def test_negative_control():
    """Other places for the windows, and another divisor, do not pass."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(17, 2, 7, 7)).astype(np.float32)
    images = torch.from_numpy(x)
    for layer, wrong in ((avg(3, padding=1), avg(3, padding=1, count_include_pad=False)),
                         (pool(2, stride=2, dilation=2), pool(3, stride=2)), (adaptive(3), avg(2, ceil_mode=False))):
        (right,), (other,) = make([layer], modules), make([wrong], modules)
        model = Sequential(*make([layer]))
        assert distance(model(x), right(images)) < PARITY
        assert distance(model(x), other(images)) > 1000 * PARITY
    for layer, wrong in ((leaky(0.3), leaky(0.301)), (softmax(1), sigmoid), (tanh, sigmoid)):
        (other,), model = make([wrong], modules), Sequential(*make([layer]))
        assert distance(model(x), other(images)) > 10 * PARITY
