"""The code of docs/extending.md, exactly as it is on the page."""
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cnn_numba import load_dataset
from cnn_numba.kernels.compiled import JIT

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files that the page names, and data in its format."""
    folder = tmp_path_factory.mktemp("extending")
    for name, content in re.findall(r"`([\w.]+)`:\n\n```(?:python|json)\n(.*?)```", PAGE, re.DOTALL):
        (folder / name).write_text(content)
    data = load_dataset("digits")
    for part in "train", "test":
        images, labels = getattr(data, f"{part}_images"), getattr(data, f"{part}_labels")
        rows = np.zeros((len(images), 785), np.uint8)
        rows[:, 0] = labels
        rows[:, 1:].reshape(-1, 28, 28)[:, 10:18, 10:18] = 15 * images[:, 0]
        rows.tofile(folder / f"{part}.raw28")
    return folder


def commands():
    """The command lines of the page, in their order."""
    return [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


def run(folder, line, **changes):
    words = shlex.split(line)
    words[:2] = [sys.executable, str(ROOT / "main.py")]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, env=os.environ | changes)


def test_the_page_has_its_files_and_commands(folder):
    assert {"hardswish.py", "lion.py", "raw_format.py", "net.json"} <= {path.name for path in folder.iterdir()}
    assert len(commands()) == 6


@pytest.mark.slow
@pytest.mark.skipif(not JIT, reason="the commands compile the kernels themselves")
def test_every_command_of_the_page_works(folder):
    for line in commands():
        done = run(folder, line)
        assert (done.returncode, done.stderr) == (0, ""), (line, done.stdout, done.stderr)
        if "evaluate" in line:
            assert float(re.search(r"accuracy: ([\d.]+) %", done.stdout)[1]) > 90
        if "check-gradients" in line:
            assert "All" in done.stdout and "gradients" in done.stdout
        if "--optimizer lion" in line:
            assert float(re.search(r"Test accuracy: ([\d.]+) %", done.stdout)[1]) > 80


@pytest.mark.skipif(not JIT, reason="the commands compile the kernels themselves")
def test_all_ways_to_run_give_the_same_numbers(folder):
    line = ("python main.py --extension hardswish.py --extension lion.py --model net.json --dataset digits "
            "--optimizer lion "
            "--lr 1e-3 --train-size 96 --epochs 2 --predictions 0")

    def losses(*flags):
        done = run(folder, " ".join([line, *flags]))
        assert done.returncode == 0, done.stderr
        return [float(loss) for loss in re.findall(r"Loss= ([\d.]+)", done.stdout)]

    serial, parallel, interpreted = losses("--serial"), losses(), losses("--no-jit")
    assert len(serial) == 2 and serial == parallel
    assert interpreted == pytest.approx(serial, rel=1e-4)


@pytest.mark.skipif(not JIT, reason="the commands compile the kernels themselves")
def test_a_model_with_an_unknown_layer_says_what_is_missing(folder):
    assert run(folder, commands()[0].replace("--epochs 20", "--epochs 1")).returncode == 0
    done = run(folder, "python main.py evaluate --load model.npz --dataset digits")
    assert done.returncode == 2 and "'Hardswish'" in done.stderr and "Traceback" not in done.stderr


@pytest.fixture
def imported(folder, monkeypatch):
    """The folder can be imported from, and what is defined there is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(folder))
    yield
    for name in "hardswish", "lion":
        sys.modules.pop(name, None)


def test_hardswish_is_pytorchs(imported):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from hardswish import Hardswish

    from cnn_numba import Sequential

    rng = np.random.default_rng(0)
    x, dy = (rng.normal(scale=scale, size=(17, 3, 4, 5)).astype(np.float32) for scale in (2, 1))
    model, images = Sequential(Hardswish()), torch.from_numpy(x).requires_grad_()
    y = torch.nn.functional.hardswish(images)
    y.backward(torch.from_numpy(dy))
    np.testing.assert_allclose(model(x), y.detach().numpy(), rtol=0, atol=2e-6)
    np.testing.assert_allclose(model.backward(dy), images.grad.numpy(), rtol=0, atol=5e-6)
    assert np.abs(np.maximum(x, 0) - y.detach().numpy()).max() > 0.1        # negative control: ReLU is another function


def test_lion_is_its_formula(imported):
    from lion import Lion

    from cnn_numba import Linear, Sequential

    model, rng = Sequential(Linear(7, 5), seed=3), np.random.default_rng(1)
    optimizer = Lion(model, lr=0.1, betas=(0.9, 0.95), weight_decay=0.2)
    parameter = model.parameters()[0]
    value, mean = parameter.value.astype(np.float64), np.zeros((5, 7))
    for _ in range(3):
        parameter.grad[...] = grad = rng.normal(size=(5, 7)).astype(np.float32)
        optimizer.step()
        value -= 0.1 * (np.sign(0.9 * mean + 0.1 * grad) + 0.2 * value)
        mean = 0.95 * mean + 0.05 * grad
    np.testing.assert_allclose(parameter.value, value, rtol=1e-6, atol=1e-6)
    assert Lion(model, betas=(0.9, 0.95)).state().keys() == optimizer.state().keys()


def test_the_callback_of_the_page_runs(capsys):
    block, = re.findall(r"```python\n(import cnn_numba as nn.*?)```", PAGE, re.DOTALL)
    exec(compile(block, "extending.md", "exec"), {"__name__": "page"})
    assert capsys.readouterr().out.count("\n") >= 2
