"""Contenders in processes of their own, measured in turns."""
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from cnn_numba.errors import InputError

ROOT = Path(__file__).resolve().parents[2]      # the folder of the package
PAUSE = 0.2                                     # seconds in which the threads of the last contender go to sleep
T = TypeVar("T")
NAMES = {"numba": "cnn-numba", "numpy": "NumPy", "torch": "PyTorch", "jax": "JAX", "onnxruntime": "onnxruntime"}
PACKAGES = {"torch": ("torch",), "jax": ("jax",), "onnxruntime": ("onnx", "onnxruntime")}   # that a library needs

BLAS_THREADS = "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"

# Variables that limit each library to AVX2.
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
    environment: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


class Refusal(InputError):
    """A contender cannot do what it was asked to do; the message is one sentence."""


class Worker:
    """The process of an entrant; a context that ends it.

    loads : (seconds, processors that other programs used meanwhile) of each request to any worker
    """

    loads: ClassVar[list[tuple[float, float]]] = []

    def __init__(self, entrant: Entrant, environment: dict[str, str]):
        self.entrant, self.label, self.library, self.threads = entrant, entrant.label, entrant.library, entrant.threads
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        options = json.dumps({"threads": entrant.threads, **entrant.options})
        blas = dict.fromkeys(BLAS_THREADS, str(entrant.threads)) if entrant.library == "numpy" else {}
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cnn_numba.benchmark.worker", entrant.library, options],
            env={**os.environ, **blas, **environment, **entrant.environment, "PYTHONPATH": path},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, method: str, **arguments: Any) -> tuple[Any, float]:
        """(result of a method of its Contender, seconds it took there)

        Raises Refusal when it failed.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            print(json.dumps([method, arguments]), file=self.process.stdin, flush=True)
            answer = json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            raise Refusal(f"{self.label}: its process ended") from None
        if "error" in answer:
            raise Refusal(f"{self.label}: {answer['error']}")
        self.loads.append((answer["seconds"], answer["load"]))
        return answer["value"], answer["seconds"]

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def working(entrants: Sequence[Entrant], environment: dict[str, str], notes: list[str]) -> Iterator[list[Worker]]:
    """The workers of the entrants whose library is installed; `notes` gets a line for each library that is not."""
    with ExitStack() as stack:
        yield [stack.enter_context(Worker(entrant, environment)) for entrant in installed(entrants, notes)]


def installed(entrants: Sequence[Entrant], notes: list[str]) -> list[Entrant]:
    """The entrants whose library is installed; `notes` gets a line for each library that is not."""
    missing = missing_libraries([entrant.library for entrant in entrants])
    notes += [f"{NAMES[library]}: not installed ({install})" for library, install in missing.items()]
    return _some([entrant for entrant in entrants if entrant.library not in missing], notes)


def missing_libraries(libraries: Iterable[str]) -> dict[str, str]:
    """{library that is not installed: the command that installs it}"""
    return {library: f"pip install {' '.join(PACKAGES[library])}" for library in libraries
            if any(find_spec(name) is None for name in PACKAGES.get(library, ()))}


def ready(workers: Sequence[Worker], prepare: Callable[[Worker], T], notes: list[str]) -> list[tuple[Worker, T]]:
    """[(worker, prepare(worker))], without the workers that refuse; `notes` gets their sentences."""
    able = []
    for worker in workers:
        show(f"{worker.label}: getting ready")
        try:
            able.append((worker, prepare(worker)))
        except Refusal as refusal:
            notes.append(str(refusal))
    return _some(able, notes)


def _some(contenders: list[T], notes: list[str]) -> list[T]:
    """The contenders; InputError when there are none."""
    if not contenders:
        raise InputError(": ".join(filter(None, ["no contender is left to measure", "; ".join(notes)])))
    return contenders


def alternate(rounds: int, workers: Sequence[Worker], measure: Callable[[Worker], T]) -> list[list[T]]:
    """[[measure(worker) of each round] of each worker]; in a round, all workers have their turn."""
    values: list[list[T]] = [[] for _ in workers]
    for k in range(rounds):
        for worker, mine in zip(workers, values, strict=True):
            show(f"round {k + 1} of {rounds}: {worker.label}")
            time.sleep(PAUSE)
            mine.append(measure(worker))
    return values


def load_seen(loads: Sequence[tuple[float, float]]) -> float:
    """The mean of `Worker.loads`: how many processors other programs used while workers had something to do."""
    return sum(seconds * load for seconds, load in loads) / (sum(seconds for seconds, _ in loads) or 1)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """The median, the least and the most of some rounds, and all of them."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": list(values)}


def show(line: str) -> None:
    """Show what is being done, on a line of the terminal that the next call overwrites."""
    if sys.stderr.isatty():
        print(f"\r\x1b[2K{line}", end="", file=sys.stderr, flush=True)
