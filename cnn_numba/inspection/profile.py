"""Where the time of a training step goes: the forward and the backward pass of each layer, and the rest of the step."""
import math
import time
from dataclasses import dataclass
from statistics import median

import numpy as np

from cnn_numba.feed import Feed
from cnn_numba.inspection.peak import measure_peak
from cnn_numba.inspection.summary import layer_summaries
from cnn_numba.inspection.timing import other_load
from cnn_numba.kernels.compiled import JIT
from cnn_numba.kernels.driver import execution
from cnn_numba.kernels.program import Program, at_once, in_order
from cnn_numba.layers.base import Calls, Shape
from cnn_numba.losses import CrossEntropyLoss
from cnn_numba.model import Sequential
from cnn_numba.optim import SGD
from cnn_numba.training import training_step

WARM = 3                    # iterations before those that count
PEAKS = 20                  # measurements of the peak; the highest counts, because other programs slow some down
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
    peak : operations per second of this machine; None where kernels are interpreted
    load : how many processors other programs used
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
    parts : {(name, "forward" or "backward"): Program}
        In the order of the step; the names are those of layers in `state_dict`, and "gather", "loss" and "update".

    Raises InputError when the network does not fit the images.
    """

    def __init__(self, model: Sequential, image_shape: Shape, num_classes: int, batch_size: int, seed: int = 0):
        self.batch_size, rng, batch = batch_size, np.random.default_rng(seed), np.array([0, batch_size])
        feed = Feed(rng.integers(0, 256, (batch_size, *image_shape), np.uint8),
                    rng.integers(0, num_classes, batch_size), image_shape, num_classes, batch_size,
                    np.full(image_shape[0], 127.5), np.full(image_shape[0], 74), batch)
        optimizer = SGD(model, lr=1e-6, momentum=0.9, weight_decay=1e-4)    # so slow that the weights hardly change
        plan = self.plan = model.plan(image_shape, feed.blocks, logits=True, input_gradient=False, lanes=feed.lanes,
                                      batch=batch, draw=feed.draw)
        self.layers = layer_summaries(model.layers[:len(plan.shapes) - 1], image_shape)
        assert plan.dz is not None
        gather, loss = feed.gather(plan), feed.loss(CrossEntropyLoss(), plan, plan.dz)
        own = self._own_calls()
        position = {id(call): k for k, call in enumerate(
            [*plan.calls.prepare, *plan.calls.forward, *plan.calls.backward, *plan.calls.gradients])}

        def sorted_parts(parts):
            return dict(sorted(parts.items(), key=lambda part: min(
                position[id(call)] for phase in part[1] for chain in phase for call, _ in chain)))

        forward = {(name, "forward"): at_once(calls.prepare) + in_order(calls.forward)
                   for name, calls in own.items() if calls.forward or calls.prepare}
        backward = {(name, "backward"): in_order(calls.backward) + at_once(calls.gradients)
                    for name, calls in own.items() if calls.backward or calls.gradients}
        phases = {("gather", "forward"): in_order(gather), **sorted_parts(forward),
                  ("loss", "forward"): in_order([loss]), **sorted_parts(backward),
                  ("update", "backward"): at_once([feed.tally()]) + in_order(optimizer.calls())}
        self.parts = {key: Program(of_part) for key, of_part in phases.items()}
        self.whole = Program(training_step(feed, plan, gather, loss, optimizer.calls()))

    def _own_calls(self) -> dict[str, Calls]:
        """{name of a layer: its calls}; those of a container without the calls of the layers inside it."""
        own = {}
        for name, _, wires in self.plan.stages:
            inside = {id(call) for other, _, its in self.plan.stages if other.startswith(f"{name}.")
                      for call in (*its.prepare, *its.forward, *its.backward, *its.gradients)}
            own[name] = Calls(*([call for call in calls if id(call) not in inside] for calls in (
                wires.prepare, wires.forward, wires.backward, wires.gradients)))
        return own

    def operations(self) -> dict[str, int]:
        """{name of a layer: operations of both its passes over a batch}, as the textbook counts them."""
        to_input = {name: wires.dx is not None for name, _, wires in self.plan.stages}
        return {layer.name: 2 * (2 + to_input.get(layer.name, False)) * layer.multiply_adds * self.batch_size
                for layer in self.layers}


def measure(step: Step, iterations: int) -> Profile:
    """The Profile of a Step: medians over iterations.

    In each iteration, every part runs once, in its order, so that numbers and caches are those of a training.
    """
    load, threads = other_load(), execution()[1]
    programs = step.parts | {("step", "whole"): step.whole, ("step", "start"): Program([[[]] * threads])}
    samples: dict[tuple[str, str], list[float]] = {key: [] for key in programs}
    peaks = []
    for iteration in range(-WARM, iterations):
        if JIT and iteration % math.ceil(iterations / PEAKS) == 0:
            peaks.append(measure_peak(threads, 0.01)[0])
        for key, program in programs.items():
            begin = time.perf_counter()
            program()
            if iteration >= 0:
                samples[key].append(time.perf_counter() - begin)
    start = min(samples.pop(("step", "start")))
    seconds = {key: max(0.0, median(taken) - start) for key, taken in samples.items()}

    def part(name: str, label: str, output: Shape | None, operations: int = 0) -> PartTime:
        return PartTime(label, output, seconds.get((name, "forward")), seconds.get((name, "backward")), operations)

    operations = step.operations()
    parts = [part("gather", "gather", step.plan.x.shape),
             *(part(layer.name, f"{layer.name} {type(layer.layer).__name__}", layer.after, operations[layer.name])
               for layer in step.layers),
             part("loss", "loss", None), part("update", "update", None)]
    return Profile(parts, seconds["step", "whole"], start, max(peaks, default=None), max(load, other_load(threads)))
