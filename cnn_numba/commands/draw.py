"""The `draw` command."""
import argparse
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import cnn_numba.kinds as kinds
from cnn_numba.commands.flags import (
    POSITIVE,
    add_execution_flags,
    add_load_flag,
    check_exists,
    check_target,
    choose_execution,
    reader,
)
from cnn_numba.commands.network import trained_classifier
from cnn_numba.commands.output import put
from cnn_numba.commands.parser import Parser
from cnn_numba.errors import InputError

if TYPE_CHECKING:
    from cnn_numba.inference import Classifier

PORT = kinds.whole(lambda n: 1 <= n < 2**16, "a whole number from 1 to 65535")


def draw(parser: Parser) -> Callable[[argparse.Namespace, float], int]:
    """Open a page to draw on, which shows what every layer of a saved model makes of the drawing."""
    parser.usage = "%(prog)s draw --load FILE [flags]"
    add_load_flag(parser)
    group = parser.group("page")
    group.add_argument("--port", type=reader(PORT), metavar="N", help="port on 127.0.0.1 (default: a free one)")
    group.add_argument("--no-browser", action="store_true", help="print the address only (default: open a browser)")
    group.add_argument("--export", metavar="FILE",
                       help="write one HTML file that needs no Python: the weights, and a script that runs the network "
                            "(default: serve the page)")
    group.add_argument("--white", type=POSITIVE, metavar="N",
                       help="pixel of white in the images of the training (default: 1, 16 or 255, as their mean and "
                            "standard deviation show)")
    add_execution_flags(parser)
    return run_draw


def run_draw(args: argparse.Namespace, _started: float) -> int:
    check_exists("--load", args.load)
    for flag, given in ("--port", args.port is not None), ("--no-browser", args.no_browser):
        if args.export and given:
            raise InputError(f"argument {flag}: --export writes a file and serves nothing")
    if args.export:
        check_target("--export", args.export, [args.load])
    choose_execution(args)
    classifier = trained_classifier(args)
    return export(args, classifier) if args.export else serve(args, classifier)


def export(args: argparse.Namespace, classifier: "Classifier") -> int:
    from cnn_numba.draw import exported_page
    from cnn_numba.files.atomic import write

    page = exported_page(classifier, os.path.basename(args.load), args.white).encode()
    write(args.export, page)
    put(f"Wrote {args.export}, {len(page) / 1e6:.2g} MB: open it in a browser")
    return 0


def serve(args: argparse.Namespace, classifier: "Classifier") -> int:
    import threading
    import webbrowser

    from cnn_numba.draw import serve

    with serve(classifier, os.path.basename(args.load), args.port or 0, args.white) as server:
        put(f"Draw at {server.url} (Ctrl-C ends it)")
        if not args.no_browser:             # one of a terminal returns when it is closed
            threading.Thread(target=webbrowser.open, args=[server.url], daemon=True).start()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            put()
    return 0
