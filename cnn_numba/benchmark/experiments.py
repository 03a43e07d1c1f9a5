"""The experiments: each measures contenders in turns and returns a list of tables."""
import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from cnn_numba.benchmark import networks, plots
from cnn_numba.benchmark.bench import Bench, compare, threads_text, torch_settings, up_to, with_peak
from cnn_numba.benchmark.busy import busy
from cnn_numba.benchmark.latency import latency
from cnn_numba.benchmark.process import PAUSE, Entrant, Worker, alternate, installed, ready, show, spread
from cnn_numba.benchmark.report import Report, Row, Table, machine, middle, of, reach, times
from cnn_numba.inspection.summary import multiply_adds
from cnn_numba.layers import Layer
from cnn_numba.table import Column, number

LAST = ", channels last"            # the end of the labels of settings of PyTorch
BATCH_SIZES = [2**k for k in range(11)]
CHANNELS = [4, 8, 16, 32, 64, 128, 256]
INFERENCE_BATCHES: dict[str, list[int | None]] = {
    "numba": [None], "numpy": [256], "torch": [64, 256, 1000, 4000], "jax": [1000]}


def train(worker: Worker) -> float:
    """Seconds of an epoch."""
    return worker.ask("epoch")[1]


def run(args: argparse.Namespace) -> Report:
    """The Report of the experiment that the flags name.

    Raises InputError when the flags do not fit, or no contender is left to measure.
    """
    bench = Bench(args)
    ours = {"precision": bench.args.precision}
    with Worker(Entrant("cnn-numba", "numba", bench.threads, options=ours), bench.environment) as worker:
        (execution, bits), _ = worker.ask("describe")
    try:
        tables = EXPERIMENTS[args.experiment](bench)
    finally:
        show("")
    if args.experiment != "busy":                                   # which says what it saw in each row
        bench.note_load()
    return Report(args.experiment, bench.settings(), machine(execution, bits), tables, list(dict.fromkeys(bench.notes)))


def answer(rows: Sequence[Row]) -> list[str]:
    """What the JIT, `parallel=True` and the algorithm buy, as a sentence each, from the rows of `modes`."""
    speeds = {row["label"]: row["images_per_second"]["median"] for row in rows}
    steps = (("The JIT", "interpreted", "serial, textbook"), ("Cook-Toom instead of the textbook's loops",
                                                              "serial, textbook", "serial"),
             ("parallel=True", "serial", next((name for name in reversed(speeds) if name.startswith("parallel, ")
                                               and name.endswith("threads")), "")))
    return [f"{what}: {number(speeds[after] / speeds[before])} times as fast ({after} against {before})."
            for what, before, after in steps if before in speeds and after in speeds]


def best_of_torch(speeds: dict[str, float], ours: str) -> list[str]:
    """Which of PyTorch's settings is the fastest, and how its speed compares with ours, as a sentence if both ran."""
    torch = {label: speed for label, speed in speeds.items() if label.startswith("PyTorch")}
    if not torch or ours not in speeds:
        return []
    best = max(torch, key=lambda label: torch[label])
    return [f"The fastest of PyTorch's settings is {best}: {ours} is {speeds[ours] / torch[best]:.2f} times as fast."]


# ---- the same network in all modes -------------------------------------------------------------------------
def modes(bench: Bench) -> list[Table]:
    """One network in all modes, the textbook's convolutions among them, and in other libraries."""
    most, counts = threads_text(bench.threads), up_to(bench.threads)
    ways = [
        Entrant("interpreted", "numba", 1, {"NUMBA_DISABLE_JIT": "1"}),
        Entrant(f"NumPy (im2col, BLAS), {most}", "numpy", bench.threads),
        Entrant("serial, textbook", "numba", 1, options={"mode": "serial", "textbook": True}),
        Entrant("serial", "numba", 1, options={"mode": "serial"}),
        Entrant("parallel, textbook", "numba", bench.threads, options={"textbook": True}),
        *(Entrant(f"parallel, {threads_text(n)}", "numba", n) for n in counts),
        *(Entrant(f"PyTorch, {threads_text(n)}", "torch", n) for n in counts[:-1]),
        *torch_settings(bench.threads),
        Entrant(f"JAX jitted step, {most}", "jax", bench.threads),
    ]
    entrants = [entrant for entrant in ways
                if entrant.library in bench.wanted("numba", "numpy", "torch", "jax")]
    network, *_ = bench.network()
    with tempfile.TemporaryDirectory() as folder:
        if not bench.args.warm:
            for k, entrant in enumerate(entrants):                  # each compiles on its own
                entrant.environment["CNN_NUMBA_CACHE_DIR"] = os.path.join(folder, str(k))
        with bench.working(entrants) as workers:
            able = ready(workers, bench.prepare(network, bench.batch_size, bench.seconds), bench.notes)
            seconds = alternate(bench.rounds, [worker for worker, _ in able], train)
    rows = [{"label": worker.label, "threads": worker.threads, **facts,
             "images_per_second": spread([facts["images"] / s for s in mine])}
            for (worker, facts), mine in zip(able, seconds, strict=True)]
    for row in rows:
        row["speed_up"] = row["images_per_second"]["median"] / rows[0]["images_per_second"]["median"]
    columns = [("mode", lambda row: row["label"]), ("images/s", middle("images_per_second")),
               ("(least - most)", reach("images_per_second")), ("speed-up", lambda row: number(row["speed_up"]) + "x"),
               ("images", lambda row: f"{row['images']:,}")]
    if not bench.args.warm:
        columns.insert(-1, ("compile s", lambda row: f"{row['compile_seconds']:.2f}"))
        bench.notes.append("Compile: from an empty cache to the end of the first step, less the time of a later step.")
    bench.notes.append(f"A slow mode runs on fewer images: as many as take about {bench.seconds:g} s, "
                       "one batch at least.")
    if any(entrant.options.get("textbook") for entrant in entrants):
        bench.notes.append("Textbook: convolutions as plain loops (kernels/conv.py).  The other modes run Cook-Toom "
                           "products (kernels/conv_toom.py) where they can.")
    bench.agree(able)
    speeds = {row["label"]: row["images_per_second"]["median"] for row in rows}
    bench.notes += [*answer(rows), *best_of_torch(speeds, f"parallel, {most}")]
    return [Table(bench.title("Training"), rows, columns,
                  partial(plots.bars, value="images_per_second", label="training images per second", log=True))]


# ---- other libraries ---------------------------------------------------------------------------------------
def epoch(bench: Bench) -> list[Table]:
    """Whole epochs, and the share of the peak that they reach."""
    network, work, _ = bench.network()
    with bench.working(bench.entrants("numba", "torch", "jax", torch=(False, True))) as workers:
        able = ready(workers, bench.prepare(network, bench.batch_size), bench.notes)
        samples = alternate(bench.rounds, [worker for worker, _ in able], with_peak(train))
    peak = bench.note_peak(samples)
    rows = [{"label": worker.label, "threads": worker.threads, **facts, "seconds": spread([s for s, _ in mine])}
            for (worker, facts), mine in zip(able, samples, strict=True)]
    for row in rows:
        compare(row, rows[0], 2 * work * row["images"], peak)
    bench.agree(able)
    bench.notes += best_of_torch({row["label"]: 1 / row["seconds"]["median"] for row in rows}, "cnn-numba")
    columns = [*speed_columns(rows), ("compile s", lambda row: f"{row['compile_seconds']:.2f}")]
    return [Table(bench.title(f"Epoch on {threads_text(bench.threads)}"), rows, columns,
                  partial(plots.bars, value="seconds", label="seconds per epoch"))]


def inference(bench: Bench) -> list[Table]:
    """The classes of all training images, with the batch sizes that suit each library."""
    network, _, work = bench.network()

    def measure(worker: Worker) -> list[float]:
        return [worker.ask("predict", batch_size=size)[1] for size in INFERENCE_BATCHES[worker.library]]

    def prepare(worker: Worker) -> None:
        bench.prepare(network, bench.batch_size, 1e-3)(worker)
        measure(worker)

    with bench.working(bench.entrants("numba", "torch", "jax", torch=(False,))) as workers:
        able = [worker for worker, _ in ready(workers, prepare, bench.notes)]
        samples = alternate(bench.rounds, able, with_peak(measure))
    peak = bench.note_peak(samples)
    rows = [{"label": worker.label + (f", batches of {size}" if size else ""), "threads": worker.threads,
             "images": bench.images, "seconds": spread([seconds[k] for seconds, _ in mine])}
            for worker, mine in zip(able, samples, strict=True)
            for k, size in enumerate(INFERENCE_BATCHES[worker.library])]
    for row in rows:
        compare(row, rows[0], 2 * work * bench.images, peak)
    return [Table(bench.title(f"Inference on {threads_text(bench.threads)}"), rows, speed_columns(rows),
                  partial(plots.bars, value="seconds", label=f"seconds for {bench.images:,} images"))]


def speed_columns(rows: Sequence[Row]) -> list[Column]:
    columns: list[Column] = [
        ("", lambda row: row["label"]), ("seconds", middle("seconds")), ("(least - most)", reach("seconds")),
        ("images/s", lambda row: number(row["images"] / row["seconds"]["median"])),
        (f"{rows[0]['label']} is faster by", times("times_first")), ("GF/s", lambda row: number(row["gflops"]))]
    return columns + [("of peak", percent)] * (rows[0]["percent_of_peak"] is not None)


def percent(row: Row) -> str:
    return f"{number(row['percent_of_peak'])} %"


# ---- one layer at a time -----------------------------------------------------------------------------------
def kernels(bench: Bench) -> list[Table]:
    """The passes of single layers, and the update of the weights."""
    jobs: list[tuple[str, str, dict[str, Any], dict[str, tuple[int, int]]]] = [
        (name, "layer", {"network": networks.description([layer]), "shape": shape, "batch_size": bench.batch_size},
         costs(layer, shape, bench.batch_size)) for name, layer, shape in networks.layers()]
    jobs.append(("SGD, 1,048,576 weights", "optimizer_step", {"size": 1024}, {"update": (0, 5 * 4 * 2**20)}))
    if bench.args.quick:
        jobs = jobs[::4]
    measured = []
    with bench.working(bench.entrants("numba", "torch", torch=(False,))) as workers:
        for name, method, arguments, passes in jobs:
            def measure(worker, method=method, arguments=arguments):
                return worker.ask(method, **arguments, seconds=bench.seconds / 20)[0]

            workers = [worker for worker, _ in ready(workers, measure, bench.notes)]
            measured.append((name, passes, alternate(bench.rounds, workers, with_peak(measure))))
    peak = bench.note_peak([mine for *_, samples in measured for mine in samples])
    rows = []
    for name, passes, samples in measured:
        for which, (operations, size) in passes.items():
            row: Row = {"layer": name, "pass": which, "operations": operations, "bytes": size}
            for worker, mine in zip(workers, samples, strict=True):
                seconds = spread([seconds[which] for seconds, _ in mine])
                label = worker.label.removesuffix(LAST)             # of the two formats, the faster one
                if label not in row or seconds["median"] < row[label]["seconds"]["median"]:
                    row[label] = {"seconds": seconds, "channels_last": worker.label.endswith(LAST)}
            rows.append(row)
    labels = list(dict.fromkeys(worker.label.removesuffix(LAST) for worker in workers))
    for row in rows:
        for label in labels:
            compare(row[label], row[labels[0]], row["operations"], peak)
    columns: list[Column] = [("layer", lambda row: row["layer"]), ("pass", lambda row: row["pass"])]
    for label in labels:
        columns += [(f"{label} us", of(label, middle("seconds", 1e6))),
                    ("(least - most)", of(label, reach("seconds", 1e6)))]
        if label == labels[0]:
            columns.append(("rate", partial(rate, label=label)))
            if peak:
                columns.append(("of peak", lambda row: percent(row[labels[0]]) if row["operations"] else ""))
        else:
            columns.append((f"{labels[0]} is faster by", of(label, times("times_first"))))
    if len(labels) > 1:
        bench.notes += slower_passes(rows, labels)
    return [Table(f"Layers on {threads_text(bench.threads)}, {bench.batch_size} images; {bench.spread_text}", rows,
                  columns, partial(plots.roofline, labels=labels, peak=peak))]


def slower_passes(rows: Sequence[Row], labels: Sequence[str]) -> list[str]:
    """Where the first contender is slower than the fastest of the others, as a sentence, and what these measure."""
    ratios = [(f"{row['layer']} {row['pass']}", min(row[label]["times_first"] for label in labels[1:])) for row in rows]
    slower = [f"{name} ({ratio:.2f}x)" for name, ratio in ratios if ratio < 1]
    return [f"{labels[0]} is slower than the fastest of the others in {len(slower)} of {len(rows)} passes"
            + f": {', '.join(slower)}" * bool(slower) + ".",
            "PyTorch: eager, in the faster of its two memory formats; bf16: images and weights are bf16 beforehand."]


def costs(layer: Layer, shape: tuple[int, ...], batch_size: int) -> dict[str, tuple[int, int]]:
    """{pass: (operations, bytes)}: a multiply-add is two operations, and each array moves once."""
    work, _ = multiply_adds([layer], shape)
    x, y = (4 * batch_size * math.prod(s) for s in (shape, layer.output_shape(shape)))
    weights = 4 * sum(map(math.prod, layer.parameter_shapes().values()))
    if not work:
        return {"forward": (0, x + y), "to input": (0, 2 * x + y)}
    return dict.fromkeys(("forward", "to input", "to weights"), (2 * work * batch_size, x + y + weights))


def rate(row: Row, label: str) -> str:
    seconds = row[label]["seconds"]["median"]
    amount, unit = (row["operations"], "GF/s") if row["operations"] else (row["bytes"], "GB/s")
    return f"{number(amount / seconds / 1e9)} {unit}"


# ---- how speed grows ---------------------------------------------------------------------------------------
def scaling(bench: Bench) -> list[Table]:
    """Training speed over batch size, channels and threads."""
    counts, most = up_to(bench.threads), threads_text(bench.threads)
    network, quick = bench.network(), slice(None, None, 3 if bench.args.quick else 1)
    with bench.working([e for n in counts for e in bench.entrants("numba", "torch", threads=n)]) as workers:
        all_threads = [worker for worker in workers if worker.threads == bench.threads]
        batches = [(size, all_threads, network, size) for size in BATCH_SIZES[quick] if size <= bench.images]
        channels = [(n, all_threads, bench.network(networks.wide(n)), bench.batch_size) for n in CHANNELS[quick]]
        threads = [(n, [w for w in workers if w.threads == n], network, bench.batch_size) for n in counts]
        return [sweep(bench, "batch size", f"{bench.model}, {most}", batches),
                sweep(bench, "channels", f"two 3x3 convolutions, batch size {bench.batch_size}, {most}", channels),
                sweep(bench, "threads", f"{bench.model}, batch size {bench.batch_size}", threads)]


def sweep(bench: Bench, what: str, setting: str, points: Sequence[tuple[int, Sequence[Worker], Any, int]]) -> Table:
    """A Table with a row for each point (value, workers, network, batch size)."""
    rows = []
    for value, workers, (network, work, _), batch_size in points:
        able = ready(workers, bench.prepare(network, batch_size, bench.seconds / 2), bench.notes)
        seconds = alternate(bench.rounds, [worker for worker, _ in able], train)
        row: Row = {what: value}
        for (worker, facts), mine in zip(able, seconds, strict=True):
            speed = spread([facts["images"] / s for s in mine])
            row[worker.label] = {"images": facts["images"], "images_per_second": speed,
                                 "gflops": 2 * work * speed["median"] / 1e9}
        rows.append(row)
    labels = [label for label in rows[0] if label != what]
    for row in rows:
        for one in (row[label] for label in labels if label in row):
            one["times_first"] = (row[labels[0]]["images_per_second"]["median"]
                                   / one["images_per_second"]["median"])
    columns: list[Column] = [(what, lambda row: str(row[what]))]
    for label in labels:
        columns += [(f"{label} images/s", of(label, middle("images_per_second"))),
                    ("(least - most)", of(label, reach("images_per_second"))),
                    ("GF/s", of(label, lambda one: number(one["gflops"])))]
    columns += [(f"{labels[0]} is faster by", of(label, times("times_first"))) for label in labels[1:]]
    return Table(f"Training speed over {what}: {setting}; {bench.spread_text}", rows, columns,
                 partial(plots.curves, what=what, labels=labels))


# ---- a whole process ---------------------------------------------------------------------------------------
def startup(bench: Bench) -> list[Table]:
    """From the start of a process to the end of the first training step."""
    network, *_ = bench.network()
    entrants = process_entrants(bench)
    samples: dict[str, list[dict[str, float]]] = {}
    for k in range(bench.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for entrant in entrants:
                for cache in (", empty cache", ", warm cache") if entrant.library == "numba" else ("",):
                    show(f"round {k + 1} of {bench.rounds}: {entrant.label}{cache}")
                    time.sleep(PAUSE)
                    with Worker(entrant, bench.environment | {"CNN_NUMBA_CACHE_DIR": folder}) as worker:
                        samples.setdefault(entrant.label + cache, []).append(first_step(bench, worker, network))
    rows = process_rows(bench, samples)
    return [Table(bench.title("From the start of a process to the end of the first step, seconds"), rows,
                  process_columns(rows), partial(plots.stacked, label="seconds to the end of the first step"))]


def first_step(bench: Bench, worker: Worker, network: networks.Description) -> dict[str, float]:
    """{stage: seconds} of a process that has just started."""
    worker.ask("memory")                                            # the answer comes after the imports
    imports = time.perf_counter() - worker.started
    data = worker.ask("load", **bench.source)[1]
    worker.ask("build", network=network, batch_size=bench.batch_size)
    worker.ask("resize", images=bench.batch_size)
    worker.ask("epoch")
    total = time.perf_counter() - worker.started
    return {"imports": imports, "data": data, "network and step": total - imports - data, "all": total}


def memory(bench: Bench) -> list[Table]:
    """The peak memory of a process that loads the data and trains for an epoch."""
    network, *_ = bench.network()
    entrants = process_entrants(bench)
    samples: dict[str, list[dict[str, float]]] = {}
    for k in range(bench.rounds):
        for entrant in entrants:
            show(f"round {k + 1} of {bench.rounds}: {entrant.label}")
            with Worker(entrant, bench.environment) as worker:
                samples.setdefault(entrant.label, []).append(epoch_memory(bench, worker, network))
    rows = process_rows(bench, samples)
    return [Table(bench.title("Peak memory of a process that trains for an epoch, MB"), rows, process_columns(rows),
                  partial(plots.stacked, label="peak memory, MB"))]


def epoch_memory(bench: Bench, worker: Worker, network: networks.Description) -> dict[str, float]:
    """{stage: MB by which the peak grew} of a process that has just started."""
    peaks = [worker.ask("memory")[0]]
    worker.ask("load", **bench.source)
    peaks.append(worker.ask("memory")[0])
    worker.ask("build", network=network, batch_size=bench.batch_size)
    worker.ask("resize", images=bench.images)
    worker.ask("epoch")
    peaks.append(worker.ask("memory")[0])
    imports, data, total = (peak / 1e6 for peak in peaks)
    return {"imports": imports, "data": data - imports, "network and epoch": total - data, "all": total}


def process_entrants(bench: Bench) -> list[Entrant]:
    """The entrants of `startup` and `memory`."""
    entrants = installed(bench.entrants("numba", "torch", "jax"), bench.notes)
    if any(entrant.library == "numpy" for entrant in entrants):
        bench.notes.append("The process of NumPy imports Numba, too: its forward pass is that of cnn-numba's layers.")
    return entrants


def process_rows(bench: Bench, samples: dict[str, list[dict[str, float]]]) -> list[Row]:
    """Rows from {label: [{stage: number} of each round]}; the stage "all" is the sum of the others."""
    rows: list[Row] = [
        {"label": label, "threads": bench.threads}
        | {stage: spread([one[stage] for one in mine]) for stage in mine[0]} for label, mine in samples.items()]
    for row in rows:
        row["times_first"] = row["all"]["median"] / rows[0]["all"]["median"]
    return rows


def process_columns(rows: Sequence[Row]) -> list[Column]:
    stages = [key for key, value in rows[0].items() if isinstance(value, dict)]
    return [("", lambda row: row["label"]), *((stage, middle(stage)) for stage in stages),
            ("(least - most)", reach("all")), (f"times {rows[0]['label']}", times("times_first"))]


EXPERIMENTS: dict[str, Callable[[Bench], list[Table]]] = {
    f.__name__: f for f in (modes, kernels, epoch, inference, latency, startup, scaling, memory, busy)}
