"""The gradient check: its float64 forward pass, what it accepts, and the wrong gradients that it must find."""
import math

import numpy as np
import pytest
import reference

import cnn_numba as nn
from cnn_numba.commands import check_gradients as command
from cnn_numba.commands import main as cli
from cnn_numba.inspection import gradients
from cnn_numba.inspection.textbook import Run, cross_entropy
from cnn_numba.layers import Layer, MaxPool2d, conv, every_layer

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
        "sizes": ([nn.ZeroPad2d((1, 0, 0, 1)), nn.ConvTranspose2d(2, 4, 3, 2, 1), nn.GroupNorm(2, 4), nn.SiLU(),
                   nn.Conv2d(4, 4, 3, 2), nn.Dropout2d(0.3), nn.Concat(nn.Tanh(), nn.GELU(), [nn.Identity()]),
                   nn.Upsample(scale_factor=2), nn.Softplus(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(144, 8),
                   nn.LayerNorm(8), nn.ELU(), nn.Linear(8, CLASSES)], (2, 4, 3)),
    }


def network(name="plain", batch=4, seed=3):
    layers, shape = everything()[name]
    model = nn.Sequential(*layers, seed=seed)
    gradients.move_biases(model, seed)
    images, labels, margin = gradients.draw_batch(model, shape, batch, seed)
    assert margin > gradients.MARGIN
    return gradients.Network(model, images, labels)


def check(model, shape, samples=10, tolerance=1e-4):
    """(report, {name: its line}, the last line) for a model."""
    report = gradients.check_gradients(model, shape, 4, 0, samples, tolerance)
    lines = "\n".join(map(str, command.lines(report))).splitlines()
    rows = [line.rsplit(maxsplit=5) for line in lines[2:lines.index("")]]
    return report, {row[0].strip(): row[-1] for row in rows}, lines[-1]


def forward(layer, x, parameters=None, batch=None, margin=None):
    """(output of a layer, margin) in NumPy."""
    run = Run(batch or len(x), margin=margin)
    return run.forward([layer], x, parameters or {}), run.margin


# ---- the float64 forward pass -------------------------------------------------------------------------------
def test_these_networks_have_every_layer_of_the_library():
    used = {type(layer) for layers, _ in everything().values() for layer in every_layer(layers)}
    assert used == {value for name in nn.layers.__all__ if isinstance(value := getattr(nn.layers, name), type)
                    and issubclass(value, nn.layers.Layer) and value is not nn.layers.Layer}


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
    y, _ = forward(layer, x, {"0.weight": weight, "0.bias": bias})
    # both in float64: the sums differ in their order only
    np.testing.assert_allclose(y, reference.conv2d(x, weight, bias, **arguments), rtol=1e-12, atol=1e-12)


def test_a_convolution_in_chunks_is_the_same(monkeypatch):
    layer, rng = nn.Conv2d(2, 3, 3), np.random.default_rng(0)
    x, parameters = rng.normal(size=(5, 2, 6, 6)), {"0.weight": rng.normal(size=(3, 2, 3, 3)), "0.bias": np.ones(3)}
    whole, _ = forward(layer, x, parameters)
    monkeypatch.setattr(conv, "CHUNK", 1)
    np.testing.assert_allclose(forward(layer, x, parameters)[0], whole, rtol=1e-12)


@pytest.mark.parametrize("arguments", [(2,), ((3, 2), 2, 1), (2, 3), (3, 1, (1, 0))])
def test_max_pooling_is_that_of_plain_loops(arguments):
    x = np.random.default_rng(0).normal(size=(3, 2, 9, 8))
    np.testing.assert_array_equal(forward(nn.MaxPool2d(*arguments), x)[0], reference.max_pool2d(x, *arguments))


def test_the_loss_of_several_batches_is_that_of_each():
    z, labels = np.random.default_rng(0).normal(0, 40, (6, 4)), np.array([3, 0, 1])
    np.testing.assert_allclose(cross_entropy(z, labels),
                               [float(nn.CrossEntropyLoss()(part, labels)) for part in (z[:3], z[3:])], rtol=1e-6)


def test_the_margin_is_the_closest_call_of_a_relu_or_a_maximum():
    x = np.array([[[[2.0, -1.0], [1.5, 3.0]]]])                 # root mean square: sqrt(16.25 / 4)
    for layer, distance in (nn.ReLU(), 1.0), (nn.MaxPool2d((1, 2)), 1.5), (nn.MaxPool2d(2), 1.0):
        assert forward(layer, x, margin=math.inf)[1] == pytest.approx(distance / math.sqrt(16.25 / 4))


def test_zeros_that_a_relu_left_are_no_close_call():
    run = Run(1, margin=math.inf)
    run.forward([nn.ReLU(), nn.MaxPool2d(2)], -np.ones((1, 1, 2, 2)), {})
    assert run.margin == 1


OWN = """
from cnn_numba.layers import Layer

class WithoutTextbook(Layer):
    def calls(self, wires):
        pass
"""


def test_a_layer_of_the_user_without_a_textbook_is_refused_by_name(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Layer, "known", dict(Layer.known))
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "net.json").write_text('[{"type": "WithoutTextbook"}, {"type": "Flatten"}, {"type": "fc"}]')
    code = cli.main(["check-gradients", "--extension", str(tmp_path / "own.py"),
                     "--model", str(tmp_path / "net.json")])
    assert code == 2
    assert capsys.readouterr().err == (
        "error: layer 0: WithoutTextbook has no textbook() method, which check-gradients needs\n")


# ---- what is right ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", everything())
def test_every_element_of_every_gradient_agrees(name):
    rows = gradients.compare_all(network(name), samples=0, tolerance=1e-4)
    names = [row.name for row in rows]
    layers, _ = everything()[name]
    assert names[0] == "images" and len(names) == len(set(names))
    assert {f"input of {k} {type(layer).__name__}" for k, layer in enumerate(layers) if k} <= set(names)
    assert {p.name for p in network(name).model.parameters()} <= set(names)
    for row in rows:
        # float32 gradients: 8e-6 in the worst; between layers there are zeros that a ReLU or a dropout left, where the
        # slopes to the two sides differ
        assert row.error < 2e-5, row
        assert row.compared + row.unclear == math.prod(row.shape)
        assert row.unclear == 0 or row.name.startswith("input of"), row


@pytest.mark.parametrize("model", ["two-conv", "lenet5"])
def test_the_command_accepts_a_preset(model, capsys):
    code = cli.main(["check-gradients", "--model", model, "--image-shape", "1x14x14", "--samples", "3",
                     "--batch-size", "2", "--tolerance", "1e-4"])
    out = capsys.readouterr().out
    assert code == 0, out
    assert out.splitlines()[-1].startswith("All ")
    assert "\n0.weight " in out and "WRONG" not in out


def test_the_same_seed_gives_the_same_report():
    layers, shape = everything()["plain"]
    first, second = (gradients.check_gradients(nn.Sequential(*layers), shape, seed=1) for _ in range(2))
    assert first == second


def test_the_library_prints_nothing_and_leaves_the_model_as_it_was(capsys):
    layers, shape = everything()["batch norms"]
    model = nn.Sequential(*layers, seed=2)
    model(np.random.default_rng(0).normal(size=(3, *shape)))
    before = {name: value.copy() for name, value in model.state_dict().items()}
    first = gradients.check_gradients(model, shape)
    assert not first.wrong
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    assert gradients.check_gradients(model, shape) == first
    assert capsys.readouterr() == ("", "")


# ---- what is wrong ------------------------------------------------------------------------------------------
def test_a_wrong_gradient_gives_exit_code_1(capsys, monkeypatch):
    right = nn.Sequential.backward
    monkeypatch.setattr(nn.Sequential, "backward", lambda model, doutput: 1.01 * right(model, doutput))
    assert cli.main(["check-gradients", "--image-shape", "1x14x14", "--samples", "3", "--batch-size", "2"]) == 1
    assert "WRONG" in capsys.readouterr().out


@pytest.mark.parametrize("name, change", [
    ("0.weight", lambda grad: grad * 1.001), ("0.bias", lambda grad: grad + 1e-3), ("4.weight", np.negative),
    ("4.bias", lambda grad: np.roll(grad, 1)), ("4.bias", lambda grad: grad * np.nan)])
def test_a_wrong_gradient_of_a_parameter_is_named(name, change, monkeypatch):
    layers, shape = everything()["plain"]
    model, right = nn.Sequential(*layers), nn.Sequential.backward

    def backward(self, doutput):
        result = right(self, doutput)
        for parameter in self.parameters():
            if len(self.layers) == len(layers) and parameter.name == name:
                parameter.grad[...] = change(parameter.grad)
        return result

    monkeypatch.setattr(nn.Sequential, "backward", backward)
    report, verdicts, last = check(model, shape)
    assert [wrong.name for wrong in report.wrong] == [name]
    assert {row for row, verdict in verdicts.items() if verdict != "ok"} == {name}
    assert last == f"1 of {len(verdicts)} gradients are wrong by more than 0.0001, or unclear: {name}"


def test_a_layer_that_sends_nothing_back_is_named_and_those_after_it_are_not(monkeypatch):
    calls = MaxPool2d.calls

    def forgetful(self, wires):
        calls(self, wires)
        wires.backward.clear()

    monkeypatch.setattr(MaxPool2d, "calls", forgetful)
    layers, shape = everything()["plain"]
    report, verdicts, last = check(nn.Sequential(*layers), shape)
    wrong = "images", "0.weight", "0.bias", "input of 1 ReLU", "input of 2 MaxPool2d"
    assert [check.name for check in report.wrong] == list(wrong)
    assert [row for row, verdict in verdicts.items() if verdict != "ok"] == list(wrong)
    assert last.endswith(f": {', '.join(wrong)}")


# ---- what is compared ---------------------------------------------------------------------------------------
def test_chosen_elements_are_different_ones_and_the_largest_is_among_them():
    gradient = np.zeros((3, 4, 5))
    gradient[1, 2, 3] = -2
    for seed in range(20):
        elements = gradients.chosen_elements(gradient, 6, np.random.default_rng(seed)).tolist()
        assert [1, 2, 3] in elements and len(set(map(tuple, elements))) == 6
    for samples in 0, 60, 61:
        elements = gradients.chosen_elements(gradient, samples, np.random.default_rng(0)).tolist()
        assert elements == [list(element) for element in np.ndindex(3, 4, 5)]


def test_the_error_is_relative_to_the_largest_slope_or_the_floor():
    gradient, elements, slopes = np.array([1.0, 4.2]), np.array([[0], [1]]), np.array([[1.0, 1.0], [4.0, 4.0]])
    assert gradients.compare("a", gradient, elements, slopes, 0.1, 1e-3).error == pytest.approx(0.05)
    assert gradients.compare("a", gradient, elements, slopes, 8.0, 1e-3).error == pytest.approx(0.025)


def test_where_the_slopes_to_the_two_sides_differ_nothing_is_compared():
    gradient, elements, slopes = np.array([1.0, 4.0]), np.array([[0], [1]]), np.array([[1.0, 1.0], [0.0, 8.0]])
    row = gradients.compare("a", gradient, elements, slopes, 0.1, 1e-3)
    assert (row.compared, row.unclear, row.error) == (1, 1, 0)
    assert gradients.compare("a", gradient[1:], elements[:1], slopes[1:], 0.1, 1e-3).error == math.inf


def test_a_shape_that_does_not_fit_is_one_sentence(capsys):
    assert cli.main(["check-gradients", "--model", "lenet5", "--image-shape", "1x4x4"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
