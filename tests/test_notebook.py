"""Notebooks: how models and data sets look in them; the tour in docs/."""
import base64
import importlib.util
import json
import re
import subprocess
import sys
import types
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from networks import conv, flatten, linear, make, relu, residual

from cnn_numba import Dataset, Sequential, load_dataset
from cnn_numba.commands.progress import bar
from cnn_numba.kernels.compiled import JIT

ROOT = Path(__file__).resolve().parents[1]


def data(shape=(1, 4, 5), names=("<b>x</b>", "dog", "cat")):
    images = np.zeros((9, *shape), np.uint8)
    images[:, 0, 1, 2] = 1 + np.arange(9)
    labels = np.arange(9)[::-1] // 3
    return Dataset("a & b", images, labels, images[:3], labels[:3], len(names), names)


def pixels(html):
    image = pytest.importorskip("PIL.Image")
    return [np.asarray(image.open(BytesIO(base64.b64decode(text)))) for text in re.findall("base64,([^\"]+)", html)]


def test_a_data_set_shows_the_first_image_of_each_class():
    html = data()._repr_html_()
    first = pixels(html)
    assert [image.shape for image in first] == [(4, 5)] * 3
    assert [image[1, 2] for image in first] == [255, 255 * 4 // 7, 255 // 7], "white is the largest pixel of them"
    assert "Dataset a &amp; b: 9 training and 3 test images of 1 x 4 x 5" in html
    assert re.findall("<figcaption>(.*?)</figcaption>", html) == ["&lt;b&gt;x&lt;/b&gt;", "dog", "cat"]
    assert pixels(data((3, 4, 5))._repr_html_())[0].shape == (4, 5, 3)
    assert len(pixels(data((2, 4, 5), tuple("abcdefghijkl"))._repr_html_())) == 3, "of the classes that occur"


def test_a_data_set_without_pillow_is_said_in_words(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    html = data()._repr_html_()
    assert html == "<p>Dataset a &amp; b: 9 training and 3 test images of 1 x 4 x 5, uint8<br>" \
                   "3 classes: &lt;b&gt;x&lt;/b&gt;, dog, cat</p>"


def test_a_model_is_a_table_of_its_layers():
    model = Sequential(*make([conv(1, 2, 3), residual([conv(2, 2, 1), relu]), flatten, linear(8, 3)]))
    html = model._repr_html_()
    assert html.count("<tr>") == 6 and "becomes" not in html
    assert "Residual of 2 layers" in html and "Linear(in_features=8, out_features=3, bias=True)" in html
    model.input_shape = (1, 4, 4)
    cells = re.findall("<t[dh][^>]*>(.*?)</t[dh]>", model._repr_html_())
    assert cells[:8] == ["", "layer", "1x4x4 becomes", "parameters", "0", cells[5], "2x2x2", "20"]
    assert cells[-4:] == ["", "total", "", "53"] and cells[-8:-4][2:] == ["3 features", "27"]


@pytest.mark.parametrize("kernel", (True, False))
def test_reading_shows_its_progress_in_a_notebook(kernel, tmp_path, monkeypatch, capsys):
    """With the library's function, and with the commands."""
    pytest.importorskip("tqdm", reason="tqdm is missing: pip install tqdm")
    shell = types.SimpleNamespace(kernel=None) if kernel else types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr("cnn_numba.notebook.DELAY", 0)
    (tmp_path / "my.csv").write_text("".join(f"{k % 2},0,{k},0,9\n" for k in range(20)))
    load_dataset(tmp_path / "my.csv", data_dir=tmp_path)
    assert ("my.csv" in capsys.readouterr().err) == kernel
    with bar("download", 10) as advance:
        advance(10)
    assert ("download: " in capsys.readouterr().err) == kernel


# ---- the tour -------------------------------------------------------------------------------------------------------
def tour():
    """The script that executes the tour."""
    spec = importlib.util.spec_from_file_location("tour", ROOT / "scripts" / "tour.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.mark.skipif(not JIT, reason="the tour compares compiled kernels with interpreted ones")
def test_the_tour_shows_what_it_did():
    for name in "nbclient", "ipykernel", "matplotlib", "PIL", "tqdm":
        pytest.importorskip(name, reason=f"{name} is missing: pip install -r requirements-dev.txt")
    done = subprocess.run([sys.executable, ROOT / "scripts" / "tour.py", "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "All cells show what they did.\n"), done.stdout + done.stderr


def notebook(text="0.5\n", tags=(), pictures=1):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is missing: pip install nbclient")
    picture = "display_data", dict(data={"image/png": "", "text/plain": "<Figure>"})
    shown = [("stream", dict(text=text)), *[picture] * pictures,
             ("display_data", dict(data={"text/html": '<img src="data:image/png;base64,abc">', "text/plain": ""}))]
    cell = nbformat.v4.new_code_cell("", outputs=[nbformat.v4.new_output(kind, **rest) for kind, rest in shown])
    cell.metadata["tags"] = list(tags)
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("text"), cell])


def test_other_text_and_other_pictures_are_noticed():
    differences = tour().differences
    assert not list(differences(notebook(), notebook()))
    for other in notebook("0.6\n"), notebook(pictures=0), notebook(pictures=2):
        found, = differences(notebook(), other)
        assert found.startswith("cell 1 of tour.ipynb shows\n")
        assert not list(differences(notebook(tags=["times"]), other)), "times are not compared"


def test_the_tour_is_executed():
    """All cells, in their order, without an error."""
    cells = json.loads((ROOT / "docs" / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 15 and [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"]
