"""`Trainer.fit` and its callbacks: which hooks are called in which order, how a training ends, and how it goes on."""
import io
import json
import math
import os
import sys

import numpy as np
import pytest
from trainings import StopAfter, dataset, network, optimizer_of

from cnn_numba import Callback, Checkpoint, EarlyStopping, InputError, Log, ProgressBar, Trainer, feed
from cnn_numba.kernels.compiled import JIT

STEPS = 5               # batches of 16 of 70 images


def trainer_of(**options):
    model = network()
    return Trainer(model, dataset(), optimizer_of(model), batch_size=16, seed=3, **options)


class Notes(Callback):
    """Notes every hook in a list, with what a callback can see then, and may fail at one of them."""

    def __init__(self, notes, name="", fails_at=None):
        self.notes, self.name, self.fails_at = notes, name, fails_at

    def note(self, hook, *facts):
        self.notes.append((self.name + hook, *facts))
        if hook == self.fails_at:
            raise ZeroDivisionError(hook)

    def on_train_begin(self, trainer):
        self.note("begin", trainer.epochs, trainer.step)

    def on_batch_end(self, trainer):
        self.note("batch", trainer.epochs, trainer.step)

    def on_epoch_end(self, trainer, result):
        self.note("epoch", trainer.epochs, trainer.step)
        assert result is trainer.history[-1] and result.epoch == trainer.epochs == len(trainer.history)

    def on_train_end(self, trainer):
        self.note("end", trainer.epochs, trainer.step)


def hooks(notes):
    return [hook for hook, *_ in notes]


# ---- the order ------------------------------------------------------------------------------------------------------
def test_the_hooks_of_a_training():
    """After every few batches, at the end of an epoch when its result is there, and around it all."""
    notes, trainer = [], trainer_of()
    history = trainer.fit(2, Notes(notes))
    first, last = notes[0], notes[-1]
    assert first == ("begin", 0, 0) and last == ("end", 2, 0) and len(history) == 2
    assert [note for note in notes if note[0] == "epoch"] == [("epoch", 1, 0), ("epoch", 2, 0)]
    for epoch in range(2):
        steps = [step for hook, epochs, step in notes if hook == "batch" and epochs == epoch]
        assert steps == sorted(set(steps)) and 1 <= steps[0]
        assert steps[-1] == STEPS == trainer.steps, "the last batch, of 6 images, too"
    assert hooks(notes)[1] == "batch" and hooks(notes)[-2] == "epoch"


def test_callbacks_are_called_in_their_order_and_see_what_earlier_ones_did():
    notes = []
    first, second = Notes(notes, "1 "), Notes(notes, "2 ")
    trainer_of().fit(1, [first, lambda trainer, result: notes.append(("function",)), second])
    named = hooks(notes)
    assert named[:2] == ["1 begin", "2 begin"] and named[-2:] == ["1 end", "2 end"]
    assert named[-5:-2] == ["1 epoch", "function", "2 epoch"]
    assert named[2:-5] == ["1 batch", "2 batch"] * (len(named[2:-5]) // 2)


@pytest.mark.parametrize("given", (
    lambda f: f, lambda f: [f], lambda f: (f,), lambda f: iter([f]), lambda f: (each for each in [f])))
def test_a_function_is_called_after_every_epoch_with_its_result(given):
    results = []
    history = trainer_of().fit(3, given(lambda trainer, result: results.append((trainer.epochs, result))))
    assert results == list(zip((1, 2, 3), history, strict=True))


@pytest.mark.parametrize("callbacks", (3, "print", [None], [print, 3], EarlyStopping, [Callback]))
def test_what_is_not_a_callback_is_refused_before_anything_runs(callbacks):
    trainer = trainer_of()
    with pytest.raises(InputError, match="^fit: a callback must be a Callback or a function, got "):
        trainer.fit(1, callbacks)
    assert trainer.epochs == 0 == trainer.step


@pytest.mark.parametrize("epochs", (-1, 1.5, "3", None, True))
def test_numbers_of_epochs_that_cannot_be(epochs):
    with pytest.raises(InputError, match="^fit: epochs must be a whole number of at least 0, got"):
        trainer_of().fit(epochs)


# ---- the end --------------------------------------------------------------------------------------------------------
def test_stop_after_a_batch_ends_within_the_epoch():
    notes, trainer = [], trainer_of()
    history = trainer.fit(9, [StopAfter(2), Notes(notes)])
    assert (trainer.epochs, trainer.step) == (0, 2) and len(history) == 0
    assert hooks(notes) == ["begin", "batch", "batch", "end"]
    assert 0 < trainer.images_done < 70 and np.isfinite(trainer.running_loss)


def test_stop_after_the_last_batch_ends_the_epoch():
    notes, trainer = [], trainer_of()
    trainer.fit(9, [StopAfter(STEPS), Notes(notes)])
    assert (trainer.epochs, trainer.step) == (1, 0) and hooks(notes)[-2:] == ["epoch", "end"]


def test_stop_after_an_epoch_ends_there():
    notes, trainer = [], trainer_of()
    history = trainer.fit(9, [lambda trainer, result: result.epoch == 2 and trainer.stop(), Notes(notes)])
    assert (trainer.epochs, trainer.step) == (2, 0) and len(history) == 2
    assert hooks(notes)[-2:] == ["epoch", "end"]


def test_stop_before_the_first_batch_trains_nothing():
    class Never(Callback):
        def on_train_begin(self, trainer):
            trainer.stop()

    notes, trainer = [], trainer_of()
    before = trainer.model.values.copy()
    trainer.fit(9, [Never(), Notes(notes)])
    assert hooks(notes) == ["begin", "end"] and np.array_equal(trainer.model.values, before)


@pytest.mark.parametrize("epochs", (0, 2))
def test_epochs_that_are_done_are_not_trained_again(epochs):
    trainer, notes = trainer_of(), []
    trainer.fit(2)
    before = trainer.model.values.copy()
    assert len(trainer.fit(epochs, Notes(notes))) == 2
    assert hooks(notes) == ["begin", "end"] and np.array_equal(trainer.model.values, before)


@pytest.mark.parametrize("hook, last", (("begin", "begin"), ("batch", "batch"), ("epoch", "epoch")))
def test_an_exception_ends_the_training_and_every_callback_learns_of_it(hook, last):
    notes = []
    with pytest.raises(ZeroDivisionError, match=hook):
        trainer_of().fit(2, [Notes(notes, "1 "), Notes(notes, "2 ", fails_at=hook), Notes(notes, "3 ")])
    assert hooks(notes)[-5:] == [f"1 {last}", f"2 {last}", "1 end", "2 end", "3 end"]
    assert f"3 {hook}" not in hooks(notes)


def test_after_an_exception_a_training_goes_on_to_the_same_bits():
    trainer, whole = trainer_of(), trainer_of()
    with pytest.raises(ZeroDivisionError):
        trainer.fit(2, Notes([], fails_at="batch"))
    assert 0 < trainer.step
    assert trainer.fit(2)["loss"] == whole.fit(2)["loss"]
    assert np.array_equal(trainer.model.values, whole.model.values)


# ---- going on -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("first", (
    lambda trainer: trainer.fit(2), lambda trainer: trainer.fit(9, StopAfter(2)), lambda trainer: trainer.epoch(),
    lambda trainer: trainer.fit(9, [StopAfter(STEPS + 3)])))
def test_fit_goes_on_where_it_ended(first):
    trainer, whole = trainer_of(), trainer_of()
    first(trainer)
    history = trainer.fit(4)
    assert history["loss"] == whole.fit(4)["loss"] and history["epoch"] == [1, 2, 3, 4]
    assert np.array_equal(trainer.model.values, whole.model.values)


class States(Callback):
    """Keeps the state after every batch and every epoch."""

    def __init__(self):
        self.states = []

    def on_batch_end(self, trainer):
        self.states.append(trainer.state())

    def on_epoch_end(self, trainer, result):
        self.states.append(trainer.state())


@pytest.mark.parametrize("images", (70, 64))
def test_a_training_goes_on_from_the_state_after_any_batch(images):
    """Also after the last one of an epoch, short or not, when its result is still to come."""
    def trainer_of_images():
        model = network()
        return Trainer(model, dataset(train=images).hold_out(6), optimizer_of(model), batch_size=16, seed=3)

    whole, states = trainer_of_images(), States()
    history = whole.fit(2, states)["loss"]
    assert len(states.states) == 2 * (whole.steps + 1)
    trainer = trainer_of_images()
    for state in states.states:
        trainer.load_state(state)
        assert trainer.fit(2)["loss"] == history, (state["epochs"], state["step"])
        assert np.array_equal(trainer.model.values, whole.model.values), (state["epochs"], state["step"])
    with pytest.raises(InputError, match=f"step {whole.steps + 1} is past the {whole.steps} steps of an epoch"):
        trainer.load_state(states.states[0] | {"step": whole.steps + 1})


def test_fit_can_be_called_where_an_exception_is_handled(tmp_path):
    """The checkpoint of its end is written: nothing went wrong in this call."""
    trainer, checkpoint = trainer_of(), Checkpoint(tmp_path)
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        trainer.fit(2, [checkpoint, StopAfter(2)])
    assert checkpoint.last.name == "checkpoint-000000-00000002.npz"
    again = trainer_of()
    Checkpoint(tmp_path).resume(again)
    assert again.step == 2


# ---- callbacks of the library ---------------------------------------------------------------------------------------
def test_early_stopping_ends_after_epochs_without_improvement():
    trainer = trainer_of()
    trainer.optimizer.lr = 0                                        # no epoch is better than the first
    assert len(trainer.fit(9, EarlyStopping(2))) == 3
    assert len(trainer.fit(9, EarlyStopping(2))) == 3, "enough is enough also after that"
    assert len(trainer.fit(9, EarlyStopping(4))) == 5
    better = trainer_of()
    assert len(better.fit(6, EarlyStopping(2))) == 6
    for patience in 0, 1.5, None:
        with pytest.raises(InputError, match="EarlyStopping: patience must be a whole number of at least 1"):
            EarlyStopping(patience)


def test_a_log_has_a_line_for_each_epoch(tmp_path):
    history = trainer_of(measure_norm=True).fit(2, Log(tmp_path / "log.jsonl"))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    for line, result in zip(lines, history, strict=True):
        for name in "epoch", "loss", "accuracy", "seconds", "learning_rate", "gradient_norm", "images_per_second":
            assert line[name] == getattr(result, name), name
        assert not any(name.startswith("validation") for name in line)


class Terminal(io.StringIO):
    """Something that says it is a terminal of 80 columns."""

    def __init__(self, terminal=True):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal

    def fileno(self):
        return 2


@pytest.mark.parametrize("terminal", (True, False))
def test_a_progress_bar_is_drawn_on_terminals_only_and_wiped_away_at_the_end(terminal, monkeypatch):
    screen = Terminal(terminal)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(os, "get_terminal_size", lambda fileno: os.terminal_size((80, 24)))
    with pytest.raises(ZeroDivisionError):
        trainer_of().fit(2, [ProgressBar(), Notes([], fails_at="epoch")])
    drawn = screen.getvalue()
    if not terminal:
        assert drawn == ""
        return
    assert "Epoch 1" in drawn and "images/s" in drawn and drawn.endswith("\r\x1b[K")


class Notebook:
    """What IPython is in the kernel of a notebook."""

    kernel = None

    @staticmethod
    def get_ipython():
        return Notebook


def test_in_a_notebook_every_epoch_has_a_bar_that_stays(monkeypatch, capsys):
    pytest.importorskip("tqdm", reason="tqdm is missing: pip install tqdm")
    monkeypatch.setitem(sys.modules, "IPython", Notebook)
    history = trainer_of().fit(2, ProgressBar())
    bars = [line.rpartition("\r")[2] for line in capsys.readouterr().err.removesuffix("\n").split("\n")]
    assert len(bars) == 2
    for bar, result in zip(bars, history, strict=True):
        assert bar.startswith(f"Epoch {result.epoch}: 100%") and f"{result.images}/{result.images} " in bar
        assert f"loss {result.loss:.4f}, accuracy {result.accuracy:.2f} %]" in bar
    with pytest.raises(ZeroDivisionError):
        trainer_of().fit(2, [ProgressBar(), Notes([], fails_at="batch")])
    assert capsys.readouterr().err.count("\n") == 1, "the bar ends with the training"


def test_a_notebook_without_tqdm_is_told_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", Notebook)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.warns(UserWarning, match="pip install tqdm") as told:
        trainer_of().fit(2, ProgressBar())
    assert len(told) == 1


@pytest.mark.skipif(not JIT, reason="takes a while")
@pytest.mark.parametrize("seconds, least, most", ((math.inf, 50, 100), (0, 1000, 1000)))
def test_short_batches_are_told_several_at_a_time_and_long_ones_each(seconds, least, most, monkeypatch):
    """A call of the driver replays more batches while it takes less than half of CALL_SECONDS."""
    monkeypatch.setattr(feed, "CALL_SECONDS", seconds)
    notes, model = [], network()
    trainer = Trainer(model, dataset(train=1000), optimizer_of(model), batch_size=1, seed=3)
    trainer.fit(1, Notes(notes))
    assert least <= hooks(notes).count("batch") <= most
