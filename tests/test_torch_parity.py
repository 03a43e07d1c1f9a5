"""The same networks, weights and batches in PyTorch."""
import warnings

import numpy as np
import pytest
from networks import build_normal, conv, decided, flatten, linear, make, pool, random_layers, relu
from pytorch import PARITY, differences, distance, modules, one_thread_each, torch, twin  # noqa: F401

from cnn_numba import SGD, CrossEntropyLoss, InputError, Sequential

NETWORKS = 24


def random_pair(seed):
    rng = np.random.default_rng(seed)
    layers, shape = random_layers(rng)
    model = build_normal(layers, rng)
    x = decided(rng, layers, model, (int(rng.choice([1, 3, 16, 17])), *shape))
    dy = rng.normal(size=(len(x), *model.output_shape(shape))).astype(np.float32)
    return layers, model, x, dy


@pytest.mark.parametrize("seed", range(NETWORKS))
def test_random_network(seed):
    layers, model, x, dy = random_pair(seed)
    found = differences(model, twin(layers, model), x, dy)
    assert max(found.values()) < PARITY, (layers, found)


def test_random_networks_cover_every_argument():
    seen = {(name, option, str(value)) for seed in range(NETWORKS)
            for name, _, options in random_layers(np.random.default_rng(seed))[0] for option, value in options.items()}
    for wanted in (("Conv2d", "stride", "2"), ("Conv2d", "stride", "(2, 1)"), ("Conv2d", "padding", "same"),
                   ("Conv2d", "padding", "valid"), ("Conv2d", "padding", "(0, 1)"), ("Conv2d", "dilation", "2"),
                   ("Conv2d", "dilation", "(1, 2)"), ("Conv2d", "groups", "2"), ("Conv2d", "groups", "4"),
                   ("Conv2d", "bias", "False"), ("MaxPool2d", "stride", "None"), ("MaxPool2d", "stride", "1"),
                   ("MaxPool2d", "padding", "1"), ("MaxPool2d", "dilation", "2"), ("MaxPool2d", "ceil_mode", "True"),
                   ("AvgPool2d", "padding", "1"), ("AvgPool2d", "ceil_mode", "True"),
                   ("AvgPool2d", "count_include_pad", "False"), ("AdaptiveAvgPool2d", "output_size", "(None, 2)"),
                   ("LeakyReLU", "negative_slope", "0.3"), ("Softmax", "dim", "1"), ("LogSoftmax", "dim", "-1"),
                   ("Linear", "bias", "False")):
        assert wanted in seen
    assert {"Tanh", "Sigmoid", "Reshape"} <= {name for seed in range(NETWORKS)
                                              for name, *_ in random_layers(np.random.default_rng(seed))[0]}


def test_negative_control():
    """Weights that are wrong by a hundredth do not pass, nor does padding at the other side."""
    layers, model, x, dy = random_pair(0)
    other = twin(layers, model)
    with torch.no_grad():
        next(other.parameters()).mul_(1.01)
    assert max(differences(model, other, x, dy).values()) > 10 * PARITY
    rng = np.random.default_rng(1)
    model = build_normal([conv(2, 4, 2, padding="same")], rng)
    other = twin([conv(2, 4, 2, padding=1)], model)
    x = rng.normal(size=(3, 2, 6, 7)).astype(np.float32)
    z = other(torch.from_numpy(x))
    assert distance(model(x), z[:, :, 1:, 1:]) < PARITY
    assert distance(model(x), z[:, :, :-1, :-1]) > 10 * PARITY


def test_a_large_dense_layer_with_as_many_items_as_blocks():
    layers, rng = [linear(32, 256), relu, linear(256, 1024), relu, linear(1024, 5)], np.random.default_rng(4)
    model = build_normal(layers, rng)
    assert [call.items for call in model.plan((32,), 4).calls.backward if call.apart] == [4]
    x = decided(rng, layers, model, (64, 32))
    found = differences(model, twin(layers, model), x, rng.normal(size=(64, 5)).astype(np.float32))
    assert max(found.values()) < PARITY, found


@pytest.mark.parametrize("layers, shape", (
    pytest.param([conv(1, 6, 5, padding=2), relu, pool(2), conv(6, 16, 5), relu, pool(2), flatten,
                  linear(64, 24), relu, linear(24, 10)], (1, 16, 16), id="lenet"),
    pytest.param([flatten, linear(48, 21), relu, linear(21, 10)], (3, 4, 4), id="dense"),
))
def test_100_steps_follow_the_loss(layers, shape):
    rng = np.random.default_rng(8)
    model = Sequential(*make(layers), seed=8)
    x, labels = rng.normal(size=(4, 24, *shape)).astype(np.float32), rng.integers(0, 10, (4, 24))
    other = twin(layers, model)
    mine = SGD(model, lr=0.02, momentum=0.9, weight_decay=1e-3)
    theirs = torch.optim.SGD(other.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-3)
    losses = []
    for step in range(100):
        k = step % 4
        loss = CrossEntropyLoss()(model(x[k]), labels[k])
        mine.zero_grad()
        loss.backward()
        mine.step()
        theirs.zero_grad()
        wanted = torch.nn.functional.cross_entropy(other(torch.from_numpy(x[k])), torch.from_numpy(labels[k]))
        wanted.backward()
        theirs.step()
        losses.append((float(loss), float(wanted.detach())))
    got, want = np.array(losses).T
    assert np.abs(got - want).max() < 1e-3
    assert want[-1] < 0.5 * want[0], "the networks were to learn something"
    assert np.abs(np.roll(got, 1) - want).max() > 1e-2, "a loss that is one step late does not pass"


def test_loss_is_pytorchs():
    rng = np.random.default_rng(9)
    logits, labels = 20 * rng.normal(size=(19, 10)).astype(np.float32), rng.integers(0, 10, 19)
    z = torch.from_numpy(logits).requires_grad_()
    wanted = torch.nn.CrossEntropyLoss()(z, torch.from_numpy(labels))
    wanted.backward()
    loss = CrossEntropyLoss()(logits, labels)
    assert abs(loss.item() - wanted.item()) < 1e-6 * wanted.item()
    assert distance(loss.dlogits, z.grad) < 1e-5


@pytest.mark.parametrize("wrong", (
    conv(3, 4, 3, groups=2), conv(4, 3, 3, groups=2), conv(1, 1, 3, padding="full"),
    conv(1, 1, 3, stride=2, padding="same"), conv(0, 1, 3, groups=0),
))
def test_what_pytorch_refuses_is_refused(wrong):
    with pytest.raises((ValueError, RuntimeError, ZeroDivisionError)):
        make([wrong], modules)
    with pytest.raises(InputError):
        make([wrong])


@pytest.mark.parametrize("layer", (
    conv(2, 3, (2, 3), stride=(2, 1), padding=(1, 2), dilation=(2, 1)), conv(2, 3, 4, padding="same"),
    pool(3), pool(3, stride=1), pool(2, stride=3, padding=1), pool((2, 3), stride=(1, 2), padding=(1, 0)),
))
def test_output_shapes_are_pytorchs(layer):
    mine, = make([layer])
    theirs, = make([layer], modules)
    for H in range(5, 12):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            want = tuple(theirs(torch.zeros(1, 2, H, 16 - H)).shape[1:])
        assert mine.output_shape((2, H, 16 - H)) == want
