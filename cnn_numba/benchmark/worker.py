"""A contender's process: `python -m cnn_numba.benchmark.worker LIBRARY OPTIONS` reads a request per line, answers each
with a line, and sleeps in between."""
import json
import os
import signal
import sys
import time
import traceback
from importlib import import_module

from cnn_numba.errors import InputError


def main(library, options):
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # Ctrl-C is for the process that asks
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)                                       # what a library prints must not look like an answer
    contender = None
    for line in sys.stdin:
        method, arguments = json.loads(line)
        try:
            start = time.perf_counter()
            if contender is None:
                contender = import_module(f"cnn_numba.benchmark.{library}_cnn").Contender(**json.loads(options))
            value = getattr(contender, method)(**arguments)
            answer = {"value": value, "seconds": time.perf_counter() - start}
        except InputError as error:
            answer = {"error": str(error)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
