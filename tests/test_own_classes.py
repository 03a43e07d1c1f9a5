"""A user's own layer, optimizer and loss, in a file of their own, have the guarantees of the library's."""
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from both_ways import own_training

import cnn_numba as nn
from cnn_numba import InputError, Layer, Sequential, load, set_execution
from cnn_numba.files.layers_json import build_layers, describe_layers
from cnn_numba.files.network_json import read_network
from cnn_numba.inspection.gradients import check_gradients
from cnn_numba.kernels.compiled import JIT
from cnn_numba.kernels.driver import max_threads
from cnn_numba.losses import ClassLoss
from cnn_numba.optim import Optimizer

ROOT = Path(__file__).resolve().parents[1]
SHAPE, CLASSES = (2, 6, 5), 3
IMAGES = np.random.default_rng(1).normal(size=(20, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def own():
    """The file.  What it defines is known by name to these tests only."""
    yield importlib.import_module("own_classes")
    del sys.modules["own_classes"]
    for known in Layer.known, Optimizer.known, ClassLoss.known:
        for name in [name for name, kind in known.items() if kind.__module__ == "own_classes"]:
            del known[name]


def network(own):
    """A network whose own layers have weights that differ."""
    model = own.network()
    for k, p in enumerate(model.parameters()):
        if p.value.ndim == 1:
            p.value += np.random.default_rng(k).normal(scale=0.3, size=p.value.shape).astype(np.float32)
    return model


# ---- numbers --------------------------------------------------------------------------------------------------------
def test_the_layer_computes_what_it_says(own):
    model, rng = Sequential(own.ChannelScale(2, start=0.5)), np.random.default_rng(0)
    weight, = model.parameters()
    assert weight.name == "0.weight" and weight.value.tolist() == [0.5, 0.5]
    weight.value[:] = 2, -3
    dy = rng.normal(size=IMAGES.shape).astype(np.float32)
    assert np.array_equal(model(IMAGES), IMAGES * weight.value[:, None, None])
    assert np.array_equal(model.backward(dy), dy * weight.value[:, None, None])
    np.testing.assert_allclose(weight.grad, (dy * IMAGES).sum((0, 2, 3)), rtol=1e-5)


def test_its_gradients_are_central_differences(monkeypatch, own):
    report = check_gradients(network(own), SHAPE, samples=10, tolerance=1e-4)
    assert not report.wrong, report.wrong
    assert {"2.weight", "4.body.0.weight", "5.weight"} <= {check.name for check in report.checks}
    calls = own.ChannelScale.calls

    def forgetful(self, wires):
        calls(self, wires)
        wires.gradients.clear()

    monkeypatch.setattr(own.ChannelScale, "calls", forgetful)
    wrong = {check.name for check in check_gradients(network(own), SHAPE, samples=10, tolerance=1e-4).wrong}
    assert wrong == {"2.weight", "4.body.0.weight", "5.weight"}


def test_the_optimizer_computes_what_it_says(own):
    model, rng = Sequential(nn.Linear(7, 5), seed=3), np.random.default_rng(1)
    optimizer = own.SignDescent(model, lr=0.1, momentum=0.9, weight_decay=0.2)
    weight, mean = model.parameters()[0], np.zeros((5, 7))
    value = weight.value.astype(np.float64)
    for _ in range(3):
        weight.grad[...] = grad = rng.normal(size=(5, 7)).astype(np.float32)
        optimizer.step()
        mean = 0.9 * mean + 0.1 * grad
        value -= 0.1 * (np.sign(mean) + 0.2 * value)
    np.testing.assert_allclose(weight.value, value, rtol=0, atol=1e-6)
    assert repr(optimizer) == "SignDescent(lr=0.1, momentum=0.9, weight_decay=0.2, decay_weights_only=False)"
    with pytest.raises(InputError, match="SignDescent: momentum must be a number from 0 to 1, got 2"):
        optimizer.momentum = 2


def test_the_loss_computes_what_it_says(own):
    z, labels = np.random.default_rng(2).normal(size=(20, CLASSES)).astype(np.float32), np.arange(20) % CLASSES
    d = z - np.eye(CLASSES)[labels]
    loss = own.AbsoluteError()(z, labels)
    assert loss == pytest.approx(np.abs(d).mean(), rel=1e-6) and repr(own.AbsoluteError()) == "AbsoluteError()"
    np.testing.assert_allclose(loss.dlogits, np.sign(d) / d.size, rtol=1e-6)
    model = network(own)
    own.AbsoluteError()(model(IMAGES), labels).backward()
    assert model.grads.any()


# ---- names and files ------------------------------------------------------------------------------------------------
def test_they_are_known_by_their_names(own):
    assert (Layer.known["ChannelScale"], Optimizer.known["SignDescent"], ClassLoss.known["AbsoluteError"]) == (
        own.ChannelScale, own.SignDescent, own.AbsoluteError)


def test_a_name_of_the_library_is_refused(own):
    for base, name in (Layer, "Conv2d"), (Optimizer, "SGD"), (ClassLoss, "MSELoss"):
        with pytest.raises(InputError, match=f"has a class {name} already: choose another name"):
            type(name, (base,), {})
        assert base.known[name].__module__.startswith("cnn_numba.")


def test_layers_in_json(tmp_path, own):
    description = json.loads(json.dumps(describe_layers(network(own).layers)))
    assert description[2] == {"type": "ChannelScale", "params": {"in_channels": 4, "start": 1.5}}
    assert repr(Sequential(*build_layers(description))) == repr(network(own))
    path = tmp_path / "net.json"
    for name in "ChannelScale", "channel_scale", "gain":
        path.write_text(json.dumps([{"type": name, "params": {"start": 2}}, {"type": "linear"}]))
        model = read_network(path, SHAPE, CLASSES)
        assert repr(model.layers[0]) == "ChannelScale(in_channels=2, start=2.0)"
    path.write_text(json.dumps([{"type": "chanelscale"}, {"type": "linear"}]))
    with pytest.raises(InputError, match="unknown type 'chanelscale', did you mean 'ChannelScale'?"):
        read_network(path, SHAPE, CLASSES)


def run(code, **changes):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])} | changes).stdout


LOADED = """
import numpy as np
from cnn_numba import InputError, load
path, images, outputs = {arguments!r}
try:
    load(path)
except InputError as error:
    print(error)
import own_classes
model = load(path)
np.save(outputs, model(np.load(images)))
print([type(layer).__name__ for layer in model.layers].count("ChannelScale"))
"""


def test_another_process_needs_the_file_to_load_a_model(tmp_path, own):
    path, images, outputs = (str(tmp_path / name) for name in ("model.npz", "images.npy", "outputs.npy"))
    model = network(own)
    model.save(path, input_shape=SHAPE)
    np.save(images, IMAGES)
    refused, count = run(LOADED.format(arguments=(path, images, outputs))).splitlines()
    assert refused.startswith(f"{path}: layer 2: unknown type 'ChannelScale': import the module that defines it first")
    want = np.asarray(model.eval()(IMAGES))
    assert count == "2" and np.array_equal(np.load(outputs), want) and np.array_equal(load(path)(IMAGES), want)


# ---- trainings ------------------------------------------------------------------------------------------------------
def bits(trainer, epochs=3):
    trainer.fit(epochs)
    state = trainer.state()
    return trainer.history["loss"], {name: value.tobytes() for name, value in state.items()
                                     if isinstance(value, np.ndarray)}


@pytest.mark.skipif(not JIT, reason="interpreted, there is one way to run")
def test_serial_and_parallel_train_the_same_bits(own):
    set_execution("serial")
    want = bits(own.trainer_of())
    assert "optimizer.mean" in want[1] and want[0][-1] < want[0][0], "it learns"
    assert bits(own.trainer_of(seed=6)) != want, "another network does not pass"
    for threads in {1, max_threads()}:
        set_execution("parallel", threads)
        assert bits(own.trainer_of()) == want, threads


def test_interpreted_trains_the_same_network(interpreted, own):
    want, got = interpreted("own_training"), own_training()
    for name, value in got.items():
        np.testing.assert_allclose(value, want[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_training_goes_on_from_a_checkpoint_to_the_same_bits(tmp_path, own):
    begun, again = own.trainer_of(), own.trainer_of(seed=6)
    begun.fit(1, nn.Checkpoint(tmp_path))
    nn.Checkpoint(tmp_path).resume(again)
    assert bits(again) == bits(own.trainer_of())


def test_a_schedule_moves_its_rate_and_its_momentum(own):
    def trained(**options):
        trainer = own.trainer_of()
        optimizer = trainer.optimizer
        scheduler = nn.OneCycleLR(optimizer, 0.01, total_steps=6, **options)
        trainer = nn.Trainer(trainer.model, trainer.data, optimizer, batch_size=16, scheduler=scheduler)
        return trainer.fit(2)["learning_rate"], optimizer.momentum, trainer.model.values.copy()

    rates, momentum, values = trained()
    assert len(set(rates)) == 2 and momentum == pytest.approx(0.95)
    still = trained(cycle_momentum=False)
    assert still[:2] == (rates, 0.8) and not np.array_equal(still[2], values)
