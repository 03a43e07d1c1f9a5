"""The `latency` experiment: how long a warm network takes for one image, and for a few."""
from collections.abc import Sequence
from functools import partial

from cnn_numba.benchmark import plots
from cnn_numba.benchmark.bench import Bench, threads_text, torch_settings
from cnn_numba.benchmark.contender import CHECKED
from cnn_numba.benchmark.process import NAMES, Entrant, Worker, alternate, ready, spread
from cnn_numba.benchmark.report import Row, Table, middle, reach
from cnn_numba.table import Column

IMAGES = 1, 2, 4, 8, 16
TORCH = "PyTorch, fastest setting"
Latencies = list[dict[str, float]]      # {way: seconds} for each of IMAGES


def latency(bench: Bench) -> list[Table]:
    """Microseconds from a few images to their logits."""
    network, *_ = bench.network()
    source = bench.source | {"images": max(CHECKED, *IMAGES)}

    def measure(worker: Worker) -> Latencies:
        return [worker.ask("latency", images=images, seconds=bench.seconds / 10)[0] for images in IMAGES]

    def prepare(worker: Worker) -> Row:
        worker.ask("load", **source)
        worker.ask("build", network=network, batch_size=bench.batch_size)
        first = measure(worker)                             # from now on in evaluation, as the loss has to be
        return {"first": first, "loss": worker.ask("loss")[0]}

    with bench.working(entrants(bench)) as workers:
        able = ready(workers, prepare, bench.notes)
        torch = {worker.label: facts["first"] for worker, facts in able if worker.library == "torch"}
        fastest = [min(torch, key=lambda label: torch[label][k][""]) for k in range(len(IMAGES))] if torch else []
        chosen = [worker for worker, _ in able if worker.library != "torch" or worker.label in fastest]
        samples = alternate(bench.rounds, chosen, measure)
    rows: list[Row] = []
    of_torch: dict[str, Row] = {}
    for worker, mine in zip(chosen, samples, strict=True):
        if worker.library == "torch":
            of_torch[worker.label], = rows_of(worker.label, mine)
        else:
            rows += rows_of(worker.label, mine)
    if torch:
        rows.append({"label": TORCH, "settings": fastest} | {
            text: of_torch[label][text] for text, label in zip(map(images_text, IMAGES), fastest, strict=True)})
        bench.notes += [settings_note(fastest), *ratio_notes(rows)]
    bench.agree(able, "runs the same network with the same weights", "")
    bench.notes.append("model(x) takes normalised images, as PyTorch and onnxruntime do; Classifier.logits and "
                       "model.predict take pixels, and normalise them.")
    first, *others = map(images_text, IMAGES)
    columns: list[Column] = [("", lambda row: row["label"]), (first, middle(first)), ("(least - most)", reach(first)),
                             *((text.split()[0], middle(text)) for text in others)]
    shape = " x ".join(map(str, bench.shape))
    return [Table(f"Latency in microseconds, with the number of images: {bench.model}, {shape}, "
                  f"{threads_text(bench.threads)}; {bench.spread_text}", rows, columns,
                  partial(plots.bars, value=first, label="microseconds for one image"))]


def entrants(bench: Bench) -> list[Entrant]:
    """This program, and others with one thread and with all, which is not always faster."""
    wanted = bench.among("numba", "torch", "onnxruntime")
    found = [Entrant(NAMES["numba"], "numba", bench.threads, options={"precision": bench.args.precision})]
    for threads in sorted({1, bench.threads}):
        others = [*torch_settings(threads, (False,) if bench.args.quick else (False, True)),
                  Entrant(NAMES["onnxruntime"], "onnxruntime", threads)]
        for entrant in others:
            entrant.label += f", {threads_text(threads)}"
        found += others
    return [entrant for entrant in found if entrant.library in wanted]


def rows_of(label: str, samples: Sequence[Latencies]) -> list[Row]:
    """A row for each way of a contender to classify images, with the spread of its rounds in microseconds."""
    return [{"label": ", ".join(filter(None, (label, way)))} | {
        images_text(images): spread([1e6 * one[k][way] for one in samples]) for k, images in enumerate(IMAGES)}
        for way in samples[0][0]]


def settings_note(fastest: Sequence[str]) -> str:
    """Which setting of PyTorch is the fastest for each number of images."""
    wins = [f"{label.removeprefix('PyTorch, ')} for "
            + images_text(*(images for images, best in zip(IMAGES, fastest, strict=True) if best == label))
            for label in dict.fromkeys(fastest)]
    return f"PyTorch runs in inference_mode; its fastest setting is {'; '.join(wins)}."


def ratio_notes(rows: Sequence[Row]) -> list[str]:
    """The times of the rows as multiples of those of the last row, PyTorch."""
    texts = [images_text(images) for images in IMAGES]
    return [f"Times PyTorch: {row['label']} " + ", ".join(
        f"{row[text]['median'] / rows[-1][text]['median']:.2f}x" for text in texts) + "." for row in rows[:-1]]


def images_text(*counts: int) -> str:
    return f"{', '.join(map(str, counts))} image{'s' * (counts != (1,))}"
