"""Model files: what comes back from them, what is refused, and the commands that use them."""
import copy
import io
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from networks import build_normal, conv, flatten, linear, make, pool, random_layers, relu

import cnn_numba
from cnn_numba import SGD, Dataset, InputError, ReLU, Sequential, Trainer, load
from cnn_numba.commands import main as cli
from cnn_numba.commands.evaluate import report
from cnn_numba.data.catalogue import FASHION_MNIST
from cnn_numba.files import atomic, container
from cnn_numba.files.layers_json import MOST_LAYERS, describe_layers
from cnn_numba.inference import Classifier, confusion_matrix, labels_in
from cnn_numba.kernels.compiled import JIT
from cnn_numba.layers import Layer
from cnn_numba.presets import PRESETS

ROOT = Path(__file__).resolve().parents[1]
LAYERS = [conv(2, 4, 3, padding=1), relu, pool(2), flatten, linear(64, 5)]
FACTS = {"input_shape": (2, 8, 8), "mean": np.array([0.1, 130.5], np.float32), "std": np.array([1e-7, 60], np.float32),
         "classes": ("ant", "bee", "cat", "dog", "élan"), "accuracy": 98.7}


@pytest.fixture
def model():
    return build_normal(LAYERS, np.random.default_rng(0))


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / "model.npz"
    model.save(path, **FACTS)
    return path


def rewritten(path, change=None, arrays=None):
    """The file at a path once more, with a description that `change` has changed, and other arrays; sealed."""
    description, state = container.read(path, "model file")
    if change is not None:
        description = change(description) or description
    path.write_bytes(container.pack(description, state if arrays is None else arrays(state)))
    return path


# ---- what comes back ------------------------------------------------------------------------------------------
def test_a_loaded_model_is_the_saved_one_to_the_bit(model, saved):
    images = np.random.default_rng(1).normal(size=(37, 2, 8, 8)).astype(np.float32)
    loaded = load(saved)
    assert repr(loaded) == repr(model)
    assert np.array_equal(loaded.values, model.values)
    assert np.array_equal(np.asarray(loaded(images)), np.asarray(model(images)))


def test_a_loaded_model_knows_its_images(saved):
    loaded = load(saved)
    for name in "input_shape", "classes", "accuracy":
        assert getattr(loaded, name) == FACTS[name], name
    for name in "mean", "std":
        assert getattr(loaded, name).dtype == np.float32 and np.array_equal(getattr(loaded, name), FACTS[name]), name


def test_what_is_not_known_is_none(model, tmp_path):
    model.save(tmp_path / "m.npz")
    loaded = load(tmp_path / "m.npz")
    assert [getattr(loaded, name) for name in FACTS] == [None] * 5
    with pytest.raises(InputError, match="does not say what images"):
        Classifier(loaded)


def test_a_trainer_tells_the_model_about_its_images(model, tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (40, 2, 8, 8), np.uint8), rng.integers(0, 5, 40)
    data = Dataset("made up", images, labels, images[:9], labels[:9], 5, FACTS["classes"])
    trainer = Trainer(model, data, SGD(model, lr=0.1))
    trainer.fit(1)
    result = trainer.evaluate(data.test_images, data.test_labels)
    model.save(tmp_path / "m.npz", accuracy=result.accuracy)
    loaded = load(tmp_path / "m.npz")
    assert (loaded.input_shape, loaded.classes, loaded.accuracy) == ((2, 8, 8), FACTS["classes"], result.accuracy)
    assert np.array_equal(loaded.mean, data.mean) and np.array_equal(loaded.std, data.std)
    classifier = Classifier(loaded)
    normalised = (images.astype(np.float32) - data.mean[:, None, None]) * (1 / data.std)[:, None, None]
    assert np.array_equal(classifier.logits(images), np.asarray(model(normalised)))
    assert np.array_equal(classifier.logits(data.test_images).argmax(1), result.predictions)


def test_copies_and_pickles_keep_the_facts(saved):
    loaded = load(saved)
    for other in copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded)):
        assert other.classes == FACTS["classes"] and np.array_equal(other.mean, FACTS["mean"])


def test_the_file_is_an_ordinary_npz(model, saved):
    with np.load(saved, allow_pickle=False) as file:
        names = set(file.files)
        for name, value in model.state_dict().items():
            assert np.array_equal(file[name], value)
        description = json.loads(file["description.json"])
    assert names == {*model.state_dict(), "description.json"}
    assert description["library"] == cnn_numba.__version__
    assert description["layers"][0] == {"type": "Conv2d", "params": {
        "in_channels": 2, "out_channels": 4, "kernel_size": [3, 3], "stride": [1, 1], "padding": [1, 1],
        "dilation": [1, 1], "groups": 1, "bias": True, "init": None}}


@pytest.mark.parametrize("seed", range(20))
def test_random_networks_come_back(seed, tmp_path):
    rng = np.random.default_rng(seed)
    layers, shape = random_layers(rng)
    model = build_normal(layers, rng)
    model.save(tmp_path / "m.npz", input_shape=shape)
    loaded = load(tmp_path / "m.npz")
    assert repr(loaded) == repr(model) and loaded.input_shape == shape
    assert np.array_equal(loaded.values, model.values)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_come_back_with_what_they_collected(name, tmp_path):
    model = PRESETS[name]((1, 20, 20), 3, seed=1)
    images = np.random.default_rng(0).normal(size=(20, 1, 20, 20))
    model(images)
    model.save(tmp_path / "m.npz", input_shape=(1, 20, 20))
    loaded, state = load(tmp_path / "m.npz"), model.state_dict()
    assert all(np.array_equal(value, state[key]) and value.shape == state[key].shape
               for key, value in loaded.state_dict().items())
    assert np.array_equal(np.asarray(loaded(images)), np.asarray(model.eval()(images)))


# ---- saving ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("facts, sentence", [
    ({"input_shape": (3, 8, 8)}, "layer 0: Conv2d expects 2 channels, got 3"),
    ({"input_shape": (2, 8)}, "input_shape"), ({"input_shape": (2, 8, True)}, "input_shape"),
    ({"input_shape": (2, 8, -8)}, "input_shape"), ({"mean": [1]}, "mean"), ({"mean": [1, np.nan]}, "mean"),
    ({"std": [1, -1]}, "std"), ({"std": [1, "2"]}, "std"), ({"mean": [1, 1e39]}, "mean"),
    ({"classes": ["a"]}, "classes must name the 5 outputs of the model, got 1"), ({"classes": "abcde"}, "classes"),
    ({"classes": [1, 2, 3, 4, 5]}, "classes"), ({"accuracy": 101}, "accuracy"), ({"accuracy": "1"}, "accuracy"),
    ({"input_shape": None}, "mean must be"), ({"colour": 1}, "'colour'")])
def test_facts_that_cannot_be_are_refused_and_the_file_stays(model, saved, facts, sentence):
    before = saved.read_bytes()
    with pytest.raises(InputError, match=sentence):
        model.save(saved, **FACTS | facts)
    assert saved.read_bytes() == before and os.listdir(saved.parent) == ["model.npz"]


def test_weights_that_are_no_numbers_are_not_saved(model, saved):
    before = saved.read_bytes()
    model.parameters()[1].value[0] = np.nan
    with pytest.raises(InputError, match="'0.bias' holds NaN"):
        model.save(saved)
    assert saved.read_bytes() == before


def test_layers_without_a_name_of_their_own_cannot_be_saved(tmp_path):
    class _Swish(Layer):
        pass

    with pytest.raises(InputError, match="layer 1: _Swish cannot be saved"):
        Sequential(cnn_numba.Flatten(), _Swish()).save(tmp_path / "m.npz")
    with pytest.raises(InputError, match="^cnn_numba.layers.activation has a class ReLU already: choose another name$"):
        type("ReLU", (Layer,), {})
    assert not os.listdir(tmp_path) and Layer.known["ReLU"] is ReLU


@pytest.mark.parametrize("place, why", [
    ("missing/model.npz", "No such file"), ("file/model.npz", "Not a directory"), ("folder", "is not a file")])
def test_a_place_that_cannot_be_written(model, tmp_path, place, why):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=why) as error:
        model.save(tmp_path / place)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=why):
        atomic.check_writable(tmp_path / place)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_link_stays_a_link(model, saved):
    link = saved.with_name("link.npz")
    link.symlink_to(saved)
    model.save(link)
    assert link.is_symlink() and load(saved).classes is None


FULL_DISK = """
import resource, sys
sys.path[:0] = {path}
from cnn_numba import InputError, load
model = load({file!r})
for limit in 0, 100, 2000:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        model.save({file!r})
    except InputError as error:
        print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files")
def test_a_full_disk_leaves_the_file_as_it_was(saved):
    before = saved.read_bytes()
    script = FULL_DISK.format(path=[str(ROOT)], file=str(saved))
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert re.fullmatch(rf"({re.escape(str(saved))} cannot be written \(.+\)\n){{3}}", ended.stdout)
    assert saved.read_bytes() == before and os.listdir(saved.parent) == ["model.npz"]


# ---- loading: files that are something else ---------------------------------------------------------------------
def refused(path):
    with pytest.raises(InputError) as error:
        load(path)
    sentence = str(error.value)
    assert "\n" not in sentence and len(sentence) < 1000 and str(path) in sentence
    return sentence


@pytest.mark.parametrize("content, why", [
    (b"", "is not a trained network"), (b"\x89PNG\r\n", "is not a trained network"),
    (b"PK\3\4", "checksum"), (b"PK" * 500, "checksum"),
    (pickle.dumps({}), "is a file of PyTorch"), (b'{"layers": []}', "without weights"), (b"[]", "without weights")])
def test_other_files(tmp_path, content, why):
    path = tmp_path / "other.npz"
    path.write_bytes(content)
    assert why in refused(path)


def test_other_things(tmp_path):
    assert "is a folder, not a file" in refused(tmp_path)
    assert "No such file" in refused(tmp_path / "missing.npz")
    np.savez(tmp_path / "arrays.npz", x=np.zeros(3))
    assert "checksum" in refused(tmp_path / "arrays.npz")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert "is a pipe, not a file" in refused(tmp_path / "pipe")


def test_every_damaged_byte_is_noticed(saved):
    content = saved.read_bytes()
    for place in range(0, len(content), 37):
        damaged = bytearray(content)
        damaged[place] ^= 1
        saved.write_bytes(damaged)
        refused(saved)
        saved.write_bytes(content[:place])
        refused(saved)


def change_layer(k, **changes):
    def change(description):
        description["layers"][k].update(changes)
    return change


def change_params(k, **changes):
    def change(description):
        description["layers"][k]["params"].update(changes)
    return change


def changed(**changes):
    return lambda description: description | changes


def with_layers(*layers, **changes):
    return changed(layers=describe_layers(make(layers)), **changes)


@pytest.mark.parametrize("change, sentence", [
    (changed(format="model"), "is not a cnn-numba model"), (changed(version=2), "version of the format is not 1"),
    (changed(version=True), "another version"), (changed(layers={}), "layers: expected a list"),
    (changed(layers=[]), "layers: expected a list"), (changed(layers=[1]), "layer 0: expected"),
    (changed(layers=[{"type": "ReLU"}] * (MOST_LAYERS + 1)), "layers: expected a list"),
    (change_layer(1, type="Gelu"),
     "layer 1: unknown type 'Gelu': import the module that defines it first, or choose one of AdaptiveAvgPool2d, "),
    (change_layer(1, type="Layer"), "layer 1: unknown type 'Layer'"),
    (change_layer(1, type="_BatchNorm"), "layer 1: unknown type '_BatchNorm'"),
    (change_layer(1, type=["ReLU"]), "layer 1: expected"), (change_layer(1, size=1), "layer 1: expected"),
    (change_layer(1, params={"x": 1}), "layer 1: ReLU has the parameters none, got 'x'"),
    (change_layer(1, params=[]), "layer 1: the parameters must be"),
    (change_layer(4, params={"in_features": 64}), "layer 4: Linear needs out_features"),
    (change_params(0, stride=0), "layer 0: Conv2d: stride must be a whole number of at least 1, got 0"),
    (change_params(0, stride=[1, 2, 3]), "layer 0: Conv2d: stride"), (change_params(0, stride={}), "layer 0"),
    (change_params(0, bias=1), "layer 0: Conv2d: bias"), (change_params(0, in_channels=2.0), "layer 0"),
    (change_params(0, in_channels=None), "layer 0"), (change_params(0, padding="half"), "layer 0"),
    (change_params(0, padding="x" * 5000), "layer 0"), (change_params(0, self=1), "layer 0"),
    (change_params(0, in_channels=4), "layer 0: Conv2d expects 4 channels, got 2"),
    (change_params(4, out_features=6), "classes must name the 6 outputs"),
    (change_params(0, kernel_size=[3, 1], padding=[1, 0]), "the parameter 0.weight is of shape .*, expected shape"),
    (change_params(0, bias=False), "'0.bias' is not a parameter"),
    (change_params(0, padding=7 * 10**8, stride=2 * 10**8), "layer 0: .* takes too much memory"),
    (with_layers(conv(2, 10**12, 8), flatten, linear(10**12, 5)), "layer 0: .* takes too much memory"),
    (with_layers(flatten, linear(128, 10**12)), "layer 1: .* takes too much memory"),
    (with_layers(pool(10**6), flatten, linear(2, 5), input_shape=[2, 10**6, 10**6]), "layer 0: .* too much memory"),
    (with_layers(conv(2, 5, 3)), "one number for each class, it gives 5x6x6"),
    (changed(input_shape=None, mean=None, std=None, classes=["a"]), "classes"),
    (lambda d: change_params(4, in_features=10**12)(d | {}) or d | {"input_shape": None, "mean": None, "std": None,
                                                                     "classes": None}, "expected shape"),
    (changed(mean="12"), "mean"), (changed(mean=[True, 1]), "mean"), (changed(classes=5), "classes"),
    (changed(accuracy=True), "accuracy")])
def test_descriptions_that_cannot_be(saved, change, sentence):
    assert re.search(sentence, refused(rewritten(saved, change)))


@pytest.mark.parametrize("arrays, sentence", [
    (lambda state: {}, "0.weight is missing"),
    (lambda state: state | {"0.bias": np.zeros(5)}, r"0.bias is of shape \(5,\), expected shape \(4,\)"),
    (lambda state: state | {"0.bias": np.full(4, np.nan)}, "'0.bias' holds NaN"),
    (lambda state: state | {"9.bias": np.zeros(4)}, "'9.bias' is not a parameter")])
def test_arrays_that_do_not_fit(saved, arrays, sentence):
    assert re.search(sentence, refused(rewritten(saved, arrays=arrays)))


def zipped(path, members, **options):
    """A sealed zip file of {name: bytes}."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive_file:
        archive_file.comment = b"0" * container.SEAL
        for name, content in members:
            archive_file.writestr(name, content, **options)
    path.write_bytes(container.sealed(file.getvalue()[:-container.SEAL]))
    return path


def npy(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


TEXT = container.TEXT
HEADER = "\x93NUMPY\1\0\x76\0{{'descr': '{}', 'fortran_order': False, 'shape': {}, }}"


def with_header(dtype, shape):
    return HEADER.format(dtype, shape).ljust(127).encode("latin-1") + b"\n" + bytes(64)


@pytest.mark.parametrize("members", [
    [], [("x.npy", npy(np.zeros(3, np.float32)))], [(TEXT, b"")], [(TEXT, b"[]")], [(TEXT, b"{")], [(TEXT, b"\xff")],
    [(TEXT, b"[" * 100_000)], [(TEXT, b'{"a":' * 100_000)], [(TEXT, b'{"a": NaN}')], [(TEXT, b'{"a": Infinity}')],
    [(TEXT, b'{"a": ' + b"9" * 5000 + b"}")], [(TEXT, b'{"a": ' + b"9" * 20 + b"}")], [(TEXT, b" " * (1 << 21))],
    [(TEXT, b"{}"), ("x", b"")], [(TEXT, b"{}"), ("x.npy", b"")], [(TEXT, b"{}"), ("x.npy", npy(np.zeros(3)))],
    [(TEXT, b"{}"), ("x.npy", npy(np.array([{}]), allow_pickle=True))],
    [(TEXT, b"{}"), ("x.npy", with_header("<f4", "(4000000000,)"))],
    [(TEXT, b"{}"), ("x.npy", with_header("<f4", "(" + "4294967296, " * 4 + ")"))],
    [(TEXT, b"{}"), ("x.npy", with_header("<f4", "(print(1),)"))],
    [(TEXT, b"{}"), ("x.npy", with_header("|O", "(8,)"))]])
def test_archives_that_cannot_be(tmp_path, members):
    assert "is not a cnn-numba model file" in refused(zipped(tmp_path / "m.npz", members))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice(tmp_path):
    assert "a name that occurs twice" in refused(zipped(tmp_path / "m.npz", [(TEXT, b"{}"), (TEXT, b"{}")]))


def test_a_bomb_is_not_unpacked(tmp_path):
    import tracemalloc

    content = with_header("<f4", f"({50_000_000},)")[:-64] + bytes(200_000_000)
    path = zipped(tmp_path / "m.npz", [(TEXT, b"{}"), ("x.npy", content)], compress_type=zipfile.ZIP_DEFLATED)
    del content
    assert path.stat().st_size < 300_000
    tracemalloc.start()
    try:
        assert "a compressed member" in refused(path)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_members_that_share_their_bytes_are_no_bomb(tmp_path):
    """The directory of a zip file can list the same bytes many times."""
    path = zipped(tmp_path / "m.npz", [(TEXT, b"{}"), *((f"{k}.npy", b"") for k in range(200))])
    content = bytearray(path.read_bytes())
    for at in (m.start() for m in re.finditer(b"PK\1\2", bytes(content))):
        content[at + 20:at + 28] = 2 * (5000).to_bytes(4, "little")
    path.write_bytes(container.sealed(bytes(content[:-container.SEAL])))
    refused(path)


class Trace:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_nothing_in_a_file_is_executed(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.load(io.BytesIO(npy(np.array([Trace()]), allow_pickle=True)), allow_pickle=True)
    assert os.path.isdir("executed"), "the control: NumPy would, when allowed to"
    os.rmdir("executed")
    members = [(TEXT, b"{}"), ("x.npy", npy(np.array([Trace()]), allow_pickle=True)), ("y", pickle.dumps(Trace()))]
    for chosen in members[:2], members[::2], members:
        refused(zipped(tmp_path / "m.npz", chosen))
    for code in "__import__('os').mkdir('executed')", "os.mkdir":
        refused(rewritten(saved, change_layer(0, type=code)))
        load_again = saved.with_name("other.npz")
        Sequential(ReLU()).save(load_again)
        refused(rewritten(load_again, change_layer(0, params={code: 1})))
    assert not os.path.exists("executed")


# ---- evaluation -----------------------------------------------------------------------------------------------
def test_confusion_matrix_and_report():
    labels, predictions = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 1, 1, 0])
    matrix = confusion_matrix(labels, predictions, 3)
    assert matrix.tolist() == [[2, 1, 0], [1, 2, 0], [0, 0, 0]]
    lines = "\n".join(map(str, report(matrix + np.diag([0, 2, 0]), ("ant", "bee", "dragonfly")))).splitlines()
    assert lines[0] == "Test accuracy: 75.00 %"
    table = [line.split() for line in lines[4:7]]
    assert table[0] == ["ant", "66.67", "%", "66.67", "%", "3"]
    assert table[1] == ["bee", "80.00", "%", "80.00", "%", "5"]
    assert table[2] == ["dragonfly", "-", "-", "0"]
    assert [line.split() for line in lines[-3:]] == [
        ["ant", "2", "1", "0"], ["bee", "1", "4", "0"], ["dragonfly", "0", "0", "0"]]


def test_classes_are_told_by_name_or_number():
    labels = np.array([0, 1, 1])
    assert labels_in(("a", "b", "c"), labels, ("c", "a")).tolist() == [2, 0, 0]
    assert labels_in(("1", "2"), labels + 1, ("0", "1", "2")).tolist() == [0, 1, 1]
    assert labels_in(FASHION_MNIST.classes, labels, ("0", "1")).tolist() == [0, 1, 1]
    with pytest.raises(InputError, match="has the label 0, a number, which is not one of the model's 3: a, b, c"):
        labels_in(("a", "b", "c"), labels, ("0", "1"))
    for others in ("a", "d"), ("0", "1", "2", "3"):
        with pytest.raises(InputError, match="not one of the model's 3"):
            labels_in(("a", "b", "c"), labels, others)


@pytest.fixture
def classifier(saved):
    return Classifier(load(saved))


def test_probabilities(classifier):
    classifier.scale[:] = 0.01
    images = np.random.default_rng(0).integers(0, 255, (600, 2, 8, 8), np.uint8)    # more than one batch
    logits, odds = classifier.logits(images), classifier.probabilities(images)
    assert odds.shape == (600, 5) and np.allclose(odds.sum(1), 1) and np.array_equal(odds.argmax(1), logits.argmax(1))
    np.testing.assert_allclose(np.log(odds[:, 0] / odds[:, 1]), logits[:, 0] - logits[:, 1], rtol=1e-3, atol=1e-3)
    assert np.array_equal(classifier.logits(images[590:]), logits[590:])


@pytest.mark.parametrize("images", [np.zeros((3, 1, 8, 8)), np.full((3, 2, 8, 8), np.nan), np.full((1, 2, 8, 8), "x")])
def test_images_that_cannot_be(classifier, images):
    with pytest.raises(InputError):
        classifier.logits(images)


# ---- the commands -----------------------------------------------------------------------------------------------
SHORT = "--dataset", "digits", "--serial"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A file that `train --save` wrote, and the accuracy that it printed."""
    path = tmp_path_factory.mktemp("trained") / "model.npz"
    sizes = () if JIT else ("--train-size", "64", "--test-size", "32")
    ended = subprocess.run([sys.executable, "main.py", *SHORT, *sizes, "--quiet", "--epochs", "4", "--save", path],
                           cwd=ROOT, capture_output=True, text=True, check=True)
    return path, ended.stdout.strip()


def test_evaluate_prints_the_accuracy_of_the_training(trained, capsys):
    path, accuracy = trained
    assert cli.main(["evaluate", "--load", str(path), *SHORT, *(() if JIT else ("--test-size", "32"))]) == 0
    lines = capsys.readouterr().out.splitlines()
    images = 360 if JIT else 32
    assert lines[0] == f"{accuracy} of {images} images, the test part of digits"
    assert f"Test accuracy: {load(path).accuracy:.2f} %" == accuracy
    assert [line.split()[0] for line in lines[4:14]] == list("0123456789") and lines[-1].startswith("9 ")


@pytest.fixture
def pictures(tmp_path, trained):
    """The folder of three test digits and a file that is none, twice the size of the model's images."""
    from cnn_numba import load_dataset

    PIL = pytest.importorskip("PIL.Image")
    (tmp_path / "pictures" / "deep").mkdir(parents=True)
    for k, image in enumerate(load_dataset("digits").test_images[:3, 0]):
        PIL.fromarray(image.repeat(2, 0).repeat(2, 1)).convert("RGB").save(tmp_path / "pictures" / "deep" / f"{k}.png")
    (tmp_path / "pictures" / "notes.txt").touch()
    return tmp_path / "pictures"


def test_predict(trained, pictures, capsys):
    path, _ = trained
    classifier = Classifier(load(path))

    def predicted(*flags):
        assert cli.main(["predict", "--load", str(path), "--serial", str(pictures), *flags]) == 0
        return capsys.readouterr().out.splitlines()

    from cnn_numba.data.image import read_image

    files = [str(pictures / "deep" / f"{k}.png") for k in range(3)]
    images = np.stack([read_image(file, 1, (8, 8)) for file in files])
    odds = classifier.probabilities(images)
    want = [(file, str(row.argmax()), row.max()) for file, row in zip(files, odds, strict=True)]
    assert predicted() == [f"{file}: {name} ({100 * p:.2f} %)" for file, name, p in want]
    assert predicted("--format", "csv") == ["file,class,probability", *(f"{f},{name},{p:.6f}" for f, name, p in want)]
    assert [tuple(json.loads(line).values()) for line in predicted("--format", "jsonl")] == [
        (file, name, round(p, 6)) for file, name, p in want]
    upside = classifier.probabilities(255 - images)
    assert [json.loads(line)["probability"] for line in predicted("--format", "jsonl", "--invert")] == [
        round(row.max(), 6) for row in upside]


def test_predict_goes_on_after_a_file_that_is_no_image(trained, pictures, capsys):
    (pictures / "deep" / "1.png").write_text("no image")
    assert cli.main(["predict", "--load", str(trained[0]), "--serial", str(pictures)]) == 2
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2 and len(err.splitlines()) == 2
    assert "1.png cannot be read as an image" in err and "0.png and 1 more had to be converted" in err


@pytest.mark.parametrize("flags, sentence", [
    (["predict", "--load", "MODEL", "nowhere.png"], "nowhere.png does not exist"),
    (["predict", "--load", "MODEL", "EMPTY"], "holds no images"),
    (["predict", "--load", "nowhere.npz", "EMPTY"], "nowhere.npz does not exist"),
    (["predict", "--load", "MODEL"], "the following arguments are required: PATH"),
    (["predict", "EMPTY"], "the following arguments are required: --load"),
    (["evaluate", "--load", "MODEL", "--dataset", "CSV"], "3 pixels, which is not a square"),
    (["train", *SHORT, "--save", "EMPTY"], "is not a file"),
    (["train", *SHORT, "--save", "EMPTY/nowhere/m.npz"], "cannot be written")])
def test_one_sentence_from_the_commands(trained, tmp_path, capsys, flags, sentence):
    pytest.importorskip("PIL")
    (tmp_path / "empty").mkdir()
    (tmp_path / "some.csv").write_text("0,1,2,3\n1,1,2,3\n" * 6)
    words = {"MODEL": str(trained[0]), "EMPTY": str(tmp_path / "empty"), "CSV": str(tmp_path / "some.csv")}
    assert cli.main([re.sub("^[A-Z]{3,}", lambda m: words[m[0]], flag) for flag in flags]) == 2
    out, err = capsys.readouterr()
    assert re.fullmatch(r"error: [^\n]+\n", err) and re.search(sentence, err), err


def test_predict_without_pillow(trained, pictures, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert cli.main(["predict", "--load", str(trained[0]), "--serial", str(pictures)]) == 2
    assert capsys.readouterr().err == ("error: image files are read by Pillow, which is missing: pip install pillow\n")
