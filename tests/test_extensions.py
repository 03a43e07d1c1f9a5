"""Files of a user's own on the command line: what they add, what goes wrong in them, and trainings that are resumed.

docs/extending.md has a layer, an optimizer and a data format from nothing; see test_extending.py.
"""
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cnn_numba import InputError, Recipe
from cnn_numba.commands import main as cli
from cnn_numba.extensions import load_extension
from cnn_numba.files import container
from cnn_numba.files.checkpoints import newest_checkpoint

ROOT = Path(__file__).resolve().parents[1]
SHORT = "--dataset", "digits", "--serial", "--quiet", "--train-size", "200", "--test-size", "32"
# Built like Lion, from the library's parts: two fractions, of which a one-cycle schedule moves the first.
LION = """
from cnn_numba import Adam, MSELoss

class Tiger(Adam):
    def __init__(self, model, lr=2e-3, betas=(0.8, 0.95), weight_decay=0.1):
        super().__init__(model, lr, betas, 1e-5, weight_decay)

class OneHotLoss(MSELoss):
    pass
"""


@pytest.fixture
def lion(tmp_path):
    """The path of an extension with the optimizer Tiger and the loss OneHotLoss, which are gone after the test."""
    (tmp_path / "lion.py").write_text(LION)
    return str(tmp_path / "lion.py")


def arrays(path):
    with np.load(path) as file:
        return {name: file[name].tobytes() for name in file.files if name != container.TEXT}


def test_an_optimizer_and_a_loss_are_found_by_their_names(lion, tmp_path, capsys):
    path, plain = tmp_path / "m.npz", tmp_path / "n.npz"
    assert cli.main(["--optimizer", "tiger", *SHORT]) == 2
    assert "expected one of sgd, rmsprop, adam, adamw, got 'tiger'" in capsys.readouterr().err
    chosen = *SHORT, "--epochs", "2", "--optimizer", "tiger", "--loss", "one_hot_loss"
    assert cli.main([*chosen, "--extension", lion, "--save", str(path)]) == 0
    same = "--optimizer adam --loss mse --lr 2e-3 --betas 0.8,0.95 --weight-decay 0.1 --eps 1e-5".split()
    assert cli.main([*SHORT, "--epochs", "2", *same, "--save", str(plain)]) == 0
    assert arrays(path) == arrays(plain)
    capsys.readouterr()
    assert cli.main([*chosen, "--extension", lion, "--momentum", "0.5"]) == 2
    assert capsys.readouterr().err == (
        "error: argument --momentum: the optimizer Tiger does not use it; it applies to sgd, rmsprop\n")


def test_a_training_is_resumed_with_its_extension_only(lion, tmp_path, capsys):
    chosen = *SHORT, "--optimizer", "tiger", "--schedule", "constant", "--extension", lion
    assert cli.main([*chosen, "--epochs", "2", "--save", str(tmp_path / "whole.npz")]) == 0
    assert cli.main([*chosen, "--epochs", "1", "--checkpoint", str(tmp_path / "run")]) == 0
    saved = newest_checkpoint(tmp_path / "run", pytest.fail).recipe
    assert (saved["extensions"], saved["optimizer"]) == (["lion.py"], "Tiger"), "no path, no code"
    resumed = ("--serial", "--quiet", "--resume", str(tmp_path / "run"), "--epochs", "2", "--save",
               str(tmp_path / "m.npz"))
    capsys.readouterr()
    assert cli.main([*resumed]) == 2
    assert capsys.readouterr().err == (f"error: argument --extension: the training in {tmp_path / 'run'} has lion.py, "
                                       "which is not given\n")
    assert cli.main([*resumed, "--extension", lion]) == 0
    assert arrays(tmp_path / "m.npz") == arrays(tmp_path / "whole.npz")


@pytest.mark.parametrize("content, sentence", [
    ("import math\n\nx = 1 / 0", ", line 3: ZeroDivisionError: division by zero"),
    ("def f(:\n    pass", ", line 1: SyntaxError: "),
    ("import nothing_of_that_name", ", line 1: ModuleNotFoundError: No module named 'nothing_of_that_name'"),
    ("from cnn_numba import SGD\nclass Adam(SGD): pass",
     ", line 2: cnn_numba.optim has a class Adam already: choose another name"),
    ("x = '\\0'\n\0", ": "), ("def f():\n    return {}[1]\nf()", ", line 2: KeyError: 1")])
def test_a_file_that_fails_is_named_with_its_line(content, sentence, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(content)
    assert cli.main([*SHORT, "--extension", str(tmp_path / "mine.py")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: argument --extension: {tmp_path / 'mine.py'}{sentence}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("name, sentence", [("nowhere.py", "does not exist"), (".", "is not a file"),
                                            ("notes.txt", "is not a Python file")])
def test_what_is_not_a_python_file(name, sentence, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=sentence):
        load_extension(tmp_path / name)


def test_loading_twice_is_no_mistake(lion):
    assert load_extension(lion) == load_extension(lion) == "lion.py"
    assert Recipe(optimizer="Tiger").betas == (0.8, 0.95)


def test_extensions_are_imported_before_the_kernels_are_chosen(tmp_path):
    """With --no-jit, an extension gets interpreted kernels, although it imports them first."""
    (tmp_path / "look.py").write_text("from cnn_numba.kernels.compiled import JIT\nprint('compiled:', JIT)\n")
    for flag, answer in ("--no-jit", "False"), ("--jit", "True"):
        done = subprocess.run(
            [sys.executable, "main.py", *SHORT, "--epochs", "1", "--train-size", "16", flag, "--extension",
             tmp_path / "look.py"], cwd=ROOT, capture_output=True, text=True,
            env={name: value for name, value in os.environ.items() if name != "NUMBA_DISABLE_JIT"})
        assert re.fullmatch(rf"compiled: {answer}\nTest accuracy: .*\n", done.stdout), done.stderr
