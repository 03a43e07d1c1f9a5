"""The networks with a name."""
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cnn_numba import InputError, presets
from cnn_numba.presets import PRESETS

ROOT = Path(__file__).resolve().parents[1]
EVERY = pytest.mark.parametrize("name", PRESETS)


def count(model):
    return sum(p.value.size for p in model.parameters())


def dense(inputs, outputs):
    return outputs * (inputs + 1)


@pytest.mark.parametrize("name, image_shape, parameters", [
    ("two-conv", (1, 28, 28), 8 * (9 + 1) + 16 * (8 * 9 + 1) + dense(16 * 7 * 7, 10)),
    ("lenet5", (1, 28, 28), 61_706),
    ("lenet5-avg", (1, 28, 28), 61_706),
    ("bn-cnn", (1, 28, 28), 694_282),
    ("two-conv-bn", (1, 28, 28), 5 * (25 + 1) + 2 * 5 + 5 * (5 * 9 + 1) + 2 * 5 + dense(245, 256) + 2 * 256
     + dense(256, 256) + 2 * 256 + dense(256, 10)),
    ("small", (1, 28, 28), 2 * (9 + 1) + 2 * (2 * 4 + 1) + dense(1250, 10)),
    ("fast", (1, 28, 28), 8 * (25 + 1) + 16 * 8 * 9 + 2 * 16 + 64 * 16 * 9 + 2 * 64 + dense(64 * 4 * 4, 10)),
    ("resnet8", (3, 32, 32), 78_042),
    ("resnet8", (1, 28, 28), 78_042 - 2 * 9 * 16),
])
def test_the_number_of_parameters_is_known(name, image_shape, parameters):
    assert count(PRESETS[name](image_shape, 10)) == parameters


@pytest.mark.parametrize("image_shape", [(1, 28, 28), (3, 32, 32), (2, 33, 27)])
@EVERY
def test_a_preset_gives_one_number_for_each_class(name, image_shape):
    model = PRESETS[name](image_shape, 7)
    assert model.output_shape(image_shape) == (7,)


@EVERY
def test_a_preset_runs(name):
    shape = 1, 20, 20
    model = PRESETS[name](shape, 5, seed=3)
    images = np.random.default_rng(0).normal(size=(20, *shape)).astype(np.float32)
    logits = model(images)
    assert logits.shape == (20, 5) and np.isfinite(logits).all()
    gradient = model.backward(np.ones((20, 5), np.float32))
    assert np.isfinite(gradient).all() and all(np.isfinite(p.grad).all() for p in model.parameters())


@EVERY
def test_the_seed_decides_the_weights(name):
    first, again, other = (PRESETS[name]((1, 20, 20), 3, seed=seed).values for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize("image_shape", [(1, 28, 28), (1, 8, 8), (3, 9, 5)])
def test_two_conv_fits_any_image(image_shape):
    channels, rows, columns = image_shape
    parameters = 8 * (channels * 9 + 1) + 16 * (8 * 9 + 1) + dense(16 * (rows // 4) * (columns // 4), 7)
    assert count(presets.two_conv(image_shape, 7)) == parameters


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "resnet8"])
def test_images_too_small_for_a_preset_are_refused(name):
    with pytest.raises(InputError):
        PRESETS[name]((1, 2, 2), 10)


def test_resnet8_takes_every_image():
    assert PRESETS["resnet8"]((1, 1, 1), 10).output_shape((1, 1, 1)) == (10,)


def test_resnet8_has_the_shapes_of_the_paper():
    layers = PRESETS["resnet8"]((3, 32, 32), 10).layers
    blocks = [layer for layer in layers if layer.branches]
    assert [bool(block.shortcut) for block in blocks] == [False, True, True]
    shape = (16, 32, 32)
    for block, want in zip(blocks, [(16, 32, 32), (32, 16, 16), (64, 8, 8)], strict=True):
        shape = block.output_shape(shape)
        assert shape == want


def test_their_names_are_known_without_numba():
    code = "import sys; from cnn_numba.presets import PRESETS; print('numba' in sys.modules, 'numpy' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == "False False\n"
