"""The program as a user runs it: `python main.py` in processes of their own, on the shipped digits."""
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cnn_numba.commands import main as cli
from cnn_numba.kernels import cache
from cnn_numba.presets import PRESETS

ROOT = Path(__file__).resolve().parents[1]
DIGITS = "--dataset", "digits"
SHORT = *DIGITS, "--train-size", "200", "--test-size", "100", "--epochs", "1"
NUMBER = r"\d+\.\d\d"
SPEED = r"\d{1,3}(,\d{3})* images/s"
EPOCH = rf"Epoch \d+ Loss= \d\.\d{{6}} Acc= {NUMBER} % Run in: {NUMBER} seconds, {SPEED}"
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


@pytest.fixture(scope="session")
def closed_port():
    """A port of this machine at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def environment(closed_port):
    """The environment of every child: no way out to the network, and no settings of the caller's."""
    ours = {name: value for name, value in os.environ.items()
            if not name.upper().endswith("_PROXY") and name not in ("NUMBA_DISABLE_JIT", "NUMBA_NUM_THREADS")}
    return {**ours, "HTTP_PROXY": f"http://127.0.0.1:{closed_port}", "HTTPS_PROXY": f"http://127.0.0.1:{closed_port}"}


@pytest.fixture(scope="session")
def start(environment):
    """Start `python main.py` with flags; `changes` of the environment, None to remove a variable."""
    def start(*flags, changes=None, program=ROOT / "main.py", **pipes):
        merged = {**environment, **(changes or {})}
        merged = {name: value for name, value in merged.items() if value is not None}
        pipes = pipes or {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        # An ignored Ctrl-C is inherited, and test runners in the background ignore it.
        return subprocess.Popen([sys.executable, program, *flags], env=merged, cwd=Path(program).parent,
                                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **pipes)
    return start


@pytest.fixture(scope="session")
def run(start):
    """Run `python main.py` to its end: (exit code, stdout, stderr)."""
    def run(*flags, **settings):
        return ended(start(*flags, **settings))
    return run


def ended(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def untimed(text):
    """The text without what differs from run to run."""
    return re.sub(SPEED, "- images/s", re.sub(rf"{NUMBER} seconds", "- seconds", text))


def losses(text):
    return [float(loss) for loss in re.findall(r"Loss= (\S+)", text)]


# ---- what is printed ---------------------------------------------------------------------------------------
def test_a_run_prints_banner_data_network_compile_time_epochs_accuracy_predictions_and_total(run):
    code, out, err = run(*DIGITS, "--epochs", "2", "--predictions", "3")
    assert (code, err) == (0, "")
    expected = [
        r"numba \d+\.\d+\.\d+, JIT on, parallel, \d+ threads? \((omp|tbb|workqueue).*\), 16 lanes",
        r"Data set digits: \d+ training and \d+ test images of 1 x 8 x 8, 10 classes",
        r"Network two-conv: \d+ parameters",
        rf"Kernels ready in {NUMBER} seconds",
        EPOCH.replace(r"\d+", "1", 1),
        EPOCH.replace(r"\d+", "2", 1),
        rf"Test accuracy: {NUMBER} %",
        *3 * [r"pred: \d  true: \d"],
        rf">>> Program run in {NUMBER} seconds <<<",
    ]
    lines = out.splitlines()
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), (line, pattern)


def test_digits_are_learned(run):
    code, out, _ = run(*DIGITS, "--quiet", "--epochs", "20")
    assert code == 0
    assert float(out.split()[2]) > 90       # the test digits are by other writers


@pytest.mark.mnist
@pytest.mark.skipif(not os.path.isdir(os.path.join(os.environ.get("CNN_NUMBA_DATA_DIR", ""), "mnist")),
                    reason="no $CNN_NUMBA_DATA_DIR/mnist")
@pytest.mark.parametrize("seed", ["0", "1"])
def test_the_plain_command_reaches_98_5_percent_on_mnist(run, seed):
    code, out, _ = run("--dataset", "mnist", "--quiet", "--seed", seed)
    assert code == 0
    assert float(out.split()[2]) >= 98.5


def test_quiet_prints_the_test_accuracy_only(run):
    code, out, err = run(*SHORT, "--quiet")
    assert (code, err) == (0, "")
    assert re.fullmatch(rf"Test accuracy: {NUMBER} %\n", out)


def test_flags_only_mean_train(run):
    assert untimed(run(*SHORT)[1]) == untimed(run("train", *SHORT)[1])


def test_the_seed_decides_the_result(run):
    first, again, other = (untimed(run(*SHORT, "--seed", seed)[1]) for seed in "117")
    assert first == again
    assert losses(first) != losses(other)


def logged(*flags, path):
    """Train in this process; the lines of the log."""
    assert cli.main([*SHORT, "--serial", "--quiet", "--log", str(path), *flags]) == 0
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("flags, rates", [
    ([], [0.2, 0.15, 0.1, 0.05]), (["--schedule", "linear"], [0.2, 0.15, 0.1, 0.05]),
    (["--schedule", "constant"], [0.2] * 4),
    (["--schedule", "step", "--step-size", "2"], [0.2, 0.2, 0.06, 0.06]),
    (["--schedule", "exponential", "--gamma", "0.5"], [0.2, 0.1, 0.05, 0.025]),
    (["--schedule", "cosine"], [0.1 * (1 + math.cos(math.pi * k / 4)) for k in range(4)]),
    (["--schedule", "one-cycle", "--warm-up", "0.5", "--batch-size", "200"], [0.008, 0.2, 0.1000004, 8e-7]),
])
def test_learning_rates_of_schedules(flags, rates, tmp_path):
    """One-cycle over four steps: from a 25th to the top in two, to half of it, and to a 10,000th of the start."""
    lines = logged("--epochs", "4", "--lr", "0.2", *flags, path=tmp_path / "log")
    assert [line["learning_rate"] for line in lines] == pytest.approx(rates)


def test_predictions_end_with_the_test_images(run):
    out = run(*SHORT, "--test-size", "4", "--predictions", "50")[1]
    assert out.count("pred: ") == 4
    assert "pred: " not in run(*SHORT, "--predictions", "0")[1]


def test_help_names_every_flag_with_its_default(run):
    code, out, _ = run("--help")
    assert code == 0
    entries = {text.split()[0]: " ".join(text.split()) for text in re.split(r"\n  (?=--)", out)[1:]}
    assert entries.keys() >= {f"--{flag}" for flag in (
        "dataset", "test-data", "image-shape", "image-size", "data-dir", "mirror", "train-size", "test-size", "model",
        "init", "epochs", "batch-size", "seed", "normalize", "validation", "early-stopping", "loss", "label-smoothing",
        "class-weights", "optimizer", "lr", "momentum", "nesterov", "alpha", "betas", "eps", "weight-decay",
        "spare-biases", "clip-norm", "schedule", "step-size", "gamma", "patience", "warm-up", "augment", "jit",
        "no-jit", "parallel", "serial", "threads", "save", "checkpoint", "resume", "checkpoint-minutes",
        "checkpoint-steps", "predictions", "log", "quiet")}
    for flag, text in entries.items():
        assert "(default" in text or flag in ("--no-jit", "--serial"), text


def test_help_and_wrong_flags_import_none_of_the_heavy_packages(environment):
    code = ("import sys; from cnn_numba.commands.main import main\n"
            "print(main(['--epochs', '0']), {'numpy', 'numba', 'requests', 'kernels'} & set(sys.modules))\n"
            "main(['--help'])")
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, text=True, check=True,
                          stdout=subprocess.PIPE)
    assert done.stdout.startswith("2 set()\nusage: ")


# ---- a terminal --------------------------------------------------------------------------------------------
def read_terminal(master, until=None):
    """What a pseudo-terminal shows until a text appears, or the program ends."""
    shown = ""
    while until is None or until not in shown:
        try:
            chunk = os.read(master, 65536)
        except OSError:                 # Linux reports the end of the program as an input/output error
            break
        if not chunk:
            break
        shown += chunk.decode()
    return shown


@pytest.fixture
def terminal(start):
    """Start the program in a pseudo-terminal: (process, file descriptor of what it shows)."""
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()

    def begin(*flags):
        process = start(*flags, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        return process, master
    yield begin
    os.close(master)


def test_a_terminal_shows_a_bar_that_fills_up_and_the_cursor_again(terminal):
    process, master = terminal(*SHORT)
    shown = read_terminal(master)
    assert process.wait(timeout=300) == 0
    steps = [int(index) for index in re.findall(r"\rProcessing \|#* *\| (\d+)/200", shown)]
    assert steps[0] == 0 and steps[-1] == 200 and steps == sorted(steps) and len(steps) > 2
    assert shown.count(HIDE_CURSOR) == shown.count(SHOW_CURSOR) == 1
    assert shown.index(HIDE_CURSOR) < shown.index(SHOW_CURSOR)
    assert re.search(rf"\n(\x1b\[\?25h)?{EPOCH}\r\n", shown)


def test_a_quiet_terminal_shows_no_bar(terminal):
    process, master = terminal(*SHORT, "--quiet")
    assert re.fullmatch(rf"Test accuracy: {NUMBER} %\r\n", read_terminal(master))
    assert process.wait(timeout=300) == 0


def test_no_bar_where_there_is_no_terminal(run):
    _, out, err = run(*SHORT)
    assert "Processing" not in out + err and "\x1b" not in out + err


def test_ctrl_c_ends_with_one_line_and_the_cursor(terminal):
    process, master = terminal(*DIGITS, "--epochs", "1000000", "--batch-size", "1")
    shown = read_terminal(master, until="Epoch 2 ") + read_terminal(master, until="Processing |##")
    process.send_signal(signal.SIGINT)
    shown += read_terminal(master)
    assert process.wait(timeout=300) == 130
    assert "Traceback" not in shown
    assert shown.replace(SHOW_CURSOR, "").splitlines()[-1] == "Interrupted"
    assert shown.rfind(HIDE_CURSOR) < shown.rfind(SHOW_CURSOR)


def test_a_reader_that_goes_away_leaves_no_traceback(start):
    process = start(*SHORT, "--epochs", "3")
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=300) == 141


# ---- bad input ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("flags", "sentence"), [
    (["--epochs", "0"], "argument --epochs: expected a whole number of at least 1, got '0'"),
    (["--epochs", "2.5"], "argument --epochs: expected a whole number of at least 1, got '2.5'"),
    (["--batch-size", "-1"], "argument --batch-size: expected a whole number of at least 1, got '-1'"),
    (["--train-size", "0"], "argument --train-size: expected a whole number of at least 1, got '0'"),
    (["--test-size", "none"], "argument --test-size: expected a whole number of at least 1, got 'none'"),
    (["--lr", "nan"], "argument --lr: expected a number above 0, got 'nan'"),
    (["--lr", "0"], "argument --lr: expected a number above 0, got '0'"),
    (["--lr", "inf"], "argument --lr: expected a number above 0, got 'inf'"),
    (["--lr"], "argument --lr: expected one argument"),
    (["--momentum", "1"], "argument --momentum: expected a number of at least 0 and below 1, got '1'"),
    (["--weight-decay", "-0.1"], "argument --weight-decay: expected a number of at least 0, got '-0.1'"),
    (["--seed", "-1"], "argument --seed: expected a whole number from 0 to 2**63 - 1, got '-1'"),
    (["--threads", "0"], "argument --threads: expected a whole number of at least 1, got '0'"),
    (["--predictions", "-1"], "argument --predictions: expected a whole number of at least 0, got '-1'"),
    (["--jit", "--no-jit"], "argument --no-jit: not allowed with argument --jit"),
    (["--serial", "--parallel"], "argument --parallel: not allowed with argument --serial"),
    (["--serial", "--threads", "2"], "argument --threads: expected 1 or nothing beside --serial, got 2"),
    (["--dataset", "letters"], "argument --dataset: expected one of mnist, fashion-mnist, kmnist, digits, or the "
                               "path of a file or folder, got 'letters'"),
    (["--test-data", "nowhere"], "argument --test-data: expected the path of a file or folder, got 'nowhere'"),
    (["--image-shape", "28x28"], "argument --image-shape: expected CHANNELSxROWSxCOLUMNS, such as 3x32x32, "
                                 "got '28x28'"),
    (["--image-size", "0x28"], "argument --image-size: expected ROWSxCOLUMNS, such as 28x28, got '0x28'"),
    (["--model", "vgg"], f"argument --model: expected one of {', '.join(PRESETS)}, or the path of a .json file, "
                         "got 'vgg'"),
    (["--epoch", "3"], "unrecognized arguments: --epoch 3"),
    (["learn"], f"unknown command 'learn': expected one of {', '.join(cli.COMMANDS)}, or flags only"),
    (["train", "digits"], "unrecognized arguments: digits"),
])
def test_a_wrong_flag_gives_one_sentence(capsys, flags, sentence):
    assert cli.main(flags) == 2
    assert capsys.readouterr() == ("", f"error: {sentence}\n")


def test_a_wrong_choice_names_the_right_ones(capsys):
    assert cli.main(["--schedule", "never"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"error: argument --schedule: invalid choice: 'never' \(choose from .+\)\n", err)


@pytest.mark.parametrize(("flags", "words"), [
    (["--threads", "4096"], "4096"),
    (["--model", "lenet5"], "Conv2d"),          # 8x8 images are too small for it
    (["--model", "nowhere.json"], "nowhere.json: cannot be read"),
    (["--train-size", "10000"], "10000"),
    (["--test-size", "10000"], "10000"),
])
def test_what_only_the_engine_can_refuse_gives_one_sentence_too(run, flags, words):
    code, out, err = run(*DIGITS, *flags)
    assert code == 2
    assert re.fullmatch(r"error: [^\n]+\n", err) and words in err


def test_a_loss_that_is_no_longer_finite_ends_the_run(run):
    code, out, err = run(*SHORT, "--epochs", "20", "--lr", "1e30")
    assert code == 1
    assert re.fullmatch(r"error: the loss became (nan|inf) at step 2 of epoch 1: use an --lr below 1e\+30\n", err)
    assert "Test accuracy" not in out


# ---- data --------------------------------------------------------------------------------------------------
def test_without_network_and_mnist_the_digits_are_trained_on(run, closed_port, tmp_path):
    offline = "--data-dir", tmp_path / "data", "--mirror", f"http://127.0.0.1:{closed_port}"
    code, out, err = run(*offline, "--epochs", "1")
    assert (code, err) == (0, "")
    assert "digits" in out.splitlines()[1] and out.splitlines()[2].startswith("Data set digits: ")
    code, out, err = run(*offline, "--epochs", "1", "--quiet")
    assert code == 0
    assert out.startswith("Test accuracy: ") and "digits" in err and len(err.splitlines()) == 1


def test_without_network_mnist_itself_is_refused(run, closed_port, tmp_path):
    code, out, err = run("--dataset", "mnist", "--data-dir", tmp_path / "data",
                         "--mirror", f"http://127.0.0.1:{closed_port}")
    assert code == 2
    assert re.fullmatch(r"error: [^\n]+\n", err) and str(tmp_path / "data") in err


# ---- execution modes ---------------------------------------------------------------------------------------
def test_every_way_to_run_gives_the_same_numbers(run):
    parallel, one, serial = (untimed(run(*SHORT, *mode)[1]).splitlines()
                             for mode in (["--parallel"], ["--threads", "1"], ["--serial"]))
    assert "JIT on, serial" in serial[0] and "parallel, 1 thread " in one[0]
    assert parallel[1:] == one[1:] == serial[1:]


def test_interpreted_agrees_with_compiled(run):
    small = *SHORT, "--train-size", "48", "--test-size", "16", "--batch-size", "32"
    code, interpreted, _ = run(*small, "--no-jit")
    assert code == 0
    assert "JIT off" in interpreted.splitlines()[0]
    assert losses(interpreted) == pytest.approx(losses(run(*small)[1]), rel=1e-5)


def test_the_variable_turns_the_jit_off_and_the_flag_on_again(run):
    small = *SHORT, "--train-size", "16", "--test-size", "16"
    off = {"NUMBA_DISABLE_JIT": "1"}
    assert "JIT off" in run(*small, changes=off)[1].splitlines()[0]
    assert "JIT on" in run(*small, "--jit", changes=off)[1].splitlines()[0]


# ---- compiled kernels between runs -------------------------------------------------------------------------
def test_two_processes_may_start_cold_at_once(start, tmp_path):
    fresh = {"CNN_NUMBA_CACHE_DIR": str(tmp_path)}
    both = [start(*SHORT, changes=fresh) for _ in range(2)]
    (code, out, err), (other_code, other_out, other_err) = map(ended, both)
    assert (code, err, other_code, other_err) == (0, "", 0, "")
    assert untimed(out) == untimed(other_out)
    assert list(tmp_path.glob("kernels-*/**/*.nbc"))


def test_a_home_that_cannot_be_written_is_no_obstacle(run):
    nowhere = {"CNN_NUMBA_CACHE_DIR": None, "NUMBA_CACHE_DIR": None, "CNN_NUMBA_DATA_DIR": None,
               "HOME": f"{os.devnull}/home", "XDG_CACHE_HOME": f"{os.devnull}/cache"}
    code, out, err = run(*SHORT, changes=nowhere)
    assert (code, err) == (0, "")
    assert "Test accuracy" in out


def test_serial_and_parallel_never_load_each_other(run, tmp_path):
    def loaded(mode):
        out = run(*SHORT, mode, changes={"CNN_NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_DEBUG_CACHE": "1"})[1]
        return set(re.findall(r"data loaded from '(.+)'", out))

    assert not loaded("--serial")                               # an empty cache
    shared = loaded("--parallel")
    serial, parallel = loaded("--serial"), loaded("--parallel")
    assert shared and shared == serial & parallel               # the kernels
    assert len(serial - shared) == len(parallel - shared) == 1  # the drivers


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the program whose kernels may be edited."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("cnn_numba", "kernels"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "main.py", folder)
    return folder


@pytest.mark.parametrize(("name", "before", "after"), [
    ("optimizer.py", "fma(rate, g, w)", "fma(rate, g, g)"),
    ("lanes.py", "def _maximum(builder, a, b):\n", "def _maximum(builder, a, b):\n        return b\n"),
])
def test_an_edited_kernel_never_runs_stale_code(run, copy, tmp_path, name, before, after):
    def loss():
        code, out, err = run(*SHORT, "--serial", program=copy / "main.py",
                             changes={"CNN_NUMBA_CACHE_DIR": str(tmp_path)})
        assert (code, err) == (0, "")
        return losses(out)

    path = copy / "kernels" / name
    source = path.read_text()
    assert source.count(before) == 1
    fresh = loss()
    try:
        path.write_text(source.replace(before, after))
        edited = loss()
    finally:
        path.write_text(source)
    assert edited != fresh == loss()


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "kernels").glob("*.py")))
def test_an_edit_of_any_kernel_file_leads_to_another_cache_folder(monkeypatch, copy, name):
    monkeypatch.setattr(cache, "__file__", str(copy / "kernels" / "cache.py"))
    path = copy / "kernels" / name
    source = path.read_text()
    before = cache.sources_hash()
    try:
        path.write_text(source + "#")
        assert cache.sources_hash() != before
    finally:
        path.write_text(source)
    assert cache.sources_hash() == before
