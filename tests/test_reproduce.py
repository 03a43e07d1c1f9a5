"""The script that repeats published runs: its command lines are valid, and it reads what they print."""
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cnn_numba import RECIPES, Recipe
from cnn_numba.commands.flags import given_fields
from cnn_numba.commands.main import make_parser
from cnn_numba.kernels.compiled import JIT
from cnn_numba.presets import PRESETS

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("reproduce", ROOT / "scripts" / "reproduce.py")
reproduce = sys.modules["reproduce"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reproduce)

PARAMETERS = {"bn-cnn": 694_282, "lenet5": 61_706, "lenet5-momentum": 61_706, "lenet5-avg": 61_706,
              "lenet5-max": 61_706, "small": 2 * (9 + 1) + 2 * (2 * 4 + 1) + 10 * (1250 + 1), "two-conv-bn": 132_742,
              "fast": 20_986}
OUTPUT = """\
Data set mnist: 60,000 training and 10,000 test images, 1 x 28 x 28, 10 classes
Network fast: 20,986 parameters
Kernels compiled, parallel on 2 threads, convolutions by Cook-Toom (numba 0.68.1, omp, 16 images per vector)
Kernels ready in 0.11 s
Epoch 1 Loss= 0.155610 Acc= 95.14 % Run in: 0.47 s, 127,660 images/s
Epoch 2 Loss= 0.058555 Acc= 98.18 % Run in: 12.05 s, 4,979 images/s
Test accuracy: 98.92 %
pred: 7  true: 7
>>> Program run in 3.40 seconds <<<
"""


def test_every_recipe_is_a_run():
    assert reproduce.RUNS.keys() == RECIPES.keys() == PARAMETERS.keys()


@pytest.mark.parametrize("name", reproduce.RUNS)
def test_the_command_line_of_a_run_is_valid_and_documented(name):
    run, parser = reproduce.RUNS[name], make_parser("train")
    assert parser.parse(run.flags.split()).recipe == name
    settings = reproduce.settings(name)
    assert Recipe(**given_fields(parser.parse(settings.split()))) == Recipe.named(name), "the settings say the same"
    model = PRESETS[Recipe.named(name).model]((1, 28, 28), 10)
    assert sum(p.value.size for p in model.parameters()) == PARAMETERS[name]
    assert run.seeds >= 3
    assert f"| `{run.flags}` | `{settings}` | {run.published} |" in (
        ROOT / "docs" / "reproductions.md").read_text(encoding="utf-8")


def test_a_row_has_medians_and_every_seed():
    results = [reproduce.read_output(OUTPUT.replace("98.92", accuracy), seconds)
               for accuracy, seconds in (("98.92", 14.0), ("10.28", 15.5), ("99.01", 13.0))]
    assert results[0] == reproduce.Result(98.92, [0.47, 12.05], 14.0)
    assert reproduce.row("lenet5-momentum", reproduce.Run("published", "--flag", 3), results) == (
        "| `--flag` | `--model lenet5 --epochs 5 --batch-size 10 --lr 0.001 --momentum 0.9 --weight-decay 0 --schedule "
        "constant` | published | 98.92 % (98.92, 10.28, 99.01) | 6.26 s | 12.52 s | 14.00 s |")


def test_output_without_an_accuracy_is_no_result():
    with pytest.raises(ValueError):
        reproduce.read_output(OUTPUT.replace("Test accuracy", "Accuracy"), 14.0)


@pytest.mark.skipif(not JIT, reason="starts programs of its own, which would take minutes")
def test_a_run_gives_a_result_for_each_seed():
    run = reproduce.Run("", "--dataset digits --train-size 640 --epochs 3 --lr 0.05", 2)
    runs, results = reproduce.measure(run)
    assert re.match(r"Kernels compiled, .*numba", runs)
    assert len(results) == 2 and results[0].accuracy != results[1].accuracy
    for result in results:
        assert 60 < result.accuracy <= 100
        assert len(result.epochs) == 3 and sum(result.epochs) < result.program


def test_a_command_that_fails_says_why():
    with pytest.raises(SystemExit, match="main.py --lr 0 --seed 0 ended with exit code 2: error: argument --lr"):
        reproduce.start("--lr 0", 0)


def test_a_run_that_does_not_exist_is_refused():
    script = ROOT / "scripts" / "reproduce.py"
    ended = subprocess.run([sys.executable, script, "lenet6"], capture_output=True, text=True)
    assert ended.returncode == 2 and "unknown run 'lenet6'" in ended.stderr


@pytest.mark.mnist
@pytest.mark.skipif(not os.path.isdir(os.path.join(os.environ.get("CNN_NUMBA_DATA_DIR", ""), "mnist")),
                    reason="no $CNN_NUMBA_DATA_DIR/mnist")
@pytest.mark.skipif(not JIT, reason="trains on all of MNIST")
@pytest.mark.parametrize("seed", (0, 1))
def test_one_epoch_of_fast_is_enough_for_99_percent_of_mnist(seed):
    run = reproduce.RUNS["fast"]
    result = reproduce.read_output(*reproduce.start(run.flags, seed))
    assert len(result.epochs) == 1 and result.accuracy >= 99
