"""Processes that compile kernels into the cache beside this one: the first start of a network takes 30 to 50 kernels.

An assistant is a Python that reads requests from its standard input.  It ends when this process ends, however that
happens, because the pipe is closed then.  Nothing depends on it: a kernel that it has not written to the cache is
compiled by the process that needs it.  This module does not import Numba, so that assistants can start before.
"""
import atexit
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from importlib import import_module

from . import cache

MOST = 3                    # assistants: each imports Numba for 0.5 s before it compiles, and takes 150 MB
WORTH = 6                   # missing kernels from which that pays

_COMMAND = "import sys; sys.path[:] = {path!r}; from {module} import serve; serve()"

_running = []


def start(most=MOST):
    """Start assistants for the processors that this process leaves idle, unless there are some already."""
    with suppress(OSError):             # no program can be started: this process compiles all kernels
        while len(_running) < min(most, _processors() - 1) and not getattr(sys, "frozen", False):
            command = _COMMAND.format(path=sys.path, module=__name__)
            _running.append(subprocess.Popen(
                [sys.executable, "-c", command], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL))


def start_if_cold():
    """Start assistants when no kernel is in the cache, so that they import Numba while this process does."""
    folder = cache.kernel_cache() if os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0") else None
    if folder and not any(folder.glob("*.nbc")):
        start()


def ask(kernels):
    """Let the assistants compile (function, signature) pairs, each beginning at another place in the list.

    Only the kernels of this package: another module might do anything when it is imported.
    """
    package = __name__.rpartition(".")[0]
    named = [(function.__module__, function.__name__, signature) for function, signature in kernels]
    ours = [name for name, (function, _) in zip(named, kernels, strict=True) if name[0].startswith(package)
            and getattr(sys.modules[name[0]], name[1], None) is function]
    for k, process in enumerate(_running):
        first = len(ours) * (k + 1) // (len(_running) + 1)
        request = pickle.dumps(ours[first:] + ours[:first])
        with suppress(OSError):         # it has been killed
            process.stdin.write(len(request).to_bytes(8, "little") + request)
            process.stdin.flush()


@atexit.register
def stop():
    """End all assistants."""
    while _running:
        process = _running.pop()
        with suppress(OSError):
            process.kill()
            process.stdin.close()
        process.wait()


def _processors():
    """The number of processors for the threads of this process."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("NUMBA_NUM_THREADS", "")
    return min(available, int(wanted)) if wanted.isdigit() else available


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_running.clear)      # they assist the parent


# ---- in an assistant ------------------------------------------------------------------------------------------------
def serve():
    """Compile what is requested until the standard input ends."""
    requests = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, requests), daemon=True).start()
    from . import compiled

    while True:
        for module, name, signature in pickle.loads(requests.get()):
            compiled.prepare(getattr(import_module(module), name), signature)


def _read(file, requests):
    while size := file.read(8):
        requests.put(file.read(int.from_bytes(size, "little")))
    os.kill(os.getpid(), signal.SIGTERM)        # at once, in the middle of compiling
