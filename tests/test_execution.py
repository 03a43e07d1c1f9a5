"""How the kernels run: interpreted when that is chosen first, and by the textbook when that is asked for."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from comparing import NETWORK, check, named, rejected, same
from networks import conv

import cnn_numba as nn
from cnn_numba import InputError, set_execution, set_textbook
from cnn_numba.execution import describe
from cnn_numba.kernels.compiled import JIT
from cnn_numba.kernels.driver import execution

ROOT = Path(__file__).resolve().parents[1]


def run(code, **changes):
    """What a program prints."""
    kept = {name: value for name, value in os.environ.items() if name != "NUMBA_DISABLE_JIT"}
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True,
                          env=kept | {"PYTHONPATH": str(ROOT)} | changes).stdout


# ---- interpreted ----------------------------------------------------------------------------------------------------
@pytest.mark.skipif(not JIT, reason="the kernels are not compiled")
def test_compiled_kernels_cannot_become_interpreted():
    before = execution()
    with pytest.raises(InputError) as error:
        set_execution("interpreted")
    assert str(error.value) == (
        "set_execution: the kernels are compiled already; choose 'interpreted' before anything else of cnn_numba is "
        "used, or set NUMBA_DISABLE_JIT=1 before the program starts")
    assert execution() == before


@pytest.mark.skipif(JIT, reason="the kernels are compiled")
def test_interpreted_kernels_run_serially_whatever_is_asked():
    for mode in "interpreted", "serial", "parallel":
        set_execution(mode)
        assert execution()[1] == 1 and "interpreted (JIT off)" in describe()


FIRST = """
{before}
import cnn_numba
cnn_numba.set_execution("interpreted")
import numpy as np
from cnn_numba.kernels import conv
model = cnn_numba.Sequential(cnn_numba.Conv2d(1, 4, 3), seed=3)
print(type(conv.conv2d_forward).__name__, repr(np.asarray(model(np.ones((1, 1, 3, 3)))).ravel().tolist()))
cnn_numba.set_execution("interpreted")
try:
    cnn_numba.set_execution("parallel", 2)
except cnn_numba.InputError as error:
    print(error)
"""


@pytest.mark.parametrize("before", ("", "import numba", "from cnn_numba import Augment, load_dataset, PRESETS"))
def test_interpreted_works_when_it_comes_first(before):
    kind, numbers = run(FIRST.format(before=before)).splitlines()[0].split(" ", 1)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), seed=3)
    assert kind == "function"
    np.testing.assert_allclose(eval(numbers), model(np.ones((1, 1, 3, 3))).ravel(), rtol=1e-6)


def test_modes_that_do_not_exist():
    with pytest.raises(InputError, match="the mode must be one of 'interpreted', 'serial', 'parallel', got 'fast'"):
        set_execution("fast")


# ---- the textbook ---------------------------------------------------------------------------------------------------
@pytest.fixture
def textbook():
    """Everything in the test runs by the textbook's algorithms."""
    set_textbook(True)
    yield
    set_textbook(False)


def network():
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 5, padding="same"), nn.ReLU(),
                         nn.MaxPool2d(2), nn.Residual(nn.Conv2d(5, 5, 3, padding=1)), nn.Conv2d(5, 32, 3, padding=1),
                         nn.Conv2d(32, 64, 3, padding=1), nn.Flatten(), nn.Linear(768, 3), seed=2)


def kernels(model):
    """The names of the kernels that a plan of the model runs."""
    calls = model.plan((2, 6, 8), 1).calls
    return {call.kernel.__name__ for calls in (calls.prepare, calls.forward, calls.backward, calls.gradients)
            for call in calls}


def results(model):
    model.zero_grad()
    rng = np.random.default_rng(0)
    y = np.array(model(rng.normal(size=(5, 2, 6, 8)).astype(np.float32)))
    model.zero_grad()
    dx = model.backward(rng.normal(size=y.shape))
    return [y, dx, *(p.grad.copy() for p in model.parameters())]


def test_the_same_network_up_to_rounding_by_other_kernels():
    model = network()
    fast, kernels_of_fast = results(model), kernels(model)
    set_textbook(True)
    try:
        plain, kernels_of_plain = results(model), kernels(model)
        assert "convolutions by the textbook" in describe()
    finally:
        set_textbook(False)
    toom = {name for name in kernels_of_fast if name.startswith("toom")}
    assert {"toom_forward", "toom_backward_input", "toom_backward_weight"} <= toom, "one axis"
    assert {"toom2d_convolution", "toom2d_gradient", "toom2d_backward_weight"} <= toom, "both axes"
    assert "conv2d_forward" not in kernels_of_fast
    assert not any("toom" in name for name in kernels_of_plain)
    assert {"conv2d_forward", "conv2d_backward_input"} <= kernels_of_plain
    assert kernels_of_fast - toom - {"reshape"} <= kernels_of_plain, "but for a border around a gradient, all the same"
    for got, want in zip(plain, fast, strict=True):
        same(got, want, "textbook", NETWORK * np.abs(want).max())
        rejected(got, 1.001 * want, NETWORK * np.abs(want).max())
    assert not np.array_equal(plain[0], fast[0]), "other kernels round otherwise"
    assert "convolutions by Cook-Toom" in describe()
    again = results(model)
    assert all(np.array_equal(got, want) for got, want in zip(again, fast, strict=True)), "and back"


@pytest.mark.usefixtures("textbook")
@pytest.mark.parametrize("layer, shape, images", named(
    ("three taps", conv(2, 4, 3, padding=1), (2, 4, 5), 17),
    ("five taps", conv(2, 4, 5, padding=2), (2, 5, 10), 3),
    ("taps along the rows only", conv(2, 5, (1, 3)), (2, 4, 8), 3),
))
def test_textbook_convolutions_of_whole_numbers_are_exact(layer, shape, images):
    check(layer, shape, images)


def test_a_trainer_keeps_the_algorithm_that_it_was_made_with(textbook):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (20, 2, 6, 8)).astype(np.uint8), np.arange(20) % 3
    data, values = nn.Dataset("made up", images, labels, images, labels, 3), []
    for made, run_ in (True, True), (True, False), (False, False), (False, True):
        set_textbook(made)
        model = network()
        trainer = nn.Trainer(model, data, nn.SGD(model, lr=0.1), batch_size=10)
        set_textbook(run_)
        trainer.fit(2)
        values.append(model.values.copy())
    assert np.array_equal(values[0], values[1]) and np.array_equal(values[2], values[3])
    assert not np.array_equal(values[0], values[2])
    np.testing.assert_allclose(values[0], values[2], rtol=0, atol=1e-4 * np.abs(values[0]).max())
