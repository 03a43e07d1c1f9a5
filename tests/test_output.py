"""What cannot be printed loses no work, and what is printed controls no terminal, spreadsheet or page."""
import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cnn_numba import Flatten, Linear, Sequential, escaping, load
from cnn_numba.commands import main as cli
from cnn_numba.history import EpochResult, History
from cnn_numba.table import Table

ROOT = Path(__file__).resolve().parents[1]
SHORT = ("--dataset", "digits", "--train-size", "100", "--test-size", "50", "--epochs", "1", "--serial")
HOSTILE = ["\x1b]0;TITLE\x07\x1b[31mred", "cat,1.000000\nforged.png,dog", "\ud800", "=1+1", "<b>&\x9b\u202e"]
full_device = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")


@pytest.fixture
def hostile(tmp_path):
    """A folder with a model whose classes have hostile names, and images with such names."""
    image = pytest.importorskip("PIL.Image")
    model = Sequential(Flatten(), Linear(64, len(HOSTILE)))
    model.save(tmp_path / "m.npz", input_shape=(1, 8, 8), mean=[0.0], std=[1.0], classes=HOSTILE)
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    for name in "x\nforged.png", "\x1b[2J.png", "=x.png":
        image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(tmp_path / "in" / name)
    return tmp_path


# ---- output that fails ----------------------------------------------------------------------------------------------
def closed_pipe():
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "w")


BROKEN = {"closed pipe": (closed_pipe, 141, ""),
          "full disk": (lambda: open("/dev/full", "w"), 2,
                        "error: the output cannot be written (No space left on device)\n")}
COMMANDS = {"train": SHORT, "help": ("--help",), "summary": ("summary",), "inspect": ("inspect", "digits"),
            "profile": ("profile", "--iterations", "1", "--batch-size", "1", "--serial"),
            "check-gradients": ("check-gradients", "--load", "M", "--samples", "1", "--serial"),
            "evaluate": ("evaluate", "--dataset", "digits", "--load", "M"), "predict": ("predict", "--load", "M", "I")}


@full_device
@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("command", COMMANDS)
def test_output_that_fails_ends_a_command_without_a_traceback(tmp_path, monkeypatch, capsys, kind,
                                                              command):
    Sequential(Flatten(), Linear(64, 10)).save(tmp_path / "m.npz", input_shape=(1, 8, 8), mean=[0.0], std=[1.0])
    if command == "predict":
        image = pytest.importorskip("PIL.Image")
        image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "i.png")
    words = [{"M": str(tmp_path / "m.npz"), "I": str(tmp_path / "i.png")}.get(word, word) for word in COMMANDS[command]]
    opened, code, sentence = BROKEN[kind]
    with opened() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert cli.main(words) == code
    assert capsys.readouterr().err.splitlines(keepends=True)[-1:] == [sentence] * bool(sentence)


@full_device
@pytest.mark.parametrize("kind", BROKEN)
def test_output_that_fails_loses_no_model(tmp_path, monkeypatch, capsys, kind):
    """Lines are printed before, between and after the epochs."""
    opened, code, sentence = BROKEN[kind]
    with opened() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert cli.main([*SHORT, "--save", str(tmp_path / "m.npz"), "--log", str(tmp_path / "log")]) == code
    assert load(tmp_path / "m.npz").accuracy is not None and (tmp_path / "log").read_text().count("\n") == 1
    assert capsys.readouterr().err == sentence


@full_device
@pytest.mark.parametrize("quiet", [(), ("--quiet",)], ids=["", "quiet"])
def test_a_training_goes_on_when_stderr_is_full(tmp_path, monkeypatch, capsys, quiet):
    """Here, while it reports that no checkpoint can be written."""
    import cnn_numba.callbacks as callbacks

    write, calls = callbacks.write_checkpoint, []

    def refuse(*arguments):
        calls.append(arguments)
        if len(calls) > 1:
            raise callbacks.InputError("no space")
        return write(*arguments)
    monkeypatch.setattr(callbacks, "write_checkpoint", refuse)
    with open("/dev/full", "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        assert cli.main([*SHORT, *quiet, "--checkpoint", str(tmp_path / "run")]) == 0
    assert len(calls) > 1 and "Test accuracy" in capsys.readouterr().out


def test_closed_streams_get_no_file(tmp_path):
    """The model would be the next file to get the number of a stream that the parent has closed."""
    code = f"exec {sys.executable} {ROOT / 'main.py'} {' '.join(SHORT)} --save {tmp_path / 'm.npz'} >&- 2>&-"
    assert subprocess.run(["sh", "-c", code], timeout=300).returncode == 0
    assert load(tmp_path / "m.npz").accuracy is not None


@pytest.mark.parametrize("words", [
    ("--dataset", "digits"), (), ("inspect", "digits"), ("benchmark", "epoch", "--dataset", "mnist")],
    ids=["train", "", "inspect", "benchmark"])
def test_a_typo_in_the_data_folder_makes_none(tmp_path, capsys, words):
    assert cli.main([*words, "--data-dir", str(tmp_path / "dtaa")]) == 2
    assert "--data-dir" in capsys.readouterr().err and not os.listdir(tmp_path)


def test_results_replace_nothing_else(tmp_path, capsys, monkeypatch):
    """Neither the data, nor the network's layers, nor a file that is no model; and a log is no model."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.savez("mine.npz", x_train=rng.integers(0, 255, (60, 8, 8)).astype("u1"), y_train=np.arange(60) % 3,
             x_test=rng.integers(0, 255, (9, 8, 8)).astype("u1"), y_test=np.arange(9) % 3)
    np.savez("other.npz", a=np.zeros(3))
    Path("net.json").write_text('["flatten", "fc"]')
    Path("link.npz").symlink_to("mine.npz")
    train = "--dataset", "mine.npz", "--epochs", "1", "--serial", "--quiet"
    for words, sentence in (
            (("--save", "mine.npz"), "argument --save: mine.npz is read by this command"),
            (("--save", "link.npz"), "argument --save: link.npz is read by this command"),
            (("--save", "net.json", "--model", "net.json"), "argument --save: net.json is read by this command"),
            (("--save", "other.npz"), "argument --save: other.npz is there and is not a model"),
            (("--log", "other.npz"), "other.npz is there and is not a log"),
            (("--log", "/dev/full"), "it is a device")):
        before = {path: path.read_bytes() for path in sorted(tmp_path.iterdir())}
        assert cli.main([*train, *words]) == 2
        assert sentence in capsys.readouterr().err
        assert {path: path.read_bytes() for path in sorted(tmp_path.iterdir())} == before
    Path("empty.npz").touch(mode=0o600)
    for _ in range(2):                  # an empty file, then a model
        assert cli.main([*train, "--save", "empty.npz"]) == 0
    assert cli.main(["predict", "--load", "empty.npz", "mine.npz", "--output", "mine.npz", "--format", "csv"]) == 2


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_a_number_of_threads_that_does_not_fit_is_one_sentence(monkeypatch, capsys, value):
    monkeypatch.setenv("NUMBA_NUM_THREADS", value)
    assert cli.main(["--dataset", "digits"]) == 2
    assert capsys.readouterr().err == (
        f"error: NUMBA_NUM_THREADS must be a whole number of at least 1, got {value!r}\n")


@pytest.mark.skipif(os.name != "posix", reason="an open folder cannot be deleted")
def test_a_current_folder_that_was_deleted_is_one_sentence(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert cli.main(["--dataset", "digits"]) == 2
    assert capsys.readouterr().err == "error: the current folder does not exist any more: change to another one\n"


# ---- signals --------------------------------------------------------------------------------------------------------
def started(*flags, **options):
    return subprocess.Popen([sys.executable, ROOT / "main.py", *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **options)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP")
@pytest.mark.parametrize("number", ["SIGINT", "SIGHUP"])
def test_an_interrupted_training_saves_what_its_epochs_gave(tmp_path, number):
    number = signal.Signals[number]
    process = started(*SHORT[:6], "--epochs", "1000000", "--schedule", "constant", "--save", tmp_path / "m.npz")
    while not (line := process.stdout.readline()).startswith("Epoch 2 "):
        assert line
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 128 + number
    assert err.startswith(f"Interrupted; {tmp_path / 'm.npz'} has the weights after ") and err.count("\n") == 1
    assert load(tmp_path / "m.npz").accuracy is not None


def test_ctrl_c_during_the_imports_leaves_no_traceback(tmp_path):
    (tmp_path / "textwrap.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    process = started("--help", env=os.environ | {"PYTHONPATH": str(tmp_path)})
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (-signal.SIGINT, "", "")


def test_ctrl_c_is_not_lost_where_no_exception_can_be_raised():
    """LLVM calls Python back while it compiles; ctypes discards the exceptions of such a function."""
    code = ("import ctypes\nfrom cnn_numba.commands.interrupt import handled\n"
            "def back():\n    raise KeyboardInterrupt\n"
            "with handled():\n    ctypes.CFUNCTYPE(None)(back)()\nprint('went on')\n")
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "Interrupted\n")


# ---- hostile names --------------------------------------------------------------------------------------------------
def test_names_of_classes_and_files_control_no_terminal(hostile, capsys):
    assert cli.main(["predict", "--load", str(hostile / "m.npz"), str(hostile / "in"), "--serial"]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert len(lines) == 3 and all(line.isprintable() for line in [*lines, *shown.err.splitlines()])


def test_names_cannot_forge_lines_or_formulas_in_csv(hostile, capsys):
    assert cli.main(["predict", "--load", str(hostile / "m.npz"), str(hostile / "in"), "--format", "csv"]) == 0
    rows = list(csv.reader(capsys.readouterr().out.splitlines()))
    assert [len(row) for row in rows] == [3] * 4
    assert all(cell.isprintable() and not cell.startswith(("=", "+", "@")) for row in rows for cell in row)


def test_json_gives_names_back(hostile, capsys):
    assert cli.main(["predict", "--load", str(hostile / "m.npz"), str(hostile / "in"), "--format", "jsonl"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.isprintable() for line in lines)
    assert {os.path.basename(json.loads(line)["file"]) for line in lines} == {"x\nforged.png", "\x1b[2J.png", "=x.png"}
    assert [json.loads(escaping.json_line(name)) for name in HOSTILE] == HOSTILE


@pytest.mark.parametrize("text, cell", [
    ("=1+1", "'=1+1"), ("+x", "'+x"), ("@a", "'@a"), ("-cmd", "'-cmd"), ("-1", "-1"), ("+2.5", "+2.5"),
    ("1e-5", "1e-5"),
    ("a,b", '"a,b"'), ("a\nb", "a\\nb"), ("木", "木"), (3, "3")])
def test_cells_of_csv(text, cell):
    assert escaping.csv_row(text) == cell


def test_tables_and_pages_have_printable_names():
    table = Table([("name", str)], HOSTILE)
    assert all(line.isprintable() for line in str(table).splitlines()) and len(str(table).splitlines()) == 7
    page = table._repr_html_()
    page.encode()
    assert "<b>" not in page and "\x1b" not in page and "&lt;b&gt;" in page
    assert "<td" in History([EpochResult(1, 0.5, 90.0, 1.0, 10, 1, 0.1)])._repr_html_()


def test_trainings_print_hostile_names_of_classes(tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    for name in "a\x1b[2J\n", "d\udcff":
        (tmp_path / "in" / name).mkdir(parents=True)
        for k in range(12):
            pixels = np.random.default_rng(k).integers(0, 255, (8, 8), np.uint8)
            with open(tmp_path / "in" / name / f"{k}.png", "wb") as file:
                image.fromarray(pixels).save(file, "PNG")
    words = ["--dataset", str(tmp_path / "in"), "--epochs", "1", "--serial", "--save", str(tmp_path / "m.npz")]
    assert cli.main(words) == 0
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())
    assert cli.main(["evaluate", "--load", str(tmp_path / "m.npz"), "--dataset", str(tmp_path / "in"), "--serial"]) == 0
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_tables_and_sentences_fit_into_a_narrow_terminal():
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 40, 0, 0))
    process = subprocess.Popen([sys.executable, ROOT / "main.py", "summary"], stdout=theirs,
                               env={name: value for name, value in os.environ.items() if name != "COLUMNS"})
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):              # Linux reports the end so
        while content := os.read(ours, 1 << 16):
            shown += content
    os.close(ours)
    lines = shown.decode().splitlines()
    assert process.wait() == 0 and max(map(len, lines)) <= 40
    assert sum(line.startswith("7      Linear") for line in lines) > 1 and "  training step" in lines
