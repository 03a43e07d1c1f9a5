"""Run folders, recipes in files, and the limit of time."""
import csv
import json
import signal

import numpy as np
import pytest
from trainings import StopAfter, dataset, network, optimizer_of

from cnn_numba import InputError, Recipe, Trainer, load
from cnn_numba.callbacks import TimeLimit
from cnn_numba.commands import main as cli
from cnn_numba.commands.kept import time_left
from cnn_numba.recipe_file import read_fields, write_recipe
from cnn_numba.run_folder import RunFiles, RunFolder

SHORT = ["--dataset", "digits", "--train-size", "200", "--test-size", "100", "--serial", "--quiet"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of two epochs with validation images."""
    path = tmp_path_factory.mktemp("runs") / "first"
    assert cli.main(["--run", str(path), *SHORT, "--epochs", "2", "--validation", "40", "--schedule", "constant"]) == 0
    return RunFolder(path)


# ---- what is in it --------------------------------------------------------------------------------------------------
def test_a_run_leaves_recipe_numbers_models_checkpoint_and_information(run):
    names = {path.name for path in run.path.iterdir()}
    assert {"config.json", "log.jsonl", "metrics.csv", "model.npz", "last.npz", "filters.npz", "result.json",
            "info.txt", "checkpoint-000002-00000000.npz"} <= names
    assert run.recipe().epochs == 2 and run.recipe().validation == 40 and run.recipe().dataset == "digits"
    logged = [json.loads(line) for line in run.log.read_text().splitlines()]
    assert [line["epoch"] for line in logged] == [1, 2] and all(line["gradient_norm"] > 0 for line in logged)
    with open(run.metrics, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["validation_loss"]) for row in rows] == [line["validation_loss"] for line in logged]
    text = run.info.read_text()
    assert "numba" in text and "cores" in text and "started:" in text
    result = run.read_result()
    assert (result["end"], result["epochs"], result["test_images"]) == ("finished", 2, 100)


def test_the_models_are_the_best_and_the_last(run):
    history, best, last = run.history(), load(run.model), load(run.last)
    assert best.accuracy == pytest.approx(run.read_result()["test_accuracy"]) and last.accuracy is None
    best_epoch = int(np.argmax(history["validation_accuracy"])) + 1
    equal = all(np.array_equal(a, b) for a, b in zip(best.state_dict().values(), last.state_dict().values(),
                                                    strict=True))
    assert equal == (best_epoch == 2)
    epochs, filters = run.read_filters()
    assert epochs == [0, 1, 2] and np.array_equal(filters[2], last.state_dict()["0.weight"])
    assert not np.array_equal(filters[0], filters[1])


def test_the_best_model_is_kept_when_later_epochs_are_worse(tmp_path):
    data = dataset(validation_images=dataset(seed=1).test_images, validation_labels=dataset(seed=1).test_labels)
    model = network()
    trainer, run = Trainer(model, data, optimizer_of(model), batch_size=16), RunFolder(tmp_path)

    def spoil(trainer, result):
        if trainer.epochs == 2:
            trainer.optimizer.lr = 5.0
    trainer.fit(3, [RunFiles(run, seconds=0), spoil])
    assert trainer.best["epoch"] < 3
    kept = load(run.model).state_dict()
    assert np.array_equal(load(run.last).state_dict()["0.weight"], model.state_dict()["0.weight"])
    assert not np.array_equal(kept["0.weight"], model.state_dict()["0.weight"])
    trainer.restore_best()
    assert np.array_equal(kept["0.weight"], model.state_dict()["0.weight"])


def test_a_history_comes_back_to_the_bit(tmp_path, run):
    copy = RunFolder(tmp_path)
    copy.write_history(run.history())
    assert list(copy.history()) == list(run.history()) and len(run.history()) == 2
    copy.metrics.write_text("epoch,loss\n1,2\n")
    with pytest.raises(InputError, match="metrics.csv is not the table of a run"):
        copy.history()


# ---- folders that are refused, and resumed --------------------------------------------------------------------------
def test_the_folder_of_another_run_is_refused(run, capsys):
    before = run.log.read_bytes()
    assert cli.main(["--run", str(run.path), *SHORT]) == 2
    assert f"{run.path} holds another run: --resume {run.path} goes on with it" in capsys.readouterr().err
    assert run.log.read_bytes() == before


@pytest.mark.parametrize("name", ["model.npz", "report.html", "checkpoint-000001-00000000.npz"])
def test_files_that_a_run_would_overwrite_are_kept(tmp_path, name, capsys):
    (tmp_path / name).write_text("mine")
    assert cli.main(["--run", str(tmp_path), *SHORT]) == 2
    assert f"holds {name}, which the run would overwrite" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_a_start_that_fails_leaves_nothing_in_the_way(tmp_path):
    folder = tmp_path / "new"
    assert cli.main(["--run", str(folder), *SHORT, "--validation", "4000"]) == 2
    RunFolder(folder).check_unused()


def test_a_resumed_run_goes_on_in_its_folder(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    flags = [*SHORT, "--schedule", "constant"]
    assert cli.main(["--run", str(whole), *flags, "--epochs", "3"]) == 0
    assert cli.main(["--run", str(parts), *flags, "--epochs", "1"]) == 0
    assert cli.main(["--resume", str(parts), "--epochs", "3", "--quiet", "--serial"]) == 0
    one, two = RunFolder(whole), RunFolder(parts)
    assert one.history()["loss"] == two.history()["loss"] and two.recipe().epochs == 3
    assert one.read_result()["test_accuracy"] == two.read_result()["test_accuracy"]
    assert two.read_filters()[0] == [0, 1, 2, 3]
    assert np.array_equal(one.read_filters()[1], two.read_filters()[1])
    assert two.info.read_text().count("started:") == 2 and len(two.log.read_text().splitlines()) == 3


def test_an_interrupted_run_says_so_and_goes_on_from_within_the_epoch(tmp_path):
    data, model = dataset(), network()
    trainer, run = Trainer(model, data, optimizer_of(model), batch_size=16), RunFolder(tmp_path)
    trainer.fit(3, [RunFiles(run), StopAfter(7)])           # of five batches
    assert trainer.step and len(run.history()) == trainer.epochs == 1
    assert run.read_result() == {} and run.read_filters()[0] == [0, 1]
    trainer.fit(3, RunFiles(run))
    assert run.read_filters()[0] == [0, 1, 2, 3] and len(run.history()) == 3


def test_a_signal_leaves_a_run_that_can_be_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(RunFiles, "on_epoch_end", lambda *_: signal.raise_signal(signal.SIGTERM))
    assert cli.main(["--run", str(tmp_path / "run"), *SHORT, "--epochs", "4", "--schedule", "constant"]) == 143
    monkeypatch.undo()
    run = RunFolder(tmp_path / "run")
    assert run.read_result()["end"] == "interrupted" and len(run.history()) == 1
    assert cli.main(["--resume", str(run.path), "--quiet", "--serial"]) == 0
    assert run.read_result()["end"] == "finished" and len(run.history()) == 4


# ---- recipes in files -----------------------------------------------------------------------------------------------
def test_the_recipe_of_a_run_trains_the_same_again(run, tmp_path):
    again = tmp_path / "again"
    assert cli.main(["--run", str(again), "--config", str(run.config), "--serial", "--quiet"]) == 0
    assert RunFolder(again).history()["loss"] == run.history()["loss"]


def test_a_recipe_comes_back_from_its_file(tmp_path):
    for name in ("fast", "two-conv-bn"):
        recipe = Recipe.named(name)
        write_recipe(tmp_path / "recipe.json", recipe)
        assert Recipe(**read_fields(tmp_path / "recipe.json")) == recipe


def test_toml_written_by_hand_and_flags_that_win(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('# mine\ndataset = "digits"\nbatch-size = 32\nepochs = 7\noptimizer = "sgd"\nmomentum = 0.5\n'
                    'train_size = 200\naugment = "shift=1"\nclass-weights = "1,1,1,1,1,1,1,1,1,2"\n')
    assert read_fields(path)["class_weights"] == (1,) * 9 + (2,)
    folder = tmp_path / "run"
    assert cli.main(["--config", str(path), "--run", str(folder), "--epochs", "1", "--optimizer", "adam", "--serial",
                     "--quiet"]) == 0
    recipe = RunFolder(folder).recipe()
    assert (recipe.batch_size, recipe.epochs, recipe.optimizer, recipe.momentum) == (32, 1, "adam", None)
    assert recipe.augment == "shift=1" and recipe.lr == 0.001


@pytest.mark.parametrize("name, text, sentence", (
    ("a.json", '{"epochz": 3}', "unknown setting 'epochz': did you mean epochs?"),
    ("a.toml", "batchsize = 3", "unknown setting 'batchsize': did you mean batch_size?"),
    ("a.toml", "batch-size = 3\nbatch_size = 4", "batch_size occurs twice"),
    ("a.json", '{"epochs": "many"}', "epochs: expected a whole number of at least 1, got 'many'"),
    ("a.json", '{"epochs": 2.5}', "epochs: expected a whole number of at least 1, got 2.5"),
    ("a.toml", "epochs = ", "is not TOML: Invalid value (at end of document)"),
    ("a.toml", "epochs = \xff", "is not text in UTF-8"), ("a.json", "[1]", "expected an object"),
    ("a.json", '{"epochs": ', "line 1, column 12 is not JSON"),
    ("a.json", '{"optimizer": "adam", "momentum": 0.9}', "momentum: the optimizer adam does not use it"),
    ("a.json", '{"extensions": ["mine.py"]}', "has mine.py, which is not given"),
), ids=lambda value: value[:30])
def test_files_that_are_refused(tmp_path, name, text, sentence, capsys):
    path = tmp_path / name
    path.write_bytes(text.encode("latin-1"))
    assert cli.main(["--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert sentence in error and str(path) in error and error.count("\n") == 1


# ---- the limit of time ----------------------------------------------------------------------------------------------
def test_a_training_ends_in_time_with_everything_saved(tmp_path, capsys):
    folder = tmp_path / "run"
    assert cli.main(["--run", str(folder), *SHORT[:-1], "--epochs", "100000", "--schedule", "constant",
                     "--max-minutes", "0.03"]) == 0
    out, run = capsys.readouterr().out, RunFolder(folder)
    assert "Stopped for --max-minutes in epoch " in out and f"--resume {folder} goes on" in out
    assert run.read_result()["end"] == "time limit" and "test_accuracy" in run.read_result()
    assert len(run.history()) == run.read_result()["epochs"] < 100000 and list(folder.glob("checkpoint-*"))


def test_a_part_of_the_time_is_kept_for_the_end():
    import time

    assert time_left(10, time.perf_counter()) == pytest.approx(600 - 20, abs=0.5)
    assert time_left(1, time.perf_counter() - 30) == pytest.approx(60 - 3 - 30, abs=0.5)


def test_a_time_limit_stops_after_the_batches_that_are_running():
    model = network()
    trainer, limit = Trainer(model, dataset(), optimizer_of(model), batch_size=16), TimeLimit(0)
    trainer.fit(5, limit)
    assert limit.reached and 0 < trainer.step <= trainer.steps and trainer.epochs == 0
