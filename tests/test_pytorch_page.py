"""Every row of the tables of docs/pytorch.md, in PyTorch and here, and the script with the lines exchanged."""
import re
import sys
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import cnn_numba
from cnn_numba import Conv2d, CrossEntropyLoss, Flatten, Linear, MaxPool2d, ReLU, Sequential, load_dataset
from cnn_numba.kernels.compiled import JIT

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "pytorch.md").read_text()
CLOSE = 2e-5                # of the largest number


def table(heading):
    """The rows under a heading, as lists of cells."""
    part = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    text, = (each for each in part if each.startswith(heading))
    rows = [re.split(r"(?<!\\)\| ", line.strip("| ") + " ") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def code(cell):
    """The lines of a cell."""
    return [line.strip().removeprefix("`").removesuffix("`") for line in cell.split("<br>")]


LINES, SAME, DIFFERS, MISSING = map(table, ("The lines", "The same", "What differs", "What is missing"))


def state():
    """The weights that both begin with."""
    rng = np.random.default_rng(1)
    model = Sequential(Conv2d(1, 4, 3), ReLU(), MaxPool2d(2), Flatten(), Linear(36, 5))
    return {name: (0.3 * rng.normal(size=p.shape)).astype(np.float32) for name, p in model.named_parameters()}


def raises(function):
    try:
        function()
    except (RuntimeError, ValueError):
        return True
    return False


def world(nn, torch, functional, optim, tensor, path):
    """The names that the code of a row uses."""
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5))
    model.load_state_dict({name: tensor(value) for name, value in state().items()})

    class Own(nn.Sequential):
        def forward(self, x):
            return super().forward(x)

    return dict(
        nn=nn, torch=torch, F=functional, optim=optim, model=model, loss_function=nn.CrossEntropyLoss(), np=np,
        opt=optim.SGD(model.parameters(), lr=0.1), weights=tensor(np.array([0.5, 1, 2, 0.25, 4], np.float32)),
        x=tensor(rng.normal(size=(18, 1, 8, 8)).astype(np.float32)), y=tensor(rng.integers(0, 5, 18)), names=[],
        path=str(path), raises=raises, OrderedDict=OrderedDict, Own=Own)


def here(tmp_path):
    return world(cnn_numba, cnn_numba, cnn_numba.functional, cnn_numba.optim, np.asarray, tmp_path / "here")


def there(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    return world(torch.nn, torch, torch.nn.functional, torch.optim, torch.from_numpy, tmp_path / "there")


def result(lines, names):
    """The value of the last line."""
    for line in lines[:-1]:
        exec(line, names)
    try:
        last = compile(lines[-1], "row", "eval")
    except SyntaxError:
        exec(lines[-1], names)
        return None
    return eval(last, names)


def plain(value):
    """Numbers as arrays, and containers of them as lists."""
    if isinstance(value, (tuple, list)) and type(value).__name__ != "Size":
        return [plain(part) for part in value]
    if hasattr(value, "detach"):
        value = np.asarray(value.detach())
    if type(value).__name__ == "Size":
        return list(value)
    return value


def agrees(mine, theirs):
    mine, theirs = plain(mine), plain(theirs)
    if isinstance(mine, list):
        return isinstance(theirs, list) and len(mine) == len(theirs) and all(map(agrees, mine, theirs))
    if isinstance(mine, (str, bool, type(None))):
        return mine == theirs
    mine, theirs = np.asarray(mine, np.float64), np.asarray(theirs, np.float64)
    return mine.shape == theirs.shape and bool(np.abs(mine - theirs).max() <= CLOSE * max(1, np.abs(theirs).max()))


def test_the_page_has_its_tables():
    assert len(LINES) > 8 and len(SAME) > 40 and len(DIFFERS) > 10 and len(MISSING) > 15
    assert not agrees([1.0, "a"], [1.001, "a"]) and not agrees(np.ones(3), np.ones(4)) and agrees((1, "a"), [1, "a"])


@pytest.mark.parametrize("what, cell", SAME, ids=[row[0] for row in SAME])
def test_the_same(what, cell, tmp_path):
    mine = result(code(cell), here(tmp_path))
    assert agrees(mine, result(code(cell), there(tmp_path)))


@pytest.mark.parametrize("what, left, right", DIFFERS, ids=[row[0] for row in DIFFERS])
def test_what_differs(what, left, right, tmp_path):
    mine = result(code(right), here(tmp_path))
    theirs = result(code(left), there(tmp_path))
    assert agrees(mine, theirs)


@pytest.mark.parametrize("what, cell, sentence", MISSING, ids=[f"{row[0]} {row[1]}" for row in MISSING])
def test_what_is_missing_says_what_to_use_instead(what, cell, sentence, tmp_path):
    with pytest.raises((ValueError, AttributeError)) as error:
        result(code(cell), here(tmp_path))
    text = str(error.value)
    assert code(sentence)[0] in text and "\n" not in text, text


# ---- the script -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """2,000 small digits and the weights that both begin with."""
    folder, data = tmp_path_factory.mktemp("script"), load_dataset("digits")
    images, labels = (np.concatenate([getattr(data, f"{part}_{what}") for part in ("train", "test")])
                      for what in ("images", "labels"))
    more = 2000 - len(images)
    np.savez(folder / "data.npz", images=np.concatenate([images, np.roll(images[:more], 1, axis=3)]),
             labels=np.concatenate([labels, labels[:more]]).astype(np.int64))
    return folder


def run(source, arguments):
    names = {"__name__": "script"}
    exec(compile(source, "pytorch_mnist.py", "exec"), names)
    before, sys.argv = sys.argv, ["pytorch_mnist.py", *map(str, arguments)]
    try:
        return names, names["main"]()
    finally:
        sys.argv = before


def exchanged():
    source = (ROOT / "scripts" / "pytorch_mnist.py").read_text()
    for left, right in LINES:
        (left,), (right,) = code(left), code(right)
        pattern = re.escape(left) + ("" if left.endswith("(") else "$")
        source, count = re.subn(pattern, right, source, flags=re.MULTILINE)
        assert count, f"the script has no {left}"
    return source


@pytest.fixture
def torch_on_one_thread():
    """Two thread pools on the same processors starve each other."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cnn_numba.set_execution("serial")
    yield torch
    torch.set_num_threads(threads)


@pytest.mark.skipif(not JIT, reason="trains on 1,600 images")
def test_the_script_gives_the_losses_of_pytorch_step_by_step(folder, capsys, torch_on_one_thread):
    torch = torch_on_one_thread
    source = (ROOT / "scripts" / "pytorch_mnist.py").read_text()
    other = exchanged()
    script = {"__name__": "script"}
    exec(compile(other, "exchanged", "exec"), script)
    rng = np.random.default_rng(0)
    weights = {name: (rng.uniform(-2, 2, p.shape) / np.sqrt(max(9, np.prod(p.shape[1:])))).astype(np.float32)
               for name, p in script["Net"](8).named_parameters()}
    cnn_numba.save(weights, folder / "weights.npz")
    torch.save({name: torch.from_numpy(value) for name, value in weights.items()}, folder / "weights.pt")
    _, theirs = run(source, [folder / "data.npz", "--weights", folder / "weights.pt", "--save", folder / "end.pt"])
    _, mine = run(other, [folder / "data.npz", "--weights", folder / "weights.npz", "--save", folder / "end.npz"])
    assert len(mine) == 2 * (25 + 1) and np.abs(np.subtract(mine, theirs)).max() < 1e-3
    assert mine[-2] < 0.6 * mine[0]
    end = {name: value.numpy() for name, value in torch.load(folder / "end.pt").items()}
    assert agrees([*cnn_numba.load_state(folder / "end.npz").values()], [*end.values()]) or max(
        np.abs(value - end[name]).max() for name, value in cnn_numba.load_state(folder / "end.npz").items()) < 1e-3


def test_the_names_of_the_page_exist():
    assert isinstance(cnn_numba.transforms, SimpleNamespace | type(sys))
    assert {"Compose", "ToTensor", "Normalize", "Pad", "RandomCrop", "RandomHorizontalFlip", "Lambda"} <= set(
        cnn_numba.transforms.__all__)
    assert isinstance(CrossEntropyLoss()(np.eye(3), [0, 1, 2]), float)
