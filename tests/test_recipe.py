"""Trainings with any optimizer, schedule, loss and validation part: the loop a user would write, to the bit, also
after a stop; and what becomes of one that diverges."""
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from networks import conv, flatten, linear, log_softmax, make, pool, relu, softmax

from cnn_numba import (
    Augment,
    CrossEntropyLoss,
    Dataset,
    InputError,
    MSELoss,
    Sequential,
    Trainer,
    init,
    load,
    lr_scheduler,
    optim,
    training,
)
from cnn_numba.commands import main as cli
from cnn_numba.commands import recipe, train
from cnn_numba.data.dataset import NORMALIZE
from cnn_numba.errors import Diverged
from cnn_numba.files import container
from cnn_numba.files.checkpoints import Checkpoints, newest_checkpoint
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
        trainer.epoch()
        return trainer.model.values.copy(), trainer.optimizer.momentum

    moved, momentum = values()
    still, constant = values(cycle_momentum=False)
    assert not np.array_equal(moved, still) and constant == 0.9
    assert 0.85 <= momentum < 0.95


def test_a_schedule_that_is_over_is_said():
    trainer = trainer_of(scheduler=("OneCycleLR", {"max_lr": 0.1, "total_steps": STEPS}))
    trainer.epoch()
    with pytest.raises(InputError, match="the schedule has 3 steps, got step 6"):
        trainer.epoch()


@pytest.mark.parametrize("last", (softmax(1), softmax(-1), log_softmax(1)))
def test_a_softmax_at_the_end_is_trained_through_its_logits(last):
    trainer, plain = trainer_of(layers=[*LAYERS, last]), trainer_of()
    assert [trainer.epoch().loss for _ in range(2)] == [plain.epoch().loss for _ in range(2)]
    assert np.array_equal(trainer.model.values, plain.model.values)
    test = plain.data.test_images, plain.data.test_labels
    assert trainer.evaluate(*test).loss == plain.evaluate(*test).loss
    squared = [trainer_of(layers=layers, loss=MSELoss()) for layers in (LAYERS, [*LAYERS, last])]
    assert squared[0].epoch().loss != squared[1].epoch().loss, "a squared error is that of the probabilities"


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
    return 1 + min(range(len(results)), key=lambda k: (-results[k].validation.accuracy, results[k].validation.loss))


def test_the_validation_part_is_evaluated_and_the_best_weights_are_kept():
    data = dataset(held_out=20)
    trainer, weights, results = trainer_of(("SGD", {"lr": 0.05}), data=data), [], []
    for _ in range(8):
        results.append(trainer.epoch())
        weights.append(trainer.model.values.copy())
        again = trainer.evaluate(data.validation_images, data.validation_labels)
        assert (again.loss, again.accuracy) == (results[-1].validation.loss, results[-1].validation.accuracy)
        assert results[-1].images == 50
    best = judged(results)
    assert 1 < best < 8, "else this test shows nothing"
    assert trainer.best == {"epoch": best, "loss": results[best - 1].validation.loss,
                            "accuracy": results[best - 1].validation.accuracy}
    trainer.restore_best()
    assert np.array_equal(trainer.model.values, weights[best - 1])


def test_validation_does_not_change_the_training():
    """Not even that of batch norms and dropout."""
    data = dataset(held_out=20)
    layers = [conv(2, 6, 3), ("BatchNorm2d", (6,), {}), relu, ("Dropout", (0.3,), {}), flatten, linear(216, 5)]
    trainer = trainer_of(data=data, layers=layers)
    other = trainer_of(data=replace(data, validation_images=None, validation_labels=None), layers=layers)
    assert [trainer.epoch().loss for _ in range(3)] == [other.epoch().loss for _ in range(3)]
    assert np.array_equal(trainer.model.statistics, other.model.statistics)
    values = other.model.values.copy()
    other.restore_best()
    assert np.array_equal(other.model.values, values), "without a validation part, the last weights are the result"


@pytest.mark.parametrize("held_out", (0, 20))
def test_the_plateau_is_that_of_the_validation_loss(held_out, monkeypatch):
    trainer = trainer_of(data=dataset(held_out=held_out), scheduler=("ReduceLROnPlateau", {}))
    seen = []
    monkeypatch.setattr(trainer.scheduler, "step", seen.append)
    results = [trainer.epoch() for _ in range(2)]
    assert seen == [(r.validation if held_out else r).loss for r in results]


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
            loss.backward()
            other.optimizer.step()
    raise AssertionError


@OVERFLOWS
@pytest.mark.parametrize("lr", (3e30, 2e9))
def test_the_epoch_and_step_of_a_divergence(lr):
    data = dataset(300)
    epoch, step, before = first_step_without_finite_loss(data, lr)
    trainer = trainer_of(("SGD", {"lr": lr}), data=data)
    for _ in range(epoch - 1):
        trainer.epoch()
    state = trainer.state()
    with pytest.raises(Diverged, match=rf"the loss became (nan|inf|-inf) at step {step} of epoch {epoch}$") as error:
        trainer.epoch()
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
    trainer.scheduler.rates = lambda count: table
    with pytest.raises(Diverged, match="^the weights are no longer finite at step 3 of epoch 1$"):
        trainer.epoch()
    assert np.array_equal(trainer.model.values, before), "past the ends of the parameters, too"
    del trainer.scheduler.rates
    assert math.isfinite(trainer.epoch().loss)


@OVERFLOWS
def test_a_norm_that_is_no_longer_finite():
    """The squared error of logits of 1e18 is finite; gradients that an infinite norm makes 0 would teach nothing."""
    trainer = trainer_of(loss=MSELoss(), max_norm=1.0)
    trainer.model.parameters()[2].value[...] *= 1e18
    with pytest.raises(Diverged, match="^the norm of the gradient is no longer finite at step 3 of epoch 1$"):
        trainer.epoch()
    assert trainer.state()["norms"] == [0, 0, 0, 0]


# ---- going on to the same bits --------------------------------------------------------------------------------
BN = [conv(2, 6, 3), ("BatchNorm2d", (6,), {}), relu, ("Dropout", (0.3,), {}), flatten, linear(216, 5)]


def everything(measure_norm=True):
    return trainer_of(
        ("Adam", {"lr": 3e-3, "weight_decay": 1e-3}), ("OneCycleLR", {"max_lr": 0.02, "total_steps": 3 * 2}),
        dataset(held_out=20), BN, loss=CrossEntropyLoss(label_smoothing=0.1), max_norm=0.5, measure_norm=measure_norm,
        augment=Augment(shift=1, flip=True))


def after(steps):
    """A function that is true from when it was asked so often."""
    asked = iter([False] * steps)
    return lambda: next(asked, True)


def told(result):
    return result.loss, result.learning_rate, result.gradient_norm, result.validation.loss


@pytest.fixture(scope="module")
def whole():
    trainer = everything()
    results = [told(trainer.epoch()) for _ in range(3)]
    state = trainer.state()
    trainer.restore_best()
    return results, state, trainer.model.state_dict()


@pytest.mark.parametrize("epochs, steps", ((0, 1), (1, 0), (1, 1), (2, 1), (3, 0)))
def test_everything_goes_on_to_the_same_bits(epochs, steps, whole, tmp_path):
    results, state, best = whole
    first = everything()
    found = [told(first.epoch()) for _ in range(epochs)]
    if steps:
        assert first.epoch(pause=after(steps)) is None
    Checkpoints(tmp_path, first).start()
    second = everything()
    second.model.load_state_dict({name: value + 1 for name, value in second.model.state_dict().items()})
    Checkpoints(tmp_path, second).resume(newest_checkpoint(tmp_path))
    found += [told(second.epoch()) for _ in range(3 - epochs)]
    assert found == results
    mine = second.state()
    assert mine.keys() == state.keys()
    assert all(name == "seconds" or np.array_equal(mine[name], state[name]) for name in state)
    second.restore_best()
    assert all(np.array_equal(value, best[name]) for name, value in second.model.state_dict().items())


def test_the_norm_may_be_measured_from_the_middle_of_an_epoch_on():
    """Its mean is then over the steps that are left."""
    def paused(measure):
        trainer = trainer_of(measure_norm=measure)
        trainer.epoch(pause=after(1))
        return trainer

    first, norms = paused(True), []
    norms.append(first.state()["norms"][1])
    second = trainer_of(measure_norm=True)
    second.load_state(paused(False).state())
    mean, rest = first.epoch().gradient_norm, second.epoch().gradient_norm
    assert 3 * mean == pytest.approx(norms[0] + 2 * rest)
    third = trainer_of()
    third.load_state(paused(True).state())
    assert third.epoch().gradient_norm is None


@pytest.mark.parametrize("change, sentence", [
    ({"scheduler": None}, "without a schedule"), ({"norms": [1.0, 2.0]}, "norms"), ({"norms": "1"}, "norms"),
    ({"norms": [math.nan] * 4}, "norms"), ({"best": None}, "do not belong together"),
    ({"scheduler": {"last_epoch": 99, "base_lr": 0.1}}, "6 steps, got a state of 99")])
def test_states_of_other_trainings(change, sentence):
    trainer = everything()
    trainer.epoch()
    with pytest.raises(InputError, match=sentence):
        everything().load_state(trainer.state() | change)


def test_a_state_without_its_best_weights():
    trainer = everything()
    trainer.epoch()
    state = {name: value for name, value in trainer.state().items() if not name.startswith("best.")}
    with pytest.raises(InputError, match="do not belong together"):
        everything().load_state(state)


def test_a_state_with_a_schedule_is_not_for_a_trainer_without():
    with pytest.raises(InputError, match="with a schedule"):
        trainer_of().load_state(trainer_of(scheduler=("StepLR", {"step_size": 1})).state())


# ---- the flags ------------------------------------------------------------------------------------------------
RUN = "--dataset", "digits", "--serial", "--quiet", "--train-size", "200", "--test-size", "32"
EVERYTHING = (*RUN, "--epochs", "3", "--optimizer", "adamw", "--betas", "0.8,0.99", "--spare-biases", "--eps", "1e-7",
              "--schedule", "one-cycle", "--warm-up", "0.4", "--class-weights", "balanced", "--label-smoothing", "0.1",
              "--clip-norm", "0.5", "--validation", "0.2", "--early-stopping", "9", "--augment", "shift=1,rotate=5",
              "--normalize", "unit", "--init", "kaiming_normal")
NESTEROV = (*RUN, "--epochs", "3", "--nesterov", "--schedule", "plateau", "--patience", "1", "--validation", "40",
            "--class-weights", "1,1,2,1,1,1,1,1,1,0.5")


def arrays(path):
    with np.load(path) as file:
        return {name: file[name].tobytes() for name in file.files if name != container.TEXT}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def numbers(line):
    return {name: value for name, value in line.items() if name not in ("time", "seconds", "images_per_second")}


def with_batch_norm(tmp_path):
    """Flags for a network with batch normalisation and dropout."""
    (tmp_path / "net.json").write_text(json.dumps({"layers": [
        {"type": "conv2d", "params": {"out_channels": 4, "kernel_size": 3}}, {"type": "batchnorm2d"}, {"type": "relu"},
        {"type": "flatten"}, {"type": "dropout", "params": {"p": 0.2}}, {"type": "linear"}]}))
    return "--model", str(tmp_path / "net.json")


class Pauses:
    """An Interruption that comes when it was asked for so often."""

    number = 2

    def __init__(self, asked):
        self.asked = asked

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def noted(self):
        self.asked -= 1
        return self.asked < 0


@pytest.mark.parametrize("asked", (1, 4, 6))
@pytest.mark.parametrize("chosen", (EVERYTHING, NESTEROV), ids=("everything", "nesterov"))
def test_a_run_goes_on_with_all_of_its_flags(chosen, asked, tmp_path, monkeypatch, capsys):
    chosen = *chosen, *with_batch_norm(tmp_path)
    folder, log = str(tmp_path / "run"), tmp_path / "log"
    assert cli.main([*chosen, "--save", str(tmp_path / "whole.npz"), "--log", str(tmp_path / "whole")]) == 0
    whole = capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(train, "Interruption", lambda: Pauses(asked))
        assert cli.main([*chosen, "--checkpoint", folder, "--log", str(log)]) == 130
    capsys.readouterr()
    again = "--serial", "--quiet", "--resume", folder
    assert cli.main([*again, "--log", str(log), "--save", str(tmp_path / "m.npz")]) == 0
    assert capsys.readouterr().out == whole
    assert arrays(tmp_path / "m.npz") == arrays(tmp_path / "whole.npz")
    found = [numbers(line) for line in lines(log)]
    assert found == [numbers(line) for line in lines(tmp_path / "whole")]
    assert [line["epoch"] for line in found] == [1, 2, 3]
    assert cli.main([*again, "--betas", "0.7,0.9"]) == 2
    assert re.fullmatch("error: argument --betas: the training in .* has (0.8,0.99|none), which cannot be changed\n",
                        capsys.readouterr().err)


def test_a_log_may_begin_with_a_resume(tmp_path):
    chosen = *RUN, "--schedule", "constant", "--checkpoint", str(tmp_path / "run"), "--epochs", "1"
    assert cli.main([*chosen]) == 0
    resume = "--serial", "--quiet", "--resume", str(tmp_path / "run"), "--epochs", "2", "--log", str(tmp_path / "log")
    assert cli.main([*resume]) == 0
    line, = lines(tmp_path / "log")
    assert line["epoch"] == 2 and line["gradient_norm"] > 0


def test_the_log_says_what_was_printed_and_more(tmp_path, capsys):
    log = tmp_path / "log"
    shown = [flag for flag in RUN if flag != "--quiet"]
    assert cli.main([*shown, "--epochs", "2", "--validation", "40", "--log", str(log)]) == 0
    printed = re.findall(r"^Epoch .*$", capsys.readouterr().out, re.MULTILINE)
    for line, text in zip(lines(log), printed, strict=True):
        assert text == (
            f"Epoch {line['epoch']} Loss= {line['loss']:.6f} Acc= {line['accuracy']:.2f} % Run in: "
            f"{line['seconds']:.2f} seconds, {line['images_per_second']:,.0f} images/s, validation "
            f"Loss= {line['validation_loss']:.6f} Acc= {line['validation_accuracy']:.2f} %")
        assert (line["images"], line["steps"]) == (160, 3) and line["gradient_norm"] > 0
    assert [line["learning_rate"] for line in lines(log)] == pytest.approx([0.03, 0.015])


def test_a_log_that_cannot_be_written_is_said_before_the_training(tmp_path, capsys):
    assert cli.main([*RUN, "--log", str(tmp_path / "no" / "log")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(r"error: .*log cannot be written \(No such file or directory\)\n", err)


def test_a_disk_that_becomes_full_under_the_log_does_not_end_a_training(tmp_path, capsys, monkeypatch):
    from cnn_numba.files.run_log import RunLog

    def full(log, **_):
        raise InputError(f"{log.path} cannot be written (No space left on device)")

    monkeypatch.setattr(RunLog, "write", full)
    assert cli.main([*RUN, "--epochs", "1", "--log", str(tmp_path / "log")]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Test accuracy")
    assert err == f"warning: {tmp_path / 'log'} cannot be written (No space left on device); training goes on " \
                  "without this line of the log\n"


def test_early_stopping_ends_after_the_epochs_that_were_no_better(tmp_path, capsys):
    shown = [flag for flag in RUN if flag != "--quiet"]
    stop = *shown, "--epochs", "60", "--validation", "40", "--schedule", "constant", "--lr", "0.3"
    log = tmp_path / "log"
    assert cli.main([*stop, "--early-stopping", "3", "--log", str(log), "--save", str(tmp_path / "m.npz")]) == 0
    out, found = capsys.readouterr().out, lines(log)
    best = 1 + min(range(len(found)), key=lambda k: (-found[k]["validation_accuracy"], found[k]["validation_loss"]))
    assert len(found) == best + 3 < 60
    assert f"Stopped after epoch {best + 3}: 3 epochs no better on the validation images\n" in out
    assert (f"Best epoch on the validation images: {best} Loss= {found[best - 1]['validation_loss']:.6f} "
            f"Acc= {found[best - 1]['validation_accuracy']:.2f} %\n") in out
    assert cli.main([*stop[:-6], "--epochs", str(best), "--validation", "40", "--schedule", "constant", "--lr", "0.3",
                     "--save", str(tmp_path / "best.npz")]) == 0
    assert arrays(tmp_path / "m.npz") == arrays(tmp_path / "best.npz")


@OVERFLOWS
@pytest.mark.parametrize("good", (0, 2))
def test_a_run_that_diverges_saves_what_was_good_and_nothing_else(good, tmp_path, monkeypatch, capsys):
    path, epoch = tmp_path / "m.npz", training.Trainer.epoch
    path.write_bytes(b"an earlier file")

    def spoiled(trainer, **options):
        trainer.optimizer.lr = 1e30 if trainer.epochs == good else trainer.optimizer.lr
        return epoch(trainer, **options)

    monkeypatch.setattr(training.Trainer, "epoch", spoiled)
    assert cli.main([*RUN, "--schedule", "constant", "--epochs", "9", "--save", str(path)]) == 1
    out, err = capsys.readouterr()
    saved = f"; {path} has the weights after epoch {good}" if good else ""
    assert out == ""
    assert re.fullmatch(rf"error: the loss became (nan|inf) at step 2 of epoch {good + 1}: use an --lr below 0.03"
                        rf"{re.escape(saved)}\n", err)
    if not good:
        assert path.read_bytes() == b"an earlier file"
        return
    monkeypatch.setattr(training.Trainer, "epoch", epoch)
    assert cli.main([*RUN, "--schedule", "constant", "--epochs", str(good), "--save", str(tmp_path / "n.npz")]) == 0
    assert arrays(path) == arrays(tmp_path / "n.npz")
    assert load(path).accuracy == load(tmp_path / "n.npz").accuracy


@pytest.mark.parametrize(("given", "sentence"), [
    (["--nesterov", "--optimizer", "adam"], "--nesterov: --optimizer adam has none, expected one of sgd"),
    (["--momentum", "0", "--optimizer", "adam"], "--momentum: --optimizer adam has none, expected one of sgd, rmsprop"),
    (["--alpha", "0.9"], "--alpha: --optimizer sgd has none, expected one of rmsprop"),
    (["--betas", "0.9,0.9"], "--betas: --optimizer sgd has none, expected one of adam, adamw"),
    (["--eps", "1e-8"], "--eps: --optimizer sgd has none, expected one of rmsprop, adam, adamw"),
    (["--step-size", "2"], "--step-size: --schedule linear has none, expected one of step"),
    (["--gamma", "0.5"], "--gamma: --schedule linear has none, expected one of step, exponential, plateau"),
    (["--patience", "2"], "--patience: --schedule linear has none, expected one of plateau"),
    (["--warm-up", "0.5"], "--warm-up: --schedule linear has none, expected one of one-cycle"),
    (["--loss", "mse", "--label-smoothing", "0"], "--label-smoothing: --loss mse has none, expected one of "
                                                  "cross-entropy"),
    (["--loss", "mse", "--class-weights", "balanced"], "--class-weights: --loss mse has none, expected one of "
                                                       "cross-entropy"),
    (["--nesterov", "--momentum", "0"], "--nesterov: needs a --momentum above 0, got 0"),
    (["--early-stopping", "2"], "--early-stopping: needs --validation, on which epochs are judged"),
    (["--betas", "0.9"], "--betas: expected two numbers of at least 0 and below 1, such as 0.9,0.999, got '0.9'"),
    (["--betas", "0.9,1"], "--betas: expected two numbers of at least 0 and below 1, such as 0.9,0.999, got '0.9,1'"),
    (["--alpha", "1"], "--alpha: expected a number of at least 0 and below 1, got '1'"),
    (["--eps", "0"], "--eps: expected a number above 0, got '0'"),
    (["--clip-norm", "0"], "--clip-norm: expected a number above 0, got '0'"),
    (["--gamma", "1"], "--gamma: expected a number between 0 and 1, got '1'"),
    (["--warm-up", "0"], "--warm-up: expected a number between 0 and 1, got '0'"),
    (["--step-size", "0"], "--step-size: expected a whole number of at least 1, got '0'"),
    (["--patience", "0.5"], "--patience: expected a whole number of at least 1, got '0.5'"),
    (["--label-smoothing", "1"], "--label-smoothing: expected a number of at least 0 and below 1, got '1'"),
    (["--class-weights", "0,0"], "--class-weights: expected balanced, or numbers such as 1,1,2.5, got '0,0'"),
    (["--class-weights", "1,nan"], "--class-weights: expected balanced, or numbers such as 1,1,2.5, got '1,nan'"),
    (["--early-stopping", "0"], "--early-stopping: expected a whole number of at least 1, got '0'"),
    *((["--validation", text], "--validation: expected a whole number of at least 1, or a share between 0 and 1, "
                               f"got '{text}'") for text in ("0", "1.0", "-3", "nan", "1e3", "0.0")),
])
def test_flags_that_are_out_of_range_or_that_nothing_uses(given, sentence, capsys):
    assert cli.main(given) == 2
    assert capsys.readouterr() == ("", f"error: argument {sentence}\n")


@pytest.mark.parametrize("given, sentence", [
    (["--class-weights", "1,2"], "argument --class-weights: expected 10 numbers, one for each class of digits, got 2"),
    (["--validation", "200"], "the validation part must be 1 to 199 of the 200 training images of digits, got 200"),
    (["--validation", "0.001"], "the validation part must be 1 to 199 of the 200 training images of digits, got 0"),
    (["--augment", "shear=1"], "argument --augment: 'shear' is not one of shift, rotate, scale, flip")])
def test_flags_that_do_not_fit_the_data(given, sentence, capsys):
    assert cli.main([*RUN, *given]) == 2
    assert capsys.readouterr() == ("", f"error: {sentence}\n")


def completed(*given):
    args = cli.parse(["train", *given])
    recipe.complete(args)
    return args


def test_defaults_follow_the_choices():
    assert [completed("--optimizer", name).lr for name in recipe.OPTIMIZERS] == [0.03, 1e-3, 1e-3, 1e-3]
    assert (completed().momentum, completed("--optimizer", "rmsprop").momentum) == (0.9, 0.0)
    assert completed("--schedule", "step").gamma == 0.3 and completed("--schedule", "exponential").gamma == 0.9
    assert completed("--schedule", "step", "--gamma", "0.5").gamma == 0.5


@pytest.mark.parametrize("given, top, low", [
    ([], 0.95, 0.85), (["--momentum", "0.5"], 0.5, 0.4), (["--momentum", "0.05"], 0.05, 0),
    (["--optimizer", "adam"], 0.95, 0.85), (["--optimizer", "adam", "--betas", "0.7,0.99"], 0.7, 0.6),
    (["--optimizer", "rmsprop"], 0, 0)])
def test_one_cycle_has_the_momentum_that_is_given(given, top, low):
    args = completed("--schedule", "one-cycle", "--epochs", "10", *given)
    scheduler = recipe.make_scheduler(args, recipe.make_optimizer(args, network()), 10)
    momenta = scheduler.rates(100)[:, 1]
    assert momenta[[0, 29, -1]] == pytest.approx([top, low, top])
    assert (momenta.max(), momenta.min()) == pytest.approx((top, low))


def test_balanced_weights_make_classes_count_the_same():
    data = dataset()
    data = replace(data, train_labels=np.repeat([0, 1, 2], [10, 20, 40]))
    weight = recipe.make_loss(completed("--class-weights", "balanced"), data).weight
    assert weight[:3] * [10, 20, 40] == pytest.approx([14, 14, 14])


def test_names_that_are_listed_twice_agree():
    """The flags cannot import init.py, which needs NumPy."""
    assert recipe.INITS == tuple(init.INITS)
    assert recipe.NORMALIZE == tuple(NORMALIZE)
