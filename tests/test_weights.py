"""Trainings that begin with the weights of a file, and trainings that go on after their end."""
import json

import numpy as np
import pytest

import cnn_numba
from cnn_numba import PRESETS, Conv2d, Flatten, InputError, Linear, ReLU, Sequential, load, load_dataset, load_weights
from cnn_numba.commands.main import main
from cnn_numba.files.checkpoints import newest_checkpoint

RUN = ("--dataset", "digits", "--train-size", "200", "--test-size", "40", "--serial", "--predictions", "0",
       "--batch-size", "64", "--lr", "0.03")


def small(classes=4, seed=0, filters=3, dropout=False):
    more = [cnn_numba.Dropout(0.5)] if dropout else []
    return Sequential(Conv2d(1, filters, 3), ReLU(), Conv2d(filters, filters, 3), *more, Flatten(),
                      Linear(filters, classes), seed=seed)


def test_weights_are_copied_by_name(tmp_path):
    small(seed=5).save(tmp_path / "model.npz")
    model = small(seed=1)
    load_weights(model, tmp_path / "model.npz", pytest.fail)
    assert np.array_equal(model.values, small(seed=5).values)


def test_weights_are_found_by_their_order(tmp_path):
    """A dropout layer changes the numbers of the layers, not what they are."""
    small(seed=5, dropout=True).save(tmp_path / "model.npz")
    model = small(seed=1)
    load_weights(model, tmp_path / "model.npz", pytest.fail)
    assert np.array_equal(model.values, small(seed=5).values)


def test_a_last_layer_of_another_size_starts_anew_and_says_so(tmp_path):
    small(classes=7, seed=5).save(tmp_path / "model.npz")
    model, said = small(seed=1), []
    load_weights(model, tmp_path / "model.npz", said.append)
    assert said == ["layer 4 starts anew: the file has weight 7x3, bias 7, the network weight 4x3, bias 4"]
    new, old, state = small(seed=1).state_dict(), small(seed=5).state_dict(), model.state_dict()
    assert all(np.array_equal(state[name], (new if name.startswith("4.") else old)[name]) for name in state)


@pytest.mark.parametrize("model, sentence", [
    (small(filters=5), "layer 0 has weight 5x1x3x3, bias 5, but the file has weight 3x1x3x3, bias 3: only the last"),
    (Sequential(Flatten(), Linear(25, 4)), r"weights of 3 layers \(0, 2, 4\), expected those of 1 \(1\)")])
def test_other_networks_are_refused_and_stay_as_they_are(model, sentence, tmp_path):
    small().save(tmp_path / "model.npz")
    before = model.values.copy()
    with pytest.raises(InputError, match=f"model.npz: .*{sentence}"):
        load_weights(model, tmp_path / "model.npz")
    assert np.array_equal(model.values, before)


# ---- from the command line ----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "model.npz"
    assert main([*RUN, "--epochs", "20", "--save", str(path)]) == 0
    return path


def first_loss(capsys, *flags):
    """(loss of the first epoch, what was printed)"""
    assert main([*flags, "--serial", "--epochs", "1", "--predictions", "0"]) == 0
    out = capsys.readouterr().out
    return float(out.partition("Epoch 1 Loss= ")[2].split()[0]), out


def test_a_training_begins_where_another_ended(trained, capsys):
    new, _ = first_loss(capsys, *RUN)
    old, out = first_loss(capsys, *RUN, "--weights", str(trained))
    assert old < 0.7 * new and f"Network {trained}: 1,898 parameters, with the weights of {trained}\n" in out


def test_ones_own_classes(trained, tmp_path, capsys):
    """Three of the ten digits, under other names."""
    data = load_dataset("digits")
    chosen = data.train_labels < 3
    labels = np.array(["zero", "one", "two"])[data.train_labels[chosen]]
    np.savez(tmp_path / "three.npz", images=data.train_images[chosen], labels=labels)
    flags = "--dataset", str(tmp_path / "three.npz")
    _, out = first_loss(capsys, *flags, "--weights", str(trained), "--lr", "1e-9", "--save", str(tmp_path / "new.npz"))
    assert "layer 7 starts anew: the file has weight 10x64, bias 10, the network weight 3x64, bias 3\n" in out
    new, old = load(tmp_path / "new.npz"), load(trained).state_dict()
    assert new.classes == ("one", "two", "zero")
    kept = {name: values for name, values in new.state_dict().items() if not name.startswith("7.")}
    assert kept and all(np.allclose(values, old[name], atol=1e-5) for name, values in kept.items())


def test_the_network_may_be_another_file(trained, tmp_path, capsys):
    """--model names the layers, --weights the numbers."""
    layers = [{"type": "conv2d", "params": {"out_channels": 8, "kernel_size": 3, "padding": 1}}, {"type": "relu"},
              {"type": "maxpool2d", "params": {"kernel_size": 2}},
              {"type": "conv2d", "params": {"out_channels": 16, "kernel_size": 3, "padding": 1}}, {"type": "tanh"},
              {"type": "maxpool2d", "params": {"kernel_size": 2}}, {"type": "linear"}]
    (tmp_path / "net.json").write_text(json.dumps(layers))
    assert main([*RUN, "--model", str(tmp_path / "net.json"), "--weights", str(trained), "--epochs", "1"]) == 0
    assert main([*RUN, "--model", "bn-cnn", "--weights", str(trained)]) == 2
    assert f"error: argument --weights: {trained}: " in capsys.readouterr().err
    assert main([*RUN, "--weights", "nowhere.npz"]) == 2
    assert "argument --weights: nowhere.npz does not exist" in capsys.readouterr().err


def test_a_model_file_gives_the_layers_of_a_new_network(trained):
    model = cnn_numba.Recipe(dataset="digits", model=str(trained), seed=4).make_model(load_dataset("digits"))
    assert np.array_equal(model.values, PRESETS["two-conv"]((1, 8, 8), 10, seed=4).values)


# ---- frozen layers -------------------------------------------------------------------------------------------------
def test_frozen_layers_stay_as_they_are_and_others_learn(trained, tmp_path, capsys):
    """Also when the training is resumed."""
    run, out = str(tmp_path / "run"), tmp_path / "new.npz"
    assert main([*RUN, "--weights", str(trained), "--freeze", "0-3", "--epochs", "1", "--checkpoint", run]) == 0
    assert main(["--resume", run, "--epochs", "2", "--serial", "--save", str(out)]) == 0
    old, new = load(trained).state_dict(), load(out).state_dict()
    same = {name for name in old if np.array_equal(old[name], new[name])}
    assert same == {"0.weight", "0.bias", "3.weight", "3.bias"}


def test_a_frozen_batch_norm_collects_no_statistics(tmp_path):
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    assert main([*RUN, "--model", "two-conv-bn", "--epochs", "1", "--save", str(first)]) == 0
    assert main([*RUN, "--weights", str(first), "--freeze", "0-1", "--epochs", "1", "--save", str(second)]) == 0
    old, new = load(first).state_dict(), load(second).state_dict()
    same = {name for name in old if np.array_equal(old[name], new[name])}
    assert {"1.running_mean", "1.running_var", "1.num_batches_tracked", "1.weight", "0.weight"} <= same
    assert "5.running_mean" not in same or "4.running_mean" not in same


@pytest.mark.parametrize("flags, sentence", [
    (["--freeze", "0-12"], "argument --freeze: the network has the layers 0 to 7, got 8"),
    (["--freeze", "3-0"], "argument --freeze: expected numbers of layers such as 0-3 or 0,2,5-7, got '3-0'"),
    (["--freeze", "0-99999"], "argument --freeze: expected numbers of layers"),
    (["--freeze", "0-7"], "all parameters are frozen"),
    (["--freeze", "5-7", "--weights", "seven.npz"], "argument --freeze: layer 7 starts anew, so it must be trained")])
def test_layers_that_cannot_be_frozen(flags, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    PRESETS["two-conv"]((1, 8, 8), 7).save("seven.npz")
    assert main([*RUN, *flags]) == 2
    assert sentence in capsys.readouterr().err


# ---- more epochs ---------------------------------------------------------------------------------------------------
def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_epochs_beyond_the_end_train_on_with_the_schedule_from_its_beginning(tmp_path, capsys):
    run, log = str(tmp_path / "run"), tmp_path / "log"
    assert main([*RUN, "--epochs", "2", "--checkpoint", run, "--log", str(log)]) == 0
    assert main(["--resume", run, "--epochs", "4", "--serial", "--predictions", "0", "--log", str(log),
                 "--save", str(tmp_path / "whole.npz")]) == 0
    assert "The schedule linear begins anew, for 2 more epochs\n" in capsys.readouterr().out
    found = lines(log)
    assert [line["epoch"] for line in found] == [1, 2, 3, 4]
    assert [line["learning_rate"] for line in found] == pytest.approx([0.03, 0.015, 0.03, 0.015])
    assert found[3]["loss"] < found[1]["loss"]
    assert main(["--resume", run, "--epochs", "3", "--serial"]) == 2


def test_what_an_optimizer_has_collected_is_kept(tmp_path, capsys):
    """The first step of Adam after the second epoch is no step of a new Adam, which would be as long as the rate."""
    run, log = str(tmp_path / "run"), tmp_path / "log"
    flags = "--optimizer", "adam", "--schedule", "one-cycle", "--lr", "0.01", "--epochs", "2", "--checkpoint", run
    assert main([*RUN, *flags]) == 0
    before = newest_checkpoint(run, pytest.fail).state
    assert main(["--resume", run, "--epochs", "3", "--serial", "--log", str(log)]) == 0
    after = newest_checkpoint(run, pytest.fail).state
    steps = 4
    assert (before["optimizer.steps"], after["optimizer.steps"]) == (2 * steps, 3 * steps)
    assert lines(log)[-1]["learning_rate"] < 0.01


def test_a_longer_training_resumes_to_the_same_bits(tmp_path):
    """One that was stopped after the third of four epochs."""
    from cnn_numba.commands import callbacks

    models = []
    for stop in (False, True):
        run, out = str(tmp_path / f"run {stop}"), tmp_path / f"{stop}.npz"
        assert main([*RUN, "--epochs", "2", "--checkpoint", run, "--quiet"]) == 0
        more = ["--resume", run, "--serial", "--quiet", "--save", str(out)]
        if stop:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(callbacks.StopWhenInterrupted, "on_batch_end",
                              lambda self, trainer: trainer.stop() if trainer.epochs == 3 else None)
                main([*more, "--epochs", "4"])
            out.unlink(missing_ok=True)
            assert main(more) == 0
        else:
            assert main([*more, "--epochs", "4"]) == 0
        models.append(load(out))
    assert np.array_equal(*(model.values for model in models))
