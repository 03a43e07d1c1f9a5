"""The losses and their gradients in PyTorch."""
import numpy as np
import pytest
from examples import LOSSES
from pytorch import distance, one_thread_each, torch  # noqa: F401

import cnn_numba
from cnn_numba import CrossEntropyLoss

PARITY = 1e-6                   # largest difference relative to the largest number; measured: up to 4e-7


def in_both(name, options, logits, labels):
    """(loss of this library, of PyTorch, its gradient) of a batch."""
    z, targets = torch.from_numpy(logits).requires_grad_(), torch.from_numpy(labels)
    if name == "MSELoss":
        targets = torch.nn.functional.one_hot(targets, logits.shape[1]).float()
    wanted = getattr(torch.nn, name)(**{key: torch.tensor(value, dtype=torch.float32) if key == "weight" else value
                                        for key, value in options.items()})(z, targets)
    wanted.backward()
    return getattr(cnn_numba, name)(**options)(logits, labels), wanted, z.grad


def agree(loss, wanted, gradient):
    return distance(loss, wanted) < PARITY and distance(loss.dlogits, gradient) < PARITY


@pytest.mark.parametrize("name, options", LOSSES, ids=str)
def test_examples(name, options):
    rng = np.random.default_rng(0)
    loss, wanted, gradient = in_both(name, options, rng.normal(size=(40, 5)).astype(np.float32), rng.integers(0, 5, 40))
    assert agree(loss, wanted, gradient)
    assert not agree(loss, 1.001 * wanted, gradient) and not agree(loss, wanted, 1.001 * gradient)


@pytest.mark.parametrize("seed", range(40))
def test_random_loss(seed):
    rng = np.random.default_rng(seed)
    images, classes = int(rng.choice([1, 5, 16, 40])), int(rng.choice([2, 10, 33]))
    logits = (rng.choice([0.5, 5]) * rng.normal(size=(images, classes))).astype(np.float32)
    labels, options = rng.integers(0, classes, images), {}
    if rng.random() >= 0.25:
        options["weight"] = rng.uniform(0.1, 2, classes).astype(np.float32) if rng.random() < 0.6 else None
        options["label_smoothing"] = float(rng.choice([0, 0.1, 0.7]))
        options = {key: value for key, value in options.items() if value is not None}
    assert agree(*in_both("CrossEntropyLoss" if options else "MSELoss", options, logits, labels))


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
