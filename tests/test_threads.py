"""One model in several Python threads, training beside prediction, and forked children: right answers everywhere."""
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cnn_numba import (
    SGD,
    BatchNorm2d,
    Conv2d,
    CrossEntropyLoss,
    Flatten,
    InputError,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
    Trainer,
    load_dataset,
)
from cnn_numba.inference import Classifier
from cnn_numba.kernels.compiled import JIT

ROOT = Path(__file__).resolve().parents[1]
WORKERS, CALLS = 8, 30


def network(seed=0):
    return Sequential(Conv2d(1, 8, 3, padding=1), BatchNorm2d(8), ReLU(), MaxPool2d(2), Flatten(), Linear(128, 10),
                      seed=seed)


def batches(rng):
    """Images of several batch sizes, more than the plans that a model keeps."""
    return [rng.normal(size=(int(n), 1, 8, 8)).astype(np.float32) for n in rng.integers(1, 90, CALLS)]


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


def test_a_loss_of_another_threads_images_sends_no_gradient_back():
    model, rng = network(), np.random.default_rng(3)
    loss = CrossEntropyLoss()(model(rng.normal(size=(4, 1, 8, 8))), [0, 1, 2, 3])
    thread = threading.Thread(target=model, args=(rng.normal(size=(5, 1, 8, 8)),))
    thread.start()
    thread.join()
    with pytest.raises(InputError, match="run on other images"):
        loss.backward()


SCRIPT = """
import os, sys
sys.path[:0] = {path!r}
import numpy as np
from concurrent.futures import ThreadPoolExecutor
from test_threads import batches, network
from cnn_numba import describe, set_execution
model, inputs = network().eval(), batches(np.random.default_rng(0))[:20]
want = [np.array(model(x)) for x in inputs]
with ThreadPoolExecutor(4) as pool:
    assert all(np.array_equal(a, b) for a, b in zip(pool.map(model, inputs), want, strict=True))
child = os.fork()
if not child:
    set_execution("parallel")
    same = all(np.array_equal(model(x), y) for x, y in zip(inputs, want, strict=True))
    print("child", same, "serial" in describe(), flush=True)
    os._exit(0)
print("exit code", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "parallel" in describe())
"""


@pytest.mark.skipif(not JIT or not hasattr(os, "fork"), reason="needs compiled kernels and fork")
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_threads_and_forks_on_every_threading_layer(layer):
    script = SCRIPT.format(path=[str(ROOT), str(ROOT / "tests")])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120,
                          env=os.environ | {"NUMBA_THREADING_LAYER": layer})
    assert (done.returncode, done.stdout.splitlines()) == (0, ["child True True", "exit code 0 True"]), done.stderr
