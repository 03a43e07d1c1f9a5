"""The losses and their gradients in PyTorch."""
import numpy as np
import pytest

from cnn_numba import CrossEntropyLoss, MSELoss

torch = pytest.importorskip("torch", reason="PyTorch is not installed; the loops of `reference` stand in for it")

PARITY = 1e-6                   # largest difference relative to the largest number; measured: up to 4e-7


def distance(got, want):
    want = want.detach().numpy()
    return np.abs(np.asarray(got) - want).max() / np.abs(want).max()


def both(seed):
    """(loss of this library, of PyTorch) on the same random batch, with gradients, for random arguments."""
    rng = np.random.default_rng(seed)
    images, classes = int(rng.choice([1, 5, 16, 40])), int(rng.choice([2, 10, 33]))
    logits = (rng.choice([0.5, 5]) * rng.normal(size=(images, classes))).astype(np.float32)
    labels = rng.integers(0, classes, images)
    z, targets = torch.from_numpy(logits).requires_grad_(), torch.from_numpy(labels)
    if rng.random() < 0.25:
        mine, theirs = MSELoss(), torch.nn.MSELoss()
        targets = torch.nn.functional.one_hot(targets, classes).float()
    else:
        weight = rng.uniform(0.1, 2, classes).astype(np.float32) if rng.random() < 0.6 else None
        smoothing = float(rng.choice([0, 0.1, 0.7]))
        mine = CrossEntropyLoss(weight, smoothing)
        theirs = torch.nn.CrossEntropyLoss(
            None if weight is None else torch.from_numpy(weight), label_smoothing=smoothing)
    wanted = theirs(z, targets)
    wanted.backward()
    return mine(logits, labels), wanted, z.grad


@pytest.mark.parametrize("seed", range(40))
def test_random_loss(seed):
    loss, wanted, gradient = both(seed)
    assert distance(loss, wanted) < PARITY
    assert distance(loss.dlogits, gradient) < PARITY


def test_negative_control():
    """Without smoothing, or with a mean over the images, a weighted loss does not pass."""
    logits, labels = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32), np.arange(8) % 4
    labels[:3], weight = 3, np.array([1, 1, 1, 3], np.float32)
    z, targets = torch.from_numpy(logits), torch.from_numpy(labels)
    wanted = torch.nn.CrossEntropyLoss(torch.from_numpy(weight), label_smoothing=0.1)(z, targets)
    assert distance(CrossEntropyLoss(weight, 0.1)(logits, labels), wanted) < PARITY
    assert distance(CrossEntropyLoss(weight)(logits, labels), wanted) > 100 * PARITY
    summed = torch.nn.CrossEntropyLoss(torch.from_numpy(weight), label_smoothing=0.1, reduction="sum")(z, targets)
    assert distance(CrossEntropyLoss(weight, 0.1)(logits, labels), summed / len(labels)) > 100 * PARITY


def test_a_batch_of_weights_zero_is_nan_in_both():
    logits, weight = np.zeros((2, 3), np.float32), np.array([0, 1, 1], np.float32)
    wanted = torch.nn.CrossEntropyLoss(torch.from_numpy(weight))(torch.from_numpy(logits), torch.zeros(2, dtype=int))
    with np.errstate(invalid="ignore"):
        assert np.isnan(wanted.item()) and np.isnan(CrossEntropyLoss(weight)(logits, [0, 0]))
