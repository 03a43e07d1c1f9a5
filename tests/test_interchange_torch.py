"""Networks to and from PyTorch, through ONNX and safetensors: the same numbers on random networks."""
import contextlib
import io
import logging
import warnings

import numpy as np
import pytest
from exporting import CLOSE, distance, runtimes, trained
from networks import (
    adaptive,
    avg,
    batch_norm,
    batch_norm_1d,
    conv,
    dropout,
    flatten,
    leaky,
    linear,
    pool,
    random_layers,
    relu,
    residual,
    softmax,
)
from pytorch import sequential, torch, twin

from cnn_numba import InputError, Sequential, export, load, load_weights

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
safe = pytest.importorskip("safetensors.torch", reason="the package safetensors is not installed")

BLOCK = residual([conv(4, 6, 3, stride=2, padding=1, bias=False), batch_norm(6), relu, conv(6, 6, 3, padding=1)],
                 shortcut=[conv(4, 6, 1, stride=2, bias=False), batch_norm(6)])
NETWORKS = {
    "everything": ([conv(2, 4, 4, padding="same"), batch_norm(4), relu, pool(3, stride=2, padding=1, ceil_mode=True),
                    BLOCK, relu, residual([conv(6, 6, 3, padding=1)]), avg(2, padding=1, count_include_pad=False),
                    flatten, dropout(0.3), linear(36, 8), batch_norm_1d(8), leaky(0.2), linear(8, 3, bias=False),
                    softmax(1)], (2, 12, 11)),
    "one pixel": ([conv(1, 4, 3), adaptive(1), flatten, linear(4, 3)], (1, 6, 6)),
} | {f"random {seed}": random_layers(np.random.default_rng(seed)) for seed in (5, 9, 10)}


@pytest.fixture(scope="module", params=NETWORKS)
def pair(request):
    """(the layers, our model, the same in PyTorch, images, what PyTorch computes from them)"""
    layers, shape = NETWORKS[request.param]
    model = trained(layers, shape)
    other = twin(layers, model).eval()
    images = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", UserWarning)            # an even kernel with padding="same"
        return layers, model, other, images, other(torch.from_numpy(images)).numpy()


# ---- through ONNX -------------------------------------------------------------------------------------------------
def torch_export(other, images, path, **options):
    """Export as PyTorch does, which prints a lot."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), \
            warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            torch.onnx.export(other, (torch.from_numpy(images),), path, input_names=["images"], verbose=False,
                              **options)
        finally:
            logging.disable(logging.NOTSET)


@pytest.mark.parametrize("batch", (None, {"images": {0: "batch"}}), ids=("fixed batch", "any batch"))
def test_what_pytorch_exports_is_read(pair, batch, tmp_path):
    _, _, other, images, want = pair
    torch_export(other, images, tmp_path / "net.onnx", dynamo=False, dynamic_axes=batch)
    assert distance(load(tmp_path / "net.onnx")(images), want) <= CLOSE


def test_what_the_newer_exporter_of_pytorch_writes_is_read(pair, tmp_path):
    """It stores large weights in a second file."""
    pytest.importorskip("onnxscript", reason="the package onnxscript is not installed")
    _, _, other, images, want = pair
    torch_export(other, images, tmp_path / "net.onnx", dynamo=True)
    assert distance(load(tmp_path / "net.onnx")(images), want) <= CLOSE


def test_what_we_export_computes_what_pytorch_does(pair, tmp_path):
    _, model, _, images, want = pair
    export(model, tmp_path / "net.onnx", logits=True, raw=True)
    content = (tmp_path / "net.onnx").read_bytes()
    if model.layers[-1].takes_logits:
        got = runtimes()["evaluator"](content, {"normalized": images})
        want = want if type(model.layers[-1]).__name__ == "LogSoftmax" else np.log(want)
        got = got - np.log(np.exp(got).sum(axis=1, keepdims=True))
        assert distance(got, want) <= CLOSE
    else:
        for run in runtimes().values():
            assert distance(run(content, {"normalized": images}), want) <= CLOSE


def test_weights_of_pytorch_begin_a_training(pair, tmp_path):
    """Read from ONNX into a network of the same layers: dropout and batch norms may be gone from the file."""
    layers, model, other, images, _ = pair
    if any(name in ("BatchNorm2d", "BatchNorm1d", "Residual") for name, *_ in layers):
        pytest.skip("batch norms are part of convolutions in the file")
    torch_export(other, images, tmp_path / "net.onnx", dynamo=False)
    new = Sequential(*load(tmp_path / "net.onnx").layers, seed=9)
    load_weights(new, tmp_path / "net.onnx", pytest.fail)
    assert distance(new.eval()(images), model(images)) <= CLOSE


# ---- through safetensors ------------------------------------------------------------------------------------------
def test_pytorch_loads_our_safetensors(pair, tmp_path):
    layers, model, _, images, want = pair
    export(model, tmp_path / "net.safetensors")
    other = sequential(layers).eval()
    other.load_state_dict(safe.load_file(tmp_path / "net.safetensors"))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", UserWarning)
        assert distance(other(torch.from_numpy(images)).numpy(), want) == 0


def test_we_load_a_state_dict_of_pytorch(pair, tmp_path):
    layers, model, other, images, want = pair
    state = {name: value.contiguous() for name, value in other.state_dict().items()}
    safe.save_file(state, tmp_path / "net.safetensors")
    new = trained(layers, model.input_shape, seed=7)
    assert not np.array_equal(new.values, model.values)
    load_weights(new, tmp_path / "net.safetensors", pytest.fail)
    assert distance(new(images), want) <= CLOSE


def test_averages_over_unequal_windows_are_refused_as_pytorch_writes_them(tmp_path):
    pytest.importorskip("onnxscript", reason="the package onnxscript is not installed")
    layers = [adaptive((3, 2)), flatten, linear(12, 3)]
    other = sequential(layers).eval()
    torch_export(other, np.zeros((2, 2, 5, 6), np.float32), tmp_path / "net.onnx", dynamo=True)
    with pytest.raises(InputError, match=r"\(Transpose\): no layer of this program computes it"):
        load(tmp_path / "net.onnx")


def test_the_line_that_converts_a_pt_file_does(tmp_path, monkeypatch):
    import subprocess

    monkeypatch.chdir(tmp_path)
    model = trained([flatten, linear(8, 3)], (2, 2, 2))
    torch.save({name: torch.from_numpy(value) for name, value in model.state_dict().items()}, "net.pt")
    with pytest.raises(InputError) as error:
        load("net.pt")
    line = str(error.value).partition("convert it: ")[2]
    assert line.startswith("python -c ")
    import sys

    subprocess.run(line.replace("python", f'"{sys.executable}"', 1), shell=True, check=True)
    new = trained([flatten, linear(8, 3)], (2, 2, 2), seed=5)
    load_weights(new, "net.safetensors", pytest.fail)
    assert np.array_equal(new.values, model.values)
