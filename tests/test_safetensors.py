"""Models as safetensors, and the arrays of other programs in such files."""
import json

import numpy as np
import pytest
from exporting import trained
from networks import batch_norm, conv, dropout, flatten, linear, relu, residual, tanh

from cnn_numba import Conv2d, Flatten, InputError, Linear, ReLU, Sequential, export, load, load_weights
from cnn_numba.commands.main import main

safetensors = pytest.importorskip("safetensors.numpy", reason="the package safetensors is not installed")


@pytest.fixture
def model():
    made = trained([conv(2, 4, 3, padding=1), batch_norm(4), relu, dropout(0.5), residual([tanh]), flatten,
                    linear(96, 3)], (2, 6, 4))
    made.classes, made.accuracy, made.recipe = ("ant", "bee", "cow é"), 91.5, {"lr": 0.1}
    return made


def test_a_model_comes_back_to_the_last_bit(model, tmp_path):
    path = tmp_path / "model.safetensors"
    export(model, path)
    again = load(path)
    assert repr(again) == repr(model) and not again.training
    assert np.array_equal(again.values, model.values) and np.array_equal(again.statistics, model.statistics)
    for name in "input_shape", "classes", "accuracy", "recipe":
        assert getattr(again, name) == getattr(model, name)
    assert np.array_equal(again.mean, model.mean) and np.array_equal(again.std, model.std)


def test_names_and_shapes_are_those_of_state_dict(model, tmp_path):
    export(model, tmp_path / "model.safetensors")
    arrays = safetensors.load_file(tmp_path / "model.safetensors")
    state = model.state_dict()
    assert arrays.keys() == state.keys() and all(np.array_equal(arrays[name], state[name]) for name in state)


def test_views_and_fortran_order_come_out_right(tmp_path, monkeypatch):
    model = Sequential(Flatten(), Linear(6, 4))
    weight = np.arange(48, dtype=np.float32).reshape(6, 8)[:, ::2].T
    assert not weight.flags.c_contiguous
    monkeypatch.setattr(model, "state_dict", lambda: {"1.weight": weight, "1.bias": np.zeros(4, np.float32)})
    export(model, tmp_path / "model.safetensors")
    assert np.array_equal(safetensors.load_file(tmp_path / "model.safetensors")["1.weight"], weight)
    assert np.array_equal(load(tmp_path / "model.safetensors").state_dict()["1.weight"], weight)


def test_the_content_tells_the_format(model, tmp_path):
    export(model, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").rename(tmp_path / "model.npz")
    assert np.array_equal(load(tmp_path / "model.npz").values, model.values)


# ---- arrays of other programs -------------------------------------------------------------------------------------
def lenet(seed=0):
    return Sequential(Conv2d(1, 2, 3), ReLU(), Conv2d(2, 3, 3), Flatten(), Linear(48, 5), ReLU(), Linear(5, 4),
                      seed=seed)


LAYERS = {"features.conv1": "0", "features.conv2": "2", "fc1": "4", "fc2": "6"}


def renamed(state, names):
    return {f"{other}.{tensor}": state[f"{layer}.{tensor}"] for other, layer in names.items()
            for tensor in ("weight", "bias")}


def test_a_state_dict_fills_a_network_of_the_same_names(tmp_path):
    safetensors.save_file(lenet(seed=3).state_dict(), tmp_path / "state.safetensors")
    model = lenet()
    load_weights(model, tmp_path / "state.safetensors", pytest.fail)
    assert np.array_equal(model.values, lenet(seed=3).values)


@pytest.mark.parametrize("kind", (np.float16, np.float64))
def test_other_types_of_numbers(kind, tmp_path):
    state = {name: values.astype(kind) for name, values in lenet(seed=3).state_dict().items()}
    safetensors.save_file(state, tmp_path / "state.safetensors")
    model = lenet()
    load_weights(model, tmp_path / "state.safetensors", pytest.fail)
    assert np.array_equal(model.state_dict()["4.weight"], state["4.weight"].astype(np.float32))


def test_bfloat16(tmp_path):
    """1.5, -2 and 0.15625, written by hand."""
    header = json.dumps({"0.weight": {"dtype": "BF16", "shape": [1, 3], "data_offsets": [0, 6]}}).encode()
    numbers = np.array([0x3FC0, 0xC000, 0x3E20], "<u2").tobytes()
    (tmp_path / "state.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + numbers)
    model = Sequential(Linear(3, 1, bias=False))
    load_weights(model, tmp_path / "state.safetensors")
    assert model.state_dict()["0.weight"].tolist() == [[1.5, -2, 0.15625]]


def test_other_names_are_matched_by_shapes_that_occur_once(tmp_path):
    safetensors.save_file(renamed(lenet(seed=3).state_dict(), LAYERS), tmp_path / "state.safetensors")
    model, said = lenet(), []
    load_weights(model, tmp_path / "state.safetensors", said.append)
    assert np.array_equal(model.values, lenet(seed=3).values)
    assert said == ["weights are found by their shapes: features.conv1 is layer 0, features.conv2 is layer 2, fc1 is "
                    "layer 4, fc2 is layer 6"]


def test_layers_that_look_alike_are_not_guessed(tmp_path):
    def twins(seed):
        return Sequential(Flatten(), Linear(4, 4, init="xavier_normal"), ReLU(), Linear(4, 4), seed=seed)

    safetensors.save_file(renamed(twins(3).state_dict(), {"b": "1", "a": "3"}), tmp_path / "state.safetensors")
    model, before = twins(0), twins(0).values
    with pytest.raises(InputError, match="the names are a, b, expected 1, 3, and the shapes do not tell which is"):
        load_weights(model, tmp_path / "state.safetensors")
    assert np.array_equal(model.values, before)


def test_a_state_dict_alone_is_no_model(tmp_path):
    safetensors.save_file(lenet().state_dict(), tmp_path / "state.safetensors")
    with pytest.raises(InputError, match=r"holds weights without a network \(0.bias, .*train --model NAME --weights"):
        load(tmp_path / "state.safetensors")


def test_a_state_dict_and_a_network_make_a_model(tmp_path, capsys):
    state, net, out = (str(tmp_path / name) for name in ("state.safetensors", "net.json", "model.npz"))
    safetensors.save_file(renamed(lenet(seed=3).state_dict(), LAYERS), state)
    (tmp_path / "net.json").write_text(json.dumps([
        {"type": "conv", "params": {"filters": 2, "kernel_size": 3}}, {"type": "relu"},
        {"type": "conv", "params": {"filters": 3, "kernel_size": 3}}, {"type": "fc", "params": {"units": 5}},
        {"type": "relu"}, {"type": "fc"}]))
    flags = "export", "--load", state, "--model", net, "--image-shape", "1x8x8", "--classes", "4"
    assert main([*flags, "--mean", "33.3", "--std", "78.6", out]) == 0
    assert "features.conv1 is layer 0" in capsys.readouterr().err
    made = load(out)
    assert np.array_equal(made.values, lenet(seed=3).values)
    assert made.input_shape == (1, 8, 8) and made.mean.tolist() == pytest.approx([33.3])


# ---- refusals -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("change, sentence", [
    (lambda content: content[:-4], "not a safetensors file"),
    (lambda content: content[:8] + b"{" + content[9:].replace(b'"F32"', b'"F8_"', 1), "not a safetensors file"),
    (lambda content: content.replace(b"Conv2d", b"Conv3d", 1), "unknown type 'Conv3d'"),
    (lambda content: content.replace(b'"0.bias"', b'"0.bia_"', 1), "0.bias is missing"),
])
def test_damaged_files(model, change, sentence, tmp_path):
    path = tmp_path / "model.safetensors"
    export(model, path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=sentence) as error:
        load(path)
    assert str(path) in str(error.value)


def test_numbers_that_are_not_finite(model, tmp_path):
    path = tmp_path / "state.safetensors"
    safetensors.save_file({"1.weight": np.full((3, 6), np.nan, np.float32), "1.bias": np.zeros(3, np.float32)}, path)
    with pytest.raises(InputError, match="'1.weight' holds NaN or infinity"):
        load_weights(Sequential(Flatten(), Linear(6, 3)), path)


def test_a_file_of_pytorch_is_refused_with_the_line_that_converts_it(tmp_path):
    import zipfile

    path = tmp_path / "net.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", b"\x80\2}.")
    for content in path.read_bytes(), b"\x80\2}q\0.":
        path.write_bytes(content)
        with pytest.raises(InputError, match=r'convert it: python -c "import torch, safetensors.torch as s; .*net.saf'):
            load(path)
