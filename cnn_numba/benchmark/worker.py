"""The process of a contender: `python -m cnn_numba.benchmark.worker LIBRARY OPTIONS`.

It reads one request per line, answers each with one line, and sleeps in between.
"""
import json
import os
import signal
import sys
import time
import traceback
from importlib import import_module

from cnn_numba.errors import InputError
from cnn_numba.inspection.timing import LoadMeter


def main(library: str, options: str) -> None:
    """Answer requests [method, arguments] with {"value", "seconds", "load"} or {"error"}, all as JSON.

    load : how many processors other programs used meanwhile
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # the process that asks handles Ctrl-C, and ends this one
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)                                       # what a library prints is not an answer
    contender = None
    for line in sys.stdin:
        method, arguments = json.loads(line)
        try:
            start, meter = time.perf_counter(), LoadMeter()
            if contender is None:
                contender = import_module(f"cnn_numba.benchmark.{library}_cnn").Contender(**json.loads(options))
            value = getattr(contender, method)(**arguments)
            answer = {"value": value, "seconds": time.perf_counter() - start, "load": meter.read()}
        except InputError as error:
            answer = {"error": str(error)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
