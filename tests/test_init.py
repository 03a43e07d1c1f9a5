"""Initial weights: the distributions of PyTorch's functions of the same names."""
import math

import numpy as np
import pytest

from cnn_numba import Conv2d, Flatten, InputError, Linear, Sequential
from cnn_numba.init import INITS, WEIGHTS, init_name, stream

SHAPES = ((300, 400), (64, 32, 3, 5), (40, 1, 25, 25))


def deviation(name, shape):
    """The standard deviation that PyTorch documents, with the gain of a ReLU for Kaiming's."""
    window = math.prod(shape[2:])
    fan_in, fan_out = shape[1] * window, shape[0] * window
    if name == "pytorch":
        return math.sqrt(1 / (3 * fan_in))
    return math.sqrt(2 / fan_in if name.startswith("kaiming") else 2 / (fan_in + fan_out))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", INITS)
def test_distribution(name, shape):
    """Mean, deviation and kurtosis of 25,000 numbers or more, to five standard errors."""
    value = INITS[name](shape, 3, 1)
    assert value.shape == shape
    x = value.ravel() / deviation(name, shape)
    error = 5 / math.sqrt(x.size)
    assert abs(x.mean()) < error
    assert abs(x.var() - 1) < error * math.sqrt(2)
    if not name.endswith("normal"):
        assert 0.999 * math.sqrt(3) < np.abs(x).max() <= math.sqrt(3) * (1 + 1e-12)
        assert np.mean(x**4) == pytest.approx(9 / 5, abs=0.1)
    else:
        assert np.abs(x).max() > 3.5
        assert np.mean(x**4) == pytest.approx(3, abs=0.3)


@pytest.mark.parametrize("name", INITS)
def test_distributions_differ(name):
    """The check above notices another one, where fan_in is not fan_out."""
    for other in INITS.keys() - {name}:
        x, y = (INITS[n](SHAPES[1], 3, 1) for n in (name, other))
        assert abs(x.std() / y.std() - 1) > 0.05 or abs(np.mean(x**4) / np.mean(y**4) - 1) > 0.3


@pytest.mark.parametrize("name", INITS)
def test_numbers_derive_from_seed_and_index(name):
    function = INITS[name]
    first = function((5, 4), 3, 1)
    assert np.array_equal(first, function((5, 4), 3, 1))
    assert not np.array_equal(first, function((5, 4), 3, 2)) and not np.array_equal(first, function((5, 4), 4, 1))


def test_xavier_uniform_keeps_its_numbers():
    """Those of the trainings that were published."""
    bound = math.sqrt(6 / (7 * 9 + 5 * 9))
    want = np.random.default_rng([3, WEIGHTS, 2]).uniform(-bound, bound, (7, 5, 3, 3))
    assert np.array_equal(INITS["xavier_uniform"]((7, 5, 3, 3), 3, 2), want)


def test_streams_of_other_purposes_differ():
    assert stream(1, 0, 2).random() != stream(1, 1, 2).random()


@pytest.mark.parametrize("name", INITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_deviation_is_pytorchs(name, shape):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; the formulas above stand in for it")
    options = {"nonlinearity": "relu"} if name.startswith("kaiming") else {}
    if name == "pytorch":
        want = (torch.nn.Conv2d if shape[2:] else torch.nn.Linear)(
            *shape[1::-1], **({"kernel_size": shape[2:]} if shape[2:] else {})).weight.std().item()
    else:
        want = getattr(torch.nn.init, f"{name}_")(torch.empty(shape), **options).std().item()
    assert INITS[name](shape, 0, 0).std() == pytest.approx(want, rel=0.02)


def test_pytorchs_biases():
    """Uniform in +-1 / sqrt(fan_in), as those of torch.nn.Conv2d and Linear; with the other names they are zero."""
    model = Sequential(Conv2d(6, 3000, (2, 3), groups=2), Flatten(), Linear(3000, 2000), seed=2, init="pytorch")
    for p, fan_in in zip(model.parameters()[1::2], (18, 3000), strict=True):
        bound = 1 / math.sqrt(fan_in)
        assert 0.99 * bound < np.abs(p.value).max() <= np.float32(bound)
        assert p.value.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert not Sequential(Linear(30, 20)).parameters()[1].value.any()


@pytest.mark.parametrize("name", ("xavier", "", None, 3, ["xavier_uniform"], "XAVIER_UNIFORM"))
def test_unknown_names(name):
    with pytest.raises(InputError, match="Linear: init must be one of xavier_uniform, xavier_normal, .*, got") as error:
        init_name("Linear", name)
    assert "\n" not in str(error.value)


def test_known_names():
    assert [init_name("Linear", name) for name in INITS] == list(INITS)
