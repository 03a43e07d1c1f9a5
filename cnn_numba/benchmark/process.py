"""Contenders in processes of their own, asked in turns."""
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from cnn_numba.errors import InputError

ROOT = Path(__file__).resolve().parents[2]      # where cnn_numba and kernels are, installed or not
PAUSE = 0.2                                     # seconds in which the threads of the last contender go to sleep
NAMES = {"numba": "cnn-numba", "numpy": "NumPy", "torch": "PyTorch", "jax": "JAX"}

BLAS_THREADS = "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"

# AVX2 is all that each library may use.
AVX2 = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe,+popcnt,"
                          "+sse,+sse2,+sse3,+sse4.1,+sse4.2,+ssse3",
    "OPENBLAS_CORETYPE": "Haswell",
    "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
}


@dataclass
class Entrant:
    """A contender before it has a process.

    environment : variables of its process; options : arguments of its Contender besides the threads.
    """

    label: str
    library: str
    threads: int
    environment: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)


class Refusal(InputError):
    """A contender cannot do what it was asked for; the message is the sentence that says so."""


class Worker:
    """The process of an entrant; a context that ends it."""

    def __init__(self, entrant, environment):
        self.entrant, self.label, self.library, self.threads = entrant, entrant.label, entrant.library, entrant.threads
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        options = json.dumps({"threads": entrant.threads, **entrant.options})
        blas = dict.fromkeys(BLAS_THREADS, str(entrant.threads)) if entrant.library == "numpy" else {}
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cnn_numba.benchmark.worker", entrant.library, options],
            env={**os.environ, **blas, **environment, **entrant.environment, "PYTHONPATH": path},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, method, **arguments):
        """(what the method of its Contender gave, the seconds it took there)

        Raises Refusal when it failed.
        """
        try:
            print(json.dumps([method, arguments]), file=self._process.stdin, flush=True)
            answer = json.loads(self._process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            raise Refusal(f"{self.label}: its process ended") from None
        if "error" in answer:
            raise Refusal(f"{self.label}: {answer['error']}")
        return answer["value"], answer["seconds"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.communicate()


@contextmanager
def working(entrants, environment, notes):
    """The workers of the entrants that are installed; `notes` gets a line for each library that is not."""
    with ExitStack() as stack:
        yield [stack.enter_context(Worker(entrant, environment)) for entrant in installed(entrants, notes)]


def installed(entrants, notes):
    """The entrants whose library there is; `notes` gets a line for each library that there is not."""
    missing = [library for library in dict.fromkeys(e.library for e in entrants) if find_spec(library) is None]
    notes += [f"{NAMES[library]}: not installed" for library in missing]
    return _some([entrant for entrant in entrants if entrant.library not in missing], notes)


def ready(workers, prepare, notes):
    """[(worker, prepare(worker))] of the workers that can; `notes` gets the refusals of the others."""
    able = []
    for worker in workers:
        show(f"{worker.label}: getting ready")
        try:
            able.append((worker, prepare(worker)))
        except Refusal as refusal:
            notes.append(str(refusal))
    return _some(able, notes)


def _some(contenders, notes):
    if not contenders:
        raise InputError(f"no contender is left to measure: {'; '.join(notes)}")
    return contenders


def alternate(rounds, workers, measure):
    """[[measure(worker) of each round] of each worker]: everybody in the first round, everybody in the second, ..."""
    values = [[] for _ in workers]
    for k in range(rounds):
        for worker, mine in zip(workers, values, strict=True):
            show(f"round {k + 1} of {rounds}: {worker.label}")
            time.sleep(PAUSE)
            mine.append(measure(worker))
    return values


def spread(values):
    """The median of some rounds, and from where to where they go."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": list(values)}


def show(line):
    """What goes on, on a line of the terminal that the next one overwrites."""
    if sys.stderr.isatty():
        print(f"\r\x1b[2K{line}", end="", file=sys.stderr, flush=True)
