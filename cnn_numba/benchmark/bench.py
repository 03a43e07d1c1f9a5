"""What all experiments share: flags, data, contenders, and how contenders are prepared and compared."""
import argparse
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import product
from typing import Any

from cnn_numba.benchmark import networks
from cnn_numba.benchmark.contender import CHECKED, load
from cnn_numba.benchmark.process import AVX2, NAMES, Entrant, Worker, load_seen, missing_libraries, working
from cnn_numba.benchmark.report import Row
from cnn_numba.errors import InputError
from cnn_numba.inspection.summary import multiply_adds
from cnn_numba.inspection.timing import load_note
from cnn_numba.kernels.compiled import JIT
from cnn_numba.kernels.driver import max_threads
from cnn_numba.table import number

RANDOM_IMAGES, QUICK_IMAGES = 60_000, 6_000
MODEL, BATCH_SIZE = "lenet5", 64            # where the flags name none
# the largest difference of the loss between contenders after the same training step, for each precision of ours
SAME_LOSS = {"highest": 1e-3, "high": 1e-3, "medium": 3e-2}


class Bench:
    """The flags and the data of an experiment, and the notes that are printed below its tables.

    Raises InputError when the flags do not fit each other, the machine or the data.
    """

    def __init__(self, args: argparse.Namespace):
        if not JIT:
            raise InputError("the benchmark runs kernels compiled and interpreted side by side: "
                             "unset NUMBA_DISABLE_JIT")
        for library, install in missing_libraries(args.contenders or ()).items():
            raise InputError(f"--contenders: {NAMES[library]} is not installed: {install}")
        self.args, self.model, self.batch_size = args, args.model or MODEL, args.batch_size or BATCH_SIZE
        self.notes: list[str] = []
        self.environment = AVX2 if args.avx2 else {}
        self.seconds = 0.1 if args.quick else 1.0               # for a round of a contender
        self.rounds = args.rounds or (2 if args.quick else 5)
        self.spread_text = f"median (least - most) of {self.rounds} round{'s' * (self.rounds > 1)}"
        self.threads = args.threads or max_threads()
        if self.threads > max_threads():
            raise InputError(f"--threads must be a whole number from 1 to {max_threads()}, the processors of this "
                             f"machine, got {self.threads}")
        self.shape: tuple[int, ...] = networks.image_shape(self.model)
        self.num_classes = 10
        self.images = args.train_size or RANDOM_IMAGES
        if args.dataset != "random":
            data = load(args.dataset, args.data_dir, args.train_size, None)
            self.images, self.shape = len(data.train_images), data.train_images.shape[1:]
            self.num_classes = data.num_classes
        if args.quick:
            self.images = min(self.images, QUICK_IMAGES)
        if self.batch_size > self.images:
            raise InputError(f"--batch-size must be at most {self.images}, the number of images, "
                             f"got {self.batch_size}")
        self.source = {"name": args.dataset, "data_dir": args.data_dir, "images": self.images,
                       "image_shape": self.shape}

    def settings(self) -> dict[str, Any]:
        """The flags, with the values of those that were not given."""
        flags = {name: value for name, value in vars(self.args).items() if name not in ("run", "parse", "argv")}
        return flags | {"model": self.model, "batch_size": self.batch_size, "threads": self.threads,
                        "rounds": self.rounds, "images": self.images}

    def note_load(self) -> None:
        """Note how much other programs competed for the processors."""
        self.notes.append(load_note(load_seen(Worker.loads)))

    # ---- contenders ----------------------------------------------------------------------------------------
    def wanted(self, *usual: str) -> Sequence[str]:
        """The libraries that the user chose, or else the usual ones."""
        return self.args.contenders or usual

    def among(self, *able: str) -> Sequence[str]:
        """The libraries that the user chose, or else all that an experiment is able to measure; InputError for others.
        """
        if odd := [library for library in self.wanted() if library not in able]:
            raise InputError(f"--contenders: {self.args.experiment} measures {', '.join(able)}, got {odd[0]}")
        return self.wanted(*able)

    def entrants(self, *usual: str, threads: int | None = None, torch: Sequence[bool] = ()) -> list[Entrant]:
        """An entrant of each library that is wanted.

        torch : PyTorch competes in all its settings, compiled or not as these say
        """
        threads, libraries = threads or self.threads, self.wanted(*usual)
        ours = {"precision": self.args.precision}
        return [entrant for library in libraries for entrant in (
            torch_settings(threads, torch) if torch and library == "torch" else
            [Entrant(NAMES[library], library, threads, options=ours if library == "numba" else {})])]

    def working(self, entrants: Sequence[Entrant]) -> AbstractContextManager[list[Worker]]:
        """The workers of the entrants whose library is installed."""
        return working(entrants, self.environment, self.notes)

    def network(self, build: Callable[..., Any] | None = None) -> tuple[networks.Description, int, int]:
        """(description, multiply-adds of one image in a training step, in the forward pass)"""
        model = (build or networks.NETWORKS[self.model])(self.shape, self.num_classes)
        forward, step = multiply_adds(model.layers, self.shape)
        return networks.description(model.layers), step, forward

    def prepare(self, network: networks.Description, batch_size: int, seconds: float | None = None,
                source: dict[str, Any] | None = None) -> Callable[[Worker], Row]:
        """A function of a worker: train a network for some steps, and choose the images of an epoch.

        seconds : an epoch has as many images as take this time; None: all images
        source : other data than those of the flags; see `contender.load`

        The function returns {"compile_seconds", "images", "loss"}.
        """
        def prepare(worker: Worker) -> Row:
            worker.ask("load", **(source or self.source))
            building = worker.ask("build", network=network, batch_size=batch_size)[1]
            worker.ask("resize", images=batch_size)
            first = worker.ask("epoch")[1]
            loss, _ = worker.ask("loss")
            step = worker.ask("epoch")[1]
            if step < 0.1:
                step = min(worker.ask("epoch")[1] for _ in range(3))
            most = (source or self.source)["images"]
            images = min(most, batch_size * max(1, int(seconds / step))) if seconds else most
            worker.ask("resize", images=images)
            if images > batch_size:                                 # not where a batch takes seconds
                worker.ask("epoch")                                 # compiles a last, smaller batch
            return {"compile_seconds": max(0, building + first - step), "images": images, "loss": loss}
        return prepare

    # ---- what is said of the rows --------------------------------------------------------------------------
    def agree(self, able: Sequence[tuple[Worker, Row]], what: str = "trains the same network from the same weights",
              when: str = "after one step on the first batch, ") -> None:
        """Note whether all contenders computed the same, which they do when, and in what they do."""
        losses = {worker.label: facts["loss"] for worker, facts in able}
        low, high = min(losses.values()), max(losses.values())
        if len(losses) == 1:
            return
        if high - low <= SAME_LOSS[self.args.precision] * max(1, abs(high)):
            self.notes.append(f"Every contender {what}: {when}the loss of the first {CHECKED} images is {high:.4f} for "
                              "each.")
        else:
            self.notes.append(f"The contenders do NOT compute the same: {when}the loss of the first {CHECKED} images "
                              "is " + ", ".join(f"{loss:.4f} ({label})" for label, loss in losses.items()) + ".")

    def note_peak(self, samples: Sequence[Sequence[tuple[Any, Any]]]) -> tuple[float, float] | None:
        """(operations, bytes) per second: the most that `with_peak` added to the samples; None without it."""
        asked = [peak for mine in samples for _, peak in mine if peak is not None]
        peaks = [peak for peak in asked if peak]
        if asked and not peaks:
            self.notes.append("Peak: not measured, as other programs kept the threads from running at the same time.")
        if not peaks:
            return None
        operations, traffic = map(max, zip(*peaks, strict=True))
        self.notes.append(f"Peak, the most measured in this run on {threads_text(self.threads)}: "
                          f"{number(operations / 1e9)} GF/s of multiply-adds (two operations each), "
                          f"{number(traffic / 1e9)} GB/s to and from memory.  GF/s count the textbook's operations.")
        return operations, traffic

    def title(self, what: str) -> str:
        return (f"{what}: {self.model}, batch size {self.batch_size}, {self.images:,} {self.args.dataset} images "
                f"of {' x '.join(map(str, self.shape))}; {self.spread_text}")


def with_peak(measure: Callable[[Worker], Any]) -> Callable[[Worker], tuple[Any, Any]]:
    """A function of a worker: (measure(worker), the peak of the machine at that time).

    The peak is None where the worker cannot measure one, and empty where other programs kept it from doing so.
    """
    return lambda worker: (measure(worker),
                           (worker.ask("peak", seconds=0.03)[0] or ()) if worker.library == "numba" else None)


def compare(row: Row, first: Row, operations: float, peak: tuple[float, float] | None) -> None:
    """Add to a row how its seconds compare with those of the first row and with the peak."""
    row["times_first"] = row["seconds"]["median"] / first["seconds"]["median"]
    row["gflops"] = operations / row["seconds"]["median"] / 1e9
    row["percent_of_peak"] = 100 * row["gflops"] * 1e9 / peak[0] if peak else None


def torch_settings(threads: int, compiled: Sequence[bool] = (False, True)) -> list[Entrant]:
    """PyTorch in all its settings: eager and compiled, in float32 and bf16, in both memory formats of images."""
    entrants = []
    for chosen in product(compiled, (False, True), (False, True)):
        words = [word for word, yes in zip(("compiled", "bf16", "channels last"), chosen, strict=True) if yes]
        options = dict(zip(("compiled", "bf16", "channels_last"), chosen, strict=True))
        entrants.append(Entrant(", ".join(["PyTorch", *words]), "torch", threads, options=options))
    return entrants


def threads_text(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def up_to(most: int) -> list[int]:
    """1, 2, 4, ... and the last number."""
    return sorted({2**k for k in range(most.bit_length())} | {most})
