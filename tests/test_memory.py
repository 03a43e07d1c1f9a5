"""Images that are evaluated together are bounded by memory and by how many there are; the numbers stay the same."""
import numpy as np
import pytest

from cnn_numba import SGD, Trainer, load_dataset, plan
from cnn_numba.inference import Classifier
from cnn_numba.plan import blocks_for
from cnn_numba.presets import PRESETS

MEGABYTE = 1 << 20


@pytest.mark.parametrize(("values", "images", "blocks"), [
    (1000, 1, 1), (1000, 16, 1), (1000, 17, 2), (1000, 10_000, 8),          # as many as the images fill
    (2 * MEGABYTE, 128, 1), (100 * MEGABYTE, 128, 1),                       # one block, however large
    (plan.MOST_BYTES // (3 * 4 * 16 * 5), 128, 5),
])
def test_blocks(values, images, blocks):
    assert blocks_for([(values,)], images, most_images=128) == blocks


@pytest.mark.parametrize("images", [1, 16, 17, 100, 300])
def test_a_classifier_gives_the_same_numbers_however_many_images_come(monkeypatch, images):
    data = load_dataset("digits").head(100, 300)
    model = PRESETS["two-conv"](data.train_images.shape[1:], 10, seed=3)
    Trainer(model, data, SGD(model, lr=0.1)).fit(1)
    want = Classifier(model).logits(data.test_images)
    assert np.array_equal(Classifier(model).logits(data.test_images[:images]), want[:images])
    monkeypatch.setattr(plan, "MOST_BYTES", 1)
    assert np.array_equal(Classifier(model).logits(data.test_images), want) and want.any()


def test_evaluation_gives_the_same_numbers_with_little_memory(monkeypatch):
    data = load_dataset("digits").head(100, 300)

    def evaluation():
        model = PRESETS["two-conv"](data.train_images.shape[1:], 10, seed=3)
        return Trainer(model, data, SGD(model, lr=0.1)).evaluate(data.test_images, data.test_labels)

    want = evaluation()
    monkeypatch.setattr(plan, "MOST_BYTES", 1)
    got = evaluation()
    assert got.loss == want.loss and np.array_equal(got.predictions, want.predictions)
