"""The gradient check: its float64 forward pass, what it accepts, and the wrong gradients that it must find."""
import math

import numpy as np
import pytest
import reference

import cnn_numba as nn
from cnn_numba.commands import main as cli
from cnn_numba.errors import InputError
from cnn_numba.files.layers_json import TYPES
from cnn_numba.inspection import gradients as gradcheck
from cnn_numba.inspection import textbook
from cnn_numba.layers import Layer, MaxPool2d, every_layer

CLASSES = 5


def everything():
    """{name: (layers, image shape)}: networks that have every kind of layer between them."""
    return {
        "plain": ([nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, CLASSES)],
                  (2, 8, 8)),
        "convolutions": ([nn.Conv2d(2, 4, (3, 2), stride=(2, 1), dilation=(1, 2), groups=2), nn.ReLU(),
                          nn.Conv2d(4, 6, 3, padding="same", bias=False), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
                          nn.Flatten(), nn.Linear(36, 7), nn.ReLU(), nn.Linear(7, CLASSES, bias=False)], (2, 8, 8)),
        "pools": ([nn.MaxPool2d(2, 2, 1, dilation=2, ceil_mode=True), nn.Conv2d(2, 4, 3, padding=1),
                   nn.AvgPool2d(2, 1, 1, ceil_mode=True, count_include_pad=False), nn.LeakyReLU(0.1),
                   nn.AvgPool2d((3, 2), 2, (1, 0), ceil_mode=True), nn.AvgPool2d(2, 1, divisor_override=3), nn.Tanh(),
                   nn.Reshape((2, 8, 4)), nn.AdaptiveAvgPool2d((3, 2)), nn.Flatten(), nn.Linear(12, CLASSES),
                   nn.LogSoftmax()], (2, 14, 14)),
        "batch norms": ([nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
                         nn.BatchNorm2d(4, eps=0.1, affine=False, track_running_stats=False), nn.Flatten(),
                         nn.Linear(36, 8), nn.BatchNorm1d(8), nn.Sigmoid(), nn.Dropout(0.3), nn.Linear(8, CLASSES),
                         nn.Softmax()], (2, 8, 8)),
        "branches": ([nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Dropout(),
                      nn.Residual([nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2)]),
                      nn.ReLU(), nn.Residual([nn.Conv2d(4, 6, 3, 2, 1), nn.Residual(nn.Tanh()), nn.Softmax()],
                                             [nn.Conv2d(4, 6, 1, 2, bias=False), nn.BatchNorm2d(6)]),
                      nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, CLASSES)], (2, 8, 8)),
    }


def network(name="plain", batch=4, seed=3):
    layers, shape = everything()[name]
    model = nn.Sequential(*layers, seed=seed)
    gradcheck.move_biases(model, seed)
    images, labels, margin = gradcheck.draw(model, shape, CLASSES, batch, seed)
    assert margin > gradcheck.MARGIN
    return gradcheck.Network(model, images, labels)


def run(model, shape, capsys, samples=10, tolerance=1e-4):
    """(exit code, {name: its line}, the last line) of the command for a model."""
    code = gradcheck.run(model, shape, CLASSES, 4, 0, samples, tolerance)
    lines = capsys.readouterr().out.splitlines()
    rows = [line.rsplit(maxsplit=5) for line in lines[4:lines.index("", 4)]]
    return code, {row[0].strip(): row[-1] for row in rows}, lines[-1]


# ---- the float64 forward pass -------------------------------------------------------------------------------
def test_these_networks_have_every_layer_of_the_library():
    used = {type(layer) for layers, _ in everything().values() for layer in every_layer(layers)}
    assert used == set(TYPES.values())


@pytest.mark.parametrize("name", everything())
def test_the_float64_forward_pass_is_that_of_the_kernels(name):
    net = network(name)
    # float32 sums of at most 64 products
    np.testing.assert_allclose(net.model(net.inputs[0]), net.inputs[-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arguments", [
    {}, {"stride": (2, 1), "padding": (1, 2)}, {"dilation": (2, 1), "groups": 2}, {"padding": "same", "groups": 4}])
def test_convolution_is_that_of_plain_loops(arguments):
    layer, rng = nn.Conv2d(4, 8, (3, 2), **arguments), np.random.default_rng(0)
    x, weight, bias = (rng.normal(size=shape) for shape in ((5, 4, 9, 8), layer.parameter_shapes()["weight"], 8))
    around = textbook.Pass({"0.weight": weight, "0.bias": bias}, len(x))
    # both in float64: the sums differ in their order only
    np.testing.assert_allclose(textbook.forward([layer], x, around), reference.conv2d(x, weight, bias, **arguments),
                               rtol=1e-12, atol=1e-12)


def test_a_convolution_in_chunks_is_the_same(monkeypatch):
    layer, rng = nn.Conv2d(2, 3, 3), np.random.default_rng(0)
    x, weight = rng.normal(size=(5, 2, 6, 6)), rng.normal(size=(3, 2, 3, 3))
    whole = textbook.forward([layer], x, textbook.Pass({"0.weight": weight}, 5))
    monkeypatch.setattr(textbook, "CHUNK", 1)
    np.testing.assert_allclose(textbook.forward([layer], x, textbook.Pass({"0.weight": weight}, 5)), whole, rtol=1e-12)


@pytest.mark.parametrize("arguments", [(2,), ((3, 2), 2, 1), (2, 3), (3, 1, (1, 0))])
def test_max_pooling_is_that_of_plain_loops(arguments):
    x = np.random.default_rng(0).normal(size=(3, 2, 9, 8))
    np.testing.assert_array_equal(textbook.forward([nn.MaxPool2d(*arguments)], x, textbook.Pass({}, 3)),
                                  reference.max_pool2d(x, *arguments))


def test_the_loss_of_several_batches_is_that_of_each():
    z, labels = np.random.default_rng(0).normal(0, 40, (6, 4)), np.array([3, 0, 1])
    np.testing.assert_allclose(textbook.cross_entropy(z, labels),
                               [float(nn.CrossEntropyLoss()(part, labels)) for part in (z[:3], z[3:])], rtol=1e-6)


def test_the_margin_is_the_closest_call_of_a_relu_or_a_maximum():
    x = np.array([[[[2.0, -1.0], [1.5, 3.0]]]])                 # root mean square: sqrt(16.25 / 4)
    for layer, distance in (nn.ReLU(), 1.0), (nn.MaxPool2d((1, 2)), 1.5), (nn.MaxPool2d(2), 1.0):
        around = textbook.Pass({}, 1, margin=math.inf)
        textbook.forward([layer], x, around)
        assert around.margin == pytest.approx(distance / math.sqrt(16.25 / 4))


def test_zeros_that_a_relu_left_are_no_close_call():
    around = textbook.Pass({}, 1, margin=math.inf)
    textbook.forward([nn.ReLU(), nn.MaxPool2d(2)], -np.ones((1, 1, 2, 2)), around)
    assert around.margin == 1


def test_a_layer_without_a_forward_pass_in_float64_is_refused():
    class Own(Layer):
        pass

    with pytest.raises(InputError, match="^layer 0: Own has no forward pass in float64$"):
        textbook.forward([Own()], np.zeros((1, 1, 2, 2)), textbook.Pass({}, 1))


# ---- what is right ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", everything())
def test_every_element_of_every_gradient_agrees(name):
    rows = gradcheck.check(network(name), samples=0, tolerance=1e-4)
    names = [row.name for row in rows]
    layers, _ = everything()[name]
    assert names[0] == "images" and len(names) == len(set(names))
    assert {f"input of {k} {type(layer).__name__}" for k, layer in enumerate(layers) if k} <= set(names)
    assert {p.name for p in network(name).model.parameters()} <= set(names)
    for row in rows:
        # float32 gradients: 8e-6 in the worst; between layers there are zeros that a ReLU or a dropout left, where the
        # slopes to the two sides differ
        assert row.error < 2e-5, row
        assert row.checked + row.unclear == math.prod(row.shape)
        assert row.unclear == 0 or row.name.startswith("input of"), row


@pytest.mark.parametrize("model", ["two-conv", "lenet5"])
def test_the_command_accepts_a_preset(model, capsys):
    code = cli.main(["check-gradients", "--model", model, "--image-shape", "1x14x14", "--samples", "3",
                     "--batch-size", "2", "--tolerance", "1e-4"])
    out = capsys.readouterr().out
    assert code == 0, out
    assert out.splitlines()[-1].startswith("All ")
    assert "\n0.weight " in out and "WRONG" not in out


def test_the_same_seed_says_the_same(capsys):
    layers, shape = everything()["plain"]
    told = []
    for _ in range(2):
        gradcheck.run(nn.Sequential(*layers), shape, CLASSES, 4, 1, 5, 1e-3)
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]


# ---- what is wrong ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name, change", [
    ("0.weight", lambda grad: grad * 1.001), ("0.bias", lambda grad: grad + 1e-3), ("4.weight", np.negative),
    ("4.bias", lambda grad: np.roll(grad, 1)), ("4.bias", lambda grad: grad * np.nan)])
def test_a_wrong_gradient_of_a_parameter_is_named(name, change, capsys, monkeypatch):
    layers, shape = everything()["plain"]
    model, right = nn.Sequential(*layers), nn.Sequential.backward

    def backward(self, doutput):
        result = right(self, doutput)
        for parameter in self.parameters():
            if self is model and parameter.name == name:
                parameter.grad[...] = change(parameter.grad)
        return result

    monkeypatch.setattr(nn.Sequential, "backward", backward)
    code, verdicts, last = run(model, shape, capsys)
    assert code == 1
    assert {row for row, verdict in verdicts.items() if verdict != "ok"} == {name}
    assert last == f"1 of {len(verdicts)} gradients are wrong by more than 0.0001, or unclear: {name}"


def test_a_layer_that_sends_nothing_back_is_named_and_those_after_it_are_not(capsys, monkeypatch):
    calls = MaxPool2d.calls

    def forgetful(self, wires):
        calls(self, wires)
        wires.backward.clear()

    monkeypatch.setattr(MaxPool2d, "calls", forgetful)
    layers, shape = everything()["plain"]
    code, verdicts, last = run(nn.Sequential(*layers), shape, capsys)
    wrong = "images", "0.weight", "0.bias", "input of 1 ReLU", "input of 2 MaxPool2d"
    assert code == 1
    assert [row for row, verdict in verdicts.items() if verdict != "ok"] == list(wrong)
    assert last.endswith(f": {', '.join(wrong)}")


# ---- what is compared ---------------------------------------------------------------------------------------
def test_chosen_elements_are_different_ones_and_the_largest_is_among_them():
    gradient = np.zeros((3, 4, 5))
    gradient[1, 2, 3] = -2
    for seed in range(20):
        places = gradcheck.chosen(gradient, 6, np.random.default_rng(seed)).tolist()
        assert [1, 2, 3] in places and len(set(map(tuple, places))) == 6
    for samples in 0, 60, 61:
        places = gradcheck.chosen(gradient, samples, np.random.default_rng(0)).tolist()
        assert places == [list(place) for place in np.ndindex(3, 4, 5)]


def test_the_error_is_relative_to_the_largest_slope_or_the_floor():
    gradient, places, slopes = np.array([1.0, 4.2]), np.array([[0], [1]]), np.array([[1.0, 1.0], [4.0, 4.0]])
    assert gradcheck.compare("a", gradient, places, slopes, 0.1, 1e-3).error == pytest.approx(0.05)
    assert gradcheck.compare("a", gradient, places, slopes, 8.0, 1e-3).error == pytest.approx(0.025)


def test_where_the_slopes_to_the_two_sides_differ_nothing_is_compared():
    gradient, places, slopes = np.array([1.0, 4.0]), np.array([[0], [1]]), np.array([[1.0, 1.0], [0.0, 8.0]])
    row = gradcheck.compare("a", gradient, places, slopes, 0.1, 1e-3)
    assert (row.checked, row.unclear, row.error) == (1, 1, 0)
    assert gradcheck.compare("a", gradient[1:], places[:1], slopes[1:], 0.1, 1e-3).error == math.inf


def test_a_shape_that_does_not_fit_is_one_sentence(capsys):
    assert cli.main(["check-gradients", "--model", "lenet5", "--image-shape", "1x4x4"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
