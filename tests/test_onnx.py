"""Export to ONNX and import: the same numbers as the model, or a refusal that names the layer or the node."""
import json
import re
from pathlib import Path

import numpy as np
import pytest
from examples import LAYERS
from exporting import CLOSE, distance, runtimes, trained
from networks import (
    adaptive,
    avg,
    batch_norm,
    conv,
    dropout,
    flatten,
    layer_norm,
    linear,
    log_softmax,
    pool,
    random_layers,
    relu,
    residual,
    tanh,
)

from cnn_numba import PRESETS, InputError, Layer, Sequential, export, load, load_dataset
from cnn_numba.commands.main import main
from cnn_numba.inference import Classifier

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
RUNTIMES = runtimes()

# Examples that have no equal in ONNX, and why
REFUSED = {
    "MaxPool2d(kernel_size=(3, 2), return_indices=True)": "second output",
    "BatchNorm2d(num_features=3, track_running_stats=False)": "depends on the other images of the batch",
    "BatchNorm1d(num_features=12, affine=False, track_running_stats=False)": "depends on the other images of the batch",
}
# Examples that are exported in operators which no layer is recognised in
NOT_READ = {"GELU(approximate=tanh)", "Softplus(beta=2.0, threshold=1.5)"}
# Examples that the standard's evaluator cannot run, as it has no groups there
NOT_EVALUATED = {each for each in map(str, LAYERS) if each.startswith("ConvTranspose2d") and "groups=2" in each}


def images(shape, count=5, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def exported(model, path, **options):
    """The bytes of the file, the name of its input, and the model that is read from it."""
    export(model, path, **options)
    content = path.read_bytes()
    return content, onnx.load_from_string(content).graph.input[0].name, load(path)


def check(model, path, where=RUNTIMES, read=True):
    """The runtimes, and the model that is read again, give the model's logits."""
    export(model, path, logits=True, raw=True)
    content, name = path.read_bytes(), "normalized"
    if not read:
        with pytest.raises(InputError, match="no layer of this program|which is supported for"):
            load(path)
    x = images(model.input_shape)
    body = Sequential(*model.layers[:-1]).eval() if model.layers[-1].takes_logits else model
    if body is not model:
        body.load_state_dict({key: value for key, value in model.state_dict().items()})
    want = body(x)
    found = {each: distance(RUNTIMES[each](content, {name: x}), want) for each in where}
    if read:
        found["read again"] = distance(load(path)(x), want)
    assert max(found.values()) <= CLOSE, found


# ---- every layer --------------------------------------------------------------------------------------------------
def embedded(example):
    """A network of two classes around a layer, whose output the last layer does not hide."""
    size = int(np.prod(example.output_shape))
    return [example.layer, *[flatten][:len(example.output_shape) == 3], linear(size, 2)]


@pytest.mark.parametrize("example", LAYERS, ids=str)
def test_every_layer_gives_the_same_numbers_or_is_refused(example, tmp_path):
    model = trained(embedded(example), example.shape)
    if str(example) in REFUSED:
        with pytest.raises(InputError, match=f"layer 0: .*{REFUSED[str(example)]}"):
            export(model, tmp_path / "model.onnx")
        assert not list(tmp_path.iterdir())
    else:
        where = [name for name in RUNTIMES if name != "evaluator" or str(example) not in NOT_EVALUATED]
        check(model, tmp_path / "model.onnx", where, read=str(example) not in NOT_READ)


def test_layer_norm_needs_opset_17(tmp_path):
    with pytest.raises(InputError, match="layer 0: LayerNorm needs opset 17, got 16"):
        export(trained([layer_norm(8), linear(8, 2)], (8,)), tmp_path / "model.onnx", opset=16, raw=True)


def test_every_refusal_is_of_an_example():
    assert REFUSED.keys() | NOT_READ <= set(map(str, LAYERS)) and len(NOT_EVALUATED) == 1


WINDOWS = [dict(kernel_size=k, stride=s, padding=p, ceil_mode=c) for k, p in ((2, 0), (2, 1), (3, 1), ((3, 2), (1, 0)))
           for s in (1, 2, 3) for c in (False, True)]


@pytest.mark.parametrize("kind", ("max", "dilated", "avg", "without zeros", "divisor"))
def test_every_window_gives_the_same_numbers(kind, tmp_path):
    """All windows in one network, of images whose sizes they do not divide."""
    make = {"max": pool, "dilated": lambda **options: pool(dilation=2, **options), "avg": avg,
            "without zeros": lambda **options: avg(count_include_pad=False, **options),
            "divisor": lambda **options: avg(divisor_override=5, **options)}[kind]
    for window in WINDOWS:
        layer = make(**window)
        model = trained([layer, flatten], (2, 7, 8))
        check(model, tmp_path / "model.onnx", where=["onnxruntime"][:"onnxruntime" in RUNTIMES])


@pytest.mark.parametrize("seed", range(3))
def test_random_networks_give_the_same_numbers(seed, tmp_path):
    layers, shape = random_layers(np.random.default_rng(seed))
    check(trained(layers, shape), tmp_path / "model.onnx")


@pytest.mark.parametrize("opset", (15, 18, 21))
def test_other_opsets_give_the_same_numbers(opset, tmp_path):
    block = residual([conv(4, 4, 3, padding=1), batch_norm(4)])
    model = trained([conv(1, 4, 3), batch_norm(4), relu, block, avg(2, ceil_mode=True), adaptive(2), flatten,
                     linear(16, 3)], (1, 7, 7))
    content, name, _ = exported(model, tmp_path / "model.onnx", opset=opset, logits=True, raw=True)
    assert onnx.load_from_string(content).opset_import[0].version == opset
    x = images((1, 7, 7))
    assert max(distance(run(content, {name: x}), model(x)) for run in RUNTIMES.values()) <= CLOSE


# ---- what a file holds --------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def classifier():
    """Of three classes, with everything that a file can say."""
    model = trained([conv(2, 4, 3, padding=1), batch_norm(4), relu, pool(2), dropout(0.5), residual([tanh]), flatten,
                     linear(4 * 3 * 2, 3), log_softmax(dim=1)], (2, 6, 4))
    model.classes, model.accuracy, model.recipe = ("ant", "bee", "cow é"), 91.5, {"lr": 0.1, "epochs": 3}
    return model


def test_pixels_become_probabilities(classifier, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 2, 6, 4)).astype(np.float32)
    content, name, again = exported(classifier, tmp_path / "model.onnx")
    want = Classifier(classifier).probabilities(pixels)
    assert name == "images" and max(distance(run(content, {name: pixels}), want)
                                    for run in RUNTIMES.values()) <= CLOSE
    assert distance(Classifier(again).probabilities(pixels), want) <= CLOSE
    assert distance(again.mean, classifier.mean) < 1e-6 and distance(again.std, classifier.std) < 1e-6


def test_logits_of_pixels(classifier, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 2, 6, 4)).astype(np.float32)
    content, name, _ = exported(classifier, tmp_path / "model.onnx", logits=True)
    assert distance(RUNTIMES["evaluator"](content, {name: pixels}), Classifier(classifier).logits(pixels)) <= CLOSE


def test_facts_are_in_the_metadata(classifier, tmp_path):
    content, _, again = exported(classifier, tmp_path / "model.onnx")
    metadata = {entry.key: json.loads(entry.value) for entry in onnx.load_from_string(content).metadata_props}
    assert metadata == {"classes": ["ant", "bee", "cow é"], "accuracy": 91.5, "recipe": {"lr": 0.1, "epochs": 3}}
    assert (again.classes, again.accuracy, again.recipe) == (classifier.classes, 91.5, {"lr": 0.1, "epochs": 3})
    assert again.input_shape == (2, 6, 4) and not again.training


def test_runtimes_of_the_last_three_years_can_read_it(classifier, tmp_path):
    """onnxruntime 1.16, of September 2023, reads versions of the format up to 9 and opsets up to 19."""
    model = onnx.load_from_string(exported(classifier, tmp_path / "model.onnx")[0])
    assert (model.ir_version, [(each.domain, each.version) for each in model.opset_import]) == (8, [("", 17)])


def test_names_are_those_of_state_dict_and_of_layers(classifier, tmp_path):
    graph = onnx.load_from_string(exported(classifier, tmp_path / "model.onnx")[0]).graph
    constants = {each.name for each in graph.initializer} - {"pixels.mean", "pixels.scale"}
    assert constants == {name for name in classifier.state_dict() if "num_batches" not in name}
    assert [node.name for node in graph.node] == [
        "pixels.Sub", "pixels.Mul", "0.Conv2d", "1.BatchNorm2d", "2.ReLU", "3.MaxPool2d", "5.body.0.Tanh", "5.Residual",
        "6.Flatten", "7.Linear", "output.Softmax"]
    sizes = {value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
             for value in (*graph.input, *graph.output, *graph.value_info)}
    assert sizes["images"] == ["batch", 2, 6, 4] and sizes["3.MaxPool2d"] == ["batch", 4, 3, 2]
    assert sizes["probabilities"] == ["batch", 3]


# ---- refusals -----------------------------------------------------------------------------------------------------
class Doubled(Layer):
    def calls(self, wires):
        raise NotImplementedError


def test_a_layer_of_ones_own_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"before")
    model = Sequential(*trained([residual([tanh])], (2, 3, 3)).layers)
    model.layers[0].body[0].__class__ = Doubled
    model.input_shape = (2, 3, 3)
    with pytest.raises(InputError, match=r"layer 0\.body\.0: Doubled has no equal in ONNX"):
        export(model, path, raw=True)
    assert path.read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("changes, options, sentence", [
    ({"input_shape": None}, {}, "shape of its images"), ({"mean": None}, {}, "mean and the standard deviation"),
    ({}, {"opset": 14}, "opset must be a whole number from 15 to 21, got 14"), ({}, {"opset": 22}, "got 22")])
def test_what_a_model_must_know(changes, options, sentence, tmp_path):
    model = trained([flatten, linear(8, 3)], (2, 2, 2))
    for name, value in changes.items():
        setattr(model, name, value)
    with pytest.raises(InputError, match=sentence):
        export(model, tmp_path / "model.onnx", **options)
    assert not list(tmp_path.iterdir())


def graph_of(nodes, constants=None, shape=("batch", 2, 2, 2), outputs=("y",), opset=17, **options):
    """The bytes of a model of some nodes, from x to y."""
    helper, numbers = onnx.helper, onnx.TensorProto.FLOAT
    tensors = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(
        nodes, "test", [helper.make_tensor_value_info("x", numbers, shape)],
        [helper.make_tensor_value_info(name, numbers, None) for name in outputs], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **options)
    return model.SerializeToString()


def node(op, inputs="x", outputs="y", **attributes):
    return onnx.helper.make_node(op, inputs.split(), outputs.split(), f"the {op}", **attributes)


ONES = np.ones((3, 8), np.float32)
DENSE = [node("Flatten", "x", "f"), node("Gemm", "f w", "g", transB=1)]


def read(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    return load(path)


@pytest.mark.parametrize("content, sentence", [
    (lambda: graph_of([node("Erf")]), "node 'the Erf' \\(Erf\\): no layer of this program computes it"),
    (lambda: graph_of([node("Relu", domain="com.microsoft")]), "node 'the Relu' .* domain 'com.microsoft'"),
    (lambda: graph_of([node("Relu", "x", "a"), node("Relu", "x", "b")], outputs=("a", "b")), "2 outputs, expected one"),
    (lambda: graph_of([*DENSE, node("Add", "g g")], {"w": ONES}), "adds a value to itself"),
    (lambda: graph_of([*DENSE, node("Mul", "g f")], {"w": ONES}), "not a constant"),
    (lambda: graph_of(DENSE, {"w": ONES}), "the output 'y' does not depend on the input"),
    (lambda: graph_of([node("Relu", "a b")]), "its input 'a' is not computed before it"),
    (lambda: graph_of(DENSE[:1] + [node("Gemm", "f w", transB=1)], {"w": ONES * np.nan}), "NaN"),
    (lambda: graph_of([node("Conv", "x w", pads=(1, 0, 0, 0))], {"w": np.ones((2, 2, 1, 1), np.float32)}),
     "its padding is"),
    (lambda: graph_of([node("Conv", "x w")], {"w": np.ones((2, 3, 1, 1), np.float32)}), "weight has the shape"),
    (lambda: graph_of([node("Gemm", "x w")], {"w": ONES}), "Linear expects"),
    (lambda: graph_of([node("Softmax", axis=2)]), "its axis is 2"),
    (lambda: graph_of([node("Relu")], shape=("batch", 2, "rows", 2)), "xx?2x\\?x2, expected|expected .* known sizes"),
    (lambda: graph_of([node("BatchNormalization", "x s s s s", training_mode=1)], {"s": np.ones(2, np.float32)}),
     "training_mode"),
    (lambda: graph_of([node("ConstantOfShape", "n", "c"), node("Add", "x c")], {"n": np.array([2**20, 2**20])}),
     "too large"),
    (lambda: graph_of([node("Reshape", "x n")], {"n": np.array([4, -1])}), "does not keep the images apart"),
    (lambda: graph_of([node("If", then_branch=onnx.helper.make_graph([], "t", [], []))]), "attribute 'then_branch'"),
    (lambda: graph_of([node("Relu")]).replace(b"Relu", b"\xffelu"), "not an ONNX file"),
    (lambda: graph_of([]), "not an ONNX file"), (lambda: b"\x08\x08" + b"\xff" * 40, "not an ONNX file"),
    (lambda: graph_of([node("Relu", f"v{k}", f"v{k + 1}") for k in range(10_001)]), "expected at most 10,000"),
])
def test_other_graphs_are_refused(content, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence) as error:
        read(tmp_path, content())
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_weights_cannot_be_multiplied_by_using_them_often(tmp_path):
    nodes = [node("Flatten", "x", "v0")] + [node("MatMul", f"v{k} w", f"v{k + 1}") for k in range(60)]
    weight = np.zeros((256, 256), np.float32)
    with pytest.raises(InputError, match="has 3,932,160 parameters, but the file 65,536 numbers"):
        read(tmp_path, graph_of(nodes, {"w": weight}, shape=("batch", 256), outputs=("v60",)))


def test_branches_that_cross_are_refused(tmp_path):
    """b is in both sums, so that neither is a body beside a shortcut."""
    nodes = [node("Relu", "x", "a"), node("Tanh", "x", "b"), node("Sigmoid", "x", "c"), node("Add", "a b", "d"),
             node("Add", "b c", "e"), node("Add", "d e", "y")]
    with pytest.raises(InputError, match="used by several branches"):
        read(tmp_path, graph_of(nodes))


# ---- what exporters write -----------------------------------------------------------------------------------------
def evaluated(tmp_path, content, shape=(2, 2, 2)):
    """The distance between the network that is read and the standard's evaluator."""
    x = images(shape, 4)
    model = read(tmp_path, content)
    if model.mean is not None:
        sizes = (-1, *(1 for _ in shape[1:]))
        x = (x - model.mean.reshape(sizes)) / model.std.reshape(sizes)
    return distance(model(x), RUNTIMES["evaluator"](content, {"x": images(shape, 4)}))


ROWS = {"a": np.array([0.5, 2], np.float32).reshape(1, 2, 1, 1), "b": np.array(255, np.float32),
        "w": np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32), "c": np.ones(3, np.float32),
        "zero": np.array(0), "minus": np.array([-1])}


@pytest.mark.parametrize("nodes", [
    [node("Div", "x b", "s"), node("Sub", "s a", "t"), node("Div", "t a", "u"), node("Flatten", "u", "f"),
     node("MatMul", "f w", "m"), node("Add", "m c", "y")],
    [node("Shape", "x", "n"), node("Gather", "n zero", "k"), node("Unsqueeze", "k zero1", "l"),
     node("Concat", "l minus", "r", axis=0), node("Reshape", "x r", "f"), node("Gemm", "f w c", "y", alpha=0.5,
                                                                             beta=2.0)],
    [node("Identity", "x", "i"), node("ReduceMean", "i", "y", axes=[2, 3], keepdims=0)],
    [node("GlobalAveragePool", "x", "g"), node("Squeeze", "g sides", "y")],
    [node("Relu", "x", "r"), node("Add", "x r", "s"), node("Dropout", "s", "d"), node("Flatten", "d", "f"),
     node("Gemm", "f w", "y")],
    [node("Conv", "x kernel", "p", auto_pad="SAME_UPPER"), node("Flatten", "p", "y")],
], ids=("normalised", "computed shape", "mean", "squeeze", "shortcut", "same"))
def test_what_other_exporters_write(nodes, tmp_path):
    constants = ROWS | {"kernel": np.arange(16, dtype=np.float32).reshape(2, 2, 2, 2), "zero1": np.array([0]),
                        "sides": np.array([2, 3])}
    used = {name for each in nodes for name in each.input}
    content = graph_of(nodes, {name: array for name, array in constants.items() if name in used})
    assert evaluated(tmp_path, content) <= CLOSE


def test_weights_in_a_second_file(tmp_path):
    model = trained([flatten, linear(8, 3)], (2, 2, 2))
    content, _, _ = exported(model, tmp_path / "model.onnx", raw=True, logits=True)
    proto = onnx.load_from_string(content)
    onnx.save_model(proto, tmp_path / "two.onnx", save_as_external_data=True, location="two.data", size_threshold=0)
    assert distance(load(tmp_path / "two.onnx")(images((2, 2, 2))), model(images((2, 2, 2)))) == 0
    (tmp_path / "two.data").write_bytes(b"short")
    with pytest.raises(InputError, match="'two.data', which is too short"):
        load(tmp_path / "two.onnx")
    (tmp_path / "two.data").unlink()
    with pytest.raises(InputError, match="'two.data', which is not beside the file"):
        load(tmp_path / "two.onnx")


@pytest.mark.parametrize("location", ("../secret", "/etc/passwd", "a/b", "..", ""))
def test_weights_are_read_from_the_same_folder_only(location, tmp_path):
    proto = onnx.load_from_string(graph_of([*DENSE[:1], node("Gemm", "f w", "y", transB=1)], {"w": ONES}))
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    with pytest.raises(InputError, match="expected the name of a file in the same folder"):
        read(tmp_path, proto.SerializeToString())


# ---- the command --------------------------------------------------------------------------------------------------
def test_the_command_writes_what_the_library_writes(classifier, tmp_path, capsys):
    saved, out = tmp_path / "model.npz", tmp_path / "model.onnx"
    classifier.save(saved)
    assert main(["export", "--load", str(saved), str(out), "--opset", "18", "--logits"]) == 0
    assert capsys.readouterr().out == (f"Wrote {out}: images (batch, 2, 6, 4), float32, pixels as in the files -> "
                                       "logits (batch, 3)\n")
    content = exported(classifier, tmp_path / "same.onnx", opset=18, logits=True)[0]
    assert out.read_bytes() == content


def test_a_network_that_does_not_normalise_needs_two_flags(classifier, tmp_path, capsys):
    path, npz = tmp_path / "raw.onnx", tmp_path / "model.npz"
    export(classifier, path, raw=True)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 2, 6, 4)).astype(np.uint8)
    np.savez(tmp_path / "six.npz", images=pixels, labels=np.arange(6) % 3)
    flags = ["evaluate", "--dataset", str(tmp_path / "six.npz"), "--load"]
    assert main([*flags, str(path)]) == 2
    assert "does not say how pixels are normalised: give --mean and --std" in capsys.readouterr().err
    assert main([*flags, str(path), "--mean", "1,2,3", "--std", "1"]) == 2
    assert "argument --mean: " in capsys.readouterr().err
    classifier.mean, classifier.std = np.float32([1, 2]), np.float32([3, 3])
    classifier.save(npz, classes=["0", "1", "2"])
    assert main([*flags, str(path), "--mean", "1,2", "--std", "3"]) in (0, 2)


@pytest.mark.parametrize("name", ("onnx", "safetensors"))
def test_a_missing_package_is_one_sentence(name, classifier, tmp_path, monkeypatch, capsys):
    saved = tmp_path / "model.npz"
    classifier.save(saved)
    monkeypatch.setitem(__import__("sys").modules, name, None)
    monkeypatch.setitem(__import__("sys").modules, f"{name}.numpy", None)
    assert main(["export", "--load", str(saved), str(tmp_path / f"model.{name}")]) == 2
    err = capsys.readouterr().err
    assert f"this needs the package {name}, which is missing: pip install {name}\n" in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model.npz"]


def test_the_lines_of_the_readme(tmp_path, monkeypatch, capsys):
    """Train, look, export, and load in onnxruntime, with the digits instead of MNIST."""
    pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Into other programs\n")[2].partition("\n## ")[0]
    commands, program = (part.partition("```")[0] for part in re.split("```sh\n|```python\n", section)[1:])
    lines = [line.partition("#")[0].split()[2:] for line in commands.splitlines() if line.startswith("python main.py")]
    assert [line[0] for line in lines] == ["--save", "draw", "export"] and lines[1][1:] == ["--load", "model.npz"]
    assert main([*lines[0], "--dataset", "digits", "--epochs", "3"]) == 0
    assert main(lines[2]) == 0
    capsys.readouterr()
    exec(program.replace('"mnist"', '"digits"'), {})
    want = load("model.npz")
    pixels = load_dataset("digits").test_images[:10]
    assert capsys.readouterr().out.split() == str(Classifier(want).logits(pixels).argmax(axis=1)).split()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_gives_the_same_classes(name, tmp_path):
    model = PRESETS[name]((1, 28, 28), 10, seed=2).eval()
    model.input_shape, model.mean, model.std = (1, 28, 28), np.float32([33.3]), np.float32([78.6])
    pixels = np.random.default_rng(0).integers(0, 256, (6, 1, 28, 28)).astype(np.float32)
    export(model, tmp_path / "model.onnx")
    got = RUNTIMES.get("onnxruntime", RUNTIMES["evaluator"])((tmp_path / "model.onnx").read_bytes(), {"images": pixels})
    assert distance(got, Classifier(model).probabilities(pixels)) <= CLOSE
