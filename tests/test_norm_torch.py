"""Networks with batch normalisation and residual branches, in PyTorch."""
from copy import deepcopy

import numpy as np
import pytest
from comparing import ROUNDING
from pytorch import modules, one_thread_each, torch  # noqa: F401

import cnn_numba as nn

PARITY = 1e-5           # of the largest number of its kind; measured: up to 4e-6
ROUNDINGS = 16          # in a row, of numbers that a network is sensitive to; measured: up to 12


def after_grouped(m):
    return [m.Conv2d(4, 8, 3, groups=4), m.BatchNorm2d(8), m.ReLU(), m.Conv2d(8, 6, 3, groups=2, bias=False),
            m.BatchNorm2d(6, momentum=0.3, eps=1e-3), m.Flatten(), m.Linear(6 * 4 * 5, 5)]


def after_relu(m):
    return [m.Conv2d(4, 8, 3), m.ReLU(), m.BatchNorm2d(8), m.MaxPool2d(2), m.Flatten(), m.Linear(72, 16), m.ReLU(),
            m.BatchNorm1d(16), m.Linear(16, 5)]


def resnet(m):
    return [m.Conv2d(4, 8, 3, padding=1, bias=False), m.BatchNorm2d(8), m.ReLU(),
            m.Residual([m.Conv2d(8, 8, 3, padding=1), m.BatchNorm2d(8), m.ReLU(), m.Conv2d(8, 8, 3, padding=1),
               m.BatchNorm2d(8)]), m.ReLU(),
            m.Residual([m.Conv2d(8, 16, 3, 2, 1), m.BatchNorm2d(16), m.ReLU(), m.Conv2d(16, 16, 5, padding=2),
               m.BatchNorm2d(16, momentum=None)], [m.Conv2d(8, 16, 1, 2), m.BatchNorm2d(16)]), m.ReLU(),
            m.MaxPool2d(2), m.Flatten(), m.Residual([m.Linear(64, 64), m.ReLU()]), m.Linear(64, 5)]


def before_activation(m):
    return [m.Residual([m.BatchNorm2d(4), m.ReLU(), m.Conv2d(4, 4, 3, padding=1), m.ReLU()]),
            m.Residual([m.ReLU(), m.Residual([m.Conv2d(4, 4, 1)]), m.MaxPool2d(3, 1, 1)],
                       [m.Conv2d(4, 4, 3, padding=1)]),
            m.BatchNorm2d(4, affine=False), m.BatchNorm2d(4, track_running_stats=False), m.Flatten(),
            m.Linear(4 * 8 * 9, 5)]


def twins(describe, seed):
    rng = np.random.default_rng(seed)
    mine = nn.Sequential(*describe(nn), seed=seed)
    theirs = torch.nn.Sequential(*describe(modules))
    for p in mine.parameters():
        if p.value.ndim == 1:
            p.value[:] = rng.normal(p.name.endswith("weight"), 0.3, p.value.shape)
    copy(mine, theirs)
    return mine, theirs


def copy(mine, theirs):
    theirs.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in mine.state_dict().items()})


def farthest(got, want):
    """The largest difference, of the largest number among all arrays: some gradients are 0 but for rounding."""
    assert got.keys() == want.keys()
    want = {name: value.detach().numpy() for name, value in want.items()}
    size = max(np.abs(value).max() for value in want.values())
    return max(np.abs(np.asarray(got[name]) - value).max() for name, value in want.items()) / size


def differences(mine, theirs, images, rng):
    """({what: largest difference}, what float32 costs: see `sensitivity`), of PyTorch's results."""
    x, dy = rng.normal(size=(images, 4, 8, 9)).astype(np.float32), rng.normal(size=(images, 5)).astype(np.float32)
    rounding = sensitivity(theirs, x, dy)
    wanted = results(theirs, torch.from_numpy(x), torch.from_numpy(dy))
    mine.zero_grad()
    y, dx = mine(x), mine.backward(dy)
    found = dict(zip(wanted, ({"": y}, {"": dx}, {p.name: p.grad for p in mine.parameters()}, mine.state_dict()),
                     strict=True))
    return {what: farthest(found[what], want) for what, want in wanted.items()}, rounding


def sensitivity(network, x, dy):
    """How far results in float64 move when each pixel and each weight is rounded to float32 once more.

    Far where a ReLU leaves a channel with little variance, which a normalisation divides by.
    """
    def run(round_off):
        double = deepcopy(network).double()
        for p in double.parameters():
            p.data *= round_off(p.shape)
        return results(double, torch.from_numpy(x) * round_off(x.shape), torch.from_numpy(dy).double())

    exact, rng = run(lambda shape: torch.ones(*shape, dtype=torch.float64)), np.random.default_rng(0)
    moved = [run(lambda shape: torch.from_numpy(1 + rng.uniform(-ROUNDING, ROUNDING, shape))) for _ in range(4)]
    return max(farthest({name: value.detach().numpy() for name, value in one[what].items()}, want)
               for one in moved for what, want in exact.items())


def results(network, x, dy):
    """{what: {name: tensor}} of a forward and a backward pass of PyTorch."""
    x.requires_grad_()
    network.zero_grad()
    z = network(x)
    z.backward(dy)
    return {"output": {"": z.detach()}, "input gradient": {"": x.grad},
            "parameters": {name: p.grad for name, p in network.named_parameters()}, "state": network.state_dict()}


@pytest.mark.parametrize("describe", (after_grouped, after_relu, resnet, before_activation))
@pytest.mark.parametrize("seed", range(3))
def test_training_and_evaluation(describe, seed):
    mine, theirs = twins(describe, seed)
    rng = np.random.default_rng(seed)
    for images in 33, 16, 7:
        found, rounding = differences(mine, theirs, images, rng)
        assert max(found.values()) < max(PARITY, ROUNDINGS * rounding), found
        copy(mine, theirs)              # so that what differs does not add up
    mine.eval()
    theirs.eval()
    assert max(differences(mine, theirs, 9, rng)[0].values()) < PARITY
    theirs.train()
    assert max(differences(mine, theirs, 9, rng)[0].values()) > 100 * PARITY, "the other mode does not pass"


def test_ten_steps():
    mine, theirs = twins(resnet, 5)
    optimizers = nn.SGD(mine, 0.05, momentum=0.9), torch.optim.SGD(theirs.parameters(), 0.05, momentum=0.9)
    rng = np.random.default_rng(5)
    x, labels = rng.normal(size=(20, 4, 8, 9)).astype(np.float32), rng.integers(0, 5, 20)
    losses = []
    for _ in range(10):
        loss = nn.CrossEntropyLoss()(mine(x), labels)
        wanted = torch.nn.functional.cross_entropy(theirs(torch.from_numpy(x)), torch.from_numpy(labels))
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        wanted.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append((float(loss), float(wanted.detach())))
    got, want = np.array(losses).T
    assert np.abs(got - want).max() < 1e-4
    assert want[-1] < 0.5 * want[0], "the network was to learn something"
