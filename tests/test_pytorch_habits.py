"""Habits of PyTorch: gradients that add up, frozen parameters, shared layers, data loaders, and a loop of one's own."""
import copy
from collections import OrderedDict

import numpy as np
import pytest

import cnn_numba as nn
from cnn_numba import (
    SGD,
    Adam,
    BatchNorm2d,
    Conv2d,
    CrossEntropyLoss,
    DataLoader,
    Dataset,
    Dropout,
    Flatten,
    InputError,
    Linear,
    ReLU,
    Residual,
    Sequential,
    Subset,
    TensorDataset,
    Trainer,
    random_split,
    transforms,
)
from cnn_numba.optim import GradientNorm

LOSS = CrossEntropyLoss()
SHAPE, CLASSES = (2, 5, 6), 5


def network(seed=1, **options):
    body = [Conv2d(4, 4, 3, padding=1), ReLU()]
    return Sequential(Conv2d(2, 4, 3, padding=1), ReLU(), BatchNorm2d(4), Residual(body), Flatten(),
                      Linear(120, CLASSES), seed=seed, **options)


def batch(n=20, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, n)


def data_set(images=60):
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (images, *SHAPE)).astype(np.uint8), rng.integers(0, CLASSES, images)
    return Dataset("made up", pixels, labels, pixels[:10], labels[:10], CLASSES)


def tensors(model):
    return {name: value.copy() for name, value in model.state_dict().items()}


def moved(before, model):
    """The names of the parameters that changed."""
    return {name for name, p in model.named_parameters() if not np.array_equal(p.value, before[name])}


# ---- gradients ------------------------------------------------------------------------------------------------------
def test_groups_of_batches_and_the_last_partial_one_give_the_step_of_the_whole():
    """Seven batches, a step after each three of them and at the end: as PyTorch's loops accumulate."""
    def one():
        return Sequential(Flatten(), Linear(60, CLASSES), seed=3)

    model, whole, (x, y) = one(), one(), batch(70)
    mine, theirs = Adam(model, lr=0.1), Adam(whole, lr=0.1)
    for first in range(0, 70, 30):
        part = slice(first, min(first + 30, 70))
        theirs.zero_grad()
        LOSS(whole(x[part]), y[part]).backward()
        theirs.step()
        mine.zero_grad()
        starts = range(first, min(first + 30, 70), 10)
        for start in starts:
            (LOSS(model(x[start:start + 10]), y[start:start + 10]) / len(starts)).backward()
        mine.step()
        np.testing.assert_allclose(model.values, whole.values, rtol=0, atol=1e-5)
    assert np.abs(model.values - one().values).max() > 0.1


def test_losses_of_several_forward_passes_with_dropout_and_batch_norm():
    """Each backward pass is that of its own images, masks and statistics, also when it must run forward again."""
    def one():
        return Sequential(Conv2d(2, 4, 3), BatchNorm2d(4), ReLU(), Dropout(0.5), Flatten(), Linear(48, CLASSES), seed=2)

    together, apart, (x, y), (u, v) = one(), one(), batch(seed=1), batch(seed=2)
    first, second = LOSS(together(x), y), LOSS(together(u), v)
    (first + second).backward()
    for images, labels in (x, y), (u, v):
        LOSS(apart(images), labels).backward()
    assert np.array_equal(together.grads, apart.grads) and together.grads.any()
    assert all(np.array_equal(a, b) for a, b in zip(
        together.state_dict().values(), apart.state_dict().values(), strict=True)), "statistics move once"


@pytest.mark.parametrize("change", (
    lambda model, optimizer: optimizer.step(),
    lambda model, optimizer: model.load_state_dict({name: 2 * v for name, v in model.state_dict().items()}),
    lambda model, optimizer: setattr(model.parameters()[0], "data", model.parameters()[0].data + 1),
    lambda model, optimizer: model[0].weight.value.__imul__(1.5),
))
def test_weights_that_change_between_forward_and_backward(change):
    model, (x, y) = network(), batch()
    optimizer = SGD(model, lr=0.1)
    LOSS(model(x), y).backward()
    loss = LOSS(model(x), y)
    change(model, optimizer)
    before = model.grads.copy()
    for backward in loss.backward, lambda: model.backward(np.ones((20, CLASSES))):
        with pytest.raises(InputError, match="the weights changed since the forward pass"):
            backward()
    assert np.array_equal(model.grads, before)
    LOSS(model(x), y).backward()


# ---- frozen parameters ----------------------------------------------------------------------------------------------
def test_frozen_layers_get_no_gradient_no_update_and_no_work():
    model, free, (x, y) = network(), network(), batch()
    model[:3].requires_grad_(False)
    for m in model, free:
        LOSS(m(x), y).backward()
    grads = {name: p.grad for name, p in free.named_parameters()}
    for name, p in model.named_parameters():
        assert p.grad is None if name[0] in "02" else np.array_equal(p.grad, grads[name]), name
    before, optimizer = tensors(model), SGD(model, lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        LOSS(model(x), y).backward()
        optimizer.step()
    assert moved(before, model) == {"3.body.0.weight", "3.body.0.bias", "5.weight", "5.bias"}

    def work(m):
        plan = m.plan(SHAPE, 1, input_gradient=False)
        return [name for name, _, wires in plan.stages if wires.backward or wires.gradients]

    assert {"0", "2", "3", "3.body.0", "5"} <= set(work(free))
    assert {"3.body.0", "5"} <= set(work(model)) and not {"0", "1", "2"} & set(work(model))


def test_a_trainer_leaves_frozen_parameters_alone_and_trains_the_rest_as_ever():
    """A frozen bias does not change what the others do; thawed, it moves in the next epoch."""
    data = data_set()
    model = network()
    for p in model.parameters()[:4]:
        p.requires_grad = False
    trainer = Trainer(model, data, SGD(model, lr=0.1, momentum=0.9), batch_size=16, max_norm=1.0)
    before = tensors(model)
    trainer.fit(1)
    assert moved(before, model) == {"3.body.0.weight", "3.body.0.bias", "5.weight", "5.bias"}
    model.requires_grad_(True)
    before = tensors(model)
    trainer.fit(2)
    assert moved(before, model) == set(dict(model.named_parameters()))
    frozen = network().requires_grad_(False)
    with pytest.raises(InputError, match="all parameters are frozen"):
        Trainer(frozen, data, SGD(frozen, lr=0.1))


def test_the_norm_is_that_of_what_is_trained():
    model, (x, y) = network(), batch()
    model[0].requires_grad_(False)
    model[3].requires_grad_(False)
    LOSS(model(x), y).backward()
    want = np.sqrt(sum((p.grad.astype(np.float64)**2).sum() for p in model.parameters() if p.requires_grad))
    assert nn.clip_grad_norm_(model.parameters(), 1e-3) == pytest.approx(want, rel=1e-6)
    rest = np.sqrt(sum((p.grad.astype(np.float64)**2).sum() for p in model.parameters() if p.requires_grad))
    assert rest == pytest.approx(1e-3, rel=1e-2) and GradientNorm(model).max_norm is None


def test_frozen_statistics():
    """A batch norm in evaluation inside a network in training, as in fine-tuning: also in a Trainer."""
    model = network()
    model[2].eval()
    before = tensors(model)
    Trainer(model, data_set(), SGD(model, lr=0.01), batch_size=16).fit(1)
    assert np.array_equal(model.state_dict()["2.running_mean"], before["2.running_mean"])
    model.train()
    model(batch()[0])
    assert not np.array_equal(model.state_dict()["2.running_mean"], before["2.running_mean"])


# ---- shared layers --------------------------------------------------------------------------------------------------
def test_a_new_head_on_a_trained_body():
    model, (x, y) = network(), batch()
    body = Sequential(*model.layers[:-1])
    tuned = Sequential(*model.layers[:-1], Linear(120, 3), seed=9)
    assert all(a is b for a, b in zip(body.parameters(), tuned.parameters(), strict=False))
    assert np.array_equal(np.array(body(x)), np.array(Sequential(*tuned.layers[:-1])(x)))
    tuned[:5].requires_grad_(False)
    optimizer, before = Adam(tuned, lr=0.01), tensors(tuned)
    LOSS(tuned(x), y % 3).backward()
    optimizer.step()
    assert moved(before, tuned) == {"5.weight", "5.bias"}
    with pytest.raises(InputError, match="not side by side"):
        tuned.values.sum()
    copied = copy.deepcopy(tuned)
    assert np.array_equal(np.array(copied.eval()(x)), np.array(tuned.eval()(x)))
    copied[0].weight.value[...] = 0
    assert tuned[0].weight.value.any()


def test_weights_of_a_layer_do_not_depend_on_who_looks_first():
    looked = network(seed=7)
    assert looked[0].weight.shape == (4, 2, 3, 3)
    assert np.array_equal(looked.values, network(seed=7).values) and not np.array_equal(
        looked.values, network(seed=8).values)
    first = Sequential(Conv2d(2, 3, 3), seed=4)[0].weight.value
    assert np.array_equal(first, Sequential(Conv2d(2, 3, 3), seed=4).parameters()[0].value)


def test_a_trainer_of_a_network_in_several_memories():
    model = network()
    model.bind()
    parts = Sequential(*model.layers[:3]), Sequential(*copy.deepcopy(model.layers[3:]))
    mixed = Sequential(*parts[0].layers, *parts[1].layers)
    results = [Trainer(m, data_set(), SGD(m, lr=0.05, momentum=0.9), batch_size=16, max_norm=1.0).fit(2)["loss"]
               for m in (network(), mixed)]
    assert results[0] == pytest.approx(results[1], rel=1e-6)


def test_nested_networks_are_saved_with_their_names(tmp_path):
    model = Sequential(OrderedDict(features=Sequential(Conv2d(2, 3, 3), ReLU()), flat=Flatten(), head=Linear(36, 4)))
    assert list(model.state_dict()) == ["features.0.weight", "features.0.bias", "head.weight", "head.bias"]
    assert model.features[0].weight is model.parameters()[0]
    model.save(tmp_path / "model.npz")
    again, x = nn.load(tmp_path / "model.npz"), batch()[0]
    assert repr(again) == repr(model) and np.array_equal(again(x), model(x))


class Scaled(Sequential):
    def forward(self, images):
        return super().forward(2 * np.asarray(images))


def test_the_forward_of_a_subclass_is_run_or_refused(tmp_path):
    model, plain, x = Scaled(Flatten(), Linear(60, 5), seed=1), Sequential(Flatten(), Linear(60, 5), seed=1), batch()[0]
    assert np.array_equal(model(x), plain(2 * x))
    for refused in (lambda: Trainer(model, data_set(), SGD(model, lr=0.1)), lambda: model.save(tmp_path / "x.npz"),
                    lambda: model.takes_images(SHAPE).predict(x)):
        with pytest.raises(InputError, match="Scaled has a forward of its own"):
            refused()


# ---- what images a model takes --------------------------------------------------------------------------------------
def test_predictions_normalise_as_in_the_training(tmp_path):
    data, model = data_set(), network()
    Trainer(model, data, SGD(model, lr=0.05), batch_size=16).fit(2)
    images = data.test_images
    normal = (images - data.mean.reshape(-1, 1, 1)) / data.std.reshape(-1, 1, 1)
    logits = np.array(copy.deepcopy(model).eval()(normal), np.float64)
    want = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(images), want, rtol=1e-4, atol=1e-6)
    assert np.array_equal(model.predict(images), want.argmax(axis=1))
    before = model.predict_proba(images)
    model[5].weight.value[...] = 0
    assert not np.array_equal(model.predict_proba(images), before), "weights that change are seen"


def test_a_loop_of_ones_own_says_what_images_it_took(tmp_path):
    model, data = network(), data_set()
    with pytest.raises(InputError, match=r"does not say what images it takes.*model.takes_images\(shape, mean, std\)"):
        model.predict(data.test_images)
    model.eval().takes_images(SHAPE, mean=0, std=255, classes=list("abcde")).save(tmp_path / "model.npz")
    again = nn.load(tmp_path / "model.npz")
    assert again.classes == tuple("abcde") and np.array_equal(again.predict(data.test_images),
                                                              np.argmax(model(data.test_images / 255), axis=1))
    for wrong, what in ((dict(mean="dark"), "mean and std must be numbers"), (dict(std=-1), "std must not be below 0"),
                        (dict(classes=["a"]), "classes must name the 5 outputs")):
        with pytest.raises(InputError, match=what):
            network().takes_images(SHAPE, **wrong)
    with pytest.raises(InputError, match="layer 0: Conv2d expects 2 channels"):
        network().takes_images((1, 5, 6))


# ---- data -----------------------------------------------------------------------------------------------------------
def test_data_loaders_give_every_example_once():
    x, y = batch(23)
    loader = DataLoader(TensorDataset(x, y), batch_size=5, shuffle=True, generator=3)
    epochs = [[np.concatenate(parts) for parts in zip(*loader, strict=True)] for _ in range(2)]
    assert len(loader) == 5 and not np.array_equal(epochs[0][1], epochs[1][1])
    for images, labels in epochs:
        order = [int(np.flatnonzero((x == image).all(axis=(1, 2, 3)))[0]) for image in images]
        assert sorted(order) == list(range(23)) and np.array_equal(labels, y[order])
    in_order = DataLoader(TensorDataset(x, y), batch_size=5, drop_last=True)
    assert len(in_order) == 4 and np.array_equal(np.concatenate([labels for _, labels in in_order]), y[:20])
    listed = DataLoader([(image, int(label)) for image, label in zip(x, y, strict=True)], batch_size=23)
    assert all(np.array_equal(a, b) for a, b in zip(next(iter(listed)), (x, y), strict=True))


def test_random_split():
    x, y = batch(23)
    data = TensorDataset(x, y)
    parts = random_split(data, [0.5, 0.5], generator=1)
    assert [len(part) for part in parts] == [12, 11] and isinstance(parts[0], Subset)
    assert sorted(np.concatenate([part.indices for part in parts])) == list(range(23))
    images, labels = next(iter(DataLoader(parts[1], batch_size=11)))
    assert np.array_equal(images, x[parts[1].indices]) and np.array_equal(labels, y[parts[1].indices])
    for lengths, what in (([10, 10], "add up to 20, but the data set has 23"), ([0.5, 0.2], "must add up to 1")):
        with pytest.raises(InputError, match=what):
            random_split(data, lengths)


def test_manual_seed_decides_what_has_no_seed_of_its_own():
    def made():
        nn.manual_seed(5)
        loader = DataLoader(TensorDataset(np.arange(9)), batch_size=9, shuffle=True)
        return Sequential(Linear(4, 4)).values, Sequential(Linear(4, 4)).values, next(iter(loader))[0]

    try:
        first, second = made(), made()
        assert all(map(np.array_equal, first, second)) and not np.array_equal(first[0], first[1])
    finally:
        nn.init._manual.clear()


def test_transforms():
    images = np.random.default_rng(0).integers(0, 256, (40, 2, 5, 6)).astype(np.uint8)
    chain = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5, 0.25), (0.1, 0.2))])
    np.testing.assert_allclose(chain(images)[:, 1], (images[:, 1] / 255 - 0.25) / 0.2, rtol=1e-5, atol=1e-5)
    assert transforms.Pad(2)(images).shape == (40, 2, 9, 10)
    assert transforms.ToTensor()(images[:, 0]).shape == (40, 1, 5, 6)
    flipped = transforms.RandomHorizontalFlip()(images)
    turned = [np.array_equal(a, b[..., ::-1]) for a, b in zip(flipped, images, strict=True)]
    same = [np.array_equal(a, b) for a, b in zip(flipped, images, strict=True)]
    assert all(np.logical_or(turned, same)) and 5 < sum(turned) < 35
    cropped = transforms.RandomCrop((5, 6), padding=1)(images)
    assert cropped.shape == images.shape and len({crop.tobytes() for crop in cropped}) == 40
    x, _ = next(iter(DataLoader(TensorDataset(images, np.arange(40), transform=chain), batch_size=40)))
    assert np.array_equal(x, chain(images))
    with pytest.raises(InputError, match="does not fit"):
        transforms.RandomCrop(7)(images)


def test_a_state_dict_alone_in_a_file(tmp_path):
    model, other = network(1), network(2)
    nn.save(model.state_dict(), tmp_path / "state.npz")
    other.load_state_dict(nn.load_state(tmp_path / "state.npz"))
    assert all(np.array_equal(a, b) for a, b in zip(
        other.state_dict().values(), model.state_dict().values(), strict=True))
    model.save(tmp_path / "model.npz")
    with pytest.raises(InputError, match="this is not a cnn-numba state"):
        nn.load_state(tmp_path / "model.npz")
    with pytest.raises(InputError, match="expected a state_dict of a model, or a model, got list"):
        nn.save([1], tmp_path / "x.npz")


# ---- optimizers of PyTorch's states ---------------------------------------------------------------------------------
@pytest.mark.parametrize("make", (lambda p: SGD(p, lr=0.1, momentum=0.9), lambda p: Adam(p, lr=0.01)))
def test_a_state_of_pytorch_is_read(make):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    model, rng = Sequential(Linear(7, 5), seed=1), np.random.default_rng(0)
    theirs = [torch.nn.Parameter(torch.from_numpy(p.value.copy())) for p in model.parameters()]
    mine = make(model)
    other = {SGD: torch.optim.SGD, Adam: torch.optim.Adam}[type(mine)](
        theirs, **({"momentum": 0.9} if isinstance(mine, SGD) else {}), lr=mine.lr)
    for step in range(4):
        for p, q in zip(model.parameters(), theirs, strict=True):
            grad = rng.normal(size=p.shape).astype(np.float32)
            p.grad, q.grad = grad, torch.from_numpy(grad)
        if step == 2:
            mine = make(model)
            mine.load_state_dict(other.state_dict())
            other.load_state_dict(other.state_dict())
        mine.step()
        other.step()
        for p, q in zip(model.parameters(), theirs, strict=True):
            np.testing.assert_allclose(p.value, q.detach().numpy(), rtol=0, atol=1e-6)
    again = make(model)
    again.load_state_dict(mine.state_dict())
    assert all(np.array_equal(value, again.state()[name]) for name, value in mine.state().items())
    with pytest.raises(InputError, match="maximize=True"):
        group = dict(mine.state_dict()["param_groups"][0], maximize=True)
        again.load_state_dict({"state": {}, "param_groups": [group]})


def test_a_group_that_cannot_be():
    model = network()
    for groups, what in (([{"lr": 1}], "needs 'params'"), ([model[0].weight, model[0].weight], "occurs twice"),
                         ([{"params": model.parameters(), "speed": 3}], "has the settings lr"), ([], "an empty list"),
                         (model[0].weight, "got Parameter"), (model.buffers(), "got Parameter")):
        with pytest.raises(InputError, match=what):
            SGD(groups, lr=0.1)
    with pytest.raises(InputError, match="lr must be a number"):
        SGD(model, lr=0.1).param_groups[0]["lr"] = -1
    trainer_of_another = SGD(network().parameters(), lr=0.1)
    with pytest.raises(InputError, match="another model"):
        Trainer(model, data_set(), trainer_of_another)
