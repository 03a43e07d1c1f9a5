"""The `profile` command: where the time of a training step goes, layer by layer."""
import math
import time
from dataclasses import dataclass
from statistics import median

import numpy as np

from cnn_numba.benchmark.report import Table, number
from cnn_numba.inspection import summary
from cnn_numba.inspection.peak import measure_peak
from cnn_numba.kernels.program import JIT, Program, at_once, execution, in_order
from cnn_numba.losses import CrossEntropyLoss
from cnn_numba.optim import SGD
from cnn_numba.training import Feed

WARM = 3                    # iterations before those that count
LOOKS = 20                  # at the peak, of which the highest counts: other programs take their share of some


@dataclass(frozen=True)
class Row:
    """A part of the step.

    forward, backward : seconds, None where there is nothing to run
    operations : of both together; a multiply-add is two
    """

    name: str
    shape: tuple | None
    forward: float | None
    backward: float | None
    operations: int = 0

    @property
    def runs(self):
        return self.forward is not None or self.backward is not None

    @property
    def seconds(self):
        return (self.forward or 0) + (self.backward or 0)


@dataclass(frozen=True)
class Profile:
    """rows : the parts, in order; step : seconds of the whole step; start : seconds to start a program, which are in
    neither; peak : operations per second, or None where kernels are interpreted."""

    rows: list
    step: float
    start: float
    peak: float | None


class Step:
    """A training step on random images: whole, as a Trainer runs it, and in parts, each a Program of its own.

    Parameters
    ----------
    model : Sequential
    image_shape : (C, H, W)
    num_classes, batch_size, seed : int

    Raises InputError when the network does not fit the images.
    """

    def __init__(self, model, image_shape, num_classes, batch_size, seed=0):
        self.batch_size, rng, window = batch_size, np.random.default_rng(seed), np.array([0, batch_size])
        feed = Feed(rng.integers(0, 256, (batch_size, *image_shape), np.uint8),
                    rng.integers(0, num_classes, batch_size), image_shape, num_classes, batch_size,
                    np.full(image_shape[0], 127.5), np.full(image_shape[0], 74), window)
        optimizer = SGD(model, lr=1e-6, momentum=0.9, weight_decay=1e-4)     # the weights stay what they are
        plan = self.plan = model.plan(image_shape, feed.blocks, logits=True, input_gradient=False, lanes=feed.lanes,
                                      window=window, draw=feed.draw)
        gather, loss = feed.gather(plan), feed.loss(CrossEntropyLoss(), plan, plan.dz)
        order = {id(call): k for k, call in enumerate(plan.forward_calls + plan.backward_calls)}
        passes = [((name, "forward"), w.forward, at_once(w.prepare) + in_order(w.forward))
                  for name, _, w in plan.layer_calls if w.forward]
        passes += [((name, "backward"), w.backward, in_order(w.backward) + at_once(w.gradients))
                   for name, _, w in plan.layer_calls if w.backward]
        passes.sort(key=lambda of_layer: order[id(of_layer[1][0])])
        phases = {("gather", "forward"): in_order(gather)}
        phases |= {key: layer for key, _, layer in passes if key[1] == "forward"}
        phases["loss", "forward"] = at_once([loss])
        phases |= {key: layer for key, _, layer in passes if key[1] == "backward"}
        phases["update", "backward"] = at_once([feed.tally()]) + in_order(optimizer.calls())
        self.parts = {key: Program(of_part) for key, of_part in phases.items()}
        self.whole = Program(feed.step(plan, gather, loss, optimizer.calls()))

    def operations(self, layer, wires):
        """Of a layer's forward and backward pass over a batch, as the textbook counts them."""
        work = summary.Row("", layer, wires.x.shape, wires.y.shape).multiply_adds
        return 2 * (2 + (wires.dx is not None)) * work * self.batch_size


def measure(step, iterations):
    """The Profile of a Step: medians over iterations, in each of which every part runs once, in its order, so that
    numbers and caches are those of a training."""
    threads = execution()[1]
    programs = step.parts | {"whole": step.whole, "start": Program([[[]] * threads])}
    samples, peaks = {key: [] for key in programs}, []
    for iteration in range(-WARM, iterations):
        if JIT and iteration % math.ceil(iterations / LOOKS) == 0:
            peaks.append(measure_peak(threads, 0.01)[0])
        for key, program in programs.items():
            start = time.perf_counter()
            program()
            if iteration >= 0:
                samples[key].append(time.perf_counter() - start)
    start = min(samples.pop("start"))
    seconds = {key: max(0.0, median(taken) - start) for key, taken in samples.items()}

    def row(name, shape, label, operations=0):
        return Row(label, shape, seconds.get((name, "forward")), seconds.get((name, "backward")), operations)

    rows = [row("gather", step.plan.x.shape, "gather"),
            *(row(name, wires.y.shape, f"{name} {type(layer).__name__}", step.operations(layer, wires))
              for name, layer, wires in step.plan.layer_calls),
            row("loss", None, "loss"), row("update", None, "update")]
    return Profile(rows, seconds["whole"], start, max(peaks, default=None))


def run(model, image_shape, num_classes, batch_size, seed, iterations):
    """Profile a model and print the table."""
    profile = measure(Step(model, image_shape, num_classes, batch_size, seed), iterations)
    rows = profile.rows
    total = Row("sum", None, sum(row.forward or 0 for row in rows), sum(row.backward or 0 for row in rows),
                sum(row.operations for row in rows))

    def milliseconds(seconds):
        return "-" if seconds is None else f"{1000 * seconds:.3f}"

    def speed(row, seconds=None):
        return row.operations / (seconds or row.seconds or math.inf)

    def percent(operations_per_second):
        return f"{100 * operations_per_second / profile.peak:.0f} %"

    columns = [("layer", lambda row: row.name), ("output", lambda row: "x".join(map(str, row.shape or ()))),
               ("forward ms", lambda row: milliseconds(row.forward)),
               ("backward ms", lambda row: milliseconds(row.backward)),
               ("share", lambda row: f"{100 * row.seconds / total.seconds:.1f} %" if row.runs else "-"),
               ("GFLOP/s", lambda row: number(speed(row) / 1e9) if row.operations else "-")]
    if profile.peak:
        columns.append(("of peak", lambda row: percent(speed(row)) if row.operations else "-"))
    print(Table(f"A training step on {batch_size} random images, median of {iterations}", [*rows, total], columns,
                None))
    print()
    if not all(row.runs for row in rows):
        print("-: nothing to run; where it can be, a ReLU is part of the layer before it, and Flatten a view.")
    print(f"All times are without the {1e6 * profile.start:.1f} us that it takes to start a part, or a whole step.")
    if profile.peak:
        print(f"Peak: {number(profile.peak / 1e9)} GFLOP/s of multiply-adds, the most measured; the whole step reaches "
              f"{percent(speed(total, profile.step))}.  Operations are those of the textbook: a convolution by "
              "Cook-Toom needs fewer.")
    print(f"The parts take {milliseconds(total.seconds)} ms, a whole training step {milliseconds(profile.step)} ms: "
          f"{batch_size / profile.step:,.0f} images/s")
    return 0
