"""A local HTTP server that plays a mirror: the first part of a URL says how it behaves."""

import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Mirror(ThreadingHTTPServer):
    """Serves `contents` (name -> bytes), e.g. at http://127.0.0.1:PORT/good/NAME, and notes what it is asked.

    requests : list of (behaviour, name, value of the Range header or None)
    """

    daemon_threads, block_on_close = True, False

    def __init__(self, contents):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.contents, self.requests, self.closing = contents, [], threading.Event()

    def url(self, behaviour):
        return f"http://127.0.0.1:{self.server_port}/{behaviour}"


@contextmanager
def serving(contents):
    mirror = Mirror(contents)
    threading.Thread(target=mirror.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield mirror
    finally:
        mirror.closing.set()
        mirror.shutdown()
        mirror.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        _, behaviour, name = self.path.split("/")
        self.server.requests.append((behaviour, name, self.headers["Range"]))
        getattr(self, f"do_{behaviour.replace('-', '_')}")(name, self.server.contents[name])

    def log_message(self, *args):
        pass

    def reply(self, body, status=200, send=None, **headers):
        self.send_response(status)
        headers = {"Content_Length": len(body), "Content_Type": "application/gzip"} | headers
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body if send is None else body[:send])

    def do_good(self, name, body):
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        if asked is None:
            return self.reply(body)
        start = int(asked[1])
        if start >= len(body):
            return self.reply(b"", 416, Content_Range=f"bytes */{len(body)}")
        self.reply(body[start:], 206, Content_Range=f"bytes {start}-{len(body) - 1}/{len(body)}")

    def do_ignores_range(self, name, body):
        self.reply(body)

    def do_refuses_range(self, name, body):
        self.reply(b"", 416) if self.headers["Range"] else self.reply(body)

    def do_misplaces_range(self, name, body):
        if self.headers["Range"]:
            self.reply(body[:9], 206, Content_Range=f"bytes 0-8/{len(body)}")
        else:
            self.reply(body)

    def do_truncated(self, name, body):
        self.reply(body, send=len(body) // 2)

    def do_short(self, name, body):
        self.reply(body[:len(body) // 2])

    def do_long(self, name, body):
        self.reply(body + b"more")

    def do_corrupt(self, name, body):
        self.reply(bytes([body[0] ^ 1]) + body[1:])

    def do_encoded(self, name, body):
        self.reply(body, Content_Encoding="gzip")

    def do_redirect(self, name, body):
        self.reply(b"", 302, Location=self.server.url("good") + "/" + name)

    def do_circle(self, name, body):
        self.reply(b"", 302, Location=self.path)

    def do_html(self, name, body):
        self.reply(b"<html>Please log in</html>", Content_Type="text/html; charset=utf-8")

    def do_text(self, name, body):
        self.reply(b"Please log in", Content_Type="text/plain")

    def do_404(self, name, body):
        self.send_error(404)

    def do_503(self, name, body):
        self.send_error(503)

    def do_stalled(self, name, body):
        self.reply(body, send=len(body) // 2)
        self.server.closing.wait(20)

    def do_trickle(self, name, body):
        self.reply(body, send=0)
        for k in range(200):
            self.wfile.write(body[k:k + 1])
            self.wfile.flush()
            if self.server.closing.wait(0.1):
                break

    def do_silent(self, name, body):
        self.server.closing.wait(20)

    def do_slow(self, name, body):
        time.sleep(0.2)
        self.reply(body)
