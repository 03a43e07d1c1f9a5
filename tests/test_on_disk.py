"""Large .npy files, whose images stay in them: the same bits as from memory, under a limit of the memory."""
import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cnn_numba as nn
from cnn_numba.callbacks import fingerprint
from cnn_numba.data import npy
from cnn_numba.data.on_disk import ImagesOnDisk
from cnn_numba.data.survey import survey
from cnn_numba.kernels.compiled import JIT

ROOT = Path(__file__).resolve().parents[1]
COUNT = 90


@pytest.fixture
def pair(tmp_path):
    """Paths of images (90, 6, 5, 3), channels last, and of their labels."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", rng.integers(0, 256, (COUNT, 6, 5, 3), np.uint8))
    np.save(tmp_path / "labels.npy", np.arange(COUNT) % 3)
    return str(tmp_path / "images.npy"), str(tmp_path / "labels.npy")


@pytest.fixture
def both(pair, monkeypatch):
    """The data set of that pair, from memory and from the disk."""
    inside = nn.load_dataset(pair)
    monkeypatch.setattr(npy, "LEAST_BYTES", 0)
    return inside, nn.load_dataset(pair)


def test_they_are_the_same_images(both):
    inside, outside = both
    assert isinstance(outside.train_images, ImagesOnDisk) and isinstance(outside.test_images, ImagesOnDisk)
    for part in "train_images", "test_images":
        images, others = getattr(inside, part), getattr(outside, part)
        assert np.array_equal(images, others) and images.shape == others.shape and images.nbytes == others.nbytes
        assert (images.min(), images.max()) == (others.min(), others.max())
        chosen = np.array([5, 3, 4, 3, 0])
        assert np.array_equal(images[chosen], others[chosen]) and np.array_equal(images[-1], others[-1])
        assert np.array_equal(images[::2][3:], np.stack(list(others[::2][3:])))
        assert np.array_equal(images, pickle.loads(pickle.dumps(others)))
    assert np.array_equal(inside.mean, outside.mean) and np.array_equal(inside.std, outside.std)
    assert fingerprint(inside) == fingerprint(outside)
    assert [vars(part) | {"counts": 0} for part in survey(inside)] == [
        vars(part) | {"counts": 0} for part in survey(outside)]


@pytest.mark.parametrize("augment", (None, "shift=1,flip", "rotate=10"))
def test_a_training_gives_the_same_bits(both, augment, monkeypatch):
    """Also where only a few batches are staged at a time."""
    monkeypatch.setattr("cnn_numba.feed.STAGED_BYTES", 3 * 16 * 90)
    weights, results = [], []
    for data in both:
        recipe = nn.Recipe(model="small", epochs=2, batch_size=16, augment=augment)
        held = data.hold_out(20)
        model = recipe.make_model(held)
        trainer = recipe.make_trainer(model, held)
        trainer.fit(2)
        weights.append(model.state_dict())
        results.append((trainer.history["loss"], trainer.history["validation_loss"],
                        trainer.evaluate(held.test_images, held.test_labels).loss))
    assert results[0] == results[1]
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("array, sentence", (
    (np.full((COUNT, 6, 5), np.nan, np.float32), "NaN"), (np.zeros((COUNT, 7), np.uint8), "not a square"),
    (np.zeros((COUNT, 6, 5)).astype(object), "pickled"), (np.zeros((COUNT + 1, 6, 5), np.uint8), "91 images")))
def test_bad_files_are_refused_as_before(pair, array, sentence, monkeypatch):
    monkeypatch.setattr(npy, "LEAST_BYTES", 0)
    np.save(pair[0], array)
    with pytest.raises(nn.InputError, match=sentence):
        nn.load_dataset(pair)


def test_other_types_are_read(pair, monkeypatch):
    monkeypatch.setattr(npy, "LEAST_BYTES", 0)
    np.save(pair[0], np.load(pair[0]).astype(np.float64))
    assert isinstance(nn.load_dataset(pair).train_images, np.ndarray)


def test_a_file_that_changes_is_noticed(both, pair):
    _, outside = both
    copy = pickle.dumps(outside.train_images)
    with open(pair[0], "r+b") as file:
        file.truncate(1000)
    with pytest.raises(nn.InputError, match="become shorter"):
        np.asarray(outside.train_images)
    with pytest.raises(nn.InputError, match="has changed"):
        pickle.loads(copy)


@pytest.mark.slow
@pytest.mark.skipif(not JIT, reason="interpreted, an epoch takes minutes")
def test_a_training_over_twice_the_memory_limit(tmp_path):
    """`ulimit -v` of half the file; the network reads every pixel."""
    limit = 768 << 20
    count = 2 * limit // 512**2 + 1
    images = np.lib.format.open_memmap(tmp_path / "images.npy", "w+", np.uint8, (count, 512, 512))
    labels = np.arange(count) % 2
    images[:, 100] = 100 * labels[:, None]              # the rest of the file takes no room on the disk
    images.flush()
    del images
    np.save(tmp_path / "labels.npy", labels)
    (tmp_path / "net.json").write_text('[{"type": "avgpool2d", "params": {"kernel_size": 64}}, {"type": "linear"}]')
    command = [sys.executable, ROOT / "main.py", "--dataset", tmp_path / "images.npy", tmp_path / "labels.npy",
               "--model", tmp_path / "net.json", "--epochs", "1", "--batch-size", "32", "--threads", "1"]
    run = subprocess.run(command, capture_output=True, text=True, preexec_fn=lambda: resource.setrlimit(
        resource.RLIMIT_AS, (limit, limit)), env=os.environ | {
        "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"})
    assert run.returncode == 0, run.stderr
    assert os.path.getsize(tmp_path / "images.npy") > 2 * limit
    assert "Test accuracy: 100" in run.stdout
