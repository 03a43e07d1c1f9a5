"""What holds for every layer, optimizer and loss: tests over the table in `examples`."""
import copy
import functools
import inspect
import json
import pickle
import re

import examples
import numpy as np
import pytest
from both_ways import every_layer
from comparing import NETWORK, rejected, same
from networks import batch_norm_1d, conv, flatten, make, relu, residual, tanh

import cnn_numba as nn
from cnn_numba import Sequential, load, set_execution
from cnn_numba.files.layers_json import build_layers, describe_layers
from cnn_numba.files.network_json import OTHER_PARAMETERS, build_written
from cnn_numba.inspection.gradients import check_gradients, first_run, float64_parameters
from cnn_numba.kernels.compiled import JIT
from cnn_numba.kernels.driver import max_threads
from cnn_numba.layers import Layer
from cnn_numba.losses import ClassLoss
from cnn_numba.optim import Optimizer

every_example = pytest.mark.parametrize("example", examples.LAYERS, ids=str)
# Those that other layers may follow
every_inner_example = pytest.mark.parametrize(
    "example", [example for example in examples.LAYERS if not example.arguments.get("return_indices")], ids=str)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def outputs(model, x):
    """The output, without the indices of a pooling layer."""
    y = model(x)
    return np.array(y[0] if isinstance(y, tuple) else y)


def moved(model):
    """The model with parameters that are numbers like others, no zeros and ones."""
    for k, p in enumerate(model.parameters()):
        if p.value.ndim == 1:
            p.value += 0.3 * normal(*p.value.shape, seed=k)
    return model


def network(example, seed=1):
    """The layer, whose outputs are the logits of as many classes."""
    return moved(Sequential(*make([example.layer, *[flatten][:len(example.output_shape) == 3]]), seed=seed))


def check(example):
    return check_gradients(network(example), example.shape, samples=8, tolerance=1e-4)


# ---- the table ----------------------------------------------------------------------------------------------------
EXAMPLES_OF = {Layer: {example.layer[0] for example in examples.LAYERS},
               Optimizer: {name for name, _ in examples.OPTIMIZERS}, ClassLoss: {name for name, _ in examples.LOSSES}}


@pytest.mark.parametrize("base", EXAMPLES_OF)
def test_the_table_has_an_example_of_everything(base):
    missing = examples.of_the_library(base).keys() - EXAMPLES_OF[base]
    assert not missing, f"tests/examples.py has no example of {', '.join(sorted(missing))}: add one"


def test_what_has_no_example_is_named(monkeypatch):
    monkeypatch.setitem(Layer.known, "Mish", type("Mish", (), {"__module__": "cnn_numba.layers.mish"}))
    with pytest.raises(AssertionError, match="tests/examples.py has no example of Mish: add one"):
        test_the_table_has_an_example_of_everything(Layer)


def test_the_table_has_an_example_of_every_argument():
    """With another value than the default."""
    for name, kind in examples.of_the_library(Layer).items():
        given = [example.arguments for example in examples.LAYERS if example.layer[0] == name]
        for argument, parameter in inspect.signature(kind).parameters.items():
            assert any(argument in arguments and arguments[argument] != parameter.default for arguments in given), (
                f"tests/examples.py has no example of {name} with another {argument} than {parameter.default}")


# ---- numbers ------------------------------------------------------------------------------------------------------
@every_example
def test_the_kernels_compute_what_the_textbook_does(example):
    model, x = moved(Sequential(*make([example.layer]))), normal(17, *example.shape)
    run = first_run(model, x.shape)
    want = run.forward(model.layers, x.astype(np.float64), float64_parameters(model))
    y, tolerance = outputs(model, x), NETWORK * np.abs(want).max()
    assert y.shape[1:] == example.output_shape
    same(y, want, str(example), tolerance)
    rejected(y, 1.001 * want, tolerance)


@every_inner_example
def test_gradients_are_central_differences(example, monkeypatch):
    report = check(example)
    assert not report.wrong, report.wrong
    calls = example.kind.calls

    def forgetful(self, wires):
        calls(self, wires)
        forgotten.extend(wires.backward + wires.gradients)
        wires.backward.clear()
        wires.gradients.clear()

    forgotten = []
    monkeypatch.setattr(example.kind, "calls", forgetful)
    assert bool(check(example).wrong) == bool(forgotten), "a layer that sends nothing back does not pass"


def neighbours(example):
    """Layers before and after the example: that apply a ReLU or its gradient for a neighbour, or need a border."""
    sums = residual([tanh])

    def convolution(shape):                     # for two widths only: kernels are compiled for each
        if len(shape) == 1:
            return batch_norm_1d(*shape)
        return conv(shape[0], shape[0], 3, padding=1, groups=shape[0]) if shape[2] in (5, 6) else sums

    before, after = convolution(example.shape), convolution(example.output_shape)
    return [([sums, relu], [relu, after]), ([before], [sums]), ([relu], [relu, relu])]


@every_inner_example
def test_between_others_a_layer_is_what_it_is_alone(example):
    """To the bit, whoever applies a ReLU and its gradient."""
    alive = False
    for before, after in neighbours(example):
        model = moved(Sequential(*make([*before, example.layer, *after]), seed=2)).train(not example.random)
        model.bind()
        parts = [Sequential(copy.deepcopy(layer)).train(model.training) for layer in model.layers]
        y = x = normal(18, *example.shape, seed=3)
        for part in parts:
            y = np.array(part(y))
        assert np.array_equal(outputs(model, x), y)
        dx = dy = normal(*y.shape, seed=4)
        for part in reversed(parts):
            dx = part.backward(dx)
        assert np.array_equal(model.backward(dy), dx)
        grads = {f"{k}{name[1:]}": p.grad for k, part in enumerate(parts) for name, p in part.named_parameters()}
        assert all(np.array_equal(p.grad, grads[p.name]) for p in model.parameters())
        alive = alive or dx.any()
    assert alive, "all gradients are 0: this test tells nothing"


# ---- ways to run --------------------------------------------------------------------------------------------------
def bits(model, x):
    """All that a step of training leaves behind."""
    logits = model(x)
    loss = nn.CrossEntropyLoss()(logits, np.arange(len(x)) % logits.shape[1])
    loss.backward()
    arrays = [np.float64(loss), model.backward(loss.dlogits), model.grads, *model.state_dict().values()]
    return [a.tobytes() for a in arrays]


@pytest.mark.skipif(not JIT, reason="interpreted, there is one way to run")
@every_inner_example
def test_serial_and_parallel_give_the_same_bits(example):
    """Three blocks, the last one with lanes that hold no image."""
    x = normal(40, *example.shape)
    set_execution("serial")
    want = bits(network(example), x)
    assert bits(network(example), x + 1) != want, "other images do not pass"
    for threads in {1, max_threads()}:
        set_execution("parallel", threads)
        assert bits(network(example), x) == want, threads


def test_every_number_of_a_training_depends_on_the_seed():
    """So that the bits compared below are bits that could differ."""
    first, other = usual_state(), state_of(examples.everything(seed=4))
    assert first.keys() == other.keys()
    alike = [name for name in first if first[name] == other[name] and name.startswith(("model", "history", "best"))]
    assert alike and all(name.endswith("num_batches_tracked") for name in alike)


def state_of(trainer):
    """The bits of all that a training leaves behind, but for the time that it took."""
    trainer.fit(examples.EPOCHS)
    state = trainer.state()
    del state["seconds"]
    for result in state["history"]:
        del result["seconds"]
    return {name: value.tobytes() if isinstance(value, np.ndarray) else repr(value) for name, value in state.items()}


@functools.cache
def usual_state():
    return state_of(examples.everything())


@pytest.mark.skipif(not JIT, reason="interpreted, there is one way to run")
def test_serial_and_parallel_train_the_same_bits():
    """Three batches of three blocks, the last block of the last one with lanes that hold no image."""
    set_execution("serial")
    want = state_of(examples.everything(images=150, batch_size=48))
    for threads in {1, max_threads()}:
        set_execution("parallel", threads)
        assert state_of(examples.everything(images=150, batch_size=48)) == want, threads


def test_interpreted_trains_the_same_network(interpreted):
    """Four steps.  Interpreted sums may round at other places than fused ones; measured: the same bits."""
    start, want = examples.everything().model.state_dict(), interpreted("every_layer")
    got = every_layer()
    np.testing.assert_allclose(got.pop("losses"), want["losses"], rtol=1e-5)
    for name, value in got.items():
        change = np.abs(value - start[name]).max()
        assert np.abs(value - want[name]).max() < 1e-5 * change, name


def test_a_training_goes_on_from_a_checkpoint_to_the_same_bits(tmp_path):
    begun, again = examples.everything(), examples.everything(init=8)
    begun.fit(1, nn.Checkpoint(tmp_path))
    nn.Checkpoint(tmp_path).resume(again)
    assert state_of(again) == usual_state()


# ---- files, text and documentation --------------------------------------------------------------------------------
@every_example
def test_saved_and_loaded_and_copied_it_is_the_same(example, tmp_path):
    model, x = moved(Sequential(*make([example.layer]), seed=3)), normal(18, *example.shape)
    outputs(model, x)                                               # collects statistics
    model.save(tmp_path / "model.npz")
    want, state = outputs(model.eval(), x), model.state_dict()
    for other in load(tmp_path / "model.npz"), copy.deepcopy(model), pickle.loads(pickle.dumps(model)):
        assert repr(other) == repr(model) and not other.training
        assert {name: value.tobytes() for name, value in other.state_dict().items()} == {
            name: value.tobytes() for name, value in state.items()}
        assert np.array_equal(outputs(other, x), want)
    layer, = model.layers
    shapes = layer.parameter_shapes() | layer.statistic_shapes()
    assert {name: value.shape for name, value in state.items()} == {f"0.{name}": s for name, s in shapes.items()}


def written(layer, name=None, spelled=None):
    """A layer in JSON, as people write it; spelled : {argument: what it is called}"""
    def value(v):
        return [written(inner) for inner in v] if isinstance(v, list) else v

    kind, args, options = layer
    given = inspect.signature(getattr(nn, kind)).bind(*args, **options).arguments
    return {"type": name or kind, "params": {(spelled or {}).get(k, k): value(v) for k, v in given.items()}}


@every_example
def test_json_gives_the_same_layer(example):
    layers = make([example.layer])
    description = json.loads(json.dumps(describe_layers(layers)))
    again = build_layers(description)
    assert repr(again) == repr(layers) and describe_layers(again) == description
    assert {"type": example.layer[0], "params": description[0]["params"]} == description[0]
    given = json.loads(json.dumps(written(example.layer)))
    assert repr(build_layers([given])) == repr(layers)
    assert describe_layers(build_layers([given])) == description


@every_example
def test_every_spelling_gives_the_same_layer(example):
    name, arguments = example.layer[0], example.arguments
    names = [name, name.lower(), re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower(), *example.kind.aliases]
    spellings = [{}] + [{argument: other} for argument in arguments
                        for other in OTHER_PARAMETERS.get(argument, "").split()]
    wanted = describe_layers(make([example.layer]))[0]

    def read(entry):
        rest = [{"type": "relu"}] if len(example.output_shape) == 3 else []
        layers = build_written(json.loads(json.dumps([entry, *rest, {"type": "linear"}])), example.shape, 5)
        return describe_layers([layer for layer in layers if type(layer) is example.kind])[0]

    for spelled in names:
        assert read(written(example.layer, spelled)) == wanted, spelled
    for others in spellings:
        assert read(written(example.layer, spelled=others)) == wanted, others
    entry = written(example.layer)
    for size in "in_channels", "in_features", "num_features":
        entry["params"].pop(size, None)
    assert read(entry) == wanted, "sizes follow from the layer before"


@pytest.mark.parametrize("kind", examples.of_the_library(Layer).values(), ids=lambda kind: kind.__name__)
def test_every_layer_is_documented(kind):
    """Its arguments, in a section of their own; its shapes, in another one or in the sentences; and its errors."""
    text = "\n".join(inspect.cleandoc(base.__doc__) for base in kind.__mro__
                     if base not in (Layer, object) and base.__doc__)
    sections = dict(re.findall(r"^(\w+)\n-+\n((?:(?!^\w+\n-+$).*\n?)*)", text, re.MULTILINE))
    documented = re.findall(r"^([\w, ]+?) : ", sections.get("Parameters", ""), re.MULTILINE)
    documented = {name for names in documented for name in names.split(", ")}
    assert set(kind.arguments()) <= documented, f"{kind.__name__}: arguments without a line under Parameters"
    shapes = sections.get("Shapes", text)
    assert "->" in shapes or "any shape" in shapes or "same shape" in shapes, f"{kind.__name__}: no word about shapes"
    if kind.arguments():
        assert "Raises InputError" in text
