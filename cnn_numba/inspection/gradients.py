"""Gradients of the kernels, compared with central differences of a forward pass in float64."""
import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from cnn_numba.inspection.textbook import Run, cross_entropy
from cnn_numba.kernels.lanes import LANES
from cnn_numba.kernels.program import Program, at_once, in_order
from cnn_numba.layers import Dropout, Layer
from cnn_numba.layers.base import Shape
from cnn_numba.losses import CrossEntropyLoss
from cnn_numba.model import Sequential

DELTA = 1e-6                    # by which an element is changed, both ways
DRAWS, MARGIN = 50, 1e-5        # images are drawn again while float32 could decide otherwise at a ReLU or a maximum
FLOOR = 1e-2                    # times the network's largest gradient: the least that errors are relative to
KINK = 0.1                      # times the tolerance: slopes to the two sides that differ more belong to a kink
GROUP = 1 << 21                 # numbers of an activation that are evaluated together: 16 MB


@dataclass(frozen=True)
class GradientCheck:
    """One gradient that was compared.

    name : of the parameter as in `state_dict`, or of the input of a layer
    shape : of the gradient
    compared, unclear : how many of its elements were compared, and how many were not, because the slopes to their two
        sides differ: a ReLU or a maximum decides otherwise within DELTA
    error : the largest |analytic - numeric| / scale; scale is the largest |numeric| of this gradient, but at least
        FLOOR times that of the network (the gradient of a bias before a batch norm is 0 up to rounding); infinite
        where nothing could be compared
    """

    name: str
    shape: Shape
    compared: int
    unclear: int
    error: float


@dataclass(frozen=True)
class GradientReport:
    """What a check of all gradients found.

    checks : the input of each layer and its parameters, in order
    tolerance : the largest error that is accepted
    margin : how close a ReLU or a maximum is to another decision, relative to its input; below MARGIN, float32 may have
        decided otherwise than float64
    """

    checks: list[GradientCheck]
    tolerance: float
    margin: float

    @property
    def wrong(self) -> list[GradientCheck]:
        """The gradients with too large an error, or none that could be compared."""
        return [check for check in self.checks if not check.error <= self.tolerance]

    @property
    def worst(self) -> GradientCheck:
        return max(self.checks, key=lambda check: check.error)


def check_gradients(model: Sequential, image_shape: Shape, batch_size: int = 4, seed: int = 0, samples: int = 20,
                    tolerance: float = 1e-3) -> GradientReport:
    """Compare all gradients of a model on random images; the model itself does not change.

    Parameters
    ----------
    model : Sequential
        With one output for each class.
    image_shape : (C, H, W), or (K,)
    batch_size, seed : int
        How many images are drawn, and from which seed.
    samples : int
        How many elements of each gradient are compared, among them the largest; 0 for all.
    tolerance : float
        The largest error that is accepted.

    Raises InputError when the model does not fit the images, or a layer has no method `textbook`.
    """
    model.refuse_own_forward("check_gradients runs the layers in their order")
    model = Sequential(*copy.deepcopy(model).layers, seed=model.seed).train().requires_grad_(True)
    move_biases(model, seed)
    images, labels, margin = draw_batch(model, image_shape, batch_size, seed)
    return GradientReport(compare_all(Network(model, images, labels), samples, seed, tolerance), tolerance, margin)


class Network:
    """A network on one batch of images, twice: in kernels, and in float64.

    Parameters
    ----------
    model : Sequential
        That has not run yet, so that it is known what a Dropout will drop.
    images : (N, C, H, W) or (N, K)
    labels : int (N,)
    """

    def __init__(self, model: Sequential, images: np.ndarray, labels: np.ndarray):
        self.model, self.labels = model, labels
        self.run = first_run(model, images.shape)
        self.parameters = float64_parameters(model)
        self.inputs = [images.astype(np.float64)]
        for k, layer in enumerate(model.layers):
            self.inputs.append(self.run.forward([layer], self.inputs[k], self.parameters, k))
        self.loss = cross_entropy(self.inputs[-1], labels)[0]

    def input_gradient(self) -> np.ndarray:
        """The gradient of the images by the kernels, which also leave the gradients of the parameters in the model."""
        self.model.zero_grad()
        loss = CrossEntropyLoss()(self.model(self.inputs[0]), self.labels)
        return self.model.backward(loss.dlogits)            # as loss.backward() does

    def tail(self, first: int) -> "Network":
        """The layers from `first` on as a network of their own, with their input in this network as its images."""
        return Network(Sequential(*self.model.layers[first:]), self.inputs[first], self.labels)

    def slopes(self, elements: np.ndarray, first: int = 0, name: str | None = None) -> np.ndarray:
        """The slopes of the loss to either side of some elements: float64 (count, 2).

        elements : int (count, ndim), indices into the parameter `name` of layer `first`, or into the images
        """
        layers, after = self.model.layers, first + (name is not None)
        group = max(1, GROUP // (2 * max(x.size for x in self.inputs[first:])))
        losses = []
        for start in range(0, len(elements), group):
            outputs = []
            for element in elements[start:start + group]:
                for delta in DELTA, -DELTA:
                    changed = (self.inputs[first] if name is None else self.parameters[name]).copy()
                    changed[tuple(element)] += delta
                    if name is not None:
                        changed = self.run.forward(
                            [layers[first]], self.inputs[first], self.parameters | {name: changed}, first)
                    outputs.append(changed)
            z = self.run.forward(layers[after:], np.concatenate(outputs), self.parameters, after)
            losses.append(cross_entropy(z, self.labels).reshape(-1, 2))
        return (np.concatenate(losses) - self.loss) / [DELTA, -DELTA]


def float64_parameters(model: Sequential) -> dict[str, np.ndarray]:
    """{name: value} of the parameters; a name begins with the number of the layer."""
    return {f"{k}.{name}": p.value.astype(np.float64) for k, tensors in enumerate(model.bind())
            for name, p in tensors.items() if not p.statistic}


def first_run(model: Sequential, shape: Shape) -> Run:
    """The Run of images (N, ...) of a shape through a model that has not run yet: what each Dropout will drop."""
    count = shape[0]
    plan = model.plan(shape[1:], math.ceil(count / LANES), backward=False)
    plan.setup.batch[1] = count
    plan.setup.draw[:] = model.seed, 0
    masks: dict[Layer, np.ndarray] = {}
    for _, layer, wires in plan.stages:
        if isinstance(layer, Dropout):
            wires.x.put(np.ones((count, *wires.x.shape)))
            Program(at_once(wires.prepare) + in_order(wires.forward))()
            masks[layer] = wires.y.get(count).astype(np.float64)
    return Run(count, masks)


def compare_all(network: Network, samples: int = 20, seed: int = 0, tolerance: float = 1e-3) -> list[GradientCheck]:
    """The checks of all gradients of a Network; samples, seed and tolerance as in `check_gradients`."""
    rng, found = np.random.default_rng(seed), []

    def add(name: str, gradient: np.ndarray, slopes: Callable[[np.ndarray], np.ndarray]) -> None:
        elements = chosen_elements(gradient, samples, rng)
        found.append((name, gradient, elements, slopes(elements)))

    of_images, tensors = network.input_gradient(), network.model.bind()
    gradients = [{f"{k}.{name}": p.grad.copy() for name, p in of_layer.items() if not p.statistic}
                 for k, of_layer in enumerate(tensors)]                 # the tails share the parameters
    for k, layer in enumerate(network.model.layers):
        tail = network.tail(k) if k else network
        add(f"input of {k} {type(layer).__name__}" if k else "images", tail.input_gradient() if k else of_images,
            tail.slopes)
        for name, gradient in gradients[k].items():
            add(name, gradient, partial(network.slopes, first=k, name=name))
    floor = FLOOR * max(np.abs(slopes).max() for *_, slopes in found)
    return [compare(*of_one, floor, tolerance) for of_one in found]


def chosen_elements(gradient: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of elements, int (count, ndim): random ones, and that of the largest number; 0 samples: all."""
    flat = np.arange(gradient.size)
    if 0 < samples < gradient.size:
        largest = int(np.abs(gradient).argmax())
        flat = np.append(rng.choice(np.delete(flat, largest), samples - 1, replace=False), largest)
    return np.stack(np.unravel_index(flat, gradient.shape), axis=-1)


def compare(name: str, gradient: np.ndarray, elements: np.ndarray, slopes: np.ndarray, floor: float,
            tolerance: float) -> GradientCheck:
    """The check of one gradient at some elements with their slopes (count, 2) to either side."""
    numeric = slopes.mean(axis=1)
    scale = max(np.abs(numeric).max(), floor)
    clear = np.abs(slopes[:, 0] - slopes[:, 1]) <= KINK * tolerance * scale
    errors = np.abs(gradient[tuple(elements.T)] - numeric)[clear] / scale
    worst = errors.max() if len(errors) and np.isfinite(errors).all() else math.inf
    return GradientCheck(name, gradient.shape, len(errors), len(elements) - len(errors), float(worst))


def draw_batch(model: Sequential, image_shape: Shape, batch_size: int,
               seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """(images, labels, margin): random images at which no ReLU and no maximum is a close call, or the best of DRAWS."""
    rng, shape = np.random.default_rng(seed), (batch_size, *image_shape)
    run, parameters = first_run(model, shape), float64_parameters(model)
    best, margin = np.empty(shape, np.float32), -1.0
    for _ in range(DRAWS):
        images = rng.normal(size=shape).astype(np.float32)
        run.margin = math.inf
        run.forward(model.layers, images.astype(np.float64), parameters)
        if run.margin > margin:
            best, margin = images, run.margin
        if margin >= MARGIN:
            break
    return best, rng.integers(0, model.output_shape(image_shape)[0], batch_size), margin


def move_biases(model: Sequential, seed: int) -> None:
    """Add noise to the parameters of one dimension: they start as 0 or 1, so that mixing them up would not show."""
    rng = np.random.default_rng(seed)
    for parameter in model.parameters():
        if parameter.value.ndim == 1:
            parameter.value += 0.1 * rng.normal(size=parameter.value.shape)
