"""Notebooks: how models and data sets look in them; the tour in docs/."""
import base64
import re
import sys
from io import BytesIO

import numpy as np
import pytest
from networks import conv, flatten, linear, make, relu, residual

from cnn_numba import Dataset, Sequential


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
