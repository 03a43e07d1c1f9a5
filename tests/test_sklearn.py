"""The estimator for scikit-learn: its own checks, and what people do with estimators."""
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

import cnn_numba as nn
from cnn_numba.kernels import driver
from cnn_numba.kernels.compiled import JIT
from cnn_numba.sklearn import CNNClassifier

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = dict(epochs=3, lr=0.1, random_state=0)
NEEDED = {"check_array_api_input": "array_api_strict", "check_classifier_data_not_an_array": "pandas"}
IMAGES, LABELS = load_digits(return_X_y=True)
IMAGES, LABELS = IMAGES[:600], LABELS[:600]

pytestmark = pytest.mark.skipif(not JIT, reason="interpreted, trainings of this size take minutes")


def flat(image_shape, num_classes, **options):
    """A network that is quickly trained."""
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(image_shape)), num_classes), **options)


@pytest.fixture(scope="module")
def fitted():
    return CNNClassifier(**SETTINGS).fit(IMAGES, LABELS)


def test_check_estimator():
    """All checks of scikit-learn, in a process that has the array API on, which SciPy reads when it is imported."""
    code = ("import warnings; warnings.simplefilter('ignore')\n"
            "from sklearn.utils.estimator_checks import check_estimator\n"
            "from cnn_numba.sklearn import CNNClassifier\n"
            "estimator = CNNClassifier(epochs=6, lr=0.1, batch_size=16, n_jobs=1, random_state=0)\n"
            "found = check_estimator(estimator, on_fail=None, on_skip=None)\n"
            "print(len(found), *(x['check_name'] for x in found if x['status'] == 'skipped'))\n"
            "print(*((x['check_name'], x['status'], x['exception']) for x in found if x['exception']"
            " and x['status'] != 'skipped'), sep='\\n')")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT,
                         env=os.environ | {"SCIPY_ARRAY_API": "1"})
    assert run.returncode == 0, run.stderr
    first, *rest = run.stdout.strip().split("\n")
    count, *skipped = first.split()
    assert int(count) > 50 and not any(rest), rest
    for check in skipped:
        with pytest.raises(ImportError):
            __import__(NEEDED[check])


def test_labels_of_any_kind_and_images_of_both_shapes(fitted):
    names = np.array([f"digit {k}" for k in range(10)])[LABELS]
    images = IMAGES.reshape(-1, 1, 8, 8)
    other = CNNClassifier(**SETTINGS).fit(images, names)
    assert fitted.score(IMAGES, LABELS) > 0.9 and set(other.predict(images)) <= set(names)
    assert np.array_equal(other.predict_proba(images), fitted.predict_proba(IMAGES))
    assert other.classes_[3] == "digit 3" and other.image_shape_ == (1, 8, 8)
    assert len(fitted.history_["loss"]) == fitted.n_iter_ == 3 and "validation_loss" not in fitted.history_


def test_it_gives_the_bits_of_a_trainer(fitted):
    """The estimator adds nothing to the training."""
    seed = int(np.random.RandomState(0).randint(2**31 - 1))
    images, labels = IMAGES.reshape(-1, 1, 8, 8).astype(np.float32), LABELS
    data = nn.data.Dataset("digits", images, labels, images, labels, 10)
    recipe = nn.Recipe(epochs=3, lr=0.1, batch_size=32, seed=seed)
    model = recipe.make_model(data)
    recipe.make_trainer(model, data).fit(3)
    assert np.array_equal(model.state_dict()["0.weight"], fitted.model_.state_dict()["0.weight"])


def test_bytes_stay_bytes():
    images = IMAGES.astype(np.uint8)
    estimator = CNNClassifier(flat, **SETTINGS).fit(images, LABELS)
    assert np.array_equal(estimator.predict(images), estimator.predict(images.astype(np.float64)))


@pytest.mark.parametrize("copied", (
    lambda estimator, folder: pickle.loads(pickle.dumps(estimator)),
    lambda estimator, folder: __import__("joblib").load(__import__("joblib").dump(estimator, folder / "e.joblib")[0])),
    ids=("pickle", "joblib"))
def test_copies_predict_the_same(fitted, tmp_path, copied):
    copy = copied(fitted, tmp_path)
    assert np.array_equal(copy.predict_proba(IMAGES), fitted.predict_proba(IMAGES))
    assert copy.model_ is not fitted.model_


def test_clone_has_the_settings_and_nothing_else(fitted):
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        copy.predict(IMAGES)


def test_search_in_two_processes_gives_what_one_process_gives():
    """joblib leaves each worker its share of the threads; a number of threads above it is reduced."""
    pipeline = make_pipeline(MinMaxScaler(), CNNClassifier(flat, **SETTINGS, n_jobs=64))
    found = [GridSearchCV(pipeline, {"cnnclassifier__lr": [0.01, 0.1]}, cv=2, n_jobs=jobs, error_score="raise").fit(
        IMAGES, LABELS) for jobs in (1, 2)]
    one, two = (search.cv_results_["mean_test_score"] for search in found)
    assert np.array_equal(one, two) and one[1] > 0.75


def test_cross_validation_and_calibration():
    estimator = CNNClassifier(flat, **SETTINGS)
    assert cross_val_score(estimator, IMAGES, LABELS, cv=2).min() > 0.75
    calibrated = CalibratedClassifierCV(estimator, cv=2).fit(IMAGES, LABELS)
    assert np.allclose(calibrated.predict_proba(IMAGES).sum(axis=1), 1)


def test_partial_fit_starts_and_goes_on(fitted):
    estimator = CNNClassifier(flat, lr=0.1, random_state=0)
    for _ in range(2):
        estimator.partial_fit(IMAGES[:300], LABELS[:300], classes=range(10))
    before = estimator.model_.mean.copy()
    estimator.partial_fit(IMAGES[300:], LABELS[300:])
    assert estimator.score(IMAGES, LABELS) > 0.8 and np.array_equal(estimator.model_.mean, before)
    assert estimator.history_["epoch"] == [1, 2, 3] and estimator.n_iter_ == 3
    copy = pickle.loads(pickle.dumps(fitted)).partial_fit(IMAGES, LABELS)
    assert copy.n_iter_ == 4 and copy.score(IMAGES, LABELS) > 0.9


def test_images_are_held_out():
    estimator = CNNClassifier(flat, **SETTINGS | {"epochs": 30}, validation_fraction=0.2, early_stopping=2)
    estimator.fit(IMAGES, LABELS)
    assert len(estimator.history_["validation_accuracy"]) == estimator.n_iter_ < 30
    assert estimator.history_["images"][0] == 480


@pytest.mark.parametrize("settings, sentence", (
    ({"model": "two-cnov"}, "two-conv"), ({"lr": -1}, "lr"), ({"optimizer": "sgdd"}, "did you mean sgd"),
    ({"image_shape": (3, 8, 8)}, "product is 64"), ({"n_jobs": 0}, "n_jobs"), ({"early_stopping": 3}, "validation"),
    ({"validation_fraction": 2.5}, "validation"), ({"model": lambda *_, seed: 3}, "Sequential")))
def test_bad_settings_are_named(settings, sentence):
    with pytest.raises(nn.InputError, match=sentence):
        CNNClassifier(**SETTINGS | settings).fit(IMAGES, LABELS)


def test_bad_images_and_labels_are_named(fitted):
    with pytest.raises(ValueError, match="features"):
        fitted.predict(IMAGES[:, :60])
    with pytest.raises(nn.InputError, match="1 x 8 x 8"):
        fitted.predict(np.zeros((2, 64, 2, 2)))
    with pytest.raises(nn.InputError, match="first call of partial_fit"):
        CNNClassifier().partial_fit(IMAGES, LABELS)
    with pytest.raises(nn.InputError, match="the label 10 is not"):
        CNNClassifier(flat).partial_fit(IMAGES, LABELS + 2, classes=range(10))
    with pytest.warns(UserWarning, match="60 features are no square"):
        CNNClassifier(flat, **SETTINGS).fit(IMAGES[:, :60], LABELS)


def test_threads_are_as_before_afterwards(fitted):
    before = driver.execution()
    CNNClassifier(flat, **SETTINGS, n_jobs=1).fit(IMAGES, LABELS)
    assert driver.execution() == before


def blocks(name):
    """The Python blocks of a document."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / name).read_text(encoding="utf-8"), re.S)


def test_the_documented_search_on_a_cluster(tmp_path):
    """On two processes of this machine, each a Dask worker."""
    pytest.importorskip("distributed", reason="distributed is not installed")
    script = tmp_path / "search.py"
    script.write_text(blocks("scikit-learn.md")[1], encoding="utf-8")
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120,
                         env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert run.returncode == 0, run.stderr
    assert re.match(r"\{'lr': 0.\d+\} 0\.[6-9]", run.stdout)


def test_the_documented_pipeline(capsys):
    exec(blocks("scikit-learn.md")[0].replace("n_jobs=2", "n_jobs=1").replace("epochs=5", "epochs=1"), {})
    assert "cnn__lr" in capsys.readouterr().out
