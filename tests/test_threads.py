"""One model in several Python threads, training beside prediction, and forked children: right answers everywhere."""
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from forking import CALLS, batches, network

from cnn_numba import SGD, CrossEntropyLoss, Trainer, load_dataset
from cnn_numba.inference import Classifier
from cnn_numba.kernels.compiled import JIT

ROOT = Path(__file__).resolve().parents[1]
WORKERS = 8


def test_a_model_gives_every_thread_its_own_answers():
    model, inputs = network().eval(), batches(np.random.default_rng(0))
    want = [np.array(model(x)) for x in inputs]
    with ThreadPoolExecutor(WORKERS) as pool:
        for got, right in zip(pool.map(model, inputs), want, strict=True):
            assert np.array_equal(got, right)


def test_a_classifier_gives_every_thread_its_own_answers():
    data, model = load_dataset("digits"), network()
    Trainer(model, data, SGD(model, lr=0.05))
    classifier, rng = Classifier(model), np.random.default_rng(1)
    inputs = [data.test_images[rng.integers(0, 360, int(n))] for n in rng.integers(1, 90, CALLS)]
    want = [classifier.logits(x) for x in inputs]
    with ThreadPoolExecutor(WORKERS) as pool:
        for got, right in zip(pool.map(classifier.logits, inputs), want, strict=True):
            assert np.array_equal(got, right)


def test_training_in_one_thread_is_not_disturbed_by_prediction_in_others():
    data, stop = load_dataset("digits").head(400), threading.Event()

    def train():
        model = network(3)
        trainer = Trainer(model, data.hold_out(50), SGD(model, lr=0.05, momentum=0.9), batch_size=32)
        return [(r.loss, r.validation_loss) for r in trainer.fit(4)], model.values.tobytes()

    want, other = train(), network(7).eval()
    inputs = batches(np.random.default_rng(2))
    right = [np.array(other(x)) for x in inputs]

    def predict():
        wrong = 0
        while not stop.is_set():
            wrong += sum(not np.array_equal(other(x), y) for x, y in zip(inputs, right, strict=True))
        return wrong

    with ThreadPoolExecutor(WORKERS) as pool:
        predictions = [pool.submit(predict) for _ in range(2)]
        assert train() == want
        stop.set()
        assert [prediction.result() for prediction in predictions] == [0, 0]


def test_a_trainer_may_be_asked_by_several_threads():
    data, model = load_dataset("digits").head(200), network()
    trainer = Trainer(model, data, SGD(model, lr=0.05))
    parts = [(data.test_images[k::5], data.test_labels[k::5]) for k in range(5)] * 4
    want = [trainer.evaluate(*part) for part in parts]
    with ThreadPoolExecutor(WORKERS) as pool:
        for got, right in zip(pool.map(lambda part: trainer.evaluate(*part), parts), want, strict=True):
            assert got.loss == right.loss and np.array_equal(got.predictions, right.predictions)


def test_the_gradient_is_that_of_its_own_images_when_another_thread_has_used_the_buffers():
    model, other, rng = network(), network(), np.random.default_rng(3)
    x = rng.normal(size=(4, 1, 8, 8))
    loss, want = (CrossEntropyLoss()(m(x), [0, 1, 2, 3]) for m in (model, other))
    thread = threading.Thread(target=model, args=(rng.normal(size=(5, 1, 8, 8)),))
    thread.start()
    thread.join()
    loss.backward()
    want.backward()
    assert np.array_equal(model.grads, other.grads) and model.grads.any()


@pytest.mark.skipif(not JIT or not hasattr(os, "fork"), reason="needs compiled kernels and fork")
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_threads_and_forks_on_every_threading_layer(layer):
    done = subprocess.run([sys.executable, ROOT / "tests" / "forking.py"], capture_output=True, text=True, timeout=120,
                          env=os.environ | {"NUMBA_THREADING_LAYER": layer, "PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout.splitlines()) == (0, ["child True True", "exit code 0 True"]), done.stderr
