"""One training with everything at once: each type of layer, and all that a trainer can be told."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cnn_numba import (
    Adam,
    AdaptiveAvgPool2d,
    Augment,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    CrossEntropyLoss,
    Dataset,
    Dropout,
    Flatten,
    LeakyReLU,
    Linear,
    LogSoftmax,
    MaxPool2d,
    OneCycleLR,
    ReLU,
    Reshape,
    Residual,
    Sequential,
    Sigmoid,
    Softmax,
    Tanh,
    Trainer,
    set_execution,
)
from cnn_numba.files.checkpoints import Checkpoints, newest_checkpoint
from cnn_numba.files.layers_json import TYPES
from cnn_numba.kernels.program import JIT, execution, max_threads
from cnn_numba.layers import every_layer

ROOT = Path(__file__).resolve().parents[1]
SHAPE, CLASSES, EPOCHS = (2, 10, 12), 5, 2


def network(seed=7):
    """No bias stands before a batch norm: its gradient is 0 but for the rounding, which Adam would make a step of."""
    return Sequential(
        Conv2d(2, 8, 3, padding=1, bias=False), BatchNorm2d(8), ReLU(),
        Residual([Conv2d(8, 8, 3, padding=1, groups=2, bias=False), BatchNorm2d(8), LeakyReLU(0.1), Dropout(0.1),
                  Conv2d(8, 8, 5, padding=2)]), ReLU(),
        MaxPool2d(3, stride=2, padding=1), Conv2d(8, 8, (2, 3), dilation=(1, 2), padding="same"), Tanh(),
        Residual([Conv2d(8, 6, 3, stride=2, padding=1), Sigmoid()],
                 [Conv2d(8, 6, 1, stride=2, bias=False), BatchNorm2d(6, momentum=None)]),
        AvgPool2d(2, stride=1), LogSoftmax(dim=1), AdaptiveAvgPool2d((2, 2)), Reshape((3, 2, 4)), Flatten(),
        Linear(24, 12, bias=False), BatchNorm1d(12), ReLU(), Dropout(0.3), Linear(12, CLASSES), Softmax(dim=1),
        seed=seed)


def dataset(images):
    """Images of which a bright bar tells the class, and nine of them for the validation."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, images)
    pixels = rng.integers(0, 150, (images, *SHAPE)).astype(np.uint8)
    pixels[np.arange(images), :, 2 * labels] += 100
    return Dataset("made up", pixels, labels, pixels[:20], labels[:20], CLASSES).hold_out(9)


def trainer_of(images=150, batch_size=48, seed=3, init=7):
    model, data = network(init), dataset(images)
    optimizer = Adam(model, lr=0.01, eps=1e-4)
    scheduler = OneCycleLR(optimizer, 0.02, epochs=EPOCHS, steps_per_epoch=-(-len(data.train_images) // batch_size))
    return Trainer(model, data, optimizer, batch_size=batch_size, seed=seed, scheduler=scheduler,
                   max_norm=0.5, loss=CrossEntropyLoss(label_smoothing=0.1),
                   augment=Augment(shift=1, rotate=10, scale=0.1, flip=True))


def bits(trainer, results):
    """All numbers that a training leaves behind, but for the time that it took."""
    found = {name: np.asarray(value).tobytes() for name, value in trainer.state().items()
             if name not in ("seconds", "best", "scheduler")}
    found |= {name: repr(trainer.state()[name]) for name in ("best", "scheduler")}
    for epoch, r in enumerate(results):
        found[f"epoch {epoch}"] = (r.loss, r.accuracy, r.gradient_norm, r.learning_rate, r.steps, r.validation.loss,
                                   r.validation.predictions.tobytes())
    return found


def trained(**options):
    trainer = trainer_of(**options)
    return bits(trainer, [trainer.epoch() for _ in range(EPOCHS)])


def test_every_layer_is_there():
    assert {type(layer).__name__ for layer in every_layer(network().layers)} == {*TYPES}


def test_every_number_depends_on_the_seed():
    """So that the bits compared below are bits that could differ."""
    first, other = (trained(images=40, batch_size=16, seed=seed) for seed in (3, 4))
    assert first.keys() == other.keys()
    same = [name for name in first if first[name] == other[name] and name.startswith(("model", "epoch "))]
    assert same and all(name.endswith("num_batches_tracked") for name in same)


@pytest.mark.skipif(not JIT, reason="interpreted, there is one way to run")
def test_serial_and_parallel_train_the_same_bits():
    """Three batches of three blocks, the last block of the last one with lanes that hold no image."""
    mode, threads = execution()
    try:
        set_execution("serial")
        want = trained()
        for n in {1, max_threads()}:
            set_execution("parallel", n)
            assert trained() == want, n
    finally:
        set_execution(mode, threads)


def test_it_goes_on_from_a_checkpoint_to_the_same_bits(tmp_path):
    begun, again = trainer_of(images=40, batch_size=16), trainer_of(images=40, batch_size=16, init=8)
    checkpoints = Checkpoints(tmp_path, begun)
    checkpoints.start()
    results = [begun.epoch()]
    checkpoints.save()
    Checkpoints(tmp_path, again).resume(newest_checkpoint(tmp_path))
    assert bits(again, [*results, again.epoch()]) == trained(images=40, batch_size=16)


STEPS = """
import sys
sys.path[:0] = {path!r}
import numpy as np
from cnn_numba.kernels.program import JIT
from test_every_layer import EPOCHS, trainer_of
assert not JIT
trainer = trainer_of(images=40, batch_size=16)
losses = [trainer.epoch().loss for _ in range(EPOCHS)]
np.savez({file!r}, losses=losses, **trainer.model.state_dict())
"""


@pytest.mark.skipif(not JIT, reason="compares with the compiled kernels")
def test_interpreted_trains_the_same_network(tmp_path):
    """Four steps.  Interpreted sums may round at other places than fused ones; measured: the same bits."""
    file = str(tmp_path / "interpreted.npz")
    script = STEPS.format(path=[str(ROOT), str(ROOT / "tests")], file=file)
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | {"NUMBA_DISABLE_JIT": "1"})
    trainer = trainer_of(images=40, batch_size=16)
    losses = [trainer.epoch().loss for _ in range(EPOCHS)]
    start = network().state_dict()
    with np.load(file) as interpreted:
        np.testing.assert_allclose(losses, interpreted["losses"], rtol=1e-5)
        for name, value in trainer.model.state_dict().items():
            moved = np.abs(value - start[name]).max()
            assert np.abs(value - interpreted[name]).max() < 1e-5 * moved, name
