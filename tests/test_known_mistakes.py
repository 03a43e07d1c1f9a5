"""Mistakes that programs of this kind are known to make.  Each test states one, makes it in plain NumPy, and shows that
the library gives something else: what is right.

For some mistakes a test elsewhere says more than the one here: see ELSEWHERE.
"""
import ast
import os
import pickle
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import reference
from batches import moved

from cnn_numba import (
    SGD,
    Adam,
    Augment,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    CrossEntropyLoss,
    Dataset,
    Dropout,
    Flatten,
    InputError,
    LeakyReLU,
    Linear,
    LogSoftmax,
    MaxPool2d,
    Sequential,
    Softmax,
    Trainer,
    load,
)
from cnn_numba.init import ORDER, stream
from cnn_numba.kernels import compiled
from cnn_numba.kernels.program import PerWorker, Program

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {
    "the loss of huge logits": "test_kernels.py::test_cross_entropy_of_huge_logits",
    "tied maxima, every geometry of a window": "test_kernels.py::test_max_pool2d",
    "the last short batch, at every length": "test_training.py::test_epochs_are_the_loop_of_the_library",
    "shifts that wrap": "test_augment.py::test_a_shift_never_wraps",
    "statistics of the training part": "test_data_sources.py::test_the_statistics_are_those_of_the_training_part",
    "a pickle in a model file": "test_model_file.py::test_nothing_in_a_file_is_executed",
    "a pickle in a data set": "test_data_sources.py::test_pickles_in_an_npz_file_are_not_run",
    "a training that is killed, also while it saves":
        "test_checkpoints.py::test_killed_trainings_end_with_the_same_weights",
    "a disk that is full while a model is saved": "test_model_file.py::test_a_full_disk_leaves_the_file_as_it_was",
    "a state of another network": "test_model.py::test_load_state_dict_takes_all_or_nothing",
    "memory of a training step": "test_training.py::test_steps_allocate_nothing",
    "a password in a URL": "test_data.py::test_a_password_in_a_url_is_not_repeated",
}
CLOSE = 1e-5                # of the largest number, or of 1; sums of these lengths are right to some 1e-6 in float32


def agrees(got, want):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    return got.shape == want.shape and bool(np.abs(got - want).max() <= CLOSE * max(1, np.abs(want).max()))


def right_and_not(mistake, got, want):
    """The library is right, and what the mistake makes is far enough from it to be told apart."""
    assert agrees(got, want)
    assert not agrees(mistake, want), "the mistake passes for right: this test tells nothing"


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def with_normal_parameters(*layers):
    """A model whose biases and batch-norm weights are numbers like others, not zeros and ones."""
    model = Sequential(*layers)
    for k, p in enumerate(model.parameters()):
        p.value[...] = normal(*p.value.shape, seed=10 + k)
    return model, {p.name: p for p in model.parameters()}


@pytest.mark.parametrize("place", ELSEWHERE.values())
def test_what_is_elsewhere_is_there(place):
    file, name = place.split("::")
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


# ---- loss -------------------------------------------------------------------------------------------------------
def test_softmax_that_overflows():
    """exp of the logits as they are: inf / inf from 89 on."""
    logits = np.array([[1000, 0, -1000], [90, 89, 0]], np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        naive = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    right_and_not(naive, Sequential(Softmax(dim=1))(logits), reference.softmax(logits))


def test_softmax_less_the_maximum_of_the_batch():
    """One maximum for all rows: those far below it become 0 / 0, and the loss the logarithm of 0."""
    logits, labels = np.array([[1, 2, 0], [1000, 0, 0]], np.float32), np.array([0, 0])
    with np.errstate(invalid="ignore", divide="ignore"):
        powers = np.exp(logits - logits.max())
        probabilities = powers / powers.sum(1, keepdims=True)
        log = np.log(probabilities)
    right_and_not(probabilities, Sequential(Softmax(dim=1))(logits), reference.softmax(logits))
    right_and_not(log, Sequential(LogSoftmax(dim=1))(logits), reference.log_softmax(logits))
    right_and_not(-log[range(2), labels].mean(), CrossEntropyLoss()(logits, labels),
                  reference.cross_entropy(logits, labels)[0])


# ---- pooling ----------------------------------------------------------------------------------------------------
def test_every_tied_maximum_gets_the_whole_gradient():
    """A mask of where x equals the maximum: behind a ReLU, most windows are ties of zeros, and the gradient grows."""
    x, dy = np.maximum(normal(3, 2, 4, 6).round(), 0), normal(3, 2, 2, 3, seed=1)
    model = Sequential(MaxPool2d(2))
    largest, everywhere = (np.kron(a, np.ones((1, 1, 2, 2))) for a in (np.asarray(model(x)), dy))
    right_and_not((x == largest) * everywhere, model.backward(dy), reference.max_pool2d_gradient(dy, x, 2))


@pytest.mark.parametrize("layer, pool, gradient, of_blocks", (
    (MaxPool2d, reference.max_pool2d, reference.max_pool2d_gradient, np.max),
    (AvgPool2d, reference.avg_pool2d, reference.avg_pool2d_gradient, np.mean),
))
@pytest.mark.parametrize("size, kernel, stride", (((8, 8), 2, 1), ((9, 9), 3, 2), ((8, 12), 2, 4)))
def test_pooling_takes_the_stride_for_the_kernel(layer, pool, gradient, of_blocks, size, kernel, stride):
    """The image as blocks of kernel x kernel pixels, whatever the stride is."""
    x, (H, W) = normal(2, 3, *size), size
    model = Sequential(layer(kernel, stride))
    y = model(x)
    blocks = x.reshape(2, 3, H // kernel, kernel, W // kernel, kernel)
    right_and_not(of_blocks(blocks, axis=(3, 5)), y, pool(x, kernel, stride))
    dy = normal(*y.shape, seed=1)
    assert agrees(model.backward(dy), gradient(dy, x, kernel, stride))


@pytest.mark.parametrize("layer, pool, gradient", (
    (MaxPool2d, reference.max_pool2d, reference.max_pool2d_gradient),
    (AvgPool2d, reference.avg_pool2d, reference.avg_pool2d_gradient),
))
def test_pooling_of_sizes_that_do_not_divide(layer, pool, gradient):
    """A last row or column without a window fails in a reshape, or makes the gradient smaller than the image."""
    x, dy = normal(2, 3, 7, 9), normal(2, 3, 3, 4, seed=1)
    with pytest.raises(ValueError):
        x.reshape(2, 3, 7 // 2, 2, 9 // 2, 2)
    model = Sequential(layer(2))
    assert agrees(model(x), pool(x, 2))
    right_and_not(np.kron(dy, np.ones((1, 1, 2, 2))), model.backward(dy), gradient(dy, x, 2))


def test_zeros_around_the_image_win():
    """Padding with zeros: they are the maximum where all numbers are negative."""
    x = -1 - np.abs(normal(2, 3, 5, 5))
    zeros = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    right_and_not(reference.max_pool2d(zeros, 3), Sequential(MaxPool2d(3, padding=1))(x),
                  reference.max_pool2d(x, 3, padding=1))


# ---- layers with weights ----------------------------------------------------------------------------------------
def test_bias_gradient_is_averaged_twice():
    """The loss is a mean over the images, so its gradient is divided by their number already: only the sum is left."""
    model, p = with_normal_parameters(Linear(5, 3))
    loss = CrossEntropyLoss()(model(normal(40, 5)), np.arange(40) % 3)
    loss.backward()
    right_and_not(loss.dlogits.mean(0), p["0.bias"].grad, loss.dlogits.sum(0, dtype=np.float64))


def test_bias_is_never_used():
    """Updated at every step, and not added anywhere."""
    x = normal(20, 5)
    model, p = with_normal_parameters(Linear(5, 3))
    right_and_not(x @ p["0.weight"].value.T, model(x), reference.linear(x, p["0.weight"].value, p["0.bias"].value))
    x = normal(20, 2, 5, 6)
    model, p = with_normal_parameters(Conv2d(2, 3, 3))
    weight, bias = p["0.weight"].value, p["0.bias"].value
    right_and_not(reference.conv2d(x, weight), model(x), reference.conv2d(x, weight, bias))


def test_input_channels_are_overwritten_instead_of_summed():
    """`y[f] = convolution of x[c]` in a loop over c: the last channel is what remains, forward and backward."""
    x, dy = normal(3, 4, 6, 7), normal(3, 5, 4, 5, seed=1)
    model, p = with_normal_parameters(Conv2d(4, 5, 3, bias=False))
    weight = p["0.weight"].value
    right_and_not(reference.conv2d(x[:, -1:], weight[:, -1:]), model(x), reference.conv2d(x, weight))
    last_filter = reference.conv2d_gradients(dy[:, -1:], x, weight[-1:])[0]
    dx, dweight, _ = reference.conv2d_gradients(dy, x, weight)
    right_and_not(last_filter, model.backward(dy), dx)
    assert agrees(p["0.weight"].grad, dweight)


def test_stride_of_a_convolution_is_ignored():
    """Accepted, and every place computed."""
    x = normal(3, 2, 9, 9)
    model, p = with_normal_parameters(Conv2d(2, 4, 3, stride=2, bias=False))
    weight = p["0.weight"].value
    right_and_not(reference.conv2d(x, weight), model(x), reference.conv2d(x, weight, stride=2))


def test_leaky_relu_is_positive_on_negative_numbers():
    """-slope * x instead of slope * x: an absolute value, whose gradient has the wrong sign too."""
    x, dy = normal(3, 20), normal(3, 20, seed=1)
    model = Sequential(LeakyReLU(0.1))
    right_and_not(np.where(x > 0, x, -0.1 * x), model(x), reference.leaky_relu(x, 0.1))
    right_and_not(np.where(x > 0, dy, -0.1 * dy), model.backward(dy), reference.leaky_relu_gradient(dy, x, 0.1))


# ---- batch normalisation ----------------------------------------------------------------------------------------
def test_batch_norm_gradients_are_divided_by_the_batch_twice():
    x, dy = normal(40, 6), normal(40, 6, seed=1)
    model, p = with_normal_parameters(BatchNorm1d(6))
    y, backward = reference.batch_norm(x, p["0.weight"].value, p["0.bias"].value)
    assert agrees(model(x), y)
    got = model.backward(dy), p["0.weight"].grad, p["0.bias"].grad
    for mine, want in zip(got, backward(dy), strict=True):
        right_and_not(want / len(x), mine, want)


def test_batch_norm_is_not_saved(tmp_path):
    """A file with the weights of convolutions and dense layers only: what is loaded starts with others of the rest."""
    def layers():
        return Conv2d(2, 3, 3), BatchNorm2d(3), Flatten(), Linear(48, 4)

    model, _ = with_normal_parameters(*layers())
    images = normal(20, 2, 6, 6)
    model(images)                                                   # collects statistics
    model.eval().save(tmp_path / "model.npz")
    forgetful = Sequential(*layers())
    forgetful.load_state_dict(forgetful.state_dict() | {
        name: value for name, value in model.state_dict().items() if not name.startswith("1.")})
    want = np.array(model(images))
    right_and_not(forgetful.eval()(images), load(tmp_path / "model.npz").eval()(images), want)


def test_running_statistics_start_as_zero_over_zero():
    """Mean 0 and variance 0: before the first batch, an evaluation divides by the root of eps, or of 0."""
    x = normal(20, 3, 4, 4)
    model = Sequential(BatchNorm2d(3)).eval()
    mistake, _ = reference.batch_norm(x, np.ones(3), np.zeros(3), mean=np.zeros(3), variance=np.zeros(3))
    right_and_not(mistake, model(x), x / np.sqrt(1 + 1e-5))


# ---- the epoch --------------------------------------------------------------------------------------------------
def dataset(train=20, test=30, shape=(1, 2, 3), seed=0, **changes):
    rng = np.random.default_rng(seed)
    parts = {}
    for part, count in ("train", train), ("test", test):
        parts |= {f"{part}_images": rng.integers(0, 5, (count, *shape)).astype(np.uint8),
                  f"{part}_labels": rng.integers(0, 4, count)}
    return Dataset(**{"name": "made up", "num_classes": 4, "normalize": "none", **parts, **changes})


def linear_model(data):
    return Sequential(Flatten(), Linear(data.train_images[0].size, data.num_classes), seed=1)


def textbook_epoch(data, batch_size, drop_last=False):
    """The weights of a linear model after its first epoch, and the mean loss and the size of each batch."""
    state = linear_model(data).state_dict()
    weight, bias = state["1.weight"].astype(np.float64), state["1.bias"].astype(np.float64)
    order, batches = stream(0, ORDER, 0).permutation(len(data.train_images)), []
    for first in range(0, len(order) - (batch_size - 1 if drop_last else 0), batch_size):
        chosen = order[first:first + batch_size]
        x = data.train_images[chosen].reshape(len(chosen), -1)
        loss, dz = reference.cross_entropy(reference.linear(x, weight, bias), data.train_labels[chosen])
        _, dweight, dbias = reference.linear_gradients(dz, x, weight)
        weight, bias = weight - 0.1 * dweight, bias - 0.1 * dbias
        batches.append((loss, len(chosen)))
    return weight, batches


def trained(data, batch_size=16, **options):
    model = linear_model(data)
    trainer = Trainer(model, data, SGD(model, lr=0.1), batch_size=batch_size, **options)
    return model, trainer, trainer.fit(1)[-1]


def test_last_short_batch_is_dropped():
    """images // batch_size batches: what is left over is never trained on."""
    data = dataset(train=20)
    (want, batches), (mistake, fewer) = (textbook_epoch(data, 16, drop_last) for drop_last in (False, True))
    assert len(batches) == 2 and len(fewer) == 1
    model, _, result = trained(data)
    right_and_not(mistake, model.state_dict()["1.weight"], want)
    assert (result.images, result.steps) == (20, 2)


def test_loss_of_an_epoch_is_that_of_its_last_batch():
    data = dataset(train=40)
    losses, sizes = zip(*textbook_epoch(data, 16)[1], strict=True)
    right_and_not(losses[-1], trained(data)[2].loss, np.average(losses, weights=sizes))


@pytest.mark.skipif(not compiled.JIT, reason="interpreted, nothing is compiled")
def test_first_epoch_compiles(monkeypatch):
    """Functions that compile when they are first called do so in the middle of what is timed."""
    asked, load_or_compile = [], compiled._load_or_compile

    def counted(*args):
        asked.append(args)
        return load_or_compile(*args)

    monkeypatch.setattr(compiled, "_load_or_compile", counted)
    monkeypatch.setattr(compiled, "_compiled", {})                  # as in a fresh process
    data = dataset()
    model = linear_model(data)
    trainer = Trainer(model, data, SGD(model, lr=0.1))
    before = len(asked)
    assert before > 0
    trainer.fit(1)
    assert len(asked) == before
    model(normal(20, 1, 2, 3))                                      # the mistake: a kernel that nobody asked for yet
    model.backward(normal(20, 4))
    CrossEntropyLoss(label_smoothing=0.1)(normal(20, 4), np.arange(20) % 4)
    assert len(asked) > before


# ---- data -------------------------------------------------------------------------------------------------------
def test_validation_part_is_chosen_after_augmentation():
    """Moved copies of an image on both sides of the split: the validation measures what was learned by heart."""
    images = np.zeros((40, 1, 4, 4), np.uint8)
    images[:, :, 1:3, 1:3] = np.arange(1, 41).reshape(-1, 1, 1, 1)  # image k is known by its number, wherever it goes
    data = dataset(train=40, shape=(1, 4, 4), train_images=images)

    def in_both(some, others):
        return {*some.max((1, 2, 3))} & {*others.max((1, 2, 3))}

    copies = np.concatenate([np.roll(images, shift, 3) for shift in (-1, 0, 1)])
    copies = copies[np.random.default_rng(0).permutation(120)]
    assert in_both(copies[:90], copies[90:]), "the mistake"
    data = data.hold_out(10)
    assert not in_both(data.train_images, data.validation_images)
    _, trainer, result = trained(data, augment=Augment(shift=1))
    still = trainer.evaluate(data.validation_images, data.validation_labels)
    assert result.validation_loss == still.loss
    assert still.loss != trainer.evaluate(np.roll(data.validation_images, 1, 3), data.validation_labels).loss


def test_shifts_wrap_around():
    """np.roll brings the last column back as the first."""
    images = np.zeros((64, 1, 6, 8), np.uint8)
    images[..., -1] = 200
    assert np.roll(images, 1, axis=3)[..., 0].any(), "the mistake"
    got = moved(Augment(shift=1), images)
    assert not got[..., :6].any() and got[..., 6].any() and got[..., 7].any()


def test_test_images_are_normalised_by_their_own_statistics():
    """Brighter test images then look like those of the training, whatever they are."""
    data = dataset(normalize="standard")
    data.test_images[...] += 3
    model, trainer, _ = trained(data)

    def loss(mean, std):
        logits = model((data.test_images - mean) / std)
        return reference.cross_entropy(logits, data.test_labels)[0]

    right_and_not(loss(data.test_images.mean(), data.test_images.std()),
                  trainer.evaluate(data.test_images, data.test_labels).loss,
                  loss(data.train_images.mean(), data.train_images.std()))


# ---- files ------------------------------------------------------------------------------------------------------
class Runs:
    """What a pickle may be: a call of anything."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_loading_runs_what_is_in_the_file(tmp_path, monkeypatch):
    """Unpickling executes whatever the file says, before anyone can look at the result."""
    monkeypatch.chdir(tmp_path)
    Path("model.pkl").write_bytes(pickle.dumps(Runs()))
    Path("model.npz").write_bytes(pickle.dumps(Runs()))
    for file in "model.pkl", "model.npz":
        with pytest.raises(InputError):
            load(file)
    assert not os.path.exists("executed")
    pickle.loads(Path("model.pkl").read_bytes())
    assert os.path.exists("executed"), "the mistake"


class Killed(BaseException):
    pass


def test_a_kill_tears_the_file_that_is_saved(tmp_path, monkeypatch):
    """Written over the last one: after a kill there is neither."""
    path, torn = tmp_path / "model.npz", tmp_path / "torn.npz"
    model = Sequential(Linear(50, 20), seed=1)
    model.save(path)
    whole = path.read_bytes()
    torn.write_bytes(whole)
    with torn.open("wb") as file:
        file.write(whole[:len(whole) // 2])                         # the mistake, killed half way
    with pytest.raises(InputError, match="damaged"):
        load(torn)

    def kill(*args):
        raise Killed

    for moment in "fsync", "replace":
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(os, moment, kill)
            Sequential(Linear(50, 20), seed=2).save(path)
        assert path.read_bytes() == whole, moment
    assert np.array_equal(load(path).values, model.values)


def test_file_of_another_network_is_zipped_onto_the_layers():
    """`for layer, saved in zip(layers, file)` ends with the shorter one: the other layers keep what they had."""
    saved = Sequential(Linear(6, 6), Linear(6, 6), seed=1).state_dict()
    model = Sequential(Linear(6, 6), Linear(6, 6), Linear(6, 6), seed=2)
    start = model.state_dict()
    mistake = dict(start)
    for name, value in zip(mistake, saved.values(), strict=False):
        mistake[name] = value
    assert np.array_equal(mistake["2.weight"], start["2.weight"]) and mistake.keys() == start.keys(), "no complaint"
    with pytest.raises(InputError, match="missing"):
        model.load_state_dict(saved)
    with pytest.raises(InputError, match="not a parameter"):
        Sequential(Linear(6, 6), seed=2).load_state_dict(saved)
    assert all(np.array_equal(value, start[name]) for name, value in model.state_dict().items())


# ---- memory and numbers -----------------------------------------------------------------------------------------
def peak(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def windows(images):
    """im2col of all images at once, 3 x 3."""
    view = np.lib.stride_tricks.sliding_window_view(images.astype(np.float32), (3, 3), axis=(2, 3))
    return view.reshape(len(images), -1)


def test_evaluation_takes_memory_for_all_images_at_once():
    """The windows of 60,000 images are gigabytes.  Here an image costs its loss, its prediction and its place in the
    order; its pixels stay where they are."""
    data = dataset(shape=(1, 8, 8))
    model = Sequential(Conv2d(1, 2, 3), Flatten(), Linear(72, 4))
    trainer = Trainer(model, data, SGD(model, lr=0.1))
    images, labels = np.zeros((1024, 1, 8, 8), np.uint8), np.zeros(1024, np.int64)

    def bytes_of_an_image(work):
        work(256)                           # the first call allocates what stays
        return (peak(lambda: work(1024)) - peak(lambda: work(256))) / 768

    assert bytes_of_an_image(lambda n: trainer.evaluate(images[:n], labels[:n])) < 64
    assert bytes_of_an_image(lambda n: windows(images[:n])) > 1000, "the mistake"


def test_float64_by_accident(monkeypatch):
    """Random weights and divided pixels are float64 in NumPy, and one such array makes all that it meets float64."""
    x = normal(20, 1, 6, 6).astype(np.float64)
    mistake = x.astype(np.float32).reshape(20, -1) @ np.random.default_rng(0).normal(size=(36, 4))
    assert mistake.dtype == np.float64
    layers = Conv2d(1, 2, 3), BatchNorm2d(2), Flatten(), Linear(32, 4)
    model = Sequential(*layers)
    loss = CrossEntropyLoss()(model(x), np.arange(20) % 4)
    loss.backward()
    results = [model(x), loss.dlogits, model.backward(np.ones((20, 4))), model.values, model.grads, model.statistics]
    state = [value for name, value in model.state_dict().items() if "num_batches" not in name]
    assert {a.dtype for a in results + state} == {np.dtype(np.float32)}
    data = dataset(shape=(1, 6, 6), train_images=x)
    model = Sequential(*layers)
    calls = []

    class Noting(Program):
        def __init__(self, phases, most=1):
            calls.extend(call for phase in phases for chain in phase for call, _ in chain)
            super().__init__(phases, most)

    monkeypatch.setattr("cnn_numba.training.Program", Noting)
    Trainer(model, data, Adam(model), batch_size=16)
    values = [value for call in calls for value in call.args.values()]
    scratch = [array for value in values if isinstance(value, PerWorker) for array in value.arrays]
    arrays = [a for a in values + scratch if isinstance(a, np.ndarray) and a.size > 8]
    assert len(arrays) > 30 and not [a.shape for a in arrays if a.dtype == np.float64]


def test_no_seed_anywhere():
    """Numbers from a global generator: no run can be repeated."""
    def run(k):
        np.random.seed(k)                                           # the state that others leave behind
        data = dataset()
        model = Sequential(Flatten(), Linear(6, 8), Dropout(0.5), Linear(8, 4))
        Trainer(model, data, SGD(model, lr=0.1), batch_size=8, augment=Augment(shift=1)).fit(1)
        return model.values.tobytes(), np.random.normal(size=3).tobytes()

    (once, mistake), (again, other) = run(1), run(2)
    assert once == again and mistake != other


# ---- the program around -----------------------------------------------------------------------------------------
PICTURE = """
import sys
sys.path.insert(0, {root!r})
from functools import partial
from cnn_numba.benchmark import plots
from cnn_numba.benchmark.report import Report, Table
rows = [{{"label": name, "x": {{"median": 2, "min": 1, "max": 3}}}} for name in "ab"]
table = Table("Title", rows, [], lambda axes, table: plots.bars(axes, table, "x", "seconds"))
plots.draw(Report("x", {{}}, dict.fromkeys(("CPU", "execution", "software", "date"), "-"), [table], []), {file!r})
try:
    import matplotlib.pyplot
    matplotlib.pyplot.figure()
except ImportError:
    print("the mistake needs a display")
"""


def test_plots_need_a_display(tmp_path):
    """pyplot starts what draws on a screen (here: a module that is not there) even when only a file is wanted."""
    pytest.importorskip("matplotlib")
    file = tmp_path / "plot.png"
    ended = subprocess.run(
        [sys.executable, "-c", PICTURE.format(root=str(ROOT), file=str(file))], check=True, capture_output=True,
        text=True, env=os.environ | {"MPLBACKEND": "module://a_display_that_is_not_there"})
    assert ended.stdout == "the mistake needs a display\n"
    assert file.read_bytes().startswith(b"\x89PNG")


SECRETS = re.compile(
    r"""(pass(word|wd|phrase)?|secret|token|api_?key|credentials?)["']?\s*[:=]\s*["'][^"']+["']   # a name and a text
    | [a-z]+://[^\s/:@{}]+:[^\s/@{}]+@ | -----BEGIN.[A-Z ]*PRIVATE.KEY | \bAKIA[0-9A-Z]{16}\b | \bgh[pousr]_\w{36}""",
    re.VERBOSE | re.IGNORECASE)


def test_credentials_in_the_source():
    """A mailbox with its password, for a program that writes to its author when it is done."""
    for mistake in ('password = "hunter2"', "smtp = {'passwd': 'hunter2'}", "https://me:hunter2@example.org/upload",
                    "-----BEGIN RSA PRIVATE KEY-----"):
        assert SECRETS.search(mistake), mistake
    files = [path for folder in ("cnn_numba", "kernels", "scripts", "docs", ".ci")
             for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix in (".py", ".md", ".json", "")]
    files += [path for path in ROOT.iterdir() if path.suffix in (".py", ".md", ".toml", ".txt")]
    assert len(files) > 50
    assert not [path for path in files if SECRETS.search(path.read_text(encoding="utf-8"))]
