"""Images that are evaluated together are bounded by memory and by how many there are; the numbers stay the same."""
import tracemalloc

import numpy as np
import pytest

from cnn_numba import SGD, Dataset, InputError, Trainer, few_images, load_dataset, plan
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
    tolerance = 1e-5 * np.abs(want).max() if images <= few_images.MOST else 0       # few images: direct convolutions
    assert np.abs(Classifier(model).logits(data.test_images[:images]) - want[:images]).max() <= tolerance
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


def test_a_trainer_takes_memory_for_the_images_that_there_are():
    def peak(tests):
        rng = np.random.default_rng(0)
        images, labels = rng.integers(0, 255, (tests, 1, 48, 48), np.uint8), np.arange(tests) % 2
        data = Dataset("made up", images[:4], labels[:4], images, labels, 2)
        model = PRESETS["two-conv"](images.shape[1:], 2)
        tracemalloc.start()
        try:
            Trainer(model, data, SGD(model, lr=0.1), batch_size=1)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    peak(4)                                                     # kernels are compiled by now
    assert peak(4) < 0.6 * peak(128)


@pytest.mark.parametrize("change, sentence", [
    (lambda x: x.astype("U1"), "must be an array of numbers, got <U1"),
    (lambda x: x.astype(complex), "must be an array of numbers, got complex128"),
    (lambda x: np.ma.masked_equal(x, 0), "must be an array without a mask"),
    (lambda x: x.astype(object), "must be an array of numbers, got object")],
    ids=["text", "complex", "masked", "objects"])
def test_images_that_are_no_plain_numbers_are_refused(change, sentence):
    data = load_dataset("digits").head(32, 10)
    model = PRESETS["two-conv"]((1, 8, 8), 10)
    Trainer(model, data, SGD(model, lr=0.1))
    images = change(data.train_images)
    changed = Dataset("changed", images, data.train_labels, data.test_images, data.test_labels, 10, normalize="none")
    for use in model, Classifier(model).logits, lambda _: Trainer(model, changed, SGD(model, lr=0.1)):
        with pytest.raises(InputError, match=sentence):
            use(images)
