"""The page to draw on: its server, its facts, and the file without a server; test_draw_browser.py runs the scripts."""
import http.client
import json
import re
import socket
import struct
import threading

import examples
import numpy as np
import pytest
from networks import batch_norm, conv, flatten, linear, make, pool, relu, residual, softmax

from cnn_numba import InputError, Sequential
from cnn_numba.commands import main as cli
from cnn_numba.draw import exported_page, serve, served_page
from cnn_numba.draw.page import script_layers
from cnn_numba.inference import Classifier
from cnn_numba.inspection.activations import Activations
from cnn_numba.layers import Layer

random = np.random.default_rng(5)


def trained(layers, shape, mean=30.0, std=70.0, classes=None, seed=0):
    """A model that says what images it takes, as after a training."""
    model = Sequential(*make(layers), seed=seed).eval()
    model.input_shape, model.classes, model.accuracy = shape, classes, 91.25
    model.mean, model.std = (np.full(shape[0], value, np.float32) for value in (mean, std))
    return model


def small(**facts):
    """With a container, and a softmax that is no part of the logits."""
    body = [conv(2, 2, 3, padding=1), relu]
    return trained([conv(1, 2, 3, padding=1), batch_norm(2), relu, residual(body), pool(2), flatten, linear(32, 3),
                    softmax(1)], (1, 8, 8), **facts)


def image(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.float32)


# ---- the outputs of all layers --------------------------------------------------------------------------------------
@pytest.mark.parametrize("example", examples.LAYERS, ids=str)
def test_activations_are_those_of_the_layer(example):
    model, x = Sequential(*make([example.layer])).eval(), random.normal(size=(18, *example.shape)).astype(np.float32)
    want = model(x)
    got = Activations(model, example.shape)(x)
    assert len(got) == len(Activations(model, example.shape).layers)
    if "track_running_stats" not in example.arguments:          # the statistics of all images, not of sixteen
        assert np.array_equal(got[0], want[0] if isinstance(want, tuple) else want)


def test_activations_are_those_of_every_layer_on_the_way():
    model, x = small(), random.normal(size=(3, 1, 8, 8)).astype(np.float32)
    activations = Activations(model, (1, 8, 8))
    outputs = {one.name: y for one, y in zip(activations.layers, activations(x), strict=True)}
    assert list(outputs) == ["0", "1", "2", "3", "3.body.0", "3.body.1", "4", "5", "6", "7"]
    assert all(y.shape == (3, *one.after) for one, y in zip(activations.layers, activations(x), strict=True))
    assert np.array_equal(outputs["2"], np.maximum(outputs["1"], 0)) and (outputs["1"] < 0).any()
    np.testing.assert_allclose(outputs["3"], outputs["2"] + outputs["3.body.1"], rtol=1e-6)
    assert np.array_equal(outputs["7"], model(x))
    model.load_state_dict({name: 0 * value for name, value in model.state_dict().items()})
    assert np.array_equal(activations(x)[-1], outputs["7"]), "they keep a copy of the weights"


# ---- the server -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def server():
    with serve(Classifier(small()), "small.npz") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def request(server, method="GET", path="/", body=None, **headers):
    """(status, headers, body) of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body, names)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def logits_of(body):
    """Of `small`: the softmax comes after them, with three numbers."""
    return np.frombuffer(body, "<f4")[-6:-3]


def test_the_page_needs_nothing_from_elsewhere(server):
    status, headers, body = request(server)
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-store" and headers["X-Frame-Options"] == "DENY"
    for page in body.decode(), exported_page(Classifier(small()), "small.npz"):
        assert "default-src 'none'" in page and "small.npz" in page
        assert not re.findall(r"https?://|@import|<link[^>]*href=\"(?!data:,)|\bsrc=", page)


def test_an_image_is_answered_with_what_every_layer_gives(server):
    x = image((1, 8, 8))
    status, _, body = request(server, "POST", "/run", x.tobytes())
    model = small()
    outputs = Activations(model, (1, 8, 8))((x[None] - model.mean[0]) * np.float32(1 / model.std[0]))
    assert status == 200 and body == b"".join(y.tobytes() for y in outputs)
    assert np.array_equal(logits_of(body), Classifier(model).logits(x[None])[0]), "the logits of predict"


def test_it_listens_on_this_computer_only(server):
    assert server.server_address[0] == "127.0.0.1" and server.url == f"http://127.0.0.1:{server.server_address[1]}/"


@pytest.mark.parametrize("headers, code", (
    (dict(), 200), (dict(Host="localhost:{port}"), 200), (dict(Host="127.0.0.1:{port}"), 200),
    (dict(Host="example.com"), 403), (dict(Host="example.com:{port}"), 403), (dict(Host="127.0.0.1"), 403),
    (dict(Host="127.0.0.1:{port}.example.com"), 403), (dict(Host=""), 403),
    (dict(Origin="http://localhost:{port}"), 200), (dict(Origin="http://example.com"), 403),
    (dict(Origin="null"), 403)), ids=str)
@pytest.mark.parametrize("method, path", (("GET", "/"), ("POST", "/run")))
def test_pages_from_elsewhere_reach_nothing(server, method, path, headers, code):
    headers = {name: value.format(port=server.server_address[1]) for name, value in headers.items()}
    body = image((1, 8, 8)).tobytes() if method == "POST" else None
    status, _, answer = request(server, method, path, body, **headers)
    assert status == code and (code == 200 or answer == b"this server is for the browser on its own computer")


@pytest.mark.parametrize("method, path", (
    ("GET", "/run"), ("GET", "/../main.py"), ("GET", "//etc/passwd"), ("GET", "/index.html"), ("GET", "/?"),
    ("POST", "/"), ("POST", "/run/"), ("POST", "/run?file=model.npz")))
def test_there_is_one_page_and_one_question(server, method, path):
    status, _, body = request(server, method, path, b"" if method == "POST" else None)
    assert (status, body) == (404, b"there is only one page here: /")


def test_other_methods_are_refused(server):
    assert {request(server, method)[0] for method in ("PUT", "DELETE", "OPTIONS", "HEAD")} == {501}


@pytest.mark.parametrize("length", ("0", "255", "257", "1000000000000", "-1", "0256", "x"))
def test_an_image_of_another_size_is_refused_unread(server, length):
    status, headers, body = request(server, "POST", "/run", b"", Content_Length=length)
    assert (status, headers["Connection"], body) == (413, "close", b"expected an image of 256 bytes")


def test_an_image_without_length_or_with_nan_is_refused(server):
    assert request(server, "POST", "/run", iter([b"abc"]), Transfer_Encoding="chunked")[0] == 413
    x = image((1, 8, 8))
    x[0, 3, 4] = np.nan
    status, _, body = request(server, "POST", "/run", x.tobytes())
    assert (status, body) == (400, b"the image contains NaN or infinity, expected finite numbers")


def test_several_browsers_get_their_own_answers(server):
    """While the model is used elsewhere, too."""
    images = [image((1, 8, 8), seed) for seed in range(8)]
    classifier, wrong = Classifier(small()), []
    want = classifier.logits(np.stack(images))

    def draw(k):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
        for _ in range(10):
            connection.request("POST", "/run", images[k].tobytes())
            if not np.array_equal(logits_of(connection.getresponse().read()), want[k]):
                wrong.append(k)
        connection.close()

    threads = [threading.Thread(target=draw, args=[k]) for k in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if not np.array_equal(classifier.logits(np.stack(images)), want):
            wrong.append("the classifier")
    assert not wrong


def test_a_browser_that_goes_away_is_no_error(server, capfd):
    for _ in range(5):
        connection = socket.create_connection(server.server_address)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))     # reset when it closes
        connection.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n".encode() * 50)
        connection.close()
        assert request(server)[0] == 200
    assert capfd.readouterr().err == ""


def test_a_port_that_is_taken_is_named(server):
    port = server.server_address[1]
    with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 cannot be used"):
        serve(Classifier(small()), "small.npz", port)


# ---- the facts of the page ------------------------------------------------------------------------------------------
def facts(page):
    return json.loads(re.search(r'<script type="application/json" id="network">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_knows_the_network():
    names = ("<b>one</b>", "</script><script>alert(1)</script>", 'zwei "ü"')
    found = facts(served_page(Classifier(small(classes=names)), "a <i>.npz"))
    assert found["title"] == "a <i>.npz" and found["classes"] == list(names) and found["shape"] == [1, 8, 8]
    assert found["facts"] == "1 × 8 × 8 pixels, 3 classes, 161 parameters, 91.25 % of its test images right"
    assert found["layers"][found["logits"]] == {"name": "6", "text": "Linear", "shape": [3], "shown": 3}
    assert [layer["text"] for layer in found["layers"][3:6]] == ["Residual", "Conv2d 3x3", "ReLU"]
    assert served_page(Classifier(small(classes=names)), "x").count("</script>") == 2
    model = small()
    model.accuracy = None
    assert facts(served_page(Classifier(model), "x"))["facts"].endswith("161 parameters")


@pytest.mark.parametrize("shape, mean, std, prepare, preparable, white, light", (
    ((1, 28, 28), 33.3, 78.6, True, True, 255, False), ((1, 28, 28), 72.9, 90, False, True, 255, False),
    ((1, 8, 8), 4.9, 6, False, False, 16, False), ((1, 28, 28), 0.13, 0.31, False, True, 1, False),
    ((3, 8, 8), 200, 20, False, False, 255, True), ((1, 8, 8), 0, 1, False, False, 255, False),
    ((1, 8, 8), 0, 255, False, False, 255, False)))
def test_drawings_are_made_for_the_images_of_the_training(shape, mean, std, prepare, preparable, white, light):
    model = trained([flatten, linear(int(np.prod(shape)), 3)], shape, mean, std)
    found = facts(served_page(Classifier(model), "x"))
    assert {name: found[name] for name in ("prepare", "preparable", "white", "light")} == dict(
        prepare=prepare, preparable=preparable, white=white, light=light)
    assert facts(served_page(Classifier(model), "x", 4095))["white"] == 4095


def test_of_many_channels_the_first_are_shown():
    model = trained([conv(1, 80, 1), flatten, linear(80 * 64, 70)], (1, 8, 8))
    assert [layer["shown"] for layer in facts(served_page(Classifier(model), "x"))["layers"]] == [64, 5120, 70]


# ---- the file without a server --------------------------------------------------------------------------------------
def test_a_layer_that_the_script_does_not_have_is_named():
    class Mish(Layer):
        calls = Layer.known["Tanh"].calls

    model = small()
    model.layers[3].body[1].__class__ = Mish
    with pytest.raises(InputError, match=r"^layer 3.body.1: Mish is missing in the script of an exported page, which "
                                         r"has Conv2d, .*Linear, MaxPool2d, .*Residual$"):
        exported_page(Classifier(model), "x")
    assert "Mish" in served_page(Classifier(model), "x"), "the server runs every layer"


def test_the_script_has_every_layer_of_the_library():
    missing = examples.of_the_library(Layer).keys() - set(script_layers())
    assert not missing, f"cnn_numba/draw/network.js has no {', '.join(sorted(missing))}: add the loop"


@pytest.mark.parametrize("shape", ((2, 8, 8), (64,)))
def test_other_inputs_than_images_are_refused(shape):
    model = trained([*[flatten][:len(shape) == 3], linear(int(np.prod(shape)), 3)], shape)
    for page in exported_page, served_page:
        with pytest.raises(InputError, match="x.npz takes inputs of shape .*, expected greyscale or colour images"):
            page(Classifier(model), "x.npz")


# ---- the command ----------------------------------------------------------------------------------------------------
def test_export_writes_one_file(tmp_path, capsys):
    small().save(tmp_path / "my.npz")
    target = tmp_path / "page.html"
    assert cli.main(["draw", "--load", str(tmp_path / "my.npz"), "--export", str(target), "--white", "200"]) == 0
    assert capsys.readouterr().out == f"Wrote {target}, {target.stat().st_size / 1e6:.2g} MB: open it in a browser\n"
    found = facts(target.read_text())
    assert found["title"] == "my.npz" and found["white"] == 200 and found["network"][1]["type"] == "BatchNorm2d"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my.npz", "page.html"]


@pytest.mark.parametrize("words, sentence", (
    (["--load", "none.npz"], "argument --load: none.npz does not exist"),
    (["--load", "{model}", "--port", "0"], "argument --port: expected a whole number from 1 to 65535, got '0'"),
    (["--load", "{model}", "--export", "{folder}/page.html", "--port", "80"],
     "argument --port: --export writes a file and serves nothing"),
    (["--load", "{model}", "--export", "{folder}/page.html", "--no-browser"],
     "argument --no-browser: --export writes a file and serves nothing"),
    (["--load", "{model}", "--export", "{folder}/none/page.html"],
     "argument --export: {folder}/none/page.html cannot be written"),
    (["--load", "{model}", "--export", "{model}"],
     "argument --export: {model} is read by this command: choose another name"),
))
def test_mistakes_are_one_sentence(tmp_path, capsys, words, sentence):
    small().save(tmp_path / "my.npz")
    names = dict(model=tmp_path / "my.npz", folder=tmp_path)
    assert cli.main(["draw", *(word.format(**names) for word in words)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {sentence.format(**names)}") and error.count("\n") == 1


def test_the_command_serves_until_ctrl_c(tmp_path, capsys, monkeypatch):
    small().save(tmp_path / "my.npz")
    opened = []

    def serve_one(self):
        """As serve_forever, until a Ctrl-C comes after one answer."""
        if not opened:                      # no browser asks
            threading.Thread(target=request, args=[self]).start()
        self.handle_request()
        raise KeyboardInterrupt

    def browse(url):
        opened.append(url)
        http.client.HTTPConnection(url.split("/")[2], timeout=10).request("GET", "/")

    monkeypatch.setattr("webbrowser.open", browse)
    monkeypatch.setattr("cnn_numba.draw.server.Server.serve_forever", serve_one)
    for more in ["--no-browser"], []:
        assert cli.main(["draw", "--load", str(tmp_path / "my.npz"), *more]) == 0
        assert len(opened) == (not more)
    urls = re.findall(r"Draw at (http://127.0.0.1:\d+/) \(Ctrl-C ends it\)\n\n", capsys.readouterr().out)
    assert opened == urls[1:]
