"""`Trainer.fit` with any optimizer, schedule, loss and validation part: the same bits as a loop that a user would
write, also after a stop; and what becomes of a training that diverges."""
import math
from dataclasses import replace

import numpy as np
import pytest
from networks import conv, flatten, linear, log_softmax, make, pool, relu, softmax
from trainings import StopAfter

from cnn_numba import (
    Augment,
    CrossEntropyLoss,
    Dataset,
    InputError,
    MSELoss,
    Sequential,
    Trainer,
    lr_scheduler,
    optim,
)
from cnn_numba.callbacks import Checkpoint
from cnn_numba.errors import Diverged
from cnn_numba.init import ORDER, stream

IMAGES, BATCH, STEPS, SEED = 70, 32, 3, 3       # the last batch has 6 images
OVERFLOWS = pytest.mark.filterwarnings("ignore::RuntimeWarning")      # of NumPy, in interpreted kernels
LAYERS = [conv(2, 6, 3, padding=1), relu, pool(2), flatten, linear(96, 5)]


def dataset(images=IMAGES, held_out=0, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, images + 20)
    pixels = rng.integers(0, 120, (images + 20, 2, 8, 8), np.uint8)
    pixels[np.arange(images + 20), labels % 2, labels] += 100
    data = Dataset("made up", pixels[20:], labels[20:], pixels[:20], labels[:20], 5)
    return data.hold_out(held_out, SEED) if held_out else data


def network(layers=LAYERS):
    return Sequential(*make(layers), seed=7)


def trainer_of(optimizer=("SGD", {"lr": 0.05, "momentum": 0.9}), scheduler=None, data=None, layers=LAYERS, **options):
    kind, settings = optimizer
    model = network(layers)
    rule = getattr(optim, kind)(model, **settings)
    schedule = getattr(lr_scheduler, scheduler[0])(rule, **scheduler[1]) if scheduler else None
    return Trainer(model, data or dataset(), rule, batch_size=BATCH, seed=SEED, scheduler=schedule, **options)


def batches(data, epoch):
    """(images, labels) of each step, normalised as the trainer does it."""
    order, scale = stream(SEED, ORDER, epoch).permutation(len(data.train_images)), (1 / data.std).astype(np.float32)
    for first in range(0, len(order), BATCH):
        chosen = order[first:first + BATCH]
        images = (data.train_images[chosen].astype(np.float32) - data.mean[:, None, None]) * scale[:, None, None]
        yield images, data.train_labels[chosen]


# ---- the loop of a user ---------------------------------------------------------------------------------------
OPTIMIZERS = [
    ("SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-2, "nesterov": True, "decay_weights_only": True}),
    ("RMSprop", {"lr": 1e-3, "momentum": 0.5, "centered": True}), ("RMSprop", {"lr": 1e-3}),
    ("Adam", {"lr": 3e-3, "weight_decay": 1e-2}), ("AdamW", {"lr": 3e-3, "betas": (0.8, 0.99)})]
SCHEDULERS = [
    None, ("LinearLR", {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 3}),
    ("StepLR", {"step_size": 2, "gamma": 0.3}), ("ExponentialLR", {"gamma": 0.5}), ("CosineAnnealingLR", {"T_max": 3}),
    ("MultiStepLR", {"milestones": [1], "gamma": 0.1}), ("ReduceLROnPlateau", {"patience": 0, "threshold": 0.5}),
    ("OneCycleLR", {"max_lr": 0.01, "epochs": 3, "steps_per_epoch": STEPS})]
LOSSES = [None, CrossEntropyLoss(label_smoothing=0.1), CrossEntropyLoss(weight=[1, 2, 0.5, 1, 3]), MSELoss()]
COMBINATIONS = (
    [(rule, SCHEDULERS[-1], LOSSES[0], 0.3) for rule in OPTIMIZERS]
    + [(OPTIMIZERS[k % len(OPTIMIZERS)], schedule, LOSSES[0], None) for k, schedule in enumerate(SCHEDULERS)]
    + [(OPTIMIZERS[3], SCHEDULERS[2], loss, 0.3) for loss in LOSSES])


@pytest.mark.parametrize("rule, schedule, loss, max_norm", COMBINATIONS)
def test_epochs_are_the_loop_of_the_library(rule, schedule, loss, max_norm):
    data = dataset()
    trainer = trainer_of(rule, schedule, data, loss=loss, max_norm=max_norm, measure_norm=True)
    other = trainer_of(rule, schedule, data)                # its model, optimizer and scheduler, in a loop of our own
    model, optimizer, scheduler, criterion = other.model, other.optimizer, other.scheduler, loss or CrossEntropyLoss()
    rates = []
    for epoch in range(3):
        result, norms = trainer.epoch(), []
        for images, labels in batches(data, epoch):
            optimizer.zero_grad()
            criterion(model(images), labels).backward()
            norms.append(optim.clip_grad_norm_(model, math.inf if max_norm is None else max_norm))
            rates.append(optimizer.lr)
            optimizer.step()
            if scheduler and scheduler.per == "step":
                scheduler.step()
        assert result.learning_rate == rates[-1]
        assert result.gradient_norm == pytest.approx(np.mean(norms), rel=1e-12)
        if schedule and schedule[0] == "ReduceLROnPlateau":
            scheduler.step(result.loss)
        elif scheduler and scheduler.per == "epoch":
            scheduler.step()
        assert trainer.optimizer.lr == optimizer.lr
        assert model.values.tobytes() == trainer.model.values.tobytes(), epoch
    assert (len(set(rates)) > 1) == (scheduler is not None)
    if schedule and schedule[0] == "OneCycleLR":
        assert len(set(rates)) == 3 * STEPS
    if max_norm:
        assert max(norms) > max_norm, "something was clipped"


def test_one_cycle_moves_the_momentum_at_every_step():
    """To the bit the same as the loop (above), but not as without the momentum."""
    def values(**options):
        trainer = trainer_of(scheduler=("OneCycleLR", {"max_lr": 0.1, "total_steps": 9, **options}))
        trainer.fit(1)
        return trainer.model.values.copy(), trainer.optimizer.momentum

    moved, momentum = values()
    still, constant = values(cycle_momentum=False)
    assert not np.array_equal(moved, still) and constant == 0.9
    assert 0.85 <= momentum < 0.95


def test_a_schedule_that_is_over_is_said():
    trainer = trainer_of(scheduler=("OneCycleLR", {"max_lr": 0.1, "total_steps": STEPS}))
    trainer.fit(1)
    with pytest.raises(InputError, match="the schedule has 3 steps, got step 6"):
        trainer.fit(2)


@pytest.mark.parametrize("last", (softmax(1), softmax(-1), log_softmax(1)))
def test_a_softmax_at_the_end_is_trained_through_its_logits(last):
    trainer, plain = trainer_of(layers=[*LAYERS, last]), trainer_of()
    assert trainer.fit(2)["loss"] == plain.fit(2)["loss"]
    assert np.array_equal(trainer.model.values, plain.model.values)
    test = plain.data.test_images, plain.data.test_labels
    assert trainer.evaluate(*test).loss == plain.evaluate(*test).loss
    squared = [trainer_of(layers=layers, loss=MSELoss()) for layers in (LAYERS, [*LAYERS, last])]
    assert squared[0].fit(1)["loss"] != squared[1].fit(1)["loss"], "a squared error is that of the probabilities"


# ---- the validation part --------------------------------------------------------------------------------------
def test_a_validation_part_is_chosen_by_the_seed_and_nothing_is_in_both_parts():
    data = dataset()
    data = replace(data, train_images=np.arange(IMAGES, dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 8, 8)))
    first, again, other = (data.hold_out(20, seed) for seed in (1, 1, 2))
    places = [part.validation_images[:, 0, 0, 0].astype(int).tolist() for part in (first, again, other)]
    assert places[0] == places[1] != places[2] and len(set(places[0])) == 20
    assert places[0] != list(range(20)) and places[0] != list(range(50, 70))
    kept = first.train_images[:, 0, 0, 0].astype(int).tolist()
    assert sorted(kept + places[0]) == list(range(IMAGES))
    assert np.array_equal(first.validation_labels, data.train_labels[places[0]])
    assert np.array_equal(first.train_labels, data.train_labels[kept])
    assert first.mean[0] == pytest.approx(np.mean(kept)) and first.mean[0] != data.mean[0]
    assert first.std[0] == pytest.approx(np.std(kept))


@pytest.mark.parametrize("count", (0, -1, IMAGES, IMAGES + 1))
def test_validation_parts_that_cannot_be(count):
    with pytest.raises(InputError, match=f"must be 1 to 69 of the 70 training images of made up, got {count}"):
        dataset().hold_out(count)


def judged(results):
    """The number of the best epoch: most right, then least loss."""
    return 1 + min(range(len(results)), key=lambda k: (-results[k].validation_accuracy, results[k].validation_loss))


def test_the_validation_part_is_evaluated_and_the_best_weights_are_kept():
    data = dataset(held_out=20)
    trainer, weights, results = trainer_of(("SGD", {"lr": 0.05}), data=data), [], []
    for _ in range(8):
        results.append(trainer.epoch())
        weights.append(trainer.model.values.copy())
        again = trainer.evaluate(data.validation_images, data.validation_labels)
        assert (again.loss, again.accuracy) == (results[-1].validation_loss, results[-1].validation_accuracy)
        assert results[-1].images == 50
    best = judged(results)
    assert 1 < best < 8, "else this test shows nothing"
    assert trainer.best == {"epoch": best, "loss": results[best - 1].validation_loss,
                            "accuracy": results[best - 1].validation_accuracy}
    trainer.restore_best()
    assert np.array_equal(trainer.model.values, weights[best - 1])


def test_validation_does_not_change_the_training():
    """Not even that of batch norms and dropout."""
    data = dataset(held_out=20)
    layers = [conv(2, 6, 3), ("BatchNorm2d", (6,), {}), relu, ("Dropout", (0.3,), {}), flatten, linear(216, 5)]
    trainer = trainer_of(data=data, layers=layers)
    other = trainer_of(data=replace(data, validation_images=None, validation_labels=None), layers=layers)
    assert trainer.fit(3)["loss"] == other.fit(3)["loss"]
    assert np.array_equal(trainer.model.statistics, other.model.statistics)
    values = other.model.values.copy()
    other.restore_best()
    assert np.array_equal(other.model.values, values), "without a validation part, the last weights are the result"


@pytest.mark.parametrize("held_out", (0, 20))
def test_the_plateau_is_that_of_the_validation_loss(held_out, monkeypatch):
    trainer = trainer_of(data=dataset(held_out=held_out), scheduler=("ReduceLROnPlateau", {}))
    seen = []
    monkeypatch.setattr(trainer.scheduler, "step", seen.append)
    history = trainer.fit(2)
    assert len(seen) == 2 and seen == history["validation_loss" if held_out else "loss"]


# ---- a training that diverges ---------------------------------------------------------------------------------
def first_step_without_finite_loss(data, lr):
    """(epoch, step), from 1, of the loop of a user; and the weights at the start of that epoch."""
    other = trainer_of(("SGD", {"lr": lr}), data=data)
    for epoch in range(100):
        before = other.model.values.copy()
        for step, (images, labels) in enumerate(batches(data, epoch)):
            with np.errstate(all="ignore"):
                loss = CrossEntropyLoss()(other.model(images), labels)
            if not math.isfinite(loss):
                return epoch + 1, step + 1, before
            other.optimizer.zero_grad()
            loss.backward()
            other.optimizer.step()
    raise AssertionError


@OVERFLOWS
@pytest.mark.parametrize("lr", (3e30, 2e9))
def test_the_epoch_and_step_of_a_divergence(lr):
    data = dataset(300)
    epoch, step, before = first_step_without_finite_loss(data, lr)
    trainer = trainer_of(("SGD", {"lr": lr}), data=data)
    trainer.fit(epoch - 1)
    state = trainer.state()
    with pytest.raises(Diverged, match=rf"the loss became (nan|inf|-inf) at step {step} of epoch {epoch}$") as error:
        trainer.fit(100)
    assert (error.value.epoch, error.value.step) == (epoch, step)
    assert np.array_equal(trainer.model.values, before)
    after = trainer.state()
    assert all(np.array_equal(state[name], after[name]) for name in state), "the training stands where it did"
    trainer.optimizer.lr = 0.01
    assert math.isfinite(trainer.epoch().loss)


@OVERFLOWS
def test_weights_that_are_no_longer_finite_after_the_last_step():
    """The last step has 6 images of 70, and nothing is computed with its weights."""
    trainer = trainer_of(scheduler=("OneCycleLR", {"max_lr": 0.1, "total_steps": STEPS}))
    table, before = trainer.scheduler.rates(STEPS), trainer.model.values.copy()
    table[-1, 0] = 1e300
    trainer.scheduler.rates = lambda count, group: table
    with pytest.raises(Diverged, match="^the weights are no longer finite at step 3 of epoch 1$"):
        trainer.fit(1)
    assert np.array_equal(trainer.model.values, before), "past the ends of the parameters, too"
    del trainer.scheduler.rates
    assert math.isfinite(trainer.epoch().loss)


@OVERFLOWS
def test_a_norm_that_is_no_longer_finite():
    """The squared error of logits of 1e18 is finite; gradients that an infinite norm makes 0 would teach nothing."""
    trainer = trainer_of(loss=MSELoss(), max_norm=1.0)
    trainer.model.parameters()[2].value[...] *= 1e18
    with pytest.raises(Diverged, match="^the norm of the gradient is no longer finite at step 3 of epoch 1$"):
        trainer.fit(1)
    assert trainer.state()["norms"] == [0, 0, 0, 0]


# ---- going on to the same bits --------------------------------------------------------------------------------
BN = [conv(2, 6, 3), ("BatchNorm2d", (6,), {}), relu, ("Dropout", (0.3,), {}), flatten, linear(216, 5)]


def everything(measure_norm=True):
    return trainer_of(
        ("Adam", {"lr": 3e-3, "weight_decay": 1e-3}), ("OneCycleLR", {"max_lr": 0.02, "total_steps": 3 * 2}),
        dataset(held_out=20), BN, loss=CrossEntropyLoss(label_smoothing=0.1), max_norm=0.5, measure_norm=measure_norm,
        augment=Augment(shift=1, flip=True))


def told(history):
    return [(r.loss, r.learning_rate, r.gradient_norm, r.validation_loss) for r in history]


@pytest.fixture(scope="module")
def whole():
    """A training without a stop: its numbers, its state, and its best weights."""
    trainer = everything()
    results = told(trainer.fit(3))
    state = trainer.state()
    trainer.restore_best()
    return results, state, trainer.model.state_dict()


@pytest.mark.parametrize("epochs, steps", ((0, 1), (1, 0), (1, 1), (2, 1), (3, 0)))
def test_everything_goes_on_to_the_same_bits(epochs, steps, whole, tmp_path):
    results, state, best = whole
    first, checkpoint = everything(), Checkpoint(tmp_path)
    first.fit(3, [checkpoint, StopAfter(2 * epochs + steps)])
    assert (first.epochs, first.step) == (epochs, steps)
    second = everything()
    second.model.load_state_dict({name: value + 1 for name, value in second.model.state_dict().items()})
    Checkpoint(tmp_path).resume(second)
    assert told(second.fit(3)) == results, "the history has the epochs before the stop, too"
    mine = second.state()
    assert mine.keys() == state.keys()
    assert all(name in ("seconds", "history") or np.array_equal(mine[name], state[name]) for name in state)
    second.restore_best()
    assert all(np.array_equal(value, best[name]) for name, value in second.model.state_dict().items())


def test_the_norm_may_be_measured_from_the_middle_of_an_epoch_on():
    """Its mean is then over the steps that are left."""
    def stopped(measure):
        trainer = trainer_of(measure_norm=measure)
        trainer.fit(1, StopAfter(1))
        return trainer

    first, norms = stopped(True), []
    norms.append(first.state()["norms"][1])
    second = trainer_of(measure_norm=True)
    second.load_state(stopped(False).state())
    mean, rest = first.epoch().gradient_norm, second.epoch().gradient_norm
    assert 3 * mean == pytest.approx(norms[0] + 2 * rest)
    third = trainer_of()
    third.load_state(stopped(True).state())
    assert third.epoch().gradient_norm is None


@pytest.mark.parametrize("change, sentence", [
    ({"scheduler": None}, "the training had no schedule"), ({"norms": [1.0, 2.0]}, "norms"), ({"norms": "1"}, "norms"),
    ({"norms": [math.nan] * 4}, "norms"), ({"best": None}, "do not belong together"),
    ({"scheduler": {"last_epoch": 99, "base_lr": 0.1}}, "6 steps, got a state of 99")])
def test_states_of_other_trainings(change, sentence):
    trainer = everything()
    trainer.fit(1)
    with pytest.raises(InputError, match=sentence):
        everything().load_state(trainer.state() | change)


def test_a_state_without_its_best_weights():
    trainer = everything()
    trainer.fit(1)
    state = {name: value for name, value in trainer.state().items() if not name.startswith("best.")}
    with pytest.raises(InputError, match="do not belong together"):
        everything().load_state(state)


def test_a_state_with_a_schedule_is_not_for_a_trainer_without():
    with pytest.raises(InputError, match="the training had a schedule"):
        trainer_of().load_state(trainer_of(scheduler=("StepLR", {"step_size": 1})).state())
