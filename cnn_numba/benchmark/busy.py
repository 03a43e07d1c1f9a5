"""The `busy` experiment: training beside other programs, which it starts and stops itself."""
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from cnn_numba.benchmark import networks, plots
from cnn_numba.benchmark.bench import Bench, threads_text, torch_settings
from cnn_numba.benchmark.process import Entrant, Worker, alternate, load_seen, ready, spread
from cnn_numba.benchmark.report import Row, Table, middle, times
from cnn_numba.table import Column

NETWORKS = "lenet5", "two-conv", "resnet8"
DIGITS = {"two-conv": (1, 8, 8)}        # shapes of images that are not those of other experiments
BATCH_SIZES = 64, 16
PIXELS = 60_000 * 28 * 28       # of all images
SETTLING = 0.5                  # seconds until the scheduler, and the choice of workers, know the load
TURNS = 4                       # of ours in a round: two turns of the same differ by a third beside other processes
SERIAL, ALL, ADAPTIVE, TORCH = "serial", "all workers", "default", "PyTorch"
CONTROL = "serial again"        # in another process

# Ends with the process that started it, however that ends.
LOOP = "import os; parent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(10**6): pass"


@contextmanager
def load(count: int) -> Iterator[None]:
    """A context beside which so many other processes compute."""
    processes = [subprocess.Popen([sys.executable, "-S", "-c", LOOP]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def busy(bench: Bench) -> list[Table]:
    """Training beside other processes that compute without end: serially, with all workers, as the program chooses."""
    entrants = [Entrant(SERIAL, "numba", 1, options={"mode": "serial"}),
                Entrant(ALL, "numba", bench.threads, options={"all_workers": True}),
                Entrant(ADAPTIVE, "numba", bench.threads), Entrant(CONTROL, "numba", 1, options={"mode": "serial"}),
                *torch_settings(bench.threads, compiled=(False,))]
    entrants = [entrant for entrant in entrants if entrant.library in bench.among("numba", "torch")]
    models = [bench.args.model] if bench.args.model else NETWORKS
    sizes = [bench.args.batch_size] if bench.args.batch_size else BATCH_SIZES
    cases = [(name, size) for name in models for size in sizes]
    rows: list[Row] = []
    with bench.working(entrants) as workers:
        for name, size in cases[::4] if bench.args.quick else cases:
            rows += beside_loads(bench, workers, name, size)
    labels = [label for label in (SERIAL, ALL, ADAPTIVE, TORCH) if label in rows[0]]
    columns: list[Column] = [
        ("network", lambda row: row["network"]), ("batch", lambda row: str(row["batch"])),
        ("beside", lambda row: str(row["processes"])), ("load", lambda row: f"{row['load']:.1f}"),
        *((label, partial(speed, label=label)) for label in labels)]
    if "of_better" in rows[0]:
        columns += [("of better", times("of_better")), ("control", times("control"))]
        bench.notes.append("Of better: the speed of the program's own choice, relative to the faster of serial and all "
                           f"workers; the least is {min(row['of_better'] for row in rows):.2f}x.")
        controls = [row["control"] for row in rows]
        bench.notes.append("Control: the speed of another serial process, relative to serial: what is measured twice "
                           f"differs as much, {min(controls):.2f}x to {max(controls):.2f}x.")
    if TORCH in labels:
        bench.notes.append("PyTorch: eager, in the setting that is its fastest on this network beside no load; "
                           "one turn in a round.")
    bench.notes += ["Beside: how many processes the experiment started, which compute without end.",
                    "Load: how many processors other programs used meanwhile, these processes among them."]
    return [Table(f"Training beside other programs, images per second on {threads_text(bench.threads)}; "
                  f"median of {bench.rounds} round{'s' * (bench.rounds > 1)} of {TURNS} turns", rows, columns,
                  partial(plots.loads, labels=labels), left=3)]


def beside_loads(bench: Bench, workers: list[Worker], name: str, batch_size: int) -> list[Row]:
    """A row for each load."""
    shape = DIGITS.get(name) or networks.image_shape(name)
    images = min(bench.images, PIXELS // math.prod(shape))
    source = {"name": "random", "data_dir": None, "images": images, "image_shape": shape}
    description = networks.description(networks.NETWORKS[name](shape, bench.num_classes).layers)
    able = ready(workers, bench.prepare(description, batch_size, bench.seconds / TURNS, source), bench.notes)
    images_of = {worker.label: facts["images"] for worker, facts in able}

    def train(worker: Worker) -> float:
        """Images per second of an epoch."""
        return images_of[worker.label] / worker.ask("epoch")[1]

    ours = [worker for worker, _ in able if worker.library != "torch"]
    torch = sorted((worker for worker, _ in able if worker.library == "torch"), key=train)[-1:]
    if ours:                            # turns of equal length: the first steps after a pause are slower
        images = min(images, batch_size * math.ceil(train(ours[0]) * bench.seconds / TURNS / batch_size))
        for worker in ours:
            worker.ask("resize", images=images)
            images_of[worker.label] = images
    rows = []
    for count in bench.args.beside:
        with load(count):
            time.sleep(SETTLING * bool(count))
            for worker in ours + torch:
                train(worker)
            first = len(Worker.loads)
            speeds = alternate(TURNS * bench.rounds, ours, train) + alternate(bench.rounds, torch, train)
        row: Row = {"network": name, "batch": batch_size, "processes": count, "load": load_seen(Worker.loads[first:])}
        for worker, mine in zip(ours + torch, speeds, strict=True):
            label = TORCH if worker.library == "torch" else worker.label
            row[label] = {"setting": worker.label, "images_per_second": spread(mine)}
        if ADAPTIVE in row:
            serial, every, adaptive, again = (row[label]["images_per_second"]["median"] for label in
                                              (SERIAL, ALL, ADAPTIVE, CONTROL))
            row["of_better"], row["control"] = adaptive / max(serial, every), again / serial
        rows.append(row)
    return rows


def speed(row: Row, label: str) -> str:
    return middle("images_per_second")(row[label]) if label in row else "-"
