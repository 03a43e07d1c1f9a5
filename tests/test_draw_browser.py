"""The page to draw on, in a real browser: its scripts against the kernels and Pillow, and what a person sees."""
import base64
import json
import threading
from io import BytesIO
from itertools import pairwise

import browser as browsers
import examples
import numpy as np
import pytest
from networks import conv, flatten, linear, log_softmax, make, pool, relu

from cnn_numba import PRESETS, Sequential
from cnn_numba.data.drawing import like_mnist
from cnn_numba.draw import exported_page, serve
from cnn_numba.files.layers_json import describe_layers
from cnn_numba.inference import Classifier
from cnn_numba.inspection.activations import Activations

CLOSE = 1e-4                    # what logits may differ by, relative to the largest where that is above 1
SEVEN = [(0.3, 0.25), (0.5, 0.24), (0.7, 0.25), (0.6, 0.45), (0.52, 0.6), (0.45, 0.8)]
STATE = """
const text = (id) => document.getElementById(id).textContent;
const painted = ({canvas}) => {
    if (!canvas.width) return 0;
    const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return data.filter((v, k) => k % 4 < 3 && v > 0).length;
};
return {answer: text("answer"), message: text("message"), numbers: BARS.map(([, , number]) => number.textContent),
        maps: NETWORK.layers.map(painted), pixels: Array.from(pixelsOf(input()))};
"""


@pytest.fixture(scope="module")
def browser():
    started = browsers.chromium()
    yield started
    started.quit()


@pytest.fixture(autouse=True)
def no_errors(browser):
    yield
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def classifier_of(layers, shape, mean=33.3, std=78.6, classes=None):
    """Of a network that says what images it takes; its biases and statistics are not those of a new network."""
    model = layers if isinstance(layers, Sequential) else Sequential(*make(layers), seed=1)
    model.load_state_dict({name: other_numbers(name, value) for name, value in model.state_dict().items()})
    model.input_shape, model.classes = shape, classes
    model.mean, model.std = (np.full(shape[0], value, np.float32) for value in (mean, std))
    return Classifier(model.eval())


def other_numbers(name, value):
    if value.ndim > 1:
        return value
    change = 0.3 * np.random.default_rng(len(name)).normal(size=value.shape)
    return value + (np.abs(change) if name.endswith("running_var") else change)


@pytest.fixture
def show(browser, tmp_path):
    """show(classifier) opens its exported page from a file."""
    def show(classifier, **options):
        path = tmp_path / "page.html"
        path.write_text(exported_page(classifier, "model.npz", **options), encoding="utf-8")
        browsers.window(browser, 1200)
        browser.get(path.as_uri())
    return show


def settled(browser):
    """What the page shows when it has caught up with what was done to it."""
    browser.execute_async_script("""
        const [done] = arguments, wait = () => state === "idle" ? done() : setTimeout(wait, 2);
        wait();""")
    return browser.execute_script(STATE)


def logits(browser, pixels):
    """What the page computes for the pixels of an image."""
    return np.array(browser.execute_async_script("""
        const [pixels, done] = arguments;
        answerTo(Float32Array.from(pixels)).then((outputs) => done(Array.from(outputs[NETWORK.logits])));""",
                                                 pixels.ravel().tolist()))


def close(got, want):
    want = np.asarray(want, np.float64)
    return np.shape(got) == want.shape and np.abs(got - want).max() <= CLOSE * max(1, np.abs(want).max())


# ---- the script that runs networks ----------------------------------------------------------------------------------
RUN = """
const values = (text) => new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
return JSON.parse(arguments[0]).map(({layers, tensors, shape, x}) => {
    for (const one of Object.values(tensors)) one.values = values(one.values);
    return run(layers, tensors, {shape, values: values(x)}).seen.map((y) => [y.shape, Array.from(y.values)]);
});
"""


def packed(array):
    return base64.b64encode(np.asarray(array, "<f4").tobytes()).decode()


def test_every_layer_computes_what_the_kernels_do(browser, show):
    """Each example of the table, and the layers inside it."""
    show(classifier_of([flatten, linear(64, 3)], (1, 8, 8)))
    asked, want = [], []
    for k, example in enumerate(examples.LAYERS):
        model = Sequential(*make([example.layer]), seed=k).eval()
        model.load_state_dict({name: other_numbers(name, value) for name, value in model.state_dict().items()})
        x = np.random.default_rng(k).normal(size=example.shape).astype(np.float32)
        tensors = {name: {"shape": value.shape, "values": packed(value)} for name, value in model.state_dict().items()}
        asked.append(dict(layers=describe_layers(model.layers), tensors=tensors, shape=example.shape, x=packed(x)))
        want.append((example, Activations(model, example.shape)(x[None])))
    for (example, outputs), got in zip(want, browser.execute_script(RUN, json.dumps(asked)), strict=True):
        assert len(got) == len(outputs), example
        for (shape, values), y in zip(got, outputs, strict=True):
            assert tuple(shape) == y.shape[1:] and close(values, y.ravel()), example


@pytest.mark.parametrize("name, shape", (("two-conv", (1, 28, 28)), ("resnet8", (3, 32, 32))))
def test_an_exported_network_gives_the_logits_of_the_library(browser, show, name, shape):
    classifier = classifier_of(PRESETS[name](shape, 10), shape)
    x = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)
    show(classifier)
    got, want = logits(browser, x), classifier.logits(x[None])[0]
    assert close(got, want) and not close(got, 1.001 * want)
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0, "nothing was fetched"


def test_logits_come_before_a_softmax(browser, show):
    classifier = classifier_of([flatten, linear(64, 3), log_softmax(1)], (1, 8, 8))
    x = np.random.default_rng(1).integers(0, 256, (1, 8, 8)).astype(np.float32)
    show(classifier)
    assert close(logits(browser, x), classifier.logits(x[None])[0])


# ---- the preparation of drawings ------------------------------------------------------------------------------------
def drawings():
    """Images of several sizes: lines and noise, dark on light too, one without ink, one with a single dot of it."""
    random = np.random.default_rng(3)
    for rows, columns in (280, 280), (28, 28), (41, 23), (20, 14), (60, 90), (5, 9):
        image = np.zeros((rows, columns), np.uint8)
        points = random.uniform(0.1, 0.9, (4, 2)) * (rows, columns)
        for (i, j), (k, l) in pairwise(points):
            for t in np.linspace(0, 1, 2 * max(rows, columns)):
                image[int(i + t * (k - i)):int(i + t * (k - i)) + max(1, rows // 14),
                      int(j + t * (l - j)):int(j + t * (l - j)) + max(1, columns // 14)] = random.integers(150, 256)
        yield image
        yield 255 - image // 2
    yield np.full((28, 28), 7, np.uint8)
    dot = np.zeros((30, 30), np.uint8)
    dot[3, 4] = 9
    yield dot


def test_drawings_are_prepared_as_predict_prepares_them(browser, show):
    show(classifier_of([flatten, linear(784, 3)], (1, 28, 28)))
    for image in drawings():
        rows, columns = image.shape
        got = browser.execute_script("""
            const [rows, columns, values] = arguments;
            return Array.from(likeMnist({rows, columns, values: Float32Array.from(values)}).values);""",
                                     rows, columns, image.ravel().tolist())
        want = like_mnist(image).astype(int)
        assert np.abs(np.reshape(got, (28, 28)) - want).max() <= 1, image.shape
        assert (np.reshape(got, (28, 28)) != want).mean() <= 0.002, image.shape


def test_images_are_moved_as_training_moves_them(browser, show):
    """A quarter turn clockwise, shifts, half the size, and a turn that goes between the pixels."""
    show(classifier_of([flatten, linear(64, 3)], (1, 8, 8)))
    image = np.random.default_rng(4).integers(0, 256, (8, 8)).astype(float)

    def moved(**move):
        return np.reshape(browser.execute_script("""
            const [values, move] = arguments;
            const still = {angle: 0, size: 1, down: 0, right: 0}, before = Float32Array.from(values);
            return Array.from(moved({rows: 8, columns: 8, values: before}, {...still, ...move}, 9).values);
            """, image.ravel().tolist(), move), (8, 8))

    assert np.array_equal(moved(), image)
    np.testing.assert_allclose(moved(angle=np.pi / 2), np.rot90(image, -1), atol=1e-3)
    assert np.array_equal(moved(down=2, right=-1)[2:, :-1], image[:-2, 1:])
    assert (moved(down=2, right=-1)[:2] == 9).all() and (moved(down=2, right=-1)[:, -1] == 9).all()
    np.testing.assert_allclose(moved(right=0.5)[:, 1:], (image[:, 1:] + image[:, :-1]) / 2, atol=1e-3)
    np.testing.assert_allclose(moved(size=1 / 3)[3, 3], image[2, 2], atol=1e-3)
    cos, sin = np.cos(0.3), np.sin(0.3)                 # of the pixel (-0.5, 0.5) from the middle, turned back
    row, column = 3.5 - 0.5 * cos - 0.5 * sin, 3.5 + 0.5 * cos - 0.5 * sin
    p, q = int(row), int(column)
    want = np.array([1 - row + p, row - p]) @ image[p:p + 2, q:q + 2] @ np.array([1 - column + q, column - q])
    np.testing.assert_allclose(moved(angle=0.3)[3, 4], want, rtol=1e-5)


# ---- what a person does and sees ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def mnist_like():
    return classifier_of([conv(1, 4, 3, padding=1), relu, pool(4), flatten, linear(196, 3)], (1, 28, 28),
                         classes=("<b>one</b>", "two", "three"))


@pytest.fixture(scope="module")
def server(mnist_like):
    with serve(mnist_like, "model.npz") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("kind", ("mouse", "pen", "touch"))
@pytest.mark.parametrize("served", (True, False), ids=("served", "exported"))
def test_one_draws_and_the_network_answers(browser, show, mnist_like, server, kind, served):
    show(mnist_like)
    if served:
        browser.get(server.url)
    empty = settled(browser)
    assert (empty["answer"], empty["message"], empty["numbers"], empty["maps"]) == ("", "", ["–"] * 3, [0] * 5)
    browsers.stroke(browser, SEVEN, kind)
    drawn = settled(browser)
    pixels = np.reshape(drawn["pixels"], (1, 28, 28))
    probabilities = mnist_like.probabilities(pixels[None])[0]
    assert drawn["answer"] == mnist_like.classes[probabilities.argmax()] and drawn["message"].startswith("answered in ")
    np.testing.assert_allclose([float(number[:-2]) for number in drawn["numbers"]], 100 * probabilities, atol=0.051)
    assert all(drawn["maps"]), "every layer shows something"
    rows, columns = np.nonzero(pixels[0])
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20, "prepared as MNIST was made"
    browser.find_element("id", "clear").click()
    assert settled(browser) == empty


def test_what_is_drawn_can_be_seen_without_preparation_and_moved(browser, show, mnist_like):
    show(mnist_like)
    browsers.stroke(browser, [(0.1, 0.1), (0.2, 0.3)])
    prepared = settled(browser)
    browser.find_element("id", "prepare").click()
    as_drawn = settled(browser)
    rows, columns = np.nonzero(np.reshape(as_drawn["pixels"], (28, 28)))
    assert rows.max() < 12 and columns.max() < 9, "in the corner, as it was drawn"
    assert as_drawn["numbers"] != prepared["numbers"]
    browser.execute_script("right.value = 8; right.dispatchEvent(new Event('input'))")
    moved = settled(browser)
    before, after = (np.reshape(seen["pixels"], (28, 28)) for seen in (as_drawn, moved))
    assert np.array_equal(after[:, 8:], before[:, :-8])
    assert moved["numbers"] != as_drawn["numbers"]
    browser.find_element("id", "reset").click()
    assert settled(browser) | {"message": ""} == as_drawn | {"message": ""}
    browser.find_element("id", "invert").click()
    np.testing.assert_allclose(settled(browser)["pixels"], 255 - np.array(as_drawn["pixels"]), atol=1)


def png(image):
    """The bytes of an image (H, W) or (C, H, W) as a PNG, in base 64."""
    PIL = pytest.importorskip("PIL.Image")
    file = BytesIO()
    PIL.fromarray(image if image.ndim == 2 else np.moveaxis(image, 0, -1)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


DROP = """
const [kind, text, type, done] = arguments, data = new DataTransfer(), before = openImage;
const chooser = document.getElementById("file");
openImage = (file) => before(file).finally(() => { openImage = before; done(); });
data.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], "file.png", {type}));
if (kind === "drop") canvas.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
else if (kind === "paste") document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data}));
else {
    chooser.files = data.files;
    chooser.dispatchEvent(new Event("change"));
}
"""


@pytest.mark.parametrize("way", ("drop", "paste", "open"))
def test_an_image_of_the_right_size_reaches_the_network_as_it_is(browser, show, way):
    """In colour, in another range of pixels, and not square."""
    shape, image = (3, 12, 20), np.random.default_rng(6).integers(0, 256, (3, 12, 20), np.uint8)
    classifier = classifier_of([flatten, linear(720, 25)], shape, mean=0.4, std=0.3)
    show(classifier)
    browser.execute_async_script(DROP, way, png(image), "image/png")
    seen = settled(browser)
    np.testing.assert_allclose(np.reshape(seen["pixels"], shape), image / 255, atol=1e-6)
    probabilities = classifier.probabilities((image[None] / 255).astype(np.float32))[0]
    assert seen["answer"] == classifier.classes[probabilities.argmax()]
    assert len(seen["numbers"]) == 20, "the likeliest of 25 classes"
    np.testing.assert_allclose(float(seen["numbers"][0][:-2]), 100 * probabilities.max(), atol=0.051)


def test_larger_images_fit_and_other_files_are_refused(browser, show, mnist_like):
    show(mnist_like)
    page = np.full((500, 300), 250, np.uint8)
    page[100:400, 140:160] = 10                         # a bar, dark on light
    browser.execute_async_script(DROP, "drop", png(page), "image/png")
    seen = settled(browser)
    pixels = np.reshape(seen["pixels"], (28, 28))
    assert (pixels[4:24, 12:16].max(axis=1) > 200).all() and pixels[:, :12].max() == 0 == pixels[:, 16:].max()
    browser.execute_async_script(DROP, "drop", base64.b64encode(b"no image").decode(), "text/plain")
    assert settled(browser)["message"] == "file.png is not an image that this browser can read"
    assert settled(browser)["pixels"] == seen["pixels"]


def test_the_ground_of_an_image_goes_on_around_it(browser, show, mnist_like):
    """Also where the colour of it is moved out, and under a transparent drawing, as predict has it."""
    show(mnist_like)
    browser.find_element("id", "prepare").click()
    red = np.zeros((3, 20, 28), np.uint8)
    red[0], red[:, 5:9, 5:9] = 200, 255
    browser.execute_async_script(DROP, "drop", png(red), "image/png")
    browser.execute_script("right.value = 4; right.dispatchEvent(new Event('input'))")
    grey = (200 * 19595 + 0x8000) >> 16
    pixels = np.reshape(settled(browser)["pixels"], (28, 28))
    assert (pixels[9:13, 9:13] == 255).all() and (pixels == grey).sum() == 28 * 28 - 16
    for ink, ground in (255, 0), (0, 255):              # white hides the first drawing
        drawing = np.full((4, 28, 28), ink, np.uint8)
        drawing[3] = 0
        drawing[3, 8:12, 9:13] = 255
        browser.execute_async_script(DROP, "drop", png(drawing), "image/png")
        browser.find_element("id", "reset").click()
        pixels = np.reshape(settled(browser)["pixels"], (28, 28))
        assert (pixels[8:12, 9:13] == ink).all() and (pixels == ground).sum() == 28 * 28 - 16


def test_a_program_that_has_ended_is_said(browser, server):
    browser.get(server.url)
    browser.execute_script("fetch = () => Promise.reject(new TypeError('Failed to fetch'))")
    browsers.stroke(browser, SEVEN)
    assert settled(browser)["message"] == "The program no longer answers: start it again."


@pytest.mark.parametrize("width", (320, 390, 800, 1280))
def test_nothing_is_wider_than_the_window(browser, show, width):
    show(classifier_of(PRESETS["resnet8"]((3, 32, 32), 10), (3, 32, 32)))
    browsers.window(browser, width)
    browsers.stroke(browser, SEVEN)
    assert all(settled(browser)["maps"])
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    wide = browser.execute_script("""return [...document.querySelectorAll("canvas, button, input, h3")].filter(
        (e) => e.getBoundingClientRect().right > innerWidth).map((e) => e.id || e.textContent)""")
    assert not wide
