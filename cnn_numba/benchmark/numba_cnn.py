"""This project: the ordinary Trainer, the passes of a single layer, and the peak of the machine."""
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from numba import config

import cnn_numba as nn
from cnn_numba.benchmark import contender, networks
from cnn_numba.inference import Classifier
from cnn_numba.inspection.peak import measure_peak
from cnn_numba.inspection.timing import median_call, per_call
from cnn_numba.kernels import pace
from cnn_numba.kernels.compiled import JIT
from cnn_numba.kernels.lanes import LANES
from cnn_numba.kernels.program import Call, Program, at_once, in_order


@dataclass(frozen=True, eq=False)
class FirstImages(nn.Dataset):
    """The first images of a data set, normalised by the statistics of all of them."""

    whole: nn.Dataset | None = None
    mean = property(lambda self: self.whole.mean)
    std = property(lambda self: self.whole.std)


class Contender(contender.Contender):
    """mode : "parallel" or "serial"; interpreted where NUMBA_DISABLE_JIT=1
    textbook : whether convolutions run their plain loops
    precision : see `set_float32_matmul_precision`
    all_workers : whether all workers run each step, and not one where that takes less time
    """

    def __init__(self, threads: int, mode: str = "parallel", textbook: bool = False, precision: str = "highest",
                 all_workers: bool = False):
        super().__init__(threads)
        if all_workers:
            pace.WINDOW = math.inf          # the first measurement, after which the choice can change, never ends
        nn.set_textbook(textbook)
        nn.set_float32_matmul_precision(precision)
        nn.set_execution(mode, threads if JIT and mode == "parallel" else None)

    def describe(self) -> tuple[str, int]:
        """(how the kernels run, bits of a vector register)"""
        features = getattr(config, "CPU_FEATURES", None) or llvm.get_host_cpu_features().flatten()
        return nn.describe(), 512 if "+avx512f" in features else 256 if "+avx" in features.split(",") else 128

    def build(self, network: Sequence[Any], batch_size: int) -> None:
        self.batch_size = batch_size
        self.model = nn.Sequential(*networks.make(network), seed=0)
        self.optimizer = nn.SGD(self.model, **contender.HYPER)
        self.resize(batch_size)

    def resize(self, images: int) -> None:
        data, images = self.data, min(images, len(self.data.train_images))
        part = FirstImages(data.name, data.train_images[:images], data.train_labels[:images], data.test_images,
                    data.test_labels, data.num_classes, data.classes, whole=data)
        self.trainer = nn.Trainer(self.model, part, self.optimizer, self.batch_size)

    def epoch(self) -> None:
        self.trainer.fit(self.trainer.epochs + 1)

    def loss(self) -> float:
        first = slice(contender.CHECKED)
        x = self.data.train_images[first] - self.data.mean[:, None, None]
        return float(nn.CrossEntropyLoss()(self.model(x / self.data.std[:, None, None]), self.data.train_labels[first]))

    def predict(self, batch_size: int | None = None) -> None:
        """The trainer chooses the batch size."""
        self.trainer.evaluate(self.data.train_images, self.data.train_labels)

    def latency(self, images: int, seconds: float) -> dict[str, float]:
        self.model.eval()
        pixels = self.data.train_images[:images]
        x = contender.standardised(self.data)[:images]
        classifier = Classifier(self.model)
        with nn.no_grad():
            return {"model(x)": median_call(lambda: self.model(x), seconds),
                    "Classifier.logits": median_call(lambda: classifier.logits(pixels), seconds),
                    "model.predict": median_call(lambda: self.model.predict(pixels), seconds)}

    def layer(self, network: Sequence[Any], shape: Sequence[int], batch_size: int,  # type: ignore[override]
              seconds: float) -> dict[str, float]:
        """Seconds of the passes of a network of one layer."""
        programs = passes(nn.Sequential(*networks.make(network)), tuple(shape), batch_size)
        return {name: per_call(program, seconds) for name, program in programs.items()}

    def optimizer_step(self, size: int, seconds: float) -> dict[str, float]:
        """Seconds of one update of size x size parameters."""
        model = nn.Sequential(nn.Linear(size, size, bias=False))
        model.grads[:] = np.random.default_rng(0).normal(size=model.grads.shape)
        return {"update": per_call(nn.SGD(model, **contender.HYPER).step, seconds)}

    def peak(self, seconds: float) -> tuple[float, float] | None:
        """(operations, bytes to and from memory) per second of all threads; see `measure_peak`."""
        return measure_peak(self.threads, seconds)


def passes(model: nn.Sequential, shape: tuple[int, ...], batch_size: int) -> dict[str, Program]:
    """{pass: Program} of a model of one layer, with random numbers in its buffers.

    Both backward passes contain the calls that both of them need.
    """
    plan = model.plan(shape, math.ceil(batch_size / LANES), lanes=min(batch_size, LANES))
    calls, rng = plan.calls, np.random.default_rng(0)
    assert plan.dx is not None and plan.dz is not None
    for buffer in plan.x, plan.dz:
        buffer.inner[...] = rng.normal(size=buffer.inner.shape)
    given = [plan.dz.array, *(array for call in calls.prepare + calls.forward for array in arrays_of(call))]
    to_input = in_order(needed_for(plan.dx.array, calls.backward, given))
    to_weights = needed_for(model.grads, calls.backward + calls.gradients, given)
    last = [call for call in to_weights if call in calls.gradients]
    programs = {"forward": Program(at_once(calls.prepare) + in_order(calls.forward)), "to input": Program(to_input)}
    if to_weights:
        programs["to weights"] = Program(in_order(to_weights[:len(to_weights) - len(last)]) + at_once(last))
    return programs


def needed_for(result: np.ndarray, calls: list[Call], given: list[np.ndarray]) -> list[Call]:
    """The calls, in their order, that an array depends on.

    The first array of a call is its output; so is another one that is neither the first of any call, nor given.
    """
    made, wanted, chosen = [arrays_of(call)[0] for call in calls] + given, [result], []
    for call in reversed(calls):
        output, *others = arrays_of(call)
        outputs = [output, *(array for array in others if not overlap(array, made))]
        if any(overlap(array, wanted) for array in outputs):
            chosen.append(call)
            wanted += others
    return chosen[::-1]


def arrays_of(call: Call) -> list[np.ndarray]:
    return [value for value in call.args.values() if isinstance(value, np.ndarray)]


def overlap(array: np.ndarray, others: list[np.ndarray]) -> bool:
    return any(np.may_share_memory(array, other) for other in others)
