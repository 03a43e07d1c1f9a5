"""Copies, pickles, and arrays that users can reach: nothing updates another object's memory, or memory that is gone."""
import copy
import gc
import os
import pickle
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cnn_numba import (
    SGD,
    Adam,
    AdamW,
    BatchNorm1d,
    CrossEntropyLoss,
    Flatten,
    InputError,
    Linear,
    ReLU,
    RMSprop,
    Sequential,
    StepLR,
    Trainer,
    load_dataset,
)
from cnn_numba.inference import Classifier
from cnn_numba.kernels.program import Program, at_once

ROOT = Path(__file__).resolve().parents[1]
OPTIMIZERS = [lambda model: SGD(model, lr=0.1, momentum=0.9, weight_decay=0.01),
              lambda model: RMSprop(model, momentum=0.5, centered=True), lambda model: Adam(model, lr=0.01),
              lambda model: AdamW(model, decay_weights_only=True)]


@pytest.fixture(scope="module")
def data():
    return load_dataset("digits").head(200, 50)


def network(seed=1):
    return Sequential(Flatten(), Linear(64, 12), BatchNorm1d(12), ReLU(), Linear(12, 10), seed=seed)


def train(model, optimizer, data, steps=3):
    for k in range(steps):
        images, labels = data.train_images[k::steps] / 16, data.train_labels[k::steps]
        optimizer.zero_grad()
        CrossEntropyLoss()(model(images), labels).backward()
        optimizer.step()


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copied_optimizer_updates_the_copied_model_only(data, make, duplicate):
    model = network()
    optimizer = make(model)
    train(model, optimizer, data)
    model2, optimizer2 = duplicate((model, optimizer))
    assert optimizer2.model is model2
    before = model.values.copy()
    train(model2, optimizer2, data)
    assert np.array_equal(model.values, before) and not np.array_equal(model2.values, before)
    train(model, optimizer, data)
    assert np.array_equal(model.values, model2.values)          # the copy has the state of the original
    for name, value in optimizer.state().items():
        assert np.array_equal(optimizer2.state()[name], value), name


def test_a_copied_schedule_belongs_to_the_copied_optimizer():
    optimizer = SGD(network(), lr=0.1)
    schedule = copy.deepcopy(StepLR(optimizer, 1, 0.5))
    schedule.step()
    assert (optimizer.lr, schedule.optimizer.lr) == (0.1, 0.05)


def test_unpickled_in_another_process(data, tmp_path):
    model = network()
    Trainer(model, data, SGD(model, lr=0.1)).fit(1)
    x = data.test_images
    files = {"optimizer": SGD(model, lr=0.1), "classifier": Classifier(model)}
    for name, value in files.items():
        (tmp_path / name).write_bytes(pickle.dumps(value))
    np.save(tmp_path / "x.npy", x)
    script = ("import pickle, sys, numpy as np; sys.path.insert(0, sys.argv[1]); "
              "pickle.load(open('optimizer', 'rb')).step(); "
              "np.save('out.npy', pickle.load(open('classifier', 'rb')).logits(np.load('x.npy')))")
    subprocess.run([sys.executable, "-c", script, str(ROOT)], cwd=tmp_path, check=True, env=os.environ)
    assert np.array_equal(np.load(tmp_path / "out.npy"), Classifier(model).logits(x))


def test_a_copied_classifier_does_not_follow_the_original(data):
    model = network()
    Trainer(model, data, SGD(model, lr=0.1))
    classifier = copy.deepcopy(Classifier(model))
    want = classifier.logits(data.test_images)
    model.values[:] = 0
    assert np.array_equal(classifier.logits(data.test_images), want) and want.any()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_what_holds_addresses_is_not_copied(data, duplicate):
    for value in Program([]), *at_once(SGD(network(), lr=0.1).calls())[0][0][0][:1]:
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            duplicate(value)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda trainer: pickle.loads(pickle.dumps(trainer))])
def test_a_copied_trainer_goes_on_to_the_same_bits(data, duplicate):
    model = network()
    optimizer = SGD(model, lr=0.1, momentum=0.9)
    trainer = Trainer(model, data.hold_out(20), optimizer, batch_size=32, scheduler=StepLR(optimizer, 1, 0.5),
                      max_norm=1)
    trainer.fit(2)
    other = duplicate(trainer)
    before = model.values.copy()
    results = list(other.fit(4))
    assert np.array_equal(model.values, before) and not np.array_equal(other.model.values, before)
    want = list(trainer.fit(4))
    assert np.array_equal(model.values, other.model.values) and trainer.best == other.best
    assert [(r.loss, r.validation_loss) for r in results] == [(r.loss, r.validation_loss) for r in want]


def test_a_copied_loss_is_a_number(data):
    model = network()
    loss = CrossEntropyLoss()(model(data.test_images / 16), data.test_labels)
    for number in copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)):
        assert type(number) is float and number == loss


@pytest.mark.parametrize("label", [11, -1, 10**9])
def test_labels_that_change_afterwards_are_not_read(data, label):
    def trainer(labels):
        model = network()
        return Trainer(model, replace(data, train_labels=labels), SGD(model, lr=0.1))

    labels = data.train_labels.copy()
    changed, same = trainer(labels), trainer(data.train_labels.copy())
    labels[:] = label
    assert changed.epoch().loss == same.epoch().loss


def test_a_model_can_load_views_of_its_own_values():
    model = network()
    before = model.state_dict()
    model.load_state_dict({p.name: p.value for p in model.parameters()}
                          | {name: value for name, value in before.items() if "running" in name or "num" in name})
    assert all(np.array_equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.values.any()


def test_what_is_assigned_to_a_parameter_is_copied(data):
    model = network()
    parameter = model.parameters()[0]
    view, new = parameter.value, np.full((12, 64), 0.5)
    parameter.value = new
    assert parameter.value is view and (model.values[:64] == 0.5).all()
    parameter.grad = 2 * new
    assert (model.grads[:64] == 1).all()
    with pytest.raises(InputError, match=r"0?1.weight has shape \(12, 64\), got an array of shape \(64, 12\)"):
        parameter.value = new.T


def test_what_is_assigned_to_a_vector_of_an_optimizer_is_copied():
    model = network()
    optimizer = SGD(model, lr=1.0, momentum=0.5)
    view = optimizer.velocity
    optimizer.velocity = np.ones(len(model.values), np.float32)
    assert optimizer.velocity is view
    before = model.values.copy()
    optimizer.zero_grad()
    optimizer.step()
    np.testing.assert_allclose(model.values, before - 0.5, rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="velocity has shape"):
        optimizer.velocity = np.ones(3)


def test_buffers_are_freed_with_what_uses_them(data):
    """Without a garbage collection, which counts objects and not their bytes."""
    model = network()
    trainer = Trainer(model, data, SGD(model), 50)
    classifier = Classifier(model)
    classifier.logits(data.test_images[:5])
    (plan, _), = classifier._plans.values()
    owners = [weakref.ref(each) for each in (plan, trainer._evaluation_plan, trainer.optimizer, model)]
    gc.disable()
    try:
        del trainer, classifier, plan, model
        assert [owner() for owner in owners] == [None] * 4
    finally:
        gc.enable()
