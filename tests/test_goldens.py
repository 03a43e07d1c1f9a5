"""What PyTorch computed for some networks, without PyTorch (`make_goldens.py` wrote the files)."""
import json
from pathlib import Path

import numpy as np
import pytest

import cnn_numba
from cnn_numba import SGD, CrossEntropyLoss, Sequential

FILES = sorted((Path(__file__).parent / "golden").glob("*.npz"))
PARITY = 1e-5                   # largest difference relative to the largest number


def distance(got, want):
    assert got.shape == want.shape
    return np.abs(np.asarray(got) - want).max() / np.abs(want).max()


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def golden(request):
    with np.load(request.param) as file:
        return dict(file)


def model_of(golden):
    layers = json.loads(str(golden["layers"]))
    model = Sequential(*(getattr(cnn_numba, name)(*args, **options) for name, args, options in layers))
    model.load_state_dict({p.name: golden[f"parameter.{p.name}"] for p in model.parameters()})
    return model


def differences(model, golden):
    logits = model(golden["images"])
    loss = CrossEntropyLoss()(logits, golden["labels"])
    loss.backward()
    found = {p.name: distance(p.grad, golden[f"gradient.{p.name}"]) for p in model.parameters()}
    found["logits"] = distance(logits, golden["logits"])
    model.zero_grad()
    found["images"] = distance(model.backward(loss.dlogits), golden["gradient.images"])
    return found | {"loss": abs(loss - golden["losses"][0])}


def test_there_are_goldens():
    assert FILES
    assert sum(path.stat().st_size for path in FILES) < 100_000


def test_gradients(golden):
    found = differences(model_of(golden), golden)
    assert max(found.values()) < PARITY, found


def test_negative_control(golden):
    model = model_of(golden)
    model.parameters()[0].value *= 1.001
    assert max(differences(model, golden).values()) > PARITY


def test_steps(golden):
    model = model_of(golden)
    optimizer = SGD(model, **json.loads(str(golden["sgd"])))
    losses = []
    for _ in golden["losses"]:
        loss = CrossEntropyLoss()(model(golden["images"]), golden["labels"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.abs(losses - golden["losses"]).max() < 1e-4
    assert np.ptp(golden["losses"]) > 1e-2
