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
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import cnn_numba
from cnn_numba import escaping
from cnn_numba.commands import main as cli
from cnn_numba.commands import output
from cnn_numba.commands.callbacks import Estimate
from cnn_numba.commands.flags import flag_of
from cnn_numba.commands.parser import COMMON
from cnn_numba.files.folder_lock import FolderLock
from cnn_numba.history import EpochResult
from cnn_numba.kernels import cache
from cnn_numba.presets import PRESETS
from cnn_numba.recipe import FIELDS

ROOT = Path(__file__).resolve().parents[1]
DIGITS = "--dataset", "digits"
SHORT = *DIGITS, "--train-size", "200", "--test-size", "100", "--epochs", "1"
NUMBER = r"\d+\.\d\d"
SECONDS = r"\d+\.\d{2,} s"
SPEED = r"\d{1,3}(,\d{3})* images/s"
EPOCH = rf"Epoch \d+ Loss= \d\.\d{{6}} Acc= {NUMBER} % Test: \d\.\d{{6}} {NUMBER} % Run in: {SECONDS}"


@pytest.fixture(scope="session")
def closed_port():
    """A port of this machine at which nothing listens."""
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


@pytest.fixture
def run_here(capsys):
    """The same in this process, which has the kernels already."""
    def run(*flags):
        return cli.main([*map(str, flags)]), *capsys.readouterr()
    return run


def ended(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def untimed(text):
    """The text without what differs from run to run."""
    return re.sub(SPEED, "- images/s", re.sub(rf"{SECONDS}(econds)?\b", "- s", text))


def losses(text):
    return [float(loss) for loss in re.findall(r"Loss= (\S+)", text)]


# ---- what is printed ---------------------------------------------------------------------------------------
def test_a_run_prints_data_network_kernels_epochs_accuracy_predictions_and_total(run):
    code, out, err = run(*DIGITS, "--epochs", "2", "--predictions", "3")
    assert (code, err) == (0, "")
    expected = [
        r"Data set digits: 1,437 training and 360 test images, 1 x 8 x 8, 10 classes",
        r"Pixels 0 to 16, mean 4.89, standard deviation 6.01; 141 to 146 training images of a class",
        r"Network two-conv: 1,898 parameters",
        r"Kernels compiled, parallel on \d+ threads?, .*\(numba \d+\.\d+\.\d+, (omp|tbb|workqueue).*\)",
        rf"Kernels ready in {SECONDS}",
        r"Training: 2 epochs of 90 steps with 16 images each",
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


def test_a_network_that_the_digits_are_too_small_for_is_said_with_those_that_fit(run_here):
    for flags, name in (("--model", "lenet5"), "lenet5"), (("--recipe", "fast"), "fast"):
        code, out, err = run_here(*DIGITS, *flags)
        assert code == 2 and "Epoch" not in out
        assert re.fullmatch(rf"error: the images of digits have 8 x 8 pixels, too few for {name} \(layer \d: .*\): "
                            "choose --model two-conv, .*small, or train on MNIST \\(--data-dir, --mirror\\)\n", err)


@pytest.mark.parametrize("seed", ["0", "3"])
def test_digits_are_learned_with_the_default_flags(run, seed):
    code, out, _ = run("--dataset", "digits", "--seed", seed, "--predictions", "0")
    assert code == 0
    measured = re.findall(rf"Test: \d\.\d{{6}} ({NUMBER}) %", out)
    final = re.search(rf"Test accuracy: ({NUMBER}) %", out)[1]
    assert float(final) >= 95               # the test digits are by other writers
    assert len(measured) == 23 and measured[-1] == final and float(measured[0]) < 90


@pytest.mark.slow
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


def test_flags_only_mean_train(run_here):
    assert untimed(run_here(*SHORT)[1]) == untimed(run_here("train", *SHORT)[1])


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


def test_predictions_end_with_the_test_images(run_here):
    out = run_here(*SHORT, "--test-size", "4", "--predictions", "50")[1]
    assert out.count("pred: ") == 4
    assert "pred: " not in run_here(*SHORT, "--predictions", "0")[1]


# ---- help ----------------------------------------------------------------------------------------------------------
def test_help_is_one_screen(run):
    code, out, err = run("--help", changes={"COLUMNS": "200"})
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) <= 48 and max(map(len, lines)) <= 80
    flags = set(re.findall(r"^  (--[a-z-]+) ", out, re.MULTILINE))
    assert flags == {flag for flags in COMMON.values() for flag in flags} and 12 <= len(flags) <= 16
    for name in cli.COMMANDS:
        assert re.search(rf"^  {name} +[a-z]", out, re.MULTILINE)
    assert out.index("--dataset") < out.index("--epochs") < out.index("--save") < out.index("--no-jit")
    assert run("help")[1] == run("-h")[1] == run("--seed", "x", "--help")[1] == out


def test_help_fits_a_narrow_terminal(run):
    lines = run("--help", changes={"COLUMNS": "40"})[1].splitlines()
    assert max(map(len, lines)) <= 40


def test_help_all_names_every_flag_with_its_default(run):
    code, out, _ = run("--help-all")
    assert code == 0
    entries = {text.split()[0].rstrip(","): " ".join(text.split())
               for text in re.split(r"\n  (?=--)", out.partition("\nhelp:")[0])[1:]}
    fields = {flag_of(name) for name, field in FIELDS.items() if "group" in field.metadata}
    assert entries.keys() == fields | {f"--{flag}" for flag in (
        "recipe", "data-dir", "mirror", "jit", "no-jit", "parallel", "serial", "threads", "textbook", "save",
        "run", "config", "max-minutes", "no-report", "checkpoint", "resume", "checkpoint-minutes", "checkpoint-steps",
        "predictions", "log", "quiet", "extension", "mpi", "exchange-every")}
    for flag, text in entries.items():
        assert "(default" in text or flag in ("--no-jit", "--serial"), text
    for text in ("mnist, fashion-mnist, kmnist, digits", "xavier_uniform, xavier_normal", "two-conv, lenet5,",
                 "0.03 for sgd; 0.001 for rmsprop, adam, adamw",
                 "momentum: fraction of the previous update that is added",
                 "0.3 for step; 0.9 for exponential; 0.5 for plateau", "weight initialisation",
                 "a square greyscale image"):
        assert text in " ".join(out.split())
    assert run("train", "--help")[1] == run("help", "train")[1] == out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name, capsys):
    assert cli.main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert re.match(rf"usage: .* {name} ", out) and "--help" in out
    assert cli.main(["help", name.upper()]) == 0
    assert capsys.readouterr().out == out


def test_the_version_is_told(run):
    expected = f"cnn-numba {cnn_numba.__version__}\n"
    assert run("--version") == run("predict", "--version") == (0, expected, "")


def test_the_package_is_the_program(environment):
    def ended(*words):
        return subprocess.run([sys.executable, *words], env=environment, cwd=ROOT, text=True, capture_output=True)

    module, program = ended("-m", "cnn_numba", "--help"), ended("main.py", "--help")
    assert module.returncode == program.returncode == 0
    assert "python -m cnn_numba COMMAND" in " ".join(module.stdout.split())
    assert module.stdout.count("\n  --") == program.stdout.count("\n  --")
    assert ended("-m", "cnn_numba", "--epoch", "3").stderr == ended("main.py", "--epoch", "3").stderr != ""


def test_help_and_wrong_flags_import_none_of_the_heavy_packages(environment):
    code = ("import sys; from cnn_numba.commands.main import main\n"
            "print([main(words.split()) for words in ('--epochs 0', '--epoch 3', 'tran', '--optimizer adma')],\n"
            "      {'numpy', 'numba', 'requests', 'kernels'} & set(sys.modules))\n"
            "main(['--help']), main(['--version'])\n"
            "print({'numpy', 'numba', 'requests', 'kernels'} & set(sys.modules))")
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, text=True, check=True,
                          stdout=subprocess.PIPE)
    assert done.stdout.startswith("[2, 2, 2, 2] set()\nusage: ") and done.stdout.endswith("\nset()\n")


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
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    master, slave = pty.openpty()

    def begin(*flags, size=80, changes=None):
        termios.tcsetwinsize(slave, (40, size))
        process = start(*flags, changes={"COLUMNS": None} | (changes or {}), stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        return process, master
    yield begin
    os.close(master)


def test_a_terminal_shows_a_bar_that_fills_up_and_gives_way_to_the_epochs(terminal):
    process, master = terminal(*SHORT, "--epochs", "2", "--batch-size", "10", changes={"COLUMNS": "80"})
    shown = read_terminal(master)
    assert process.wait(timeout=300) == 0
    for epoch in "12":
        bars = re.findall(rf"\rEpoch {epoch} \|(#*) *\|", shown)
        filled = [len(bar) for bar in bars]
        assert len(bars) > 2 and filled == sorted(filled) and filled[-1] > filled[0]
        assert re.search(rf"Epoch {epoch} \|#+ *\| loss \d\.\d{{4}}  \d+ s left  {SPEED}", shown)
        assert re.search(r"\r\x1b\[K" + EPOCH.replace(r"\d+", epoch, 1) + "\r\n", shown), "the line replaces the bar"
    assert "\r\n\r\n" not in shown and "\x1b[?25l" not in shown, "no empty lines, and the cursor stays"


def columns(shown):
    """The widths of the lines that a terminal showed, counted from the last return."""
    return [len(part) for line in shown.split("\n") for part in re.sub(r"\x1b\[K", "", line).rstrip("\r").split("\r")]


@pytest.mark.parametrize("width", (40, 80))
def test_lines_and_bars_fit_the_terminal(terminal, width):
    process, master = terminal(*SHORT, "--validation", "40", "--batch-size", "10", size=width)
    shown = read_terminal(master)
    assert process.wait(timeout=300) == 0
    assert "|#" in shown and max(columns(shown)) <= width


def test_a_quiet_terminal_shows_no_bar(terminal):
    process, master = terminal(*SHORT, "--quiet")
    assert re.fullmatch(rf"Test accuracy: {NUMBER} %\r\n", read_terminal(master))
    assert process.wait(timeout=300) == 0


def test_no_bar_where_there_is_no_terminal(run):
    _, out, err = run(*SHORT)
    assert err == "" and "|" not in out and "\x1b" not in out


def test_ctrl_c_ends_with_one_line(terminal):
    process, master = terminal(*DIGITS, "--epochs", "1000000", "--batch-size", "1")
    shown = read_terminal(master, until="Epoch 2 ") + read_terminal(master, until="|##")
    process.send_signal(signal.SIGINT)
    shown += read_terminal(master)
    assert process.wait(timeout=300) == 130
    assert "Traceback" not in shown
    assert shown.split("\x1b[K")[-1].splitlines()[-1] == "Interrupted"


def test_ctrl_c_before_the_training_ends_it_too(start, tmp_path):
    """Here, in a reader that never ends."""
    extension = tmp_path / "slow.py"
    extension.write_text("import time\nfrom cnn_numba.data import Format, register_format\n"
                         "def read(path):\n    print('reading', flush=True)\n    time.sleep(60)\n"
                         "register_format(Format('slow', ('*.slow',), read))\n")
    (tmp_path / "some.slow").touch()
    process = start("--dataset", tmp_path / "some.slow", "--serial", "--extension", extension)
    assert process.stdout.readline() == "reading\n"
    process.send_signal(signal.SIGINT)
    code, out, err = ended(process)
    assert (code, out, err) == (130, "", "Interrupted\n")


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
    (["--serial", "--threads", "2"], "argument --threads: expected 1 with --serial, got 2"),
    (["--mirror", "ftp://x"], "argument --mirror: expected a URL that starts with http:// or https://, got 'ftp://x'"),
    (["--checkpoint-steps", "3"], "argument --checkpoint-steps: needs --run, --checkpoint or --resume"),
    (["--checkpoint-minutes", "3"], "argument --checkpoint-minutes: needs --run, --checkpoint or --resume"),
    (["--dataset", "letters"], "argument --dataset: expected one of mnist, fashion-mnist, kmnist, digits, or the "
                               "path of a file or folder, got 'letters'"),
    (["--dataset", __file__, "--test-data", "nowhere"], "argument --test-data: nowhere does not exist"),
    (["--image-shape", "28x28"], "argument --image-shape: expected CHANNELSxROWSxCOLUMNS, such as 3x32x32, "
                                 "got '28x28'"),
    (["--image-size", "0x28"], "argument --image-size: expected ROWSxCOLUMNS, such as 28x28, got '0x28'"),
    (["--model", "vgg"], f"argument --model: expected one of {', '.join(PRESETS)}, a .json file, or a trained model, "
                         "got 'vgg'"),
    (["--cuda"], "unknown flag --cuda: --help-all lists all flags"),
    (["play"], f"unknown command 'play': expected one of {', '.join(cli.COMMANDS)}"),
])
def test_a_wrong_flag_gives_one_sentence(capsys, flags, sentence):
    assert cli.main(flags) == 2
    assert capsys.readouterr() == ("", f"error: {sentence}\n")


@pytest.mark.parametrize(("words", "meant"), [
    ("--epoch 3", "unknown flag --epoch: did you mean --epochs?"),
    ("--learning-rate 0.1", "unknown flag --learning-rate: did you mean --lr?"),
    ("--learning_rate=0.1", "unknown flag --learning_rate: did you mean --lr?"),
    ("--batch_size 5", "unknown flag --batch_size: did you mean --batch-size?"),
    ("--Batch-Size 5", "unknown flag --Batch-Size: did you mean --batch-size?"),
    ("-lr 0.1", "unknown flag -lr: did you mean --lr?"),
    ("--network lenet5", "unknown flag --network: did you mean --model?"),
    ("--scheduler step", "unknown flag --scheduler: did you mean --schedule?"),
    ("--weigth-decay 0", "unknown flag --weigth-decay: did you mean --weight-decay?"),
    ("--epochs 3 --num-workers 2", "unknown flag --num-workers: did you mean --threads?"),
    ("--load m.npz", "unknown flag --load: it is a flag of evaluate, predict and draw; --resume continues a training"),
    ("predict x.png --weights m.npz", "the following arguments are required: --load"),
    ("predict x.png --load m.npz --fromat csv", "unknown flag --fromat: did you mean --format?"),
    ("predict x.png --load m.npz --lr 1", "unknown flag --lr: --help-all lists all flags"),
    ("tran --epochs 3", "unknown command 'tran': did you mean train?"),
    ("check_gradient", "unknown command 'check_gradient': did you mean check-gradients?"),
    ("help predikt", "unknown command 'predikt': did you mean predict?"),
    ("mnist", "unknown command 'mnist': did you mean --dataset mnist?"),
    ("train digits", "unexpected word 'digits': did you mean --dataset digits?"),
    ("--epochs 3 predict", "unexpected word 'predict': the command comes first"),
    ("train now", "unexpected word 'now'"),
    ("--dataset minst", "argument --dataset: unknown data set 'minst': did you mean mnist?"),
    ("--dataset fashion", "argument --dataset: unknown data set 'fashion': did you mean fashion-mnist?"),
    ("--dataset no/where", "argument --dataset: no/where does not exist"),
    ("--dataset images.csv", "argument --dataset: images.csv does not exist"),
    ("--model lenet", "argument --model: unknown name 'lenet': did you mean lenet5?"),
    ("--model nowhere.json", "argument --model: nowhere.json does not exist"),
    ("--optimizer adma", "argument --optimizer: unknown name 'adma': did you mean adam?"),
    ("--optimizer lbfgs", "argument --optimizer: expected one of sgd, rmsprop, adam, adamw, got 'lbfgs'"),
    ("--schedule cosin", "argument --schedule: unknown name 'cosin': did you mean cosine?"),
    ("--init he", "argument --init: expected one of xavier_uniform, xavier_normal, kaiming_uniform, kaiming_normal, "
                  "pytorch, got 'he'"),
    ("--recipe fats", "argument --recipe: unknown name 'fats': did you mean fast?"),
    ("--resume nowhere", "argument --resume: nowhere does not exist"),
    ("--extension nowhere.py", "argument --extension: nowhere.py does not exist"),
    ("evaluate --load nowhere.npz", "argument --load: nowhere.npz does not exist"),
    ("predict x.png --load nowhere.npz", "argument --load: nowhere.npz does not exist"),
    ("summary --load nowhere.npz", "argument --load: nowhere.npz does not exist"),
    ("--save no/where.npz", f"argument --save: {ROOT}/no/where.npz cannot be written (No such file or directory)"),
])
def test_an_error_says_what_was_meant(words, meant, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert cli.main(words.split()) == 2
    assert capsys.readouterr() == ("", f"error: {meant}\n")


def test_a_network_that_is_not_json_ends_before_the_data_are_loaded(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("cnn_numba.data.load_dataset", lambda *_, **__: pytest.fail("the data were loaded"))
    (tmp_path / "net.json").write_text("[")
    assert cli.main(["--model", str(tmp_path / "net.json")]) == 2
    assert re.fullmatch(r"error: .*net.json: line 1, column 2 is not JSON: .*\n", capsys.readouterr().err)


@pytest.mark.parametrize("flags", (["--class-weights", "1,2"], ["--model", "nowhere.json"], ["--save", "no/where.npz"],
                                   ["--log", "no/where"], ["--checkpoint", __file__], ["--threads", "4096"]))
def test_mistakes_end_before_the_data_are_loaded(flags, capsys, monkeypatch):
    monkeypatch.setattr("cnn_numba.data.load_dataset", lambda *_, **__: pytest.fail("the data were loaded"))
    assert cli.main(flags) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(r"error: [^\n]+\n", err)


def test_a_folder_in_use_is_refused_before_the_data_are_loaded(run_here, capsys, monkeypatch, tmp_path):
    assert run_here(*SHORT, "--checkpoint", tmp_path / "run")[0] == 0
    monkeypatch.setattr("cnn_numba.data.load_dataset", lambda *_, **__: pytest.fail("the data were loaded"))
    lock = FolderLock(tmp_path / "run")
    lock.acquire()
    assert cli.main(["--resume", str(tmp_path / "run")]) == 2
    lock.release()
    assert "is in use by another training" in capsys.readouterr().err


def test_a_batch_that_is_too_small_for_its_normalisation_is_a_warning(run_here, tmp_path):
    path = tmp_path / "n.json"
    path.write_text('{"layers": [{"type": "flatten"}, {"type": "dense", "params": {"units": 10}}, {"type": "bn"}]}')
    code, out, _ = run_here(*SHORT, "--model", path, "--batch-size", "199")
    assert code == 0
    assert "\nwarning: the last batch of an epoch has a single image, so 2 BatchNorm1d gets one value" in out


def test_choices_may_have_any_case(run_here):
    code, out, _ = run_here(*SHORT, "--optimizer", "Adam", "--schedule", "One_Cycle", "--model", "Two-Conv",
                            "--loss", "MSE", "--init", "Kaiming-Normal", "--dataset", "DIGITS")
    assert code == 0 and "Network two-conv: " in out


def test_a_kernel_that_cannot_be_compiled_is_a_sentence(capsys, monkeypatch):
    from cnn_numba.kernels.compiled import KernelError

    def broken(*_, **__):
        raise KernelError("relu (kernels/activation.py, line 3) cannot be compiled: because")

    monkeypatch.setattr("cnn_numba.training.Trainer", broken)
    assert cli.main([*SHORT, "--quiet"]) == 2
    assert capsys.readouterr().err == "error: relu (kernels/activation.py, line 3) cannot be compiled: because\n"


def test_errors_of_the_program_itself_are_not_hidden(monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("cnn_numba.training.Trainer", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main([*SHORT, "--quiet"])


def test_names_cannot_control_the_terminal(capsys):
    assert cli.main(["--dataset", "a\x1b[2J\nb.csv"]) == 2
    assert capsys.readouterr().err == "error: argument --dataset: a\\x1b[2J\\nb.csv does not exist\n"
    assert escaping.printable("Ärger 木 a\tb\udc80") == "Ärger 木 a\\tb\\udc80"


@pytest.mark.parametrize("seconds, text", [
    (0.00384, "0.0038 s"), (0.000512, "0.00051 s"), (0.0996, "0.100 s"), (0.51, "0.51 s"), (12.049, "12.05 s"),
    (0, "0.00 s")])
def test_seconds_have_meaningful_digits(seconds, text):
    assert output.seconds_text(seconds) == text


@pytest.mark.parametrize("seconds, text", [
    (2.55, "2.5 s"), (3, "3 s"), (41.7, "42 s"), (100, "2 minutes"), (2400, "40 minutes"), (5400, "2 hours")])
def test_durations(seconds, text):
    assert output.duration_text(seconds) == text


@pytest.mark.parametrize("epoch, loss, accuracy, seconds", ((1, 0.155610, 95.14, 0.51), (999, 2.302585, 100, 0.0038),
                                                            (12, 14.5, 9.8, 3600)))
def test_the_line_of_an_epoch_fits_80_columns(epoch, loss, accuracy, seconds):
    result = EpochResult(epoch, loss, accuracy, seconds, 60_000, 938, 0.01)
    held_out = replace(result, validation_loss=loss, validation_accuracy=accuracy)
    for line in map(output.epoch_line, (result, held_out)):
        assert line.startswith(f"Epoch {epoch} Loss= {loss:.6f} Acc= {accuracy:.2f} % ") and len(line) <= 80, line


@pytest.mark.parametrize(("flags", "words"), [
    (["--threads", "4096"], "argument --threads: expected at most "),
    (["--no-jit", "--threads", "2"], "argument --threads: expected 1 with --no-jit, got 2"),
    (["--model", "lenet5"], "Conv2d"),          # 8x8 images are too small for it
    (["--train-size", "10000"], "argument --train-size: must be 1 to 1437 for digits, got 10000"),
    (["--test-size", "10000"], "argument --test-size: must be 1 to 360 for digits, got 10000"),
])
def test_what_only_the_engine_can_refuse_gives_one_sentence_too(run, flags, words):
    code, out, err = run(*DIGITS, *flags)
    assert code == 2
    assert re.fullmatch(r"error: [^\n]+\n", err) and words in err


def test_a_loss_that_is_no_longer_finite_ends_the_run(run_here):
    code, out, err = run_here(*SHORT, "--epochs", "20", "--lr", "1e30")
    assert code == 1
    assert re.fullmatch(r"error: the loss became (nan|inf) at step 2 of epoch 1: use an --lr below 1e\+30\n", err)
    assert "Test accuracy" not in out


# ---- data --------------------------------------------------------------------------------------------------
def test_without_network_and_mnist_the_digits_are_trained_on(run, closed_port, tmp_path):
    offline, changes = ("--mirror", f"http://127.0.0.1:{closed_port}"), {"CNN_NUMBA_DATA_DIR": str(tmp_path / "data")}
    code, out, err = run(*offline, "--epochs", "1", changes=changes)
    assert (code, err) == (0, "")
    assert "digits" in out.splitlines()[0] and out.splitlines()[1].startswith("Data set digits: ")
    code, out, err = run(*offline, "--epochs", "1", "--quiet", changes=changes)
    assert code == 0
    assert out.startswith("Test accuracy: ") and "digits" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("dataset", [["--dataset", "mnist"], []])
def test_without_network_mnist_itself_is_refused(run, closed_port, tmp_path, dataset):
    code, out, err = run(*dataset, "--data-dir", tmp_path / "data", "--mirror", f"http://127.0.0.1:{closed_port}")
    assert code == 2
    assert re.fullmatch(r"error: [^\n]+\n", err) and str(tmp_path / "data") in err


# ---- execution modes ---------------------------------------------------------------------------------------
def kernels(out):
    """The line that says how the kernels run."""
    return re.search(r"^Kernels (?!ready).*$", out, re.MULTILINE)[0]


def test_every_way_to_run_gives_the_same_numbers(run):
    parallel, one, serial = (untimed(run(*SHORT, *mode)[1])
                             for mode in (["--parallel"], ["--threads", "1"], ["--serial"]))
    assert "compiled, serial" in kernels(serial) and "parallel on 1 thread," in kernels(one)
    parallel, one, serial = (re.sub(r"\nKernels .*", "", out) for out in (parallel, one, serial))
    assert parallel == one == serial


def test_interpreted_agrees_with_compiled(run):
    small = *SHORT, "--train-size", "48", "--test-size", "16", "--batch-size", "32"
    code, interpreted, _ = run(*small, "--no-jit")
    assert code == 0
    assert "interpreted" in kernels(interpreted)
    assert losses(interpreted) == pytest.approx(losses(run(*small)[1]), rel=1e-5)


def test_interpreted_says_how_long_an_epoch_takes(run):
    out = run(*SHORT, "--train-size", "48", "--test-size", "16", "--batch-size", "16", "--no-jit")[1]
    assert re.search(r"^Interpreted: an epoch of 48 images will take about [\d.]+ s\nEpoch 1 ", out, re.MULTILINE)
    assert "--train-size 64" not in out
    assert "Interpreted" not in run(*SHORT)[1]


def test_a_long_epoch_says_what_to_add():
    said, images, now = [], 60_000, iter([0.0, 2.5])
    trainer = SimpleNamespace(images_done=0, data=SimpleNamespace(train_images=range(images)))
    estimate = Estimate(said.append)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.perf_counter", lambda: next(now))
        estimate.on_train_begin(trainer)
        trainer.images_done = 64
        estimate.on_batch_end(trainer)
        estimate.on_batch_end(trainer)                  # once is enough
    assert said == ["Interpreted: an epoch of 60,000 images will take about 39 minutes",
                    "With --train-size 64 --test-size 64 it takes 2.5 s"]


@pytest.mark.slow
def test_textbook_runs_another_algorithm_to_the_same_network(run):
    """5x5 convolutions, which Cook-Toom products round in another way."""
    small = "--dataset", "digits", "--train-size", "200", "--test-size", "16", "--epochs", "1", "--model", "two-conv-bn"
    fast, textbook = run(*small)[1], run(*small, "--textbook")[1]
    assert "by Cook-Toom" in kernels(fast) and "by the textbook" in kernels(textbook)
    assert losses(fast) == pytest.approx(losses(textbook), rel=1e-3)


def test_the_variable_turns_the_jit_off_and_the_flag_on_again(run):
    small = *SHORT, "--train-size", "16", "--test-size", "16"
    off = {"NUMBA_DISABLE_JIT": "1"}
    assert "interpreted" in kernels(run(*small, changes=off)[1])
    assert "compiled" in kernels(run(*small, "--jit", changes=off)[1])


# ---- compiled kernels between runs -------------------------------------------------------------------------
@pytest.fixture(scope="module")
def few_kernels(tmp_path_factory):
    """The flags of a short training of a network that compiles few kernels."""
    path = tmp_path_factory.mktemp("network") / "small.json"
    path.write_text('{"layers": [{"type": "maxpool2d", "params": {"kernel_size": 2}}, {"type": "flatten"},'
                    ' {"type": "dense"}]}')
    return *SHORT, "--model", path


@pytest.mark.slow
def test_two_processes_may_start_cold_at_once(start, few_kernels, tmp_path):
    fresh = {"CNN_NUMBA_CACHE_DIR": str(tmp_path)}
    both = [start(*few_kernels, changes=fresh) for _ in range(2)]
    (code, out, err), (other_code, other_out, other_err) = map(ended, both)
    assert (code, err, other_code, other_err) == (0, "", 0, "")
    assert untimed(out) == untimed(other_out)
    assert list(tmp_path.glob("kernels-*/**/*.nbc"))


@pytest.mark.slow
def test_a_home_that_cannot_be_written_is_no_obstacle(run):
    nowhere = {"CNN_NUMBA_CACHE_DIR": None, "NUMBA_CACHE_DIR": None, "CNN_NUMBA_DATA_DIR": None,
               "HOME": f"{os.devnull}/home", "XDG_CACHE_HOME": f"{os.devnull}/cache"}
    code, out, err = run(*SHORT, changes=nowhere)
    assert (code, err) == (0, "")
    assert "Test accuracy" in out


@pytest.mark.slow
def test_serial_and_parallel_share_all_compiled_code_but_the_driver(run, few_kernels, tmp_path):
    def kept(mode):
        """{name of a file of compiled code: when it was written} after a run."""
        assert run(*few_kernels, mode, changes={"CNN_NUMBA_CACHE_DIR": str(tmp_path)})[0] == 0
        return {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")}

    serial = kept("--serial")
    both = kept("--parallel")
    assert len([name for name in serial if name.startswith("replay_serial-")]) == 1 < len(serial)
    new = both.keys() - serial.keys()
    assert len(new) == 1 and new.pop().startswith("replay_parallel-"), "it did not load the serial one"
    assert kept("--serial") == kept("--parallel") == both | serial, "nothing was compiled again"


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the program whose kernels may be edited."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("cnn_numba", "kernels"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "main.py", folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("name", "before", "after"), [
    ("optimizer.py", "fma(rate, g, w)", "fma(rate, w, w)"),
    ("lanes/compiled.py", "def _maximum(builder, a, b):\n", "def _maximum(builder, a, b):\n    return b\n"),
])
def test_an_edited_kernel_never_runs_stale_code(run, few_kernels, copy, name, before, after):
    def loss():
        code, out, err = run(*few_kernels, "--serial", program=copy / "main.py",
                             changes={"CNN_NUMBA_CACHE_DIR": str(copy / "cache")})
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


@pytest.mark.parametrize("name", sorted(str(path.relative_to(ROOT / "kernels"))
                                        for path in (ROOT / "kernels").rglob("*.py")))
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
