"""Training that stops anywhere, and goes on to the same bits."""
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from networks import conv, flatten, linear, make, pool, relu

from cnn_numba import SGD, Dataset, InputError, Sequential, Trainer
from cnn_numba.commands import interrupt, train
from cnn_numba.commands import main as cli
from cnn_numba.files import container
from cnn_numba.files.checkpoints import Checkpoints, list_checkpoints, newest_checkpoint, read_checkpoint
from cnn_numba.files.layers_json import describe_layers
from cnn_numba.kernels.program import JIT

ROOT = Path(__file__).resolve().parents[1]
LAYERS = [conv(2, 6, 3, padding=1), relu, pool(2), flatten, linear(96, 5)]
BATCH, EPOCHS = 16, 3
STEPS = 5                           # of an epoch; the last has 6 images


def dataset(seed=0, images=70):
    rng = np.random.default_rng(seed)
    pixels, labels = rng.integers(0, 255, (images, 2, 8, 8), np.uint8), rng.integers(0, 5, images)
    return Dataset("made up", pixels, labels, pixels[:9], labels[:9], 5)


DATA = dataset()


def trainer_of(data=DATA, layers=LAYERS, batch_size=BATCH, seed=3, momentum=0.9):
    model = Sequential(*make(layers), seed=7)
    return Trainer(model, data, SGD(model, lr=0.05, momentum=momentum), batch_size=batch_size, seed=seed)


def after(steps):
    """A function that is true from when it was asked so often."""
    left = [steps]

    def pause():
        left[0] -= 1
        return left[0] < 0
    return pause


def ran(trainer, epochs=EPOCHS, pause=None):
    """Run up to so many epochs, with a learning rate that falls; gives their results, None for one that stopped."""
    results = []
    while trainer.epochs < epochs and None not in results:
        trainer.optimizer.lr = 0.05 * (1 - trainer.epochs / epochs)
        results.append(trainer.epoch(pause=pause))
    return results


def same(trainer, other):
    mine, theirs = trainer.state(), other.state()
    assert mine.keys() == theirs.keys()
    for name in mine:
        if name != "seconds":
            assert np.array_equal(mine[name], theirs[name]), name


@pytest.fixture(scope="module")
def whole():
    """A training that nobody interrupted, and the results of its epochs."""
    trainer = trainer_of()
    return trainer, ran(trainer)


# ---- the trainer ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("steps", range(EPOCHS * STEPS))
def test_another_trainer_goes_on_to_the_same_bits(steps, whole, tmp_path):
    first = trainer_of()
    results = ran(first, pause=after(steps))
    assert results.pop() is None and (first.epochs, first.step) == divmod(steps, STEPS)
    Checkpoints(tmp_path, first).start()
    second = trainer_of(layers=LAYERS)
    second.model.values += 1
    Checkpoints(tmp_path, second).resume(newest_checkpoint(tmp_path))
    same(first, second)
    results += ran(second)
    same(second, whole[0])
    assert [(r.loss, r.accuracy, r.images) for r in results] == [(r.loss, r.accuracy, r.images) for r in whole[1]]


def test_the_same_trainer_goes_on_after_a_pause(whole):
    trainer, results = trainer_of(), []
    while trainer.epochs < EPOCHS:
        results += ran(trainer, pause=after(2))
    assert results.count(None) >= EPOCHS
    same(trainer, whole[0])


def test_an_epoch_without_its_pause_in_the_state_does_not_pass(whole, tmp_path):
    """A control: a training that goes on one step too early ends elsewhere."""
    first, second = trainer_of(), trainer_of()
    ran(first, pause=after(7))
    second.load_state(first.state() | {"step": 1})
    ran(second)
    assert not np.array_equal(second.model.values, whole[0].model.values)


def test_progress_after_a_pause_adds_up_to_what_is_left():
    trainer, told = trainer_of(), []
    trainer.epoch(pause=after(2))
    trainer.epoch(told.append)
    assert sum(told) == 70 - 2 * BATCH


def test_the_best_epoch_is_the_one_of_the_least_loss(whole):
    trainer, results = whole
    best = min(range(EPOCHS), key=lambda k: results[k].loss)
    assert trainer.best == {"epoch": best + 1, "loss": results[best].loss, "accuracy": results[best].accuracy}


@pytest.mark.parametrize("name", sorted(trainer_of().state().keys() - {"best"}))
def test_states_that_lack_something(name):
    trainer = trainer_of()
    state = trainer.state()
    del state[name]
    with pytest.raises(InputError):
        trainer.load_state(state)


@pytest.mark.parametrize("change, sentence", [
    ({"batch_size": 15}, "batch_size 15, not 16"), ({"seed": 4}, "seed 4, not 3"), ({"epochs": -1}, "epochs"),
    ({"epochs": 1.0}, "epochs"), ({"step": STEPS}, "step 5 is past"), ({"step": None}, "step"), ({"sums": [1]}, "sums"),
    ({"sums": [1, None]}, "sums"), ({"sums": {"0": 1, "1": 1}}, "sums"), ({"seconds": "1"}, "seconds"),
    ({"best": 5}, "best"), ({"best": {"epoch": 1}}, "best"), ({"optimizer.lr": -1}, "lr"),
    ({"optimizer.lr": "0.1"}, "lr"), ({"optimizer.velocity": 3}, "velocity"),
    ({"optimizer.velocity": np.zeros(3, np.float32)}, "velocity"), ({"optimizer.x": 1}, "exactly lr"),
    ({"model.0.bias": 3}, "0.bias"), ({"model.0.bias": np.zeros(7, np.float32)}, "0.bias"), ({"model.9": 1}, "'9'")])
def test_states_of_other_trainings(change, sentence):
    trainer = trainer_of()
    with pytest.raises(InputError, match=sentence):
        trainer.load_state(trainer.state() | change)


# ---- the folder -----------------------------------------------------------------------------------------------
def test_the_last_two_are_kept(tmp_path):
    trainer = trainer_of()
    checkpoints = Checkpoints(tmp_path / "deep" / "run", trainer, {"epochs": ["3"]}, steps=2)
    checkpoints.start()
    (checkpoints.folder / ".checkpoint-000000-00000001.npz.1.part").touch()      # what a killed process leaves
    (checkpoints.folder / "notes.txt").touch()
    seen = []

    def pause():
        if checkpoints.save_if_due():
            seen.append([path.stem[-8:] for path in list_checkpoints(checkpoints.folder)])
        return False

    trainer.epoch(pause=pause)
    checkpoints.save()
    checkpoints.save()                                  # the same once more
    assert seen == [["00000000", "00000002"], ["00000002", "00000004"]]
    assert sorted(os.listdir(checkpoints.folder)) == [
        "checkpoint-000000-00000004.npz", "checkpoint-000001-00000000.npz", "notes.txt"]
    assert newest_checkpoint(checkpoints.folder).settings == {"epochs": ["3"]}


def test_minutes(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    trainer = trainer_of()
    checkpoints = Checkpoints(tmp_path, trainer, minutes=2)
    checkpoints.start()
    now[0] += 500
    assert not checkpoints.save_if_due()                # nothing has changed
    trainer.epoch(pause=after(1))
    assert checkpoints.save_if_due() and not checkpoints.save_if_due()
    trainer.epoch(pause=after(1))
    now[0] += 119
    assert not checkpoints.save_if_due()
    now[0] += 1
    assert checkpoints.save_if_due()


def test_a_damaged_newest_is_named_and_the_one_before_is_used(tmp_path, whole):
    trainer = trainer_of()
    checkpoints = Checkpoints(tmp_path, trainer)
    checkpoints.start()
    trainer.epoch()
    checkpoints.save()
    before, newest = list_checkpoints(tmp_path)
    content = newest.read_bytes()
    for damaged in content[:-1], content[:500], b"", content[:700] + b"?" + content[701:]:
        newest.write_bytes(damaged)
        said = []
        assert newest_checkpoint(tmp_path, said.append).path == before
        assert len(said) == 1 and str(newest) in said[0] and "the one before" in said[0]
    other = trainer_of()
    again = Checkpoints(tmp_path, other)
    again.resume(newest_checkpoint(tmp_path, said.append))
    ran(other, epochs=1)
    again.save()                                        # over the damaged one
    assert newest_checkpoint(tmp_path, pytest.fail).path == newest
    ran(other)
    before.write_bytes(b"")
    newest.write_bytes(b"")
    with pytest.raises(InputError, match="no whole one before"):
        newest_checkpoint(tmp_path, said.append)


def test_folders_without_checkpoints(tmp_path):
    with pytest.raises(InputError, match="holds no checkpoint"):
        newest_checkpoint(tmp_path)
    with pytest.raises(InputError, match="No such file"):
        newest_checkpoint(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    for folder in tmp_path / "file", tmp_path / "file" / "run":
        with pytest.raises(InputError, match="cannot be made"):
            Checkpoints(folder, trainer_of())


def test_another_training_does_not_start_in_the_folder(tmp_path):
    Checkpoints(tmp_path, trainer_of()).start()
    with pytest.raises(InputError, match="of another training"):
        Checkpoints(tmp_path, trainer_of()).start()


@pytest.mark.parametrize("options, sentence", [
    ({"layers": [conv(2, 6, 3, padding=1), relu, pool(2), flatten, linear(96, 5), relu]},
     r"another network: its layer 5 is none, expected ReLU\(\)"),
    ({"layers": [conv(2, 6, 5, padding=2), relu, pool(2), flatten, linear(96, 5)]},
     r"its layer 0 is Conv2d\(kernel_size=\[3, 3\], padding=\[1, 1\]\), expected Conv2d\(kernel_size=\[5, 5\], "),
    ({"data": dataset(seed=1)}, "other training images"), ({"data": dataset(images=71)}, "other training images"),
    ({"data": replace(DATA, train_labels=DATA.train_labels[::-1])}, "other training images"),
    ({"batch_size": 8}, "batch_size 16, not 8"), ({"seed": 0}, "seed 3, not 0")])
def test_checkpoints_of_other_trainings(options, sentence, tmp_path):
    Checkpoints(tmp_path, trainer_of()).start()
    content, trainer = list_checkpoints(tmp_path)[0].read_bytes(), trainer_of(**options)
    values = trainer.model.values.copy()
    with pytest.raises(InputError, match=sentence) as error:
        Checkpoints(tmp_path, trainer).resume(newest_checkpoint(tmp_path))
    assert "\n" not in str(error.value)
    assert np.array_equal(trainer.model.values, values)
    assert [path.read_bytes() for path in list_checkpoints(tmp_path)] == [content]


def test_a_model_file_is_no_checkpoint(tmp_path):
    path = tmp_path / "checkpoint-000000-00000000.npz"
    trainer_of().model.save(path)
    with pytest.raises(InputError, match="is no cnn-numba checkpoint"):
        read_checkpoint(path)


def test_a_state_that_is_no_longer_finite_is_not_kept(tmp_path):
    trainer = trainer_of()
    checkpoints = Checkpoints(tmp_path, trainer)
    checkpoints.start()
    trainer.epoch(pause=after(1))
    trainer.model.values[0] = np.nan
    checkpoints.save()
    assert len(list_checkpoints(tmp_path)) == 1


FULL_DISK = """
import resource, sys
sys.path[:0] = {path}
from test_checkpoints import Checkpoints, InputError, newest_checkpoint, trainer_of
trainer = trainer_of()
checkpoints = Checkpoints({folder!r}, trainer)
checkpoints.resume(newest_checkpoint({folder!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
trainer.epoch()
try:
    checkpoints.save()
except InputError as error:
    print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files")
@pytest.mark.parametrize("limit", (0, 3000))
def test_a_full_disk_destroys_nothing(tmp_path, limit):
    Checkpoints(tmp_path, trainer_of()).start()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    script = FULL_DISK.format(path=[str(ROOT), str(ROOT / "tests")], folder=str(tmp_path), limit=limit)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert re.fullmatch(r".*checkpoint-000001-00000000.npz cannot be written \(.+\)\n", ended.stdout)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


# ---- signals --------------------------------------------------------------------------------------------------
@pytest.mark.skipif(os.name != "posix", reason="sends signals to itself")
@pytest.mark.parametrize("number, kind", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, interrupt.Terminated)])
def test_the_first_signal_is_noted_and_the_second_ends(number, kind):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(kind) as error, interrupt.Interruption() as interruption:
        assert not interruption.noted()
        os.kill(os.getpid(), number)
        assert interruption.noted() and interruption.number == number
        os.kill(os.getpid(), number)
        pytest.fail("nothing happened")
    assert type(error.value) is kind
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


# ---- the program ----------------------------------------------------------------------------------------------
SIZES = () if JIT else ("--train-size", "200", "--test-size", "32")
RUN = "--dataset", "digits", "--serial", *SIZES


def start(*flags):
    return subprocess.Popen([sys.executable, "main.py", *map(str, flags)], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def ended(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def weights(path):
    with np.load(path) as file:
        return {name: file[name].tobytes() for name in file.files if name != container.TEXT}


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, number, code):
    process = start(*RUN, "--epochs", "1000000", "--batch-size", "16", "--checkpoint", tmp_path / "run")
    while not process.stdout.readline().startswith("Epoch 2 "):
        pass
    process.send_signal(number)
    returned, out, err = ended(process)
    newest = list_checkpoints(tmp_path / "run")[-1]
    assert (returned, err) == (code, f"Interrupted: --resume {tmp_path / 'run'} goes on from {newest.name}\n")
    epochs = [int(epoch) for epoch in re.findall("^Epoch ([0-9]+) ", out, re.MULTILINE)] or [2]
    assert newest.name.startswith(f"checkpoint-{epochs[-1]:06d}-")


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_ends_at_once_and_leaves_the_files_whole(tmp_path, number, code):
    """Interpreted, a step of 1437 images takes much longer than the time between the signals."""
    process = start("--dataset", "digits", "--no-jit", "--batch-size", "1437", "--checkpoint", tmp_path / "run")
    while not process.stdout.readline().startswith("Kernels ready"):
        pass
    while not (tmp_path / "run").exists() or not list_checkpoints(tmp_path / "run"):
        time.sleep(0.01)
    time.sleep(0.5)
    process.send_signal(number)
    time.sleep(0.2)
    process.send_signal(number)
    sent = time.monotonic()
    assert ended(process)[::2] == (code, "Interrupted\n")
    assert time.monotonic() - sent < 5
    assert os.listdir(tmp_path / "run") == ["checkpoint-000000-00000000.npz"]
    assert newest_checkpoint(tmp_path / "run", pytest.fail).state["step"] == 0


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The weights of a training that nobody interrupted and that wrote no checkpoint."""
    path = tmp_path_factory.mktemp("reference") / "model.npz"
    assert cli.main([*RUN, "--quiet", "--epochs", "3", "--save", str(path)]) == 0
    return weights(path)


def test_the_program_goes_on_with_its_flags_to_the_same_bits(tmp_path, reference, capsys):
    folder, path = str(tmp_path / "run"), str(tmp_path / "model.npz")
    pauses = iter([False] * 6 + [True])

    class Paused(interrupt.Interruption):
        number = signal.SIGINT

        def noted(self):
            return next(pauses, True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "Interruption", Paused)
        assert cli.main([*RUN, "--epochs", "3", "--checkpoint", folder]) == 130
    assert "goes on from checkpoint-00000" in capsys.readouterr().err
    stopped = newest_checkpoint(folder)
    assert stopped.state["step"] > 0
    assert cli.main(["--serial", "--resume", folder, "--save", path]) == 0
    out = capsys.readouterr().out
    assert f"Resumed from {stopped.path}, in epoch {stopped.state['epochs'] + 1}" in out and "\nEpoch 3 " in out
    assert weights(path) == reference
    assert cli.main(["--serial", "--resume", folder, "--quiet", "--save", path]) == 0       # nothing is left to do
    assert weights(path) == reference


NETWORK = ('{"layers": [{"type": "conv", "params": {"filters": 4, "kernel_size": 3}}, {"type": "relu"}, '
           '{"type": "maxpool", "params": {"pool_size": 2}}, {"type": "fc"}]}')


@pytest.mark.parametrize("then", [None, "no JSON", '[{"type": "fc"}]'])
def test_a_training_goes_on_with_its_network_whatever_becomes_of_the_file(tmp_path, capsys, then):
    file, folder, path = tmp_path / "net.json", str(tmp_path / "run"), tmp_path / "m.npz"
    file.write_text(NETWORK)
    flags = *RUN, "--quiet", "--model", str(file), "--schedule", "constant"
    assert cli.main([*flags, "--epochs", "2", "--save", str(path)]) == 0
    reference = weights(path)
    assert cli.main([*flags, "--epochs", "1", "--checkpoint", folder]) == 0
    file.unlink()
    if then:
        file.write_text(then)
    resumed = "--serial", "--quiet", "--resume", folder, "--epochs", "2"
    assert cli.main([*resumed, "--save", str(path)]) == 0
    assert weights(path) == reference
    capsys.readouterr()
    assert cli.main([*resumed, "--model", str(tmp_path / "other.json")]) == 2
    assert re.fullmatch(r"error: argument --model: the training in .* has .*net.json, which cannot be changed\n",
                        capsys.readouterr().err)


@pytest.mark.parametrize("layers, sentence", [
    (LAYERS[:4], r"\.npz: layer 0: Conv2d expects 2 channels, got 1"),
    ([flatten, linear(64, 5)], r"\.npz: the network has 5 outputs, expected one for each of the 10 classes")])
def test_the_network_of_a_checkpoint_is_not_trusted(layers, sentence, finished, tmp_path, capsys):
    content = container.read(newest_checkpoint(finished).path, "checkpoint")
    description = content[0] | {"layers": describe_layers(make(layers))}
    (tmp_path / "checkpoint-000002-00000000.npz").write_bytes(container.pack(description, content[1]))
    assert cli.main(["--serial", "--resume", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", err) and re.search(sentence, err), err


def test_arguments_that_are_new_since_then_have_their_defaults(tmp_path):
    trainer = trainer_of()
    checkpoints = Checkpoints(tmp_path, trainer)
    checkpoints.start()
    content = container.read(checkpoints.last, "checkpoint")
    for entry in content[0]["layers"]:
        entry["params"].pop("dilation", None)
    checkpoints.last.write_bytes(container.pack(*content))
    Checkpoints(tmp_path, trainer_of()).resume(newest_checkpoint(tmp_path))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a training of two epochs with a constant learning rate."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert cli.main([*RUN, "--quiet", "--epochs", "2", "--schedule", "constant", "--checkpoint", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("flags, sentence", [
    (["--batch-size", "32"], "argument --batch-size: the training in .* has 64, which cannot be changed"),
    (["--train-size", "1000"], "argument --train-size: the training in .* has (none|200), which cannot be changed"),
    (["--seed", "1"], "--seed: .* has 0"), (["--model", "lenet5"], "--model: .* has two-conv"),
    (["--dataset", "mnist"], "--dataset: .* has digits"), (["--epochs", "1"], "--epochs: .* has run 2 epochs, got 1"),
    (["--checkpoint", "elsewhere"], "not allowed with argument"), (["--lr", "x"], "expected a number")])
def test_another_training_cannot_be_resumed(finished, flags, sentence, capsys):
    before = {path: path.read_bytes() for path in finished.iterdir()}
    assert cli.main(["--serial", "--resume", str(finished), *flags]) == 2
    err = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", err) and re.search(sentence, err), err
    assert {path: path.read_bytes() for path in finished.iterdir()} == before


def test_a_constant_rate_can_be_trained_on(finished, tmp_path):
    """Last of the tests of that folder, which it changes."""
    more, other = ("--epochs", "4"), tmp_path / "a.npz"
    assert cli.main([*RUN, "--quiet", *more, "--schedule", "constant", "--save", str(other)]) == 0
    resumed = "--serial", "--quiet", "--resume", str(finished), *more
    assert cli.main([*resumed, "--save", str(tmp_path / "b.npz")]) == 0
    assert weights(other) == weights(tmp_path / "b.npz")


@pytest.mark.parametrize("settings", [
    {"help": ["x"]}, {"dataset": ["--help"]}, {"save": ["x"]}, {"no_jit": []}, {"epochs": "3"}, {"epochs": [3]},
    {"epochs": ["0"]}, {"dataset": ["/nowhere/at/all"]}, {"run": ["x"]}, {"epochs": ["9" * 5000]}])
def test_flags_in_a_file_are_not_trusted(settings, tmp_path, capsys):
    Checkpoints(tmp_path, trainer_of(), settings).start()
    assert cli.main(["--serial", "--resume", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(r"error: [^\n]{1,600}\n", err)


def test_a_full_disk_does_not_end_a_training(tmp_path, capsys, monkeypatch):
    from cnn_numba.files import checkpoints

    def full(path, content):
        if not path.name.startswith("checkpoint-000000-00000000"):
            raise InputError(f"{path} cannot be written (No space left on device)")
        path.write_bytes(content)

    monkeypatch.setattr(checkpoints.container, "write", full)
    assert cli.main([*RUN, "--epochs", "1", "--quiet", "--checkpoint", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Test accuracy") and err.count("\n") == 1
    assert re.fullmatch(r"warning: .* \(No space left on device\); training goes on without this checkpoint\n", err)


@pytest.mark.parametrize("place, sentence", [
    ("file", "cannot be made"), ("file/run", "cannot be made"), ("used", "of another training")])
def test_a_folder_that_cannot_be_used_is_refused_before_the_training(tmp_path, capsys, place, sentence):
    (tmp_path / "file").touch()
    Checkpoints(tmp_path / "used", trainer_of()).start()
    assert cli.main([*RUN, "--checkpoint", str(tmp_path / place)]) == 2
    out, err = capsys.readouterr()
    assert "Epoch" not in out and re.fullmatch(r"error: [^\n]+\n", err) and sentence in err


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path, capsys):
    tmp_path.chmod(0o555)
    assert cli.main([*RUN, "--checkpoint", str(tmp_path)]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.skipif(not JIT or os.name != "posix", reason="long when interpreted")
def test_killed_trainings_end_with_the_same_weights(capsys):
    spec = importlib.util.spec_from_file_location("kill_test", ROOT / "scripts" / "kill_test.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.main(["4", "--kills-per-training", "3", "--epochs", "20"]) == 0
    assert "4 processes killed" in capsys.readouterr().out
