"""Layers as JSON values: those in files of this program, and networks that people write."""
import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import examples
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import cnn_numba as nn
from cnn_numba import InputError, Sequential
from cnn_numba.files.layers_json import DEEPEST, MOST_LAYERS, build_layers, check_image_shape, describe_layers
from cnn_numba.files.network_json import OTHER_PARAMETERS, build_network, build_written, plain, read_network
from cnn_numba.layers import Layer
from cnn_numba.presets import PRESETS

ROOT = Path(__file__).resolve().parents[1]
SHAPE = 1, 28, 28
LIBRARY = examples.of_the_library(Layer)


# ---- layers as values (test_examples.py has every layer) --------------------------------------------------------
def test_a_branch_without_layers_is_null():
    assert describe_layers([nn.Residual(nn.ReLU())]) == [
        {"type": "Residual", "params": {"body": [{"type": "ReLU", "params": {}}], "shortcut": None}}]


def own_layers():
    """(a layer with an underscore, one that forgets its argument, one that keeps it); `conftest` forgets the names."""
    class _Hidden(nn.ReLU):
        pass

    class Forgetful(nn.ReLU):
        def __init__(self, size=3):
            self.count = size

    class Odd(nn.ReLU):
        def __init__(self, what=None):
            self.what = what

    return _Hidden, Forgetful, Odd


@pytest.mark.parametrize("which, args, sentence", [
    (0, (), "_Hidden cannot be saved: a layer's name must not begin with an underscore"),
    (1, (), "Forgetful cannot be saved: it does not keep its argument size as an attribute"),
    (2, ({1},), "Odd cannot be saved: its argument what is {1}, expected numbers, text, true, false or a list of them"),
    (2, ([[1]],), "Odd cannot be saved: its argument what is [[1]], expected numbers"),
])
def test_layers_that_a_file_could_not_bring_back_are_refused_by_their_place(which, args, sentence):
    with pytest.raises(InputError) as raised:
        describe_layers([nn.ReLU(), nn.Residual(own_layers()[which](*args))])
    assert str(raised.value).startswith(f"layer 1: body: layer 0: {sentence}")


def test_a_layer_of_ones_own_is_a_layer():
    _, _, Odd = own_layers()
    for value in 3, "three", True, None, [1, 2.5]:
        description = json.loads(json.dumps(describe_layers([Odd(value)])))
        assert build_layers(description)[0].what == value
    assert built([entry("odd", what=3), entry("fc")]).layers[0].what == 3


def residual(*body, **more):
    return {"type": "Residual", "params": {"body": list(body), **more}}


RELU = {"type": "ReLU"}


def nested(depth):
    inside = RELU
    for _ in range(depth):
        inside = residual(inside)
    return inside


@pytest.mark.parametrize("entry, sentence", [
    (residual(), "body: layers: expected a list of 1 to 1000 layers"),
    ({"type": "Residual"}, "Residual needs body"),
    (residual(RELU, shortcut=[]), "shortcut: layers: expected a list"),
    (residual(RELU, shortcut=[RELU, {"type": "relu"}]),
     "shortcut: layer 1: unknown type 'relu': import the module that defines it first, or choose one of "),
    (residual(residual(3)), "body: layer 0: body: layer 0: expected"),
    (residual({"type": "Linear", "params": {"in_features": 3}}), "body: layer 0: Linear needs out_features"),
    (residual(*[RELU] * MOST_LAYERS), "layers: expected 1 to 1000 layers, also counting"),
    (nested(DEEPEST + 1), f"layers: nested more than {DEEPEST} deep"),
])
def test_descriptions_that_cannot_be(entry, sentence):
    with pytest.raises(InputError) as raised:
        build_layers([entry])
    assert re.search(sentence, str(raised.value)) and "\n" not in str(raised.value)
    assert build_layers([nested(DEEPEST)])


def test_memory_is_counted_inside_of_a_branch():
    shape = 1, 1, 60
    wide = [nn.Conv2d(1, 100_000, 1), nn.Conv2d(100_000, 1, 1)]
    assert check_image_shape([nn.Residual(wide), nn.Flatten()], shape) == 60
    with pytest.raises(InputError, match="^layer 0: body: layer 0: 1x1x6000 to 100000x1x6000 takes too much memory"):
        check_image_shape([nn.Residual(wide), nn.Flatten()], (1, 1, 6000))


# ---- networks in JSON ----------------------------------------------------------------------------------------
def entry(kind, **params):
    return {"type": kind, "params": params}


def built(written, shape=SHAPE, classes=10):
    return Sequential(*build_written(json.loads(json.dumps(written)), shape, classes))


LENET = [entry("conv2d", out_channels=6, kernel_size=5, padding=2), entry("relu"), entry("max_pool2d", kernel_size=2),
         entry("conv2d", out_channels=16, kernel_size=5), entry("relu"), entry("max_pool2d", kernel_size=2),
         entry("flatten"), entry("linear", out_features=120), entry("relu"), entry("linear", out_features=84),
         entry("relu"), entry("linear")]
BN_CNN = [entry("conv", kernel_size=3, in_ch_size=1, out_ch_size=32, pad_size=0), entry("bn2d", num_features=32),
          entry("relu"), entry("maxpool", pool_size=2, stride=2), entry("fc", input_size=5408, output_size=128),
          entry("bn1d", num_features=128, momentum=0.1), entry("relu"), entry("fc", input_size=128, output_size=10),
          entry("cross_entropy")]
KERAS = [entry("Conv_2D", filters=32, kernel=[3, 3], strides=1, pad=0, use_bias=True),
         entry("Batch-Normalization", epsilon=1e-5), entry("Re_LU"), entry("Max Pooling2D", poolSize=2),
         entry("Dense", units=128), entry("BN"), entry("RELU"), entry("DENSE", units=10)]


@pytest.mark.parametrize("written, preset", [
    (LENET, "lenet5"), ({"layers": LENET}, "lenet5"), (BN_CNN, "bn-cnn"), (KERAS, "bn-cnn")])
def test_all_spellings_give_the_network_of_the_preset(written, preset):
    assert repr(built(written)) == repr(PRESETS[preset](SHAPE, 10))


@pytest.mark.parametrize("name", PRESETS)
def test_what_describes_a_preset_is_a_network_in_json_too(name):
    model = PRESETS[name](SHAPE, 10)
    description = describe_layers(model.layers)
    assert repr(built(description)) == repr(model)
    for size in "in_channels", "in_features", "num_features":
        strip(description, size)
    assert repr(built(description)) == repr(model)


def strip(description, name):
    for each in description:
        each["params"].pop(name, None)
        for branch in "body", "shortcut":
            strip(each["params"].get(branch) or [], name)


@pytest.mark.parametrize("words, layers", [
    ("avgpool average_pooling2d", nn.AvgPool2d(2)), ("LeakyReLU lrelu", nn.LeakyReLU()), ("TANH tanh", nn.Tanh()),
    ("global_average_pooling_2d GlobalAvgPool", nn.AdaptiveAvgPool2d(1)), ("log_softmax", nn.LogSoftmax(1))])
def test_names_of_other_programs(words, layers):
    params = {"pool_size": 2} if isinstance(layers, nn.AvgPool2d) else {}
    for word in words.split():
        assert repr(built([entry(word, **params), entry("fc")]).layers[0]) == repr(layers)


@pytest.mark.parametrize("end", [[], [entry("cross_entropy")]])
def test_a_last_softmax_stays(end):
    model = built([entry("fc", output_size=10), entry("softmax"), *end])
    assert repr(model) == repr(Sequential(nn.Flatten(), nn.Linear(784, 10), nn.Softmax(1)))


def test_sizes_follow_inside_of_branches_too():
    body = [entry("conv", filters=8, kernel_size=3, stride=2, padding=1), entry("bn"), entry("relu")]
    model = built([entry("residual", body=body, shortcut=[entry("conv", filters=8, kernel_size=1, stride=2)]),
                   entry("residual", body=[entry("relu")], shortcut=[]), entry("fc")])
    assert repr(model) == repr(Sequential(
        nn.Residual([nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()], nn.Conv2d(1, 8, 1, 2)),
        nn.Residual([nn.ReLU()]), nn.Flatten(), nn.Linear(8 * 14 * 14, 10)))


def test_spellings_do_not_contradict_each_other():
    """Several classes share a spelling only where their arguments are the same: BatchNorm1d and BatchNorm2d."""
    meant = {}
    for kind in LIBRARY.values():
        for spelling in {kind.__name__, *kind.aliases}:
            meant.setdefault(plain(spelling), []).append(kind)
    assert all(len({tuple(kind.arguments()) for kind in kinds}) == 1 for kinds in meant.values())
    assert all(len(meant[plain(name)]) == 1 for name in LIBRARY), "an alias is the name of another layer"
    others = [plain(other) for words in OTHER_PARAMETERS.values() for other in words.split()]
    assert len(set(others)) == len(others)


WIDE = entry("conv", filters=4, kernel_size=3)


@pytest.mark.parametrize("written, sentence", [
    # the form
    ({}, 'expected {"layers": [...]}'), ({"layers": [entry("fc")], "lr": 1}, 'expected {"layers": [...]}'),
    (3, "layers: expected a list of 1 to 1000 layers"), ([], "layers: expected a list"), ({"layers": {}}, "layers: ex"),
    ([RELU] * 1001, "layers: expected a list of 1 to 1000 layers"), (["relu"], 'layer 0: expected {"type": name'),
    ([{"type": 3}], "layer 0: expected"), ([{"typ": "relu"}], "layer 0: expected"), ([None], "layer 0: expected"),
    ([{"type": "conv", "filters": 3}], 'layer 0: expected {"type": name, "params": {...}}'),
    ([{"type": "conv", "params": [3]}], "layer 0: the parameters must be {name: value}, got [3]"),
    # names
    ([RELU, entry("convd2")], "layer 1: unknown type 'convd2', did you mean 'Conv2d'?"),
    ([entry("denes")], "layer 0: unknown type 'denes', did you mean 'Dense'?"),
    ([entry("transformer")], "layer 0: unknown type 'transformer', expected one of "),
    ([entry("x" * 100_000)], "layer 0: unknown type 'xxx"),
    ([entry("conv", out_chanels=3)], "layer 0: conv has no parameter 'out_chanels', did you mean 'out_channels'?"),
    ([entry("relu", size=3)], "layer 0: relu has no parameter 'size', expected none"),
    ([entry("fc", kernel_size=3)], "layer 0: fc has no parameter 'kernel_size', expected in_features, out_features"),
    ([entry("conv", filters=3, OutChannels=3)], "conv has out_channels twice, as 'filters' and 'OutChannels'"),
    ([entry("fc", self=3)], "layer 0: fc has no parameter 'self'"),
    # values
    ([entry("conv", filters="x", kernel_size=3)], "layer 0: Conv2d: out_channels must be a whole number"),
    ([entry("conv", filters=3, kernel_size=None)], "layer 0: Conv2d: kernel_size must be"),
    ([entry("conv", filters=3)], "layer 0: Conv2d needs kernel_size"),
    ([entry("fc"), entry("fc", out_features=10)], "layer 0: Linear needs out_features"),
    ([entry("fc", output_size=1.5)], "layer 0: Linear: out_features must be a whole number of at least 1, got 1.5"),
    ([entry("fc", input_size=True)], "layer 0: Linear: in_features must be"),
    # what does not meet
    ([entry("conv", in_channels=3, filters=3, kernel_size=3)],
     "layer 0: Conv2d has in_channels=3, but its input is 1x28x28: in_channels=1 fits, and may be left out"),
    ([WIDE, entry("fc", input_size=2700)],
     "layer 1: Linear has in_features=2700, but its input is 2704 features: in_features=2704 fits"),
    ([WIDE, entry("bn2d", num_features=5)], "layer 1: BatchNorm2d has num_features=5, but its input is 4x26x26: num_f"),
    ([entry("fc", units=5), entry("conv", filters=2, kernel_size=1)],
     "layer 1: Conv2d expects images (channels, rows, columns), got 5 features"),
    ([entry("conv", filters=1, kernel_size=29)], "layer 0: Conv2d with a 29x29 window does not fit on an image of"),
    ([WIDE, entry("conv", in_channels=3, filters=2, kernel_size=30)], "layer 1: Conv2d expects 3 channels, got 4"),
    ([WIDE, entry("fc", units=11)], "layer 1: the last layer must give 10 features, one for each class, it gives 11"),
    ([WIDE, RELU], "layer 1: the last layer must give 10 features, one for each class, it gives 4x26x26"),
    ([entry("residual", body=[WIDE]), entry("fc")], "layer 0: Residual adds body and shortcut, which give 4x26x26 and"),
    ([entry("residual", body=[RELU, entry("conv")]), entry("fc")], "layer 0: body: layer 1: Conv2d needs"),
    ([entry("residual"), entry("fc")], "layer 0: body: layers: expected a list"),
    ([entry("residual", body=[RELU], shortcut=0)], "layer 0: shortcut: layers: expected a list"),
    ([nested(DEEPEST + 1), entry("fc")], f"layers: nested more than {DEEPEST} deep"),
    # too much
    ([entry("fc", units=10**17), entry("fc")], "layer 0: 784 features to 100000000000000000 features takes too much"),
    ([entry("conv", filters=1, kernel_size=1, padding=10**17)], "layer 0: 1x28x28 to 1x2000"),
    ([entry("fc", units=2**20), entry("fc")], "the network has 833,617,930 parameters, expected at most 268,435,456"),
    ([entry("residual", body=[RELU] * 500), entry("residual", body=[RELU] * 500), entry("fc")], "also counting"),
    # the loss
    ([entry("cross_entropy"), entry("fc")], "layer 0: cross_entropy is the loss, which must be the last entry"),
    ([entry("cross_entropy")], "layer 0: cross_entropy is the loss"),
    ([entry("fc"), entry("CrossEntropyLoss", weight=[1])], "layer 1: CrossEntropyLoss is the loss, which must be"),
])
def test_what_is_wrong_is_said_in_one_sentence(written, sentence, tmp_path):
    path = tmp_path / "net.json"
    path.write_text(json.dumps(written))
    with pytest.raises(InputError) as raised:
        read_network(path, SHAPE, 10)
    message = str(raised.value)
    assert message.startswith(f"{path}: ") and sentence in message
    assert "\n" not in message and len(message) < 500


@pytest.mark.parametrize("content, sentence", [
    (b"", "line 1, column 1 is not JSON: Expecting value"),
    (b'[\n {"type": "relu",}\n]', "line 2, column 1"),
    (b'[{"type": "fc", "type": "relu"}]', "the key 'type' occurs twice in the same object"),
    (b'[{"type": "bn", "params": {"eps": NaN}}]', "NaN is not a number in JSON"),
    (b'[{"type": "bn", "params": {"eps": -Infinity}}]', "-Infinity is not a number in JSON"),
    (b'[{"type": "bn", "params": {"eps": 1e999}}]', "the number 1e999 is too large"),
    (b"[" + b"9" * 5000 + b"]", "has more than 18 digits"),
    (b"[" * 100_000, "has brackets nested too deeply"),
    (b"\xff\xfe[]", "is not text in UTF-8"), (b" " * (1 << 20) + b"[]", "is longer than the 1,048,576 bytes"),
    (b'["\\ud800"]', "layer 0: expected"),
])
def test_files_that_are_no_json(content, sentence, tmp_path):
    path = tmp_path / "net.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as raised:
        read_network(path, SHAPE, 10)
    assert str(raised.value).startswith(f"{path}: ") and sentence in str(raised.value)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.json: cannot be read \(No such file or directory\)"):
        read_network(tmp_path / "nowhere.json", SHAPE, 10)
    with pytest.raises(InputError, match="is not a file, expected a network in JSON"):
        read_network(tmp_path, SHAPE, 10)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.json")
        with pytest.raises(InputError, match="is not a file"):
            read_network(tmp_path / "pipe.json", SHAPE, 10)


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "net.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(LENET).encode())
    assert repr(read_network(tmp_path / "net.json", SHAPE, 10)) == repr(PRESETS["lenet5"](SHAPE, 10))


def test_the_network_in_the_readme_is_one(tmp_path):
    text, = re.findall("```json\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "net.json").write_text(text)
    model = read_network(tmp_path / "net.json", SHAPE, 10)
    assert len(model.layers) == 9 and model.output_shape(SHAPE) == (10,)


def test_a_file_takes_the_place_of_a_preset(tmp_path):
    path = tmp_path / "net.json"
    path.write_text(json.dumps(LENET))
    for seed in 0, 5:
        mine, preset = (build_network(name, SHAPE, 10, seed=seed) for name in (str(path), "lenet5"))
        assert np.array_equal(mine.values, preset.values)
    with pytest.raises(InputError, match="does not fit"):
        build_network("lenet5", (1, 8, 8), 10)


JSON = st.recursive(st.none() | st.booleans() | st.integers(-2, 10) | st.integers() | st.floats() | st.text(),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4))
NAMES = st.sampled_from([*LIBRARY, "conv", "fc", "bn", "in_channels", "kernel_size", "padding", "units", "bias", "body",
                         "shortcut"]) | st.text()
ENTRIES = st.recursive(
    st.fixed_dictionaries({"type": NAMES}, optional={"params": st.dictionaries(NAMES, JSON) | JSON}),
    lambda inner: st.fixed_dictionaries({"type": st.just("Residual"), "params": st.fixed_dictionaries(
        {"body": st.lists(inner, max_size=3)}, optional={"shortcut": st.lists(inner, max_size=3)})}))


@settings(derandomize=True, max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(ENTRIES | JSON, max_size=3) | JSON)
@example([{"type": "\n", "params": None}])
def test_any_json_is_layers_or_one_sentence(description):
    for build in build_layers, lambda value: build_written(value, (2, 6, 6), 3):
        try:
            build(description)
        except InputError as error:
            assert "\n" not in str(error) and (build is not build_layers or len(str(error)) < 1000)


def test_damaged_files_are_read_or_refused(tmp_path, monkeypatch, capsys):
    pytest.importorskip("PIL")
    spec = importlib.util.spec_from_file_location("fuzz", ROOT / "scripts" / "fuzz.py")
    fuzz = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fuzz", fuzz)
    spec.loader.exec_module(fuzz)
    monkeypatch.chdir(tmp_path)
    assert fuzz.main(["network", "--count", "500"]) == 0, capsys.readouterr().err
    for content in fuzz.PARSERS["network"].contents():
        (tmp_path / "net.json").write_bytes(content)
        fuzz.PARSERS["network"].read(tmp_path / "net.json")
