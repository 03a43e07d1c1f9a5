"""Where the time of a training step goes: the forward and the backward pass of each layer, batch, loss and update."""
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from cnn_numba.errors import InputError
from cnn_numba.feed import Feed
from cnn_numba.inspection.peak import measure_peak
from cnn_numba.inspection.summary import layer_summaries
from cnn_numba.inspection.timing import LoadMeter
from cnn_numba.kernels.compiled import JIT
from cnn_numba.kernels.driver import execution
from cnn_numba.kernels.program import Call, Program, at_once, in_order
from cnn_numba.layers.base import Shape
from cnn_numba.losses import CrossEntropyLoss
from cnn_numba.model import Sequential
from cnn_numba.optim import SGD
from cnn_numba.plan import pieces_for
from cnn_numba.training import training_step

WARM = 3                    # iterations before those that count
PEAKS = 20                  # measurements of the peak; the highest counts, because other programs slow some down
ATTEMPTS = 3                # measurements, until the parts and the whole step agree
APART = 3                   # times as long as all parts, or as short, the whole step is in no undisturbed measurement
LEAST = 5e-7                # seconds: what is less, is less than the start of a part varies by


@dataclass(frozen=True)
class PartTime:
    """The time of one part of a training step, such as a layer.

    output : the shape of one image after the part, if it has one
    forward, backward : seconds; None where there is nothing to run
    operations : of both passes together; a multiply-add is two
    """

    name: str
    output: Shape | None
    forward: float | None
    backward: float | None
    operations: int = 0

    @property
    def runs(self) -> bool:
        return self.forward is not None or self.backward is not None

    @property
    def seconds(self) -> float:
        return (self.forward or 0.0) + (self.backward or 0.0)

    @property
    def speed(self) -> float | None:
        """Operations per second; None without operations, or where the time is too short to be measured."""
        return self.operations / self.seconds if self.operations and self.seconds >= LEAST else None


@dataclass(frozen=True)
class Profile:
    """What `measure` found.

    parts : in the order of the step
    step : seconds of the whole step
    start : seconds that it takes to start any program; they are subtracted from all other times
    peak : operations per second of this machine; None where kernels are interpreted, or it could not be measured
    load : how many processors other programs used meanwhile
    """

    parts: list[PartTime]
    step: float
    start: float
    peak: float | None
    load: float

    @property
    def total(self) -> PartTime:
        """The sum of all parts."""
        return PartTime("sum", None, sum(part.forward or 0.0 for part in self.parts),
                        sum(part.backward or 0.0 for part in self.parts), sum(part.operations for part in self.parts))

    @property
    def agrees(self) -> bool:
        """Whether the parts take about as long as the whole step: not where other programs disturbed either."""
        total, spare = self.total.seconds, len(self.parts) * self.start
        return total <= APART * self.step + spare and self.step <= APART * total + spare

    def share(self, part: PartTime) -> float | None:
        """The share of a part in the sum, 0 to 1; None where nothing runs, or the sum is too short to be measured."""
        total = self.total.seconds
        return part.seconds / total if part.runs and total >= LEAST else None


class Step:
    """A training step on random images: whole, as a Trainer runs it, and in parts, each a Program of its own.

    Parameters
    ----------
    model : Sequential
    image_shape : (C, H, W)
    num_classes, batch_size, seed : int

    Attributes
    ----------
    whole : Program
    parts : list of ((name, "forward" or "backward"), Program)
        In the order of the step.  The names are those of layers in `state_dict`, and "gather", "loss" and "update"; a
        container has several parts, because its layers run between its own calls.

    Raises InputError when the network does not fit the images.
    """

    def __init__(self, model: Sequential, image_shape: Shape, num_classes: int, batch_size: int, seed: int = 0):
        self.batch_size, rng, batch = batch_size, np.random.default_rng(seed), np.array([0, batch_size])
        feed = Feed(rng.integers(0, 256, (batch_size, *image_shape), np.uint8),
                    rng.integers(0, num_classes, batch_size), image_shape, num_classes, batch_size,
                    np.full(image_shape[0], 127.5), np.full(image_shape[0], 74), batch)
        optimizer = SGD(model, lr=1e-6, momentum=0.9, weight_decay=1e-4)    # so slow that the weights hardly change
        plan = self.plan = model.plan(image_shape, feed.blocks, logits=True, input_gradient=False, lanes=feed.lanes,
                                      batch=batch, draw=feed.draw, pieces=pieces_for(feed.blocks))
        self.layers = layer_summaries(model.layers[:len(plan.shapes) - 1], image_shape)
        assert plan.dz is not None
        gather, loss = feed.gather(plan), feed.loss(CrossEntropyLoss(), plan, plan.dz)
        owners = {id(call): name for name, _, wires in plan.stages          # layers inside a container come after it
                  for call in (*wires.prepare, *wires.forward, *wires.backward, *wires.gradients)}

        def parts(direction: str, calls: Sequence[Call], phases: Callable) -> list[tuple[tuple[str, str], Program]]:
            return [((name, direction), Program(phases(list(group))))
                    for name, group in groupby(calls, key=lambda call: owners[id(call)])]

        self.parts = [
            *parts("forward", plan.calls.prepare, at_once), (("gather", "forward"), Program(in_order(gather))),
            *parts("forward", plan.calls.forward, in_order), (("loss", "forward"), Program(in_order([loss]))),
            *parts("backward", plan.calls.backward, in_order), *parts("backward", plan.calls.gradients, at_once),
            (("update", "backward"), Program(at_once([feed.tally()]) + in_order(optimizer.calls())))]
        self.whole = Program(training_step(feed, plan, gather, loss, optimizer.calls()))

    def operations(self) -> dict[str, int]:
        """{name of a layer: operations of both its passes over a batch}, as the textbook counts them."""
        to_input = {name: wires.dx is not None for name, _, wires in self.plan.stages}
        return {layer.name: 2 * (2 + to_input.get(layer.name, False)) * layer.multiply_adds * self.batch_size
                for layer in self.layers}


def measure(step: Step, iterations: int, with_peak: bool = True) -> Profile:
    """The Profile of a Step: the fastest of some iterations, and the peak of the machine if asked for.

    Raises InputError when other programs disturb the measurement so much that its parts and the whole step disagree,
    ATTEMPTS times.
    """
    for _ in range(ATTEMPTS):
        profile = _measure(step, iterations, with_peak)
        if profile.agrees:
            return profile
    ratio = profile.total.seconds / max(profile.step, 1e-9)
    raise InputError(f"the parts of a step took {ratio:.2g} times as long as the whole, because other programs used "
                     f"{profile.load:.1f} processors: end them, or measure on one thread (--threads 1)")


def _measure(step: Step, iterations: int, with_peak: bool) -> Profile:
    """One measurement.

    In each iteration, every part runs once, in its order, so that numbers and caches are those of a training.  Other
    programs only make a part slower, by whole time slices of the scheduler: on a busy machine, medians measure these.
    """
    meter, threads = LoadMeter(), execution()[1]
    programs = [*(program for _, program in step.parts), step.whole, Program([[[]] * threads])]
    fastest, peaks = [math.inf] * len(programs), []
    for iteration in range(-WARM, iterations):
        if JIT and with_peak and iteration % math.ceil(iterations / PEAKS) == 0:
            peaks.append(measure_peak(threads, 0.01) or (0.0, 0.0))
        for k, program in enumerate(programs):
            begin = time.perf_counter()
            program()
            if iteration >= 0:
                fastest[k] = min(fastest[k], time.perf_counter() - begin)
    *of_parts, whole, start = fastest
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    for (key, _), taken in zip(step.parts, of_parts, strict=True):
        seconds[key] += max(0.0, taken - start)

    def part(name: str, label: str, output: Shape | None, operations: int = 0) -> PartTime:
        return PartTime(label, output, seconds.get((name, "forward")), seconds.get((name, "backward")), operations)

    operations = step.operations()
    parts = [part("gather", "gather", step.plan.x.shape),
             *(part(layer.name, f"{layer.name} {type(layer.layer).__name__}", layer.after, operations[layer.name])
               for layer in step.layers),
             part("loss", "loss", None), part("update", "update", None)]
    peak = max((operations for operations, _ in peaks), default=0.0) or None
    return Profile(parts, max(0.0, whole - start), start, peak, meter.read())
