"""The numbers of a training: columns, text, HTML, what is refused, and what a resumed training has of them."""
import copy
import json
import math

import numpy as np
import pytest
from trainings import StopAfter, dataset, network, optimizer_of

from cnn_numba import Checkpoint, EpochResult, History, InputError, Trainer

RESULTS = [EpochResult(1, 0.75, 60.0, 2.0, 300, 5, 0.1), EpochResult(2, 0.5, 80.5, 0.0, 300, 5, 0.05, 1.25)]


def test_columns_slices_and_results():
    history = History(RESULTS)
    assert len(history) == 2 and history[-1] is RESULTS[1] and list(history) == RESULTS
    assert history["loss"] == [0.75, 0.5] and history["gradient_norm"] == [None, 1.25]
    assert isinstance(history[1:], History) and history[1:]["epoch"] == [2]
    assert RESULTS[0] in history and history.index(RESULTS[1]) == 1
    with pytest.raises(KeyError, match="lost: the columns are epoch, loss, accuracy"):
        history["lost"]
    with pytest.raises(IndexError):
        history[2]


def test_the_speed_of_an_epoch_without_time_is_zero():
    assert [result.images_per_second for result in RESULTS] == [150, 0]


def test_a_history_keeps_the_results_that_it_was_given():
    results = RESULTS[:1]
    history = History(results)
    history.append(RESULTS[1])
    assert len(results) == 1 and len(history) == 2


def test_text_and_html_have_the_columns_with_numbers():
    history = History(RESULTS)
    heading, _, *rows = str(history).splitlines()
    assert "gradient norm" in heading and "validation" not in heading
    assert rows[0].split()[-1] == "-" and rows[1].split() == ["2", "0.5", "80.5", "0", "300", "5", "0.05", "1.25"]
    html = history._repr_html_()
    assert html.count("<tr>") == 3 and html.count("<th") == 8 and ">80.5<" in html and "validation" not in html
    validated = History([EpochResult(1, 0.75, 60.0, 2.0, 300, 5, 0.1, None, 0.9, 55.0)])
    assert "validation loss" in str(validated) and "gradient" not in str(validated)


# ---- through files --------------------------------------------------------------------------------------------------
def test_a_history_goes_through_json():
    history = History(RESULTS)
    again = History.from_state(json.loads(json.dumps(history.state())))
    assert list(again) == RESULTS and again.state() == history.state()
    assert list(copy.deepcopy(history)) == RESULTS
    assert len(History.from_state([])) == 0


def changed(**changes):
    return [RESULTS[0].__dict__ | changes]


@pytest.mark.parametrize("state", (
    None, {}, "epochs", 3, [None], [[]], [{}], changed(more=1), [{"epoch": 1}],
    changed(loss=None), changed(loss="0.5"), changed(loss=math.nan), changed(loss=math.inf), changed(loss=True),
    changed(loss=[0.5]), changed(epoch=1.0), changed(epoch=None), changed(epoch=False), changed(images=2.5),
    changed(steps="5"), changed(gradient_norm="1"), changed(validation_loss=-math.inf),
    changed(validation_accuracy=True)), ids=lambda state: str(state)[-60:])
def test_states_that_are_refused(state):
    with pytest.raises(InputError, match="^the history is not a list of the numbers of each epoch$"):
        History.from_state(state)


def trainer_of(**options):
    model = network()
    return Trainer(model, dataset().hold_out(10), optimizer_of(model), batch_size=16, seed=3, **options)


def told(history):
    """All but the time that it took."""
    return [{name: value for name, value in result.items() if name != "seconds"} for result in history.state()]


def test_a_resumed_training_has_the_epochs_before(tmp_path):
    whole = trainer_of(measure_norm=True).fit(4)
    begun = trainer_of(measure_norm=True)
    begun.fit(4, [Checkpoint(tmp_path), StopAfter(2 * 4 + 1)])      # in the middle of the third epoch
    assert (begun.epochs, begun.step, len(begun.history)) == (2, 1, 2)
    goes_on = trainer_of(measure_norm=True)
    Checkpoint(tmp_path).resume(goes_on)
    assert list(goes_on.history) == list(begun.history)
    history = goes_on.fit(4)
    assert history is goes_on.history and told(history) == told(whole)
    assert history["epoch"] == [1, 2, 3, 4] and None not in history["validation_loss"] + history["gradient_norm"]
    assert history[:2].state() == begun.history.state(), "the seconds, too"
    assert history[2].seconds > begun.state()["seconds"] > 0, "those before the stop count"


@pytest.mark.parametrize("change", (
    lambda history: history[:-1], lambda history: history[::-1], lambda history: history + history[-1:],
    lambda history: [entry | {"epoch": 1} for entry in history], lambda history: None))
def test_a_state_with_the_history_of_other_epochs_is_refused(change):
    trainer = trainer_of()
    trainer.fit(2)
    state = trainer.state()
    before = trainer.model.values.copy()
    with pytest.raises(InputError, match="the history is not"):
        trainer.load_state(state | {"history": change(state["history"])})
    assert trainer.history.state() == state["history"] and np.array_equal(trainer.model.values, before)
