"""The server of the page: one page and one question, for the browsers of this computer."""
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from cnn_numba.draw.page import served_page, shown
from cnn_numba.errors import InputError
from cnn_numba.inference import Classifier
from cnn_numba.inspection.activations import Activations

ADDRESS = "127.0.0.1"
SECONDS = 30                # that a connection may say nothing


def serve(classifier: Classifier, title: str, port: int = 0, white: float | None = None) -> "Server":
    """A server on 127.0.0.1, which answers after `serve_forever()` is called.

    Parameters
    ----------
    classifier : Classifier
    title : what the page calls the model
    port : 0 is any free one
    white : see `served_page`

    Raises InputError when the port cannot be used, or the model takes no greyscale or colour images.
    """
    page = served_page(classifier, title, white).encode()
    answer = _answers(classifier)
    answer(np.zeros(classifier.shape, np.float32).tobytes())         # compiles the kernels
    try:
        return Server((ADDRESS, port), _handler(page, answer, 4 * int(np.prod(classifier.shape))))
    except OSError as error:
        raise InputError(f"port {port} of {ADDRESS} cannot be used ({error.strerror})") from None


class Server(ThreadingHTTPServer):
    """A thread for each connection; they end with the program."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no error."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.server_port}/"


def _answers(classifier: Classifier) -> Callable[[bytes], bytes]:
    """A function that gives, for the float32 pixels of an image, the float32 numbers of all layers that are shown."""
    activations = Activations(classifier.model, classifier.shape)
    channel = (-1, 1, 1)
    mean, scale = classifier.mean.reshape(channel), classifier.scale.reshape(channel)

    def answer(pixels: bytes) -> bytes:
        image = np.frombuffer(pixels, "<f4").reshape(classifier.shape)
        if not np.isfinite(image).all():
            raise InputError("the image contains NaN or infinity, expected finite numbers")
        outputs = activations((image.astype(np.float32) - mean)[None] * scale)
        return b"".join(y[0, :shown(y.shape[1:])].astype("<f4").tobytes() for y in outputs)
    return answer


def _handler(page: bytes, answer: Callable[[bytes], bytes], length: int) -> type[BaseHTTPRequestHandler]:
    """The class that answers: GET / is the page, POST /run what the layers give for an image of `length` bytes.

    Requests under another host name are refused, so that a page elsewhere whose name leads here reaches nothing; so are
    those that say they come from another page.
    """
    class Handler(BaseHTTPRequestHandler):
        server: Server
        protocol_version = "HTTP/1.1"           # connections stay open
        timeout = SECONDS
        disable_nagle_algorithm = True
        wbufsize = -1                           # head and body in one packet

        def do_GET(self) -> None:
            if self._welcome() and self._known("/"):
                self._send(200, page, "text/html; charset=utf-8")

        def do_POST(self) -> None:
            if not self._welcome() or not self._known("/run"):
                return
            if self.headers.get("Content-Length") != str(length):
                return self._refuse(413, f"expected an image of {length} bytes")
            body = self.rfile.read(length)
            if len(body) < length:
                self.close_connection = True
                return
            try:
                self._send(200, answer(body), "application/octet-stream")
            except InputError as error:
                self._refuse(400, str(error))

        def _welcome(self) -> bool:
            port = self.server.server_port
            hosts = {f"{ADDRESS}:{port}", f"localhost:{port}"}
            origin = self.headers.get("Origin")
            if self.headers.get("Host") in hosts and (origin is None or origin.removeprefix("http://") in hosts):
                return True
            self._refuse(403, "this server is for the browser on its own computer")
            return False

        def _known(self, path: str) -> bool:
            if self.path == path:
                return True
            self._refuse(404, "there is only one page here: /")
            return False

        def _refuse(self, code: int, sentence: str) -> None:
            self.close_connection = True        # what else was sent is not read
            self._send(code, sentence.encode(), "text/plain; charset=utf-8")

        def _send(self, code: int, body: bytes, kind: str) -> None:
            self.send_response(code)
            headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store",
                       "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY"}
            for name, value in (headers | {"Connection": "close"} if self.close_connection else headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing is printed."""

    return Handler
