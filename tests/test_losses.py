"""The losses against the loops of `reference`, in a trainer too, and what a user gets wrong."""
import numpy as np
import pytest
import reference
from trainings import CLASSES, LAYERS, dataset, network, normalised, optimizer_of

from cnn_numba import CrossEntropyLoss, InputError, MSELoss, Trainer
from cnn_numba.init import ORDER, stream
from cnn_numba.kernels.compiled import JIT

ROUNDING = 2.0**-24
SIZES = ((1, 2), (3, 10), (16, 3), (17, 10), (33, 26))


def batch(images, classes, scale=4):
    rng = np.random.default_rng(images)
    return (scale * rng.normal(size=(images, classes))).astype(np.float32), rng.integers(0, classes, images)


def weights(classes):
    return np.random.default_rng(classes).uniform(0.2, 3, classes).astype(np.float32)


def close(loss, want, gradient, bound):
    """Whether loss and gradient are those wanted, up to a bound on the gradient and the loss's own size."""
    return (abs(loss - want) <= bound * max(1, want) and loss.dlogits.dtype == np.float32
            and loss.dlogits.shape == gradient.shape and np.abs(loss.dlogits - gradient).max() <= bound)


@pytest.mark.parametrize("smoothing", (0.0, 0.1, 1.0))
@pytest.mark.parametrize("images, classes", SIZES)
@pytest.mark.parametrize("weighted", (False, True))
def test_cross_entropy(images, classes, weighted, smoothing):
    """Each image's loss is a sum of `classes` numbers, each right to the rounding of z - max(z) and a few more."""
    logits, labels = batch(images, classes)
    weight = weights(classes) if weighted else None
    loss = CrossEntropyLoss(weight, label_smoothing=smoothing)(logits, labels)
    want, gradient = reference.cross_entropy(logits, labels, weight, smoothing)
    bound = (np.ptp(logits, axis=1).max() + 2 * classes + 8) * ROUNDING
    assert close(loss, want, gradient, bound)
    assert not close(loss, 1.001 * want, 1.001 * gradient, bound)
    assert not close(loss, *reference.cross_entropy(logits, (labels + 1) % classes, weights(classes), 0.3), bound)


def test_weights_divide_by_their_sum_over_the_labels():
    """Two images with weights 1 and 3: the mean is that of four images."""
    logits, labels = batch(2, 5)
    weight = np.ones(5)
    weight[labels[1]] = 3
    assert labels[0] != labels[1]
    loss = CrossEntropyLoss(weight)(logits, labels)
    copies = [0, 1, 1, 1]
    assert float(loss) == pytest.approx(float(CrossEntropyLoss()(logits[copies], labels[copies])), rel=1e-6)
    assert float(loss) != pytest.approx(float(CrossEntropyLoss()(logits, labels)), rel=1e-2)


@pytest.mark.parametrize("images, classes", SIZES)
def test_squared_error(images, classes):
    logits, labels = batch(images, classes)
    loss = MSELoss()(logits, labels)
    want, gradient = reference.squared_error(logits, labels)
    bound = (classes + 8) * ROUNDING * np.abs(logits).max()
    assert close(loss, want, gradient, bound)
    assert not close(loss, 1.001 * want, 1.001 * gradient, bound)
    assert not close(loss, *reference.squared_error(logits, (labels + 1) % classes), bound)


def test_squared_error_of_whole_numbers_is_exact():
    logits = np.array([[1, 0, 2, -1], [0, 3, 0, 1]], np.float32)
    loss = MSELoss()(logits, [0, 1])
    assert loss == (4 + 1 + 4 + 1) / 8
    assert np.array_equal(loss.dlogits, [[0, 0, 0.5, -0.25], [0, 0.5, 0, 0.25]])


@pytest.mark.parametrize("loss", (CrossEntropyLoss(), CrossEntropyLoss(np.ones(4)), CrossEntropyLoss(None, 0.1),
                                  MSELoss()))
def test_nan_stays_visible(loss):
    logits = np.zeros((3, 4), np.float32)
    logits[1, 2] = np.nan
    value = loss(logits, [0, 1, 2])
    assert np.isnan(value) and np.isnan(value.dlogits[1]).any() and np.isfinite(value.dlogits[[0, 2]]).all()


@pytest.mark.parametrize("options", ({"label_smoothing": 0.1}, {"weight": [0.5, 1, 2]}))
def test_huge_logits(options):
    """exp(1e4) overflows; what is left when the largest logit of each image is taken off does not, nor becomes log 0
    where another image's logits are larger."""
    logits = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [1e4, 1e4, -1e4]], np.float32)
    labels = np.array([0, 2, 1])
    loss = CrossEntropyLoss(**options)(logits, labels)
    assert close(loss, *reference.cross_entropy(logits, labels, **options), 8 * ROUNDING)


def test_ones_and_no_smoothing_are_the_plain_loss():
    logits, labels = batch(33, 10)
    plain, ones = CrossEntropyLoss()(logits, labels), CrossEntropyLoss(np.ones(10))(logits, labels)
    assert ones == pytest.approx(plain, rel=1e-6)
    np.testing.assert_allclose(ones.dlogits, plain.dlogits, rtol=0, atol=4 * ROUNDING)


# ---- in a trainer ------------------------------------------------------------------------------------------------
UNEVEN = {"weight": [0.5, 1, 4, 1, 2], "label_smoothing": 0.1}


@pytest.mark.parametrize("loss", (CrossEntropyLoss(**UNEVEN), CrossEntropyLoss(label_smoothing=0.2), MSELoss()))
def test_an_epoch_is_the_loop_of_the_library(loss):
    """To the bit in the weights; batches of 16, the last of 6."""
    data, model, other = dataset(train=70), network(), network()
    result = Trainer(model, data, optimizer_of(model), batch_size=16, seed=3, loss=loss).fit(1)[-1]
    optimizer, order = optimizer_of(other), stream(3, ORDER, 0).permutation(70)
    right = 0
    for first in range(0, 70, 16):
        chosen = order[first:first + 16]
        outputs = other(normalised(data, data.train_images[chosen]))
        optimizer.zero_grad()
        loss(outputs, data.train_labels[chosen]).backward()
        optimizer.step()
        right += (outputs.argmax(1) == data.train_labels[chosen]).sum()
    assert np.array_equal(model.values, other.values)
    assert result.accuracy == pytest.approx(100 * right / 70)
    assert np.isfinite(result.loss)


@pytest.mark.parametrize("loss, textbook", (
    (CrossEntropyLoss(**UNEVEN), lambda z, labels: reference.cross_entropy(z, labels, **UNEVEN)),
    (MSELoss(), reference.squared_error),
))
@pytest.mark.parametrize("images", (20, 300))
def test_an_evaluation_reports_the_loss_of_all_images(loss, textbook, images):
    """Also when they are more than one batch."""
    data, model = dataset(test=images), network()
    trainer = Trainer(model, data, optimizer_of(model), loss=loss)
    z = reference.Network(LAYERS, model.state_dict()).forward(normalised(data, data.test_images))
    got = trainer.evaluate(data.test_images, data.test_labels).loss
    assert got == pytest.approx(textbook(z, data.test_labels)[0], rel=1e-5)
    assert got != pytest.approx(reference.cross_entropy(z, data.test_labels)[0], rel=1e-2)


@pytest.mark.skipif(not JIT, reason="takes a while")
@pytest.mark.parametrize("loss", (CrossEntropyLoss(**UNEVEN), MSELoss()))
def test_training_learns(loss):
    data, model = dataset(train=300), network()
    trainer = Trainer(model, data, optimizer_of(model), batch_size=16, loss=loss)
    epochs = trainer.fit(12)
    assert epochs[-1].accuracy > 85 and epochs[-1].loss < 0.8 * epochs[0].loss


# ---- what a user gets wrong --------------------------------------------------------------------------------------
@pytest.mark.parametrize("make, what", (
    (lambda: CrossEntropyLoss(label_smoothing=-0.1), "label_smoothing must be a number from 0 to 1, got -0.1"),
    (lambda: CrossEntropyLoss(label_smoothing=1.5), "label_smoothing"),
    (lambda: CrossEntropyLoss(label_smoothing=float("nan")), "label_smoothing"),
    (lambda: CrossEntropyLoss(label_smoothing="a"), "label_smoothing"),
    (lambda: CrossEntropyLoss(weight=[1, -1]), "weight must be finite numbers of at least 0"),
    (lambda: CrossEntropyLoss(weight=[1, np.inf]), "weight"),
    (lambda: CrossEntropyLoss(weight=np.ones((2, 2))), "weight"),
    (lambda: CrossEntropyLoss(weight=["a"]), "weight must be an array of numbers"),
    (lambda: CrossEntropyLoss(weight=[1, 1])(np.zeros((2, 3)), [0, 1]), "weight has 2 numbers, expected 3"),
    (lambda: MSELoss()(np.zeros((2, 3)), [0, 3]), "3 is out of range, expected 0 to 2"),
    (lambda: MSELoss()(np.zeros(3), [0]), r"MSELoss: expected logits \(N, classes\), got shape \(3,\)"),
))
def test_bad_arguments(make, what):
    with pytest.raises(InputError, match=what) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("loss, what", (
    ("mse", "got 'mse'"), (CrossEntropyLoss, "must be a CrossEntropyLoss or an MSELoss"),
    (CrossEntropyLoss(np.ones(CLASSES + 1)), "weight has 6 numbers, expected 5"),
))
def test_bad_loss_of_a_trainer(loss, what):
    model = network()
    with pytest.raises(InputError, match=what):
        Trainer(model, dataset(), optimizer_of(model), loss=loss)
