"""Training that stops anywhere, and goes on to the same bits."""
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from networks import conv, flatten, linear, make, pool, relu

from cnn_numba import SGD, Dataset, InputError, Recipe, Sequential, Trainer
from cnn_numba.callbacks import Callback, Checkpoint
from cnn_numba.commands import interrupt, train
from cnn_numba.commands import main as cli
from cnn_numba.files import container
from cnn_numba.files.checkpoints import list_checkpoints, newest_checkpoint, read_checkpoint
from cnn_numba.files.layers_json import describe_layers
from cnn_numba.kernels.compiled import JIT

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


def files_in(folder):
    """Names of the files in a folder, without that of its lock."""
    return sorted(set(os.listdir(folder)) - {".lock"})


class StopAfter(Callback):
    """Ends a training after so many steps."""

    def __init__(self, steps):
        self.left = steps

    def on_batch_end(self, trainer):
        self.left -= 1
        if not self.left:
            trainer.stop()


class FallingRate(Callback):
    """Sets the learning rate of every epoch."""

    def on_train_begin(self, trainer):
        trainer.optimizer.lr = 0.05 * (1 - trainer.epochs / EPOCHS)

    def on_epoch_end(self, trainer, result):
        self.on_train_begin(trainer)


def ran(trainer, *callbacks, epochs=EPOCHS):
    """The history of a trainer that ran up to so many epochs, with a learning rate that falls."""
    return trainer.fit(epochs, [FallingRate(), *callbacks])


def saved(folder, trainer, **options):
    """A Checkpoint that has written the state of a trainer."""
    checkpoint = Checkpoint(folder, **options)
    checkpoint.save(trainer)
    return checkpoint


def same(trainer, other):
    mine, theirs = trainer.state(), other.state()
    assert mine.keys() == theirs.keys()
    for name in mine.keys() - {"seconds", "history"}:
        assert np.array_equal(mine[name], theirs[name]), name
    assert told(trainer.history) == told(other.history)


def told(history):
    return [(r.epoch, r.loss, r.accuracy, r.images) for r in history]


@pytest.fixture(scope="module")
def whole():
    """A trainer that ran without a stop."""
    trainer = trainer_of()
    ran(trainer)
    return trainer


# ---- the trainer ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("steps", range(EPOCHS * STEPS))
def test_another_trainer_goes_on_to_the_same_bits(steps, whole, tmp_path):
    first = trainer_of()
    if steps:
        ran(first, StopAfter(steps))
    assert (first.epochs, first.step) == divmod(steps, STEPS)
    saved(tmp_path, first)
    second = trainer_of(layers=LAYERS)
    second.model.values += 1
    Checkpoint(tmp_path).resume(second)
    same(first, second)
    ran(second)
    same(second, whole)


def test_the_same_trainer_goes_on_after_a_stop(whole):
    trainer, stops = trainer_of(), 0
    while trainer.epochs < EPOCHS:
        ran(trainer, StopAfter(2))
        stops += trainer.step > 0
    assert stops >= EPOCHS
    same(trainer, whole)


def test_a_state_with_another_step_ends_elsewhere(whole, tmp_path):
    """A control: a training that goes on one step too early ends with other weights."""
    first, second = trainer_of(), trainer_of()
    ran(first, StopAfter(7))
    second.load_state(first.state() | {"step": 1})
    ran(second)
    assert not np.array_equal(second.model.values, whole.model.values)


def test_the_best_epoch_is_the_one_of_the_least_loss(whole):
    best = min(whole.history, key=lambda result: result.loss)
    assert whole.best == {"epoch": best.epoch, "loss": best.loss, "accuracy": best.accuracy}


@pytest.mark.parametrize("name", sorted(trainer_of().state().keys() - {"best"}))
def test_states_that_lack_something(name):
    trainer = trainer_of()
    state = trainer.state()
    del state[name]
    with pytest.raises(InputError):
        trainer.load_state(state)


@pytest.mark.parametrize("change, sentence", [
    ({"batch_size": 15}, "batch_size 15, not 16"), ({"seed": 4}, "seed 4, not 3"), ({"epochs": -1}, "epochs"),
    ({"epochs": 1.0}, "epochs"), ({"step": STEPS + 1}, "step 6 is past"), ({"step": None}, "step"),
    ({"sums": [1]}, "sums"), ({"sums": [1, None]}, "sums"), ({"sums": {"0": 1, "1": 1}}, "sums"),
    ({"seconds": "1"}, "seconds"), ({"best": 5}, "best"), ({"best": {"epoch": 1}}, "best"),
    ({"optimizer.lr": -1}, "lr"), ({"optimizer.lr": "0.1"}, "lr"), ({"optimizer.velocity": 3}, "velocity"),
    ({"optimizer.velocity": np.zeros(3, np.float32)}, "velocity"), ({"optimizer.x": 1}, "exactly lr"),
    ({"model.0.bias": 3}, "0.bias"), ({"model.0.bias": np.zeros(7, np.float32)}, "0.bias"), ({"model.9": 1}, "'9'")])
def test_states_of_other_trainings(change, sentence):
    trainer = trainer_of()
    with pytest.raises(InputError, match=sentence):
        trainer.load_state(trainer.state() | change)


# ---- the folder -----------------------------------------------------------------------------------------------
def test_the_last_two_are_kept(tmp_path):
    trainer, seen = trainer_of(), []
    checkpoint = Checkpoint(tmp_path / "deep" / "run", {"epochs": 3}, steps=2)

    class Look(Callback):
        def on_batch_end(self, trainer):
            found = [path.stem[-8:] for path in list_checkpoints(checkpoint.folder)]
            if found not in seen:
                seen.append(found)

    (checkpoint.folder / ".checkpoint-000000-00000001.npz.0123456789abcdef.part").touch()   # of a killed process
    (checkpoint.folder / "notes.txt").touch()
    trainer.fit(1, [checkpoint, Look()])
    checkpoint.save(trainer)                            # the same once more
    assert seen == [["00000000"], ["00000000", "00000002"], ["00000002", "00000004"]]
    assert files_in(checkpoint.folder) == [
        "checkpoint-000000-00000004.npz", "checkpoint-000001-00000000.npz", "notes.txt"]
    assert newest_checkpoint(checkpoint.folder, pytest.fail).recipe == {"epochs": 3}


def test_minutes(tmp_path, monkeypatch):
    now, written = [1000.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    trainer, checkpoint = trainer_of(), Checkpoint(tmp_path, minutes=2)

    class Clock(Callback):
        """Lets some seconds pass before each batch that `checkpoint` sees."""

        def __init__(self, *seconds):
            self.seconds = iter(seconds)

        def on_batch_end(self, trainer):
            now[0] += next(self.seconds)

    class Look(Callback):
        def on_batch_end(self, trainer):
            written.append(checkpoint.last.stem[-8:])

    trainer.fit(1, [Clock(119, 1, 119, 1, 0), checkpoint, Look()])
    assert written == ["00000000", "00000002", "00000002", "00000004", "00000004"]


def test_a_damaged_newest_is_named_and_the_one_before_is_used(tmp_path, whole):
    trainer, said = trainer_of(), []
    trainer.fit(1, Checkpoint(tmp_path))
    before, newest = list_checkpoints(tmp_path)
    content = newest.read_bytes()
    for damaged in content[:-1], content[:500], b"", content[:700] + b"?" + content[701:]:
        newest.write_bytes(damaged)
        said = []
        assert newest_checkpoint(tmp_path, said.append).path == before
        assert len(said) == 1 and str(newest) in said[0] and "the one before" in said[0]
    other, again = trainer_of(), Checkpoint(tmp_path, report=said.append)
    again.resume(other)
    ran(other, again, epochs=1)                         # over the damaged one
    assert newest_checkpoint(tmp_path, pytest.fail).path == newest
    ran(other)
    same(other, whole)
    before.write_bytes(b"")
    newest.write_bytes(b"")
    with pytest.raises(InputError, match="no earlier checkpoint is intact"):
        newest_checkpoint(tmp_path, said.append)


def test_folders_without_checkpoints(tmp_path):
    with pytest.raises(InputError, match="holds no checkpoint"):
        newest_checkpoint(tmp_path, pytest.fail)
    with pytest.raises(InputError, match="No such file"):
        newest_checkpoint(tmp_path / "nowhere", pytest.fail)
    (tmp_path / "file").touch()
    for folder in tmp_path / "file", tmp_path / "file" / "run":
        with pytest.raises(InputError, match="cannot be made"):
            Checkpoint(folder)


def test_another_training_does_not_start_in_the_folder(tmp_path):
    trainer_of().fit(1, Checkpoint(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    other = trainer_of()
    with pytest.raises(InputError, match="of another training"):
        other.fit(1, Checkpoint(tmp_path))
    with pytest.raises(InputError, match="of another training"):
        Checkpoint(tmp_path).check_unused()
    assert other.step == other.epochs == 0
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("options, sentence", [
    ({"layers": [conv(2, 6, 3, padding=1), relu, pool(2), flatten, linear(96, 5), relu]},
     r"another network: its layer 5 is none, expected ReLU\(\)"),
    ({"layers": [conv(2, 6, 5, padding=2), relu, pool(2), flatten, linear(96, 5)]},
     r"its layer 0 is Conv2d\(kernel_size=\[3, 3\], padding=\[1, 1\]\), expected Conv2d\(kernel_size=\[5, 5\], "),
    ({"data": dataset(seed=1)}, "other training images"), ({"data": dataset(images=71)}, "other training images"),
    ({"data": replace(DATA, train_labels=DATA.train_labels[::-1])}, "other training images"),
    ({"data": replace(DATA, normalize="unit")}, "other training images"),
    ({"data": replace(DATA, test_labels=DATA.test_labels[::-1])}, "other test images"),
    ({"data": DATA.hold_out(9)}, "other training images"),
    ({"batch_size": 8}, "batch_size 16, not 8"), ({"seed": 0}, "seed 3, not 0")])
def test_checkpoints_of_other_trainings(options, sentence, tmp_path):
    saved(tmp_path, trainer_of())
    content, trainer = list_checkpoints(tmp_path)[0].read_bytes(), trainer_of(**options)
    values = trainer.model.values.copy()
    with pytest.raises(InputError, match=sentence) as error:
        Checkpoint(tmp_path).resume(trainer)
    assert "\n" not in str(error.value)
    assert np.array_equal(trainer.model.values, values)
    assert [path.read_bytes() for path in list_checkpoints(tmp_path)] == [content]


def test_a_model_file_is_no_checkpoint(tmp_path):
    path = tmp_path / "checkpoint-000000-00000000.npz"
    trainer_of().model.save(path)
    with pytest.raises(InputError, match="is not a cnn-numba checkpoint"):
        read_checkpoint(path)


def test_a_state_that_is_no_longer_finite_is_not_kept(tmp_path):
    trainer = trainer_of()
    checkpoint = saved(tmp_path, trainer)
    trainer.fit(1, StopAfter(1))
    trainer.model.values[0] = np.nan
    checkpoint.save(trainer)
    assert len(list_checkpoints(tmp_path)) == 1


@pytest.mark.parametrize("kind", (KeyboardInterrupt, ZeroDivisionError))
def test_what_breaks_into_a_training_writes_no_state(kind, tmp_path):
    """It may be that of half a step."""
    class Break(Callback):
        def on_batch_end(self, trainer):
            if trainer.step == 2:
                raise kind

    with pytest.raises(kind):
        trainer_of().fit(1, [Checkpoint(tmp_path), Break()])
    assert files_in(tmp_path) == ["checkpoint-000000-00000000.npz"]


FULL_DISK = """
import resource, sys
sys.path[:0] = {path}
from test_checkpoints import Checkpoint, trainer_of
trainer = trainer_of()
checkpoint = Checkpoint({folder!r}, report=print)
checkpoint.resume(trainer)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
trainer.fit(1, checkpoint)
print(trainer.epochs)
"""


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files")
@pytest.mark.parametrize("limit", (0, 3000))
def test_a_full_disk_destroys_nothing(tmp_path, limit):
    saved(tmp_path, trainer_of())
    before = {path: path.read_bytes() for path in tmp_path.glob("*.npz")}
    script = FULL_DISK.format(path=[str(ROOT), str(ROOT / "tests")], folder=str(tmp_path), limit=limit)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    *said, epochs = ended.stdout.splitlines()
    sentence = r".*checkpoint-000001-00000000.npz cannot be written \(.+\); training goes on without this checkpoint"
    assert said and all(re.fullmatch(sentence, line) for line in said)
    assert epochs == "1"
    assert {path: path.read_bytes() for path in tmp_path.glob("*.npz")} == before


# ---- one training at a time ------------------------------------------------------------------------------------
def test_two_trainings_cannot_use_a_folder(tmp_path):
    inner = []

    class Second(Callback):
        """Starts another training in the folder while the first runs, and resumes it."""

        def on_batch_end(self, trainer):
            for begin in (lambda: trainer_of().fit(1, Checkpoint(tmp_path)),
                          lambda: Checkpoint(tmp_path).resume(trainer_of())):
                with pytest.raises(InputError, match="is in use by another training") as refusal:
                    begin()
                inner.append(str(refusal.value))
            trainer.stop()
    trainer_of().fit(1, [Checkpoint(tmp_path), Second()])
    assert len(inner) == 2 and all(str(tmp_path) in sentence for sentence in inner)
    again = trainer_of()
    checkpoint = Checkpoint(tmp_path)
    checkpoint.resume(again)                # the first has given its lock back
    assert again.fit(1, checkpoint).state()


def test_a_killed_training_leaves_no_lock(tmp_path):
    process = start(*RUN, "--epochs", "1000000", "--schedule", "constant", "--checkpoint", tmp_path / "run")
    while not (line := process.stdout.readline()).startswith("Epoch 1 "):
        assert line
    code, out, err = ended(start("--resume", tmp_path / "run", "--epochs", "1000000", "--serial", "--quiet"))
    assert (code, out) == (2, "") and err.count("\n") == 1 and "is in use by another training" in err
    process.kill()
    ended(process)
    reached = list_checkpoints(tmp_path / "run")[-1].name
    epochs = int(reached.split("-")[1])
    code, _, err = ended(start("--resume", tmp_path / "run", "--epochs", str(epochs + 1), "--serial", "--quiet"))
    assert (code, err) == (0, "")


def test_a_checkpoint_that_is_no_longer_the_newest_is_not_resumed(tmp_path):
    trainer_of().fit(1, Checkpoint(tmp_path))
    saved = newest_checkpoint(tmp_path, pytest.fail)
    goes_on, checkpoint = trainer_of(), Checkpoint(tmp_path)
    checkpoint.resume(goes_on, saved)
    goes_on.fit(2, checkpoint)
    with pytest.raises(InputError, match="is newer than"):
        Checkpoint(tmp_path).resume(trainer_of(), saved)


# ---- signals --------------------------------------------------------------------------------------------------
@pytest.mark.skipif(os.name != "posix", reason="sends signals to itself")
@pytest.mark.parametrize("number", interrupt.SIGNALS)
def test_the_first_signal_is_noted_and_the_second_ends(number, request):
    inherited = signal.signal(number, signal.default_int_handler)       # a shell lets jobs in the background ignore it
    request.addfinalizer(lambda: signal.signal(number, inherited))
    before = [signal.getsignal(n) for n in interrupt.SIGNALS]
    with pytest.raises(KeyboardInterrupt) as error, interrupt.Interruption() as interruption:
        assert interruption.number is None
        signal.raise_signal(number)
        assert interruption.number == number
        signal.raise_signal(number)
        pytest.fail("nothing happened")
    assert interrupt.exit_code(error.value) == 128 + number
    assert [signal.getsignal(n) for n in interrupt.SIGNALS] == before


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
    assert files_in(tmp_path / "run") == ["checkpoint-000000-00000000.npz"]
    assert newest_checkpoint(tmp_path / "run", pytest.fail).state["step"] == 0


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The weights of a training that nobody interrupted and that wrote no checkpoint."""
    path = tmp_path_factory.mktemp("reference") / "model.npz"
    assert cli.main([*RUN, "--quiet", "--epochs", "3", "--save", str(path)]) == 0
    return weights(path)


def test_the_program_goes_on_with_its_flags_to_the_same_bits(tmp_path, reference, capsys):
    folder, path = str(tmp_path / "run"), str(tmp_path / "model.npz")
    asked = iter([None] * 6)

    class InterruptedLater(interrupt.Interruption):
        number = property(lambda self: next(asked, signal.SIGINT))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "Interruption", InterruptedLater)
        assert cli.main([*RUN, "--epochs", "3", "--checkpoint", folder]) == 130
    assert "goes on from checkpoint-00000" in capsys.readouterr().err
    stopped = newest_checkpoint(folder, pytest.fail)
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
    assert re.fullmatch(r"error: argument --model: the training in .* has .*net.json, which cannot be changed, got "
                        r".*other.json\n", capsys.readouterr().err)


@pytest.mark.parametrize("layers, sentence", [
    (LAYERS[:4], r"\.npz: layer 0: Conv2d expects 2 channels, got 1"),
    ([flatten, linear(64, 5)], r"\.npz: the network has 5 outputs, expected one for each of the 10 classes")])
def test_the_network_of_a_checkpoint_is_not_trusted(layers, sentence, finished, tmp_path, capsys):
    content = container.read(newest_checkpoint(finished, pytest.fail).path, "checkpoint")
    description = content[0] | {"layers": describe_layers(make(layers))}
    (tmp_path / "checkpoint-000002-00000000.npz").write_bytes(container.pack(description, content[1]))
    assert cli.main(["--serial", "--resume", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", err) and re.search(sentence, err), err


def test_arguments_that_are_new_since_then_have_their_defaults(tmp_path):
    checkpoint = saved(tmp_path, trainer_of())
    content = container.read(checkpoint.last, "checkpoint")
    for entry in content[0]["layers"]:
        entry["params"].pop("dilation", None)
    checkpoint.last.write_bytes(container.pack(*content))
    Checkpoint(tmp_path).resume(trainer_of())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a training of two epochs with a constant learning rate."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert cli.main([*RUN, "--quiet", "--epochs", "2", "--schedule", "constant", "--checkpoint", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("flags, sentence", [
    (["--batch-size", "32"], "argument --batch-size: the training in .* has 16, which cannot be changed, got 32"),
    (["--train-size", "1000"], "argument --train-size: .* has (none|200), which cannot be changed, got 1000"),
    (["--seed", "1"], "--seed: .* has 0, which cannot be changed, got 1"),
    (["--model", "lenet5"], "--model: .* has two-conv, .* got lenet5"),
    (["--dataset", "mnist"], "--dataset: .* has digits, .* got mnist"),
    (["--betas", "0.9,0.99"], "--betas: .* has none, .* got 0.9,0.99"),
    (["--nesterov"], "--nesterov: .* has no, .* got yes"),
    (["--augment", "shift=1"], "--augment: .* has none, .* got shift=1"),
    (["--recipe", "fast"], "--model: .* has two-conv, .* got fast"), (["--lr", "0.1"], "--lr: .* has 0.03, .* got 0.1"),
    (["--epochs", "1"], "--epochs: .* has run 2 epochs, got 1"), (["--lr", "x"], "expected a number"),
    (["--checkpoint", "elsewhere"], "not allowed with argument"), (["--extension", "nowhere.py"], "does not exist")])
def test_another_training_cannot_be_resumed(finished, flags, sentence, capsys):
    before = {path: path.read_bytes() for path in finished.iterdir()}
    assert cli.main(["--serial", "--resume", str(finished), *flags]) == 2
    err = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", err) and re.search(sentence, err), err
    assert {path: path.read_bytes() for path in finished.iterdir()} == before


def test_the_same_flags_again_are_no_other_training(finished, capsys):
    flags = "--dataset", "DIGITS", "--schedule", "constant", "--lr", "3e-2", "--no-nesterov", "--augment", "none"
    assert cli.main(["--serial", "--quiet", "--resume", str(finished), *flags]) == 0


def test_the_length_of_a_schedule_cannot_be_changed(tmp_path, capsys):
    assert cli.main([*RUN, "--quiet", "--epochs", "2", "--checkpoint", str(tmp_path)]) == 0
    list_checkpoints(tmp_path)[-1].unlink()         # the training is not at its end
    capsys.readouterr()
    assert cli.main(["--serial", "--resume", str(tmp_path), "--epochs", "3"]) == 2
    assert re.fullmatch("error: argument --epochs: the training in .* has 2, which cannot be changed with the schedule "
                        r"linear, got 3: start a new training, with a schedule that does not depend on the number of "
                        r"epochs \(constant, step, exponential, plateau\) if it may become longer\n",
                        capsys.readouterr().err)


def test_a_data_set_may_move(tmp_path, capsys):
    """Where it lies has no part in whether a training can go on; what it holds has."""
    rows = np.column_stack([np.arange(60) % 3, np.random.default_rng(0).integers(0, 255, (60, 64))])
    for name, numbers in ("before", rows), ("after", rows), ("other", rows[::-1]):
        np.savetxt(tmp_path / f"{name}.csv", numbers, "%d", ",")
    common = "--serial", "--quiet", "--schedule", "constant"
    assert cli.main([*common, "--dataset", str(tmp_path / "before.csv"), "--epochs", "1", "--checkpoint",
                     str(tmp_path / "run")]) == 0
    (tmp_path / "before.csv").unlink()
    resume = [*common, "--resume", str(tmp_path / "run"), "--epochs", "2", "--dataset"]
    assert cli.main([*resume, str(tmp_path / "other.csv")]) == 2
    assert "is a checkpoint of other training images than those of other.csv" in capsys.readouterr().err
    assert cli.main([*resume, str(tmp_path / "after.csv")]) == 0


def test_validation_images_are_part_of_a_training(tmp_path):
    """They choose the best weights."""
    data = DATA.hold_out(9)
    saved(tmp_path, trainer_of(data))
    with pytest.raises(InputError, match="other validation images"):
        Checkpoint(tmp_path).resume(trainer_of(replace(data, validation_labels=data.validation_labels[::-1])))
    Checkpoint(tmp_path).resume(trainer_of(data))


def test_the_weights_that_a_training_began_with_may_move(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*RUN, "--quiet", "--epochs", "1", "--save", "first.npz"]) == 0
    common = *RUN, "--quiet", "--schedule", "constant"
    assert cli.main([*common, "--epochs", "1", "--weights", "first.npz", "--checkpoint", "run"]) == 0
    os.rename("first.npz", "moved.npz")
    capsys.readouterr()
    assert cli.main([*common[3:], "--epochs", "2", "--weights", "moved.npz", "--resume", "run"]) == 0
    (tmp_path / "other.npz").write_bytes(b"other")
    assert cli.main([*common[3:], "--epochs", "3", "--weights", "other.npz", "--resume", "run"]) == 2
    assert "argument --weights: the training in run has" in capsys.readouterr().err


def test_layers_that_the_file_has_no_weights_for_take_no_memory(finished, tmp_path, capsys):
    """A checkpoint of a few kB could ask for gigabytes."""
    description, arrays = container.read(list_checkpoints(finished)[-1], "checkpoint")
    size = 60_000
    description["layers"] = [{"type": "Flatten", "params": {}},
                             {"type": "Linear", "params": {"in_features": 64, "out_features": size}},
                             {"type": "Linear", "params": {"in_features": size, "out_features": 10}}]
    (tmp_path / "checkpoint-000001-00000000.npz").write_bytes(container.pack(description, arrays))
    tracemalloc.start()
    try:
        assert cli.main(["--resume", str(tmp_path), "--serial", "--quiet"]) == 2
        assert tracemalloc.get_traced_memory()[1] < 10e6            # the layers would take 36 MB, and more for Adam
    finally:
        tracemalloc.stop()
    assert "its layers have 4,500,010 parameters, but it holds" in capsys.readouterr().err


def test_a_checkpoint_has_the_recipe(finished):
    recipe = Recipe.from_json(newest_checkpoint(finished, pytest.fail).recipe)
    sizes = dict(zip(("train_size", "test_size"), (200, 32), strict=True)) if SIZES else {}
    assert recipe == Recipe(dataset="digits", epochs=2, schedule="constant", batch_size=16, weight_decay=5e-3, **sizes)


def test_a_constant_rate_can_be_trained_on(finished, tmp_path):
    """Last of the tests of that folder, which it changes."""
    more, other = ("--epochs", "4"), tmp_path / "a.npz"
    assert cli.main([*RUN, "--quiet", *more, "--schedule", "constant", "--save", str(other)]) == 0
    resumed = "--serial", "--quiet", "--resume", str(finished), *more
    assert cli.main([*resumed, "--save", str(tmp_path / "b.npz")]) == 0
    assert weights(other) == weights(tmp_path / "b.npz")


@pytest.mark.parametrize("recipe", [
    {"help": "x"}, {"dataset": "--help"}, {"save": "x"}, {"epochs": "3"}, {"epochs": [3]}, {"epochs": 0},
    {"dataset": "/nowhere/at/all"}, {"epochs": 10**17, "batch_size": 10**17 + 1, "seed": -1}, {"x" * 1000: 1},
    {"extensions": ["lion.py"]}, {"extensions": ["/etc/passwd" * 100]}, {"extensions": 5}, {"optimizer": "lion"}, {}])
def test_the_recipe_in_a_file_is_not_trusted(recipe, tmp_path, capsys):
    saved(tmp_path, trainer_of(), recipe=recipe)
    assert cli.main(["--serial", "--resume", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(r"error: [^\n]{1,600}\n", err)


def test_a_training_of_a_program_of_its_own_is_not_for_the_command(tmp_path, capsys):
    saved(tmp_path, trainer_of())
    assert cli.main(["--resume", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith(
        ".npz was not written by this command, so only the program that wrote it can resume it\n")


def test_a_full_disk_does_not_end_a_training(tmp_path, capsys, monkeypatch):
    from cnn_numba.files import checkpoints

    write = checkpoints.write

    def full(path, content):
        if not path.name.startswith("checkpoint-000000-00000000"):
            raise InputError(f"{path} cannot be written (No space left on device)")
        write(path, content)

    monkeypatch.setattr(checkpoints, "write", full)
    assert cli.main([*RUN, "--epochs", "1", "--quiet", "--checkpoint", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Test accuracy") and 1 <= err.count("\n") <= 2
    assert re.fullmatch(r"(warning: .* \(No space left on device\); training goes on without this checkpoint\n)+", err)


@pytest.mark.parametrize("place, sentence", [
    ("file", "cannot be made"), ("file/run", "cannot be made"), ("used", "of another training")])
def test_a_folder_that_cannot_be_used_is_refused_before_the_training(tmp_path, capsys, place, sentence):
    (tmp_path / "file").touch()
    saved(tmp_path / "used", trainer_of())
    assert cli.main([*RUN, "--checkpoint", str(tmp_path / place)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(r"error: [^\n]+\n", err) and sentence in err


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path, capsys):
    tmp_path.chmod(0o555)
    assert cli.main([*RUN, "--checkpoint", str(tmp_path)]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not JIT or os.name != "posix", reason="long when interpreted")
def test_killed_trainings_end_with_the_same_weights(capsys):
    spec = importlib.util.spec_from_file_location("kill_test", ROOT / "scripts" / "kill_test.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.main(["4", "--kills-per-training", "3", "--epochs", "8"]) == 0
    assert "4 processes killed" in capsys.readouterr().out
