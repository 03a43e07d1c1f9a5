"""Models, losses and optimizers as a user sees them: names, initial weights, state, errors, and calls in any order."""
import copy
import gc
import math
import pickle
import weakref

import numpy as np
import pytest
import reference
from networks import build, conv, flatten, linear, pool, relu, whole

import cnn_numba
from cnn_numba import (
    SGD,
    BatchNorm1d,
    Conv2d,
    CrossEntropyLoss,
    Flatten,
    InputError,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
    set_execution,
)
from cnn_numba.kernels.driver import execution, max_threads

SHAPE = (2, 6, 5)


def small(seed=0):
    """Images (N, 2, 6, 5) -> 3 logits."""
    return Sequential(Conv2d(2, 4, 3, padding=1), ReLU(), MaxPool2d(2), Flatten(), Linear(24, 3), seed=seed)


def images(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, *SHAPE)).astype(np.float32)


def sentence(error):
    """The message, which must be one line of text, and not the end of a traceback."""
    text = str(error.value)
    assert isinstance(error.value, ValueError)
    assert text and "\n" not in text and not text.endswith("."), text
    return text


# ---- parameters and state -----------------------------------------------------------------------------------
def test_parameters_have_pytorchs_names_and_shapes():
    model = Sequential(Conv2d(4, 6, (2, 3), groups=2, bias=False), ReLU(), Flatten(), Linear(72, 5))
    found = {p.name: p.value.shape for p in model.parameters()}
    assert found == {"0.weight": (6, 2, 2, 3), "3.weight": (5, 72), "3.bias": (5,)}
    assert all(p.value.dtype == p.grad.dtype == np.float32 and p.grad.shape == p.value.shape
               for p in model.parameters())


def test_weights_start_xavier_uniform_and_biases_zero():
    model = Sequential(Conv2d(16, 64, (3, 5), groups=2), Linear(300, 200), seed=4)
    for p in model.parameters():
        if p.value.ndim == 1:
            assert not p.value.any()
            continue
        window = math.prod(p.value.shape[2:])
        bound = math.sqrt(6 / ((p.value.shape[0] + p.value.shape[1]) * window))
        assert 0.99 * bound < np.abs(p.value).max() <= np.float32(bound)
        deviation = bound / math.sqrt(3)
        assert abs(p.value.mean()) < 5 * deviation / math.sqrt(p.value.size)
        assert abs(p.value.std() / deviation - 1) < 5 / math.sqrt(p.value.size)


def test_the_seed_decides_the_weights():
    one, same, other = (small(seed).state_dict() for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not any(np.array_equal(one[name], other[name]) for name in one if name.endswith("weight"))
    equals = Sequential(Linear(8, 8), Linear(8, 8), seed=1).state_dict()
    assert not np.array_equal(equals["0.weight"], equals["1.weight"])


def test_state_dict_round_trip():
    model, other = small(1), small(2)
    x = images(3)
    want = np.array(model(x))
    state = model.state_dict()
    other.load_state_dict(state)
    assert np.array_equal(other(x), want)
    state["0.weight"][...] = 0                                  # copies: neither model notices
    assert np.array_equal(other(x), want) and np.array_equal(model(x), want)


@pytest.mark.parametrize("change, what", (
    ({"9.weight": np.zeros(3)}, "'9.weight' is not a parameter"),
    ({"4.bias": None}, "'4.bias' is missing"),
    ({"4.bias": np.zeros(4)}, r"'4.bias' has shape \(4,\), expected \(3,\)"),
    ({"4.weight": np.zeros((24, 3))}, r"'4.weight' has shape \(24, 3\), expected \(3, 24\)"),
))
def test_load_state_dict_takes_all_or_nothing(change, what):
    model = small(1)
    before = model.state_dict()
    wrong = {name: value for name, value in (small(2).state_dict() | change).items() if value is not None}
    with pytest.raises(InputError, match=what) as error:
        model.load_state_dict(wrong)
    sentence(error)
    assert all(np.array_equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("clone", (copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))))
def test_a_copy_trains_on_its_own(clone):
    model = small(1)
    other = clone(model)
    before = model.state_dict()
    CrossEntropyLoss()(other(images(3)), [0, 1, 2]).backward()
    SGD(other, lr=0.1).step()
    after = other.state_dict()
    assert all(np.array_equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(np.array_equal(before[name], after[name]) for name in before)


# ---- what a user gets wrong ---------------------------------------------------------------------------------
@pytest.mark.parametrize("make, what", (
    (lambda: Conv2d(0, 1, 3), "in_channels"),
    (lambda: Conv2d(1, -2, 3), "out_channels"),
    (lambda: Conv2d(1.0, 1, 3), "in_channels"),
    (lambda: Conv2d(True, 1, 3), "in_channels"),
    (lambda: Conv2d(1, 1, 0), "kernel_size"),
    (lambda: Conv2d(1, 1, (3, "3")), "kernel_size"),
    (lambda: Conv2d(1, 1, (1, 2, 3)), "kernel_size"),
    (lambda: Conv2d(1, 1, 3, stride=0), "stride"),
    (lambda: Conv2d(1, 1, 3, padding=-1), "padding"),
    (lambda: Conv2d(1, 1, 3, padding=None), "padding"),
    (lambda: Conv2d(1, 1, 3, padding="full"), "padding.*'full'"),
    (lambda: Conv2d(1, 1, 3, padding="same", stride=2), "'same'.*stride 1"),
    (lambda: Conv2d(1, 1, 3, dilation=0), "dilation"),
    (lambda: Conv2d(1, 1, 3, groups=0), "groups"),
    (lambda: Conv2d(3, 4, 3, groups=2), "groups=2.*in_channels=3"),
    (lambda: Conv2d(4, 3, 3, groups=2), "groups=2.*out_channels=3"),
    (lambda: MaxPool2d(0), "kernel_size"),
    (lambda: MaxPool2d(2, stride=0), "stride"),
    (lambda: MaxPool2d(2, stride=(1, 2, 3)), "stride"),
    (lambda: MaxPool2d(2, padding=-1), "padding"),
    (lambda: MaxPool2d(3, padding=2), "padding.*half"),
    (lambda: Linear(0, 3), "in_features"),
    (lambda: Linear(3, 0), "out_features"),
    (lambda: Sequential(), "at least one layer"),
    (lambda: Sequential(ReLU(), [ReLU()]), "argument 1 must be a layer, got list"),
    (lambda: Sequential(ReLU), "argument 0 must be a layer"),
    (lambda: Sequential(*[Linear(3, 3)] * 2), "occurs twice"),
    (lambda: SGD(small(), lr=-0.1), "lr"),
    (lambda: SGD(small(), lr="0.1"), "lr"),
    (lambda: SGD(small(), lr=math.nan), "lr"),
    (lambda: SGD(small(), lr=0.1, momentum=-1), "momentum"),
    (lambda: SGD(small(), lr=0.1, weight_decay=math.inf), "weight_decay"),
    (lambda: set_execution("fast"), "'fast'"),
    (lambda: set_execution("parallel", threads=0), "threads"),
    (lambda: set_execution("parallel", threads=max_threads() + 1), "threads"),
    (lambda: set_execution("parallel", threads=1.5), "threads"),
))
def test_bad_arguments(make, what):
    in_force = execution()
    with pytest.raises(InputError, match=what) as error:
        make()
    sentence(error)
    assert execution() == in_force


@pytest.mark.parametrize("layers, shape, what", (
    ([Conv2d(3, 4, 3)], (1, 8, 8), "layer 0: Conv2d expects 3 channels, got 1"),
    ([ReLU(), Conv2d(1, 4, 3), Conv2d(3, 4, 3)], (1, 8, 8), "layer 2: Conv2d expects 3 channels, got 4"),
    ([Conv2d(1, 4, 5)], (1, 8, 4), "layer 0: Conv2d with a 5x5 window does not fit on an image of 8x4"),
    ([Conv2d(1, 4, 3, dilation=4)], (1, 8, 8), "layer 0: Conv2d with a 9x9 window"),
    ([Conv2d(1, 4, 3), MaxPool2d(7)], (1, 8, 8), "layer 1: MaxPool2d with a 7x7 window"),
    ([Flatten(), Conv2d(1, 4, 3)], (1, 8, 8), "layer 1: Conv2d expects images"),
    ([Flatten(), MaxPool2d(2)], (1, 8, 8), "layer 1: MaxPool2d expects images"),
    ([Flatten(), Linear(63, 2)], (1, 8, 8), "layer 1: Linear expects 63 features, got 64"),
    ([Linear(64, 2)], (1, 8, 8), r"layer 0: Linear expects 64 features.*put Flatten\(\) before it"),
))
def test_layers_that_cannot_meet(layers, shape, what):
    with pytest.raises(InputError, match=what) as error:
        Sequential(*layers)(np.zeros((2, *shape)))
    sentence(error)


@pytest.mark.parametrize("x, what", (
    (np.zeros((0, *SHAPE)), r"\(0, 2, 6, 5\)"),
    (np.zeros(SHAPE), r"\(2, 6, 5\)"),
    (None, "NoneType"),
    (np.full((1, *SHAPE), np.nan), "NaN"),
    (np.full((1, *SHAPE), -np.inf), "infinity"),
    (np.zeros((3, 1, 6, 5)), "layer 0: Conv2d expects 2 channels"),
    (np.zeros((3, 2, 6, 7)), "layer 4: Linear expects 24 features"),
    (np.zeros((3, 60)), "layer 0: Conv2d expects images"),
))
def test_bad_images(x, what):
    model = small()
    with pytest.raises(InputError, match=what) as error:
        model(x)
    sentence(error)
    assert model(images(3)).shape == (3, 3)                     # and it still works


@pytest.mark.parametrize("labels, what", (
    ([0, 1, 3], "3 is out of range, expected 0 to 2"),
    ([0, -1, 2], "-1 is out of range"),
    ([0, 1], r"expected 3 whole numbers.*\(2,\)"),
    ([[0], [1], [2]], r"\(3, 1\)"),
    ([0.0, 1.0, 2.0], "float64"),
))
def test_bad_labels(labels, what):
    with pytest.raises(InputError, match=what) as error:
        CrossEntropyLoss()(small()(images(3)), labels)
    sentence(error)


@pytest.mark.parametrize("logits", (np.zeros(3), np.zeros((0, 3)), np.zeros((1, 3, 1, 1))))
def test_bad_logits(logits):
    with pytest.raises(InputError, match="logits") as error:
        CrossEntropyLoss()(logits, [0])
    sentence(error)


# ---- forward, backward, update ------------------------------------------------------------------------------
def test_output_and_loss_are_plain_numbers():
    model = small()
    logits = model(images(5))
    assert isinstance(logits, np.ndarray) and logits.dtype == np.float32 and logits.shape == (5, 3)
    labels = np.array([0, 1, 2, 1, 0], np.uint8)
    loss = CrossEntropyLoss()(logits, labels)
    assert isinstance(loss, float) and loss.item() == float(loss) and type(loss.item()) is float
    want, gradient = reference.cross_entropy(logits, labels)
    assert loss == pytest.approx(want, rel=1e-6)
    assert CrossEntropyLoss()(logits.tolist(), labels.tolist()) == loss
    loss.backward()
    by_loss = [p.grad.copy() for p in model.parameters()]
    model.zero_grad()
    model.backward(loss.dlogits)
    assert all(np.array_equal(p.grad, grad) for p, grad in zip(model.parameters(), by_loss, strict=True))
    np.testing.assert_allclose(loss.dlogits, gradient, rtol=0, atol=1e-7)


def test_gradients_add_up_until_zero_grad():
    model = small()
    optimizer = SGD(model, lr=0.1)
    CrossEntropyLoss()(model(images(3)), [0, 1, 2]).backward()
    grads = model.grads.copy()
    assert grads.any()
    CrossEntropyLoss()(model(images(3)), [0, 1, 2]).backward()
    assert np.array_equal(model.grads, 2 * grads)
    optimizer.zero_grad()
    assert not any(p.grad.any() for p in model.parameters())


def test_backward_before_forward():
    with pytest.raises(InputError, match="forward pass first") as error:
        small().backward(np.zeros((3, 3)))
    sentence(error)


def test_backward_of_another_shape():
    model = small()
    model(images(3))
    for shape in ((3, 4), (2, 3), (16, 3), (3,)):
        with pytest.raises(InputError, match=r"expected a gradient of shape \(3, 3\)"):
            model.backward(np.zeros(shape))


@pytest.mark.parametrize("derive", (
    lambda z: z + 0, lambda z: z[:], lambda z: z[::-1], lambda z: z.copy(), np.asarray, lambda z: z.tolist(),
))
def test_loss_of_a_derived_array_has_no_backward(derive):
    loss = CrossEntropyLoss()(derive(small()(images(3))), [0, 1, 2])
    with pytest.raises(InputError, match="the array that model.images. returned, not of one computed from it"):
        loss.backward()


def test_the_output_cannot_change_behind_the_back_of_its_gradient():
    logits = small()(images(3))
    with pytest.raises(ValueError, match="read-only"):
        logits *= 2


def test_the_backward_pass_of_an_earlier_forward_pass():
    """The model has run on other images since, in the same buffers."""
    model, other = small(), small()
    loss = CrossEntropyLoss()(model(images(3)), [0, 1, 2])
    model(images(3, seed=1))
    with pytest.raises(InputError):
        model(np.zeros((3, 1, 6, 5)))
    loss.backward()
    CrossEntropyLoss()(other(images(3)), [0, 1, 2]).backward()
    assert np.array_equal(model.grads, other.grads) and model.grads.any()
    with pytest.raises(InputError, match="used by an earlier backward") as error:
        loss.backward()
    sentence(error)


def test_models_and_their_buffers_need_no_collection():
    """Neither a model, nor one whose output it took, is part of a cycle of references."""
    gc.collect()
    gc.disable()
    try:
        first, second = small(), Sequential(Linear(3, 3))
        CrossEntropyLoss()(second(first(images(3))), [0, 1, 2]).backward()
        second(first(images(3)))
        left = [weakref.ref(model) for model in (first, second)]
        del first, second
        assert [model() for model in left] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("sizes", ((16, 3, 16), (3, 17, 3, 1), (1, 17, 33, 49, 65, 17, 1)))
def test_batch_sizes_change_between_calls(sizes):
    """More sizes than plans are kept, and short batches in the buffers of long ones: as if each were the first."""
    model = small()
    for k, n in enumerate(sizes):
        model.zero_grad()
        dy = whole(np.random.default_rng(k), (n, 3))
        y, dx = model(images(n, k)), model.backward(dy)
        fresh = small()
        assert np.array_equal(y, fresh(images(n, k))) and np.array_equal(dx, fresh.backward(dy))
        assert np.array_equal(model.grads, fresh.grads)


def test_image_sizes_change_between_calls():
    layers = [conv(2, 3, 3, padding=1), relu, pool(2)]
    rng = np.random.default_rng(0)
    model = build(layers, rng)
    network = reference.Network(layers, model.state_dict())
    for shape in ((2, 4, 6), (2, 9, 5), (2, 4, 6)):
        x = whole(rng, (3, *shape))
        assert np.array_equal(model(x), network.forward(x))


def test_any_kind_of_numbers_in_any_order_of_memory():
    model = small()
    x = np.arange(3 * 60).reshape(3, *SHAPE) % 7
    want = np.array(model(x.astype(np.float32)))
    for other in (x, x.astype(np.uint8), x.astype(np.float64), np.asfortranarray(x), x.tolist(),
                  np.repeat(x, 2, axis=3)[..., ::2]):
        assert np.array_equal(model(other), want)


def test_results_are_the_users_own():
    """No later call writes into what an earlier one returned, and no call into the images."""
    model = small()
    x = images(3)
    x.setflags(write=False)
    y, dx = model(x), model.backward(np.ones((3, 3)))
    kept = y.copy(), dx.copy()
    model(images(3, 1))
    model.backward(np.zeros((3, 3)))
    assert np.array_equal(y, kept[0]) and np.array_equal(dx, kept[1])


def test_optimizer_settings_can_change():
    model = small()
    optimizer = SGD(model, lr=0.5)
    model.grads[:] = 1
    before = model.state_dict()
    optimizer.lr = 0.25
    optimizer.step()
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(value, before[name] - np.float32(0.25), rtol=0, atol=2**-23)
    with pytest.raises(InputError, match="lr"):
        optimizer.lr = -1
    assert optimizer.lr == 0.25


def test_a_network_without_parameters():
    model = Sequential(ReLU(), Flatten())
    x = images(3)
    assert np.array_equal(model(x), np.maximum(x, 0).reshape(3, -1))
    model.backward(np.ones((3, 60)))
    SGD(model, lr=0.1).step()
    assert model.state_dict() == {} and model.parameters() == []


def test_set_execution_serial_and_parallel_give_the_same_bits():
    results = []
    for arguments in (("serial",), ("parallel", 1), ("parallel",)):
        set_execution(*arguments)
        model = small()
        results.append((np.array(model(images(40))), model.backward(np.ones((40, 3))), model.grads.copy()))
    for result in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_text():
    model = small()
    assert repr(model).count("\n") == len(model) + 1 and "(4): Linear(" in repr(model)
    assert model.summary(SHAPE) == "2x6x5 -> 4x6x5 -> 4x3x2 -> 24 features -> 3 features, 151 parameters"
    assert {"Conv2d", "SGD", "Trainer", "functional"} <= set(dir(cnn_numba))
    assert cnn_numba.functional.max_pool2d(np.ones((1, 1, 2, 2)), 2).shape == (1, 1, 1, 1)
    assert all(hasattr(cnn_numba, name) for name in cnn_numba.__all__)
    assert linear(3, 2)[0] == "Linear" and flatten[0] == "Flatten"


@pytest.mark.parametrize("seed", (-1, 2**63, 1.5, "0"))
def test_seeds_that_cannot_be(seed):
    with pytest.raises(InputError, match="seed must be"):
        Sequential(Linear(2, 2), seed=seed)
    Sequential(Linear(2, 2), seed=2**63 - 1)(np.ones((1, 2)))


def test_layers_that_are_added_make_the_same_model():
    layers = [Conv2d(1, 3, 3), ReLU(), Flatten(), Linear(12, 5)]
    model = Sequential(layers[0], seed=4, init="kaiming_normal")
    model(np.ones((1, 1, 4, 4)))
    for layer in layers[1:]:
        assert model.add(layer) is model
    fresh = [Conv2d(1, 3, 3), ReLU(), Flatten(), Linear(12, 5)]
    want = Sequential(*copy.deepcopy(fresh), seed=4, init="kaiming_normal")
    assert repr(model) == repr(want) and len(model) == 4
    assert model.values.tobytes() == want.values.tobytes() != Sequential(*fresh, seed=4).values.tobytes()
    x = np.random.default_rng(0).normal(size=(3, 1, 4, 4))
    assert np.array_equal(model(x), want(x))
    with pytest.raises(InputError, match="occurs twice"):
        model.add(layers[1])
    with pytest.raises(InputError, match="must be a layer"):
        model.add(3)
    assert len(model) == 4 and np.array_equal(model(x), want(x)), "a refused layer changes nothing"


def test_train_and_eval_choose_what_batch_normalisation_does():
    model = Sequential(BatchNorm1d(4), seed=1)
    x = np.random.default_rng(0).normal(3, 2, (20, 4))
    assert model.training and abs(np.asarray(model(x)).mean(0)).max() < 1e-5
    before = model.state_dict()
    assert model.eval() is model and not model.training
    want = (x - before["0.running_mean"]) / np.sqrt(before["0.running_var"] + 1e-5)
    assert np.allclose(model(x), want, atol=1e-5)
    assert all(np.array_equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.train() is model and model.training
    model(x)
    assert model.state_dict()["0.num_batches_tracked"] == 2
    assert copy.deepcopy(model.eval()).training is False
