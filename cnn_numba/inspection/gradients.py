"""The `check-gradients` command: what the kernels' backward passes give, against central differences in float64."""
import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from cnn_numba.benchmark.report import Table
from cnn_numba.inspection.textbook import cross_entropy
from cnn_numba.kernels.lanes import LANES
from cnn_numba.kernels.program import Program, at_once, in_order
from cnn_numba.layers import Dropout
from cnn_numba.losses import CrossEntropyLoss
from cnn_numba.model import Sequential

STEP = 1e-6
DRAWS, MARGIN = 50, 1e-5        # images are drawn anew while float32 could decide otherwise at a ReLU or a maximum
FLOOR = 1e-2                    # of the network's largest gradient: what smaller ones are measured against
SHARP = 0.1                     # of the tolerance: more than that between the slopes to the two sides is a kink
GROUP = 1 << 21                 # numbers of an activation that are evaluated together: 16 MB


@dataclass(frozen=True)
class Row:
    """One gradient that was checked.

    name : of the parameter as in `state_dict`, or which layer's input
    shape : of the gradient
    checked, unclear : how many of its elements were compared, and how many not, because the slopes to their two sides
        differ: a ReLU or a maximum decides otherwise within the step
    error : the largest |analytic - numeric| / scale; scale is the largest |numeric| of this gradient, and at least
        FLOOR times that of the network.  (A bias before a batch norm has gradient 0 and only rounding to show.)
    """

    name: str
    shape: tuple
    checked: int
    unclear: int
    error: float


class Network:
    """The same network twice, in kernels and in float64, on one batch of images.

    Parameters
    ----------
    model : Sequential
        That has not run yet, so that it is known what a Dropout will drop.
    images : (N, C, H, W) or (N, K)
    labels : int (N,)
    """

    def __init__(self, model, images, labels):
        self.model, self.labels = model, labels
        self.around = pass_of(model, images.shape)
        self.inputs = [images.astype(np.float64)]
        for k, layer in enumerate(model.layers):
            self.inputs.append(forward([layer], self.inputs[k], self.around, k))
        self.loss = cross_entropy(self.inputs[-1], labels)[0]

    def input_gradient(self):
        """What the kernels give for the images; the model has the gradients of its parameters then."""
        loss = CrossEntropyLoss()(self.model(self.inputs[0]), self.labels)
        return self.model.backward(loss.dlogits)            # as loss.backward() does

    def rest(self, first):
        """The layers from `first` on as a network of their own, on what comes to them here."""
        model = Sequential(*self.model.layers[first:])
        for mine, theirs in zip(reversed(model.parameters()), reversed(self.model.parameters()), strict=False):
            mine.value[...] = theirs.value
        return Network(model, self.inputs[first], self.labels)

    def slopes(self, places, first=0, name=None):
        """Of the loss, to either side of the elements at `places`: float64 (places, 2).

        first, name : of the parameter that has these elements, and of its layer; without a name, the images have them
        """
        layers, after = self.model.layers, first + bool(name)
        group = max(1, GROUP // (2 * max(x.size for x in self.inputs[first:])))
        losses = []
        for start in range(0, len(places), group):
            outputs = []
            for place in places[start:start + group]:
                for step in STEP, -STEP:
                    moved = (self.around.values[name] if name else self.inputs[first]).copy()
                    moved[tuple(place)] += step
                    if name:
                        around = replace(self.around, values=self.around.values | {name: moved})
                        moved = forward([layers[first]], self.inputs[first], around, first)
                    outputs.append(moved)
            z = forward(layers[after:], np.concatenate(outputs), self.around, after)
            losses.append(cross_entropy(z, self.labels).reshape(-1, 2))
        return (np.concatenate(losses) - self.loss) / [STEP, -STEP]


def pass_of(model, shape):
    """The Pass of images (N, ...) of a shape through a model that has not run yet."""
    count = shape[0]
    plan = model.plan(shape[1:], math.ceil(count / LANES), backward=False)
    plan.window[1] = count
    plan.draw[:] = model.seed, 0
    masks = {}
    for name, layer, wires in plan.layer_calls:
        if isinstance(layer, Dropout):
            wires.x.put(np.ones((count, *wires.x.shape)))
            Program(at_once(wires.prepare) + in_order(wires.forward))()
            masks[name] = wires.y.get(count).astype(np.float64)
    return Pass({p.name: p.value.astype(np.float64) for p in model.parameters()}, count, masks)


def check(network, samples=20, seed=0, tolerance=1e-3):
    """The Rows of a Network: the input of each layer and its parameters, in order.

    samples : how many elements of each gradient, the largest among them; 0 for all
    """
    rng, found = np.random.default_rng(seed), []

    def add(name, gradient, slopes):
        places = chosen(gradient, samples, rng)
        found.append((name, gradient, places, slopes(places)))

    for k, layer in enumerate(network.model.layers):
        rest = network.rest(k) if k else network
        add(f"input of {k} {type(layer).__name__}" if k else "images", rest.input_gradient(), rest.slopes)
        for p in network.model.parameters():
            if p.name.startswith(f"{k}."):
                add(p.name, p.grad, partial(network.slopes, first=k, name=p.name))
    floor = FLOOR * max(np.abs(slopes).max() for *_, slopes in found)
    return [compare(*of_one, floor, tolerance) for of_one in found]


def chosen(gradient, samples, rng):
    """Indices of elements, int (count, ndim): random ones, and that of the largest number."""
    flat = np.arange(gradient.size)
    if 0 < samples < gradient.size:
        largest = int(np.abs(gradient).argmax())
        flat = np.append(rng.choice(np.delete(flat, largest), samples - 1, replace=False), largest)
    return np.stack(np.unravel_index(flat, gradient.shape), axis=-1)


def compare(name, gradient, places, slopes, floor, tolerance):
    numeric = slopes.mean(axis=1)
    scale = max(np.abs(numeric).max(), floor)
    clear = np.abs(slopes[:, 0] - slopes[:, 1]) <= SHARP * tolerance * scale
    errors = np.abs(gradient[tuple(places.T)] - numeric)[clear] / scale
    worst = errors.max() if len(errors) and np.isfinite(errors).all() else math.inf
    return Row(name, gradient.shape, len(errors), len(places) - len(errors), float(worst))


def draw(model, image_shape, num_classes, batch_size, seed):
    """(images, labels, margin): random ones at which no ReLU and no maximum is a close call, or the best of DRAWS."""
    rng, best, shape = np.random.default_rng(seed), (-1.0, None), (batch_size, *image_shape)
    watched = pass_of(model, shape)
    for _ in range(DRAWS):
        images = rng.normal(size=shape).astype(np.float32)
        watched.margin = math.inf
        forward(model.layers, images.astype(np.float64), watched)
        best = max(best, (watched.margin, images), key=lambda pair: pair[0])
        if best[0] >= MARGIN:
            break
    return best[1], rng.integers(0, num_classes, batch_size), best[0]


def move_biases(model, seed):
    """Add noise to the parameters of one dimension, which start as 0 or 1, so that their places differ."""
    rng = np.random.default_rng(seed)
    for parameter in model.parameters():
        if parameter.value.ndim == 1:
            parameter.value += 0.1 * rng.normal(size=parameter.value.shape)


def run(model, image_shape, num_classes, batch_size, seed, samples, tolerance):
    """Check a model and print the table; the exit code is 1 when a gradient is wrong, else 0."""
    move_biases(model, seed)
    images, labels, margin = draw(model, image_shape, num_classes, batch_size, seed)
    rows = check(Network(model, images, labels), samples, seed, tolerance)
    sharp = sum(row.unclear for row in rows)
    columns = [("gradient of", lambda row: row.name), ("shape", lambda row: "x".join(map(str, row.shape))),
               ("checked", lambda row: str(row.checked)), ("unclear", lambda row: str(row.unclear)),
               ("largest error", lambda row: f"{row.error:.1e}"),
               ("", lambda row: "ok" if row.error <= tolerance else "WRONG" if row.checked else "unclear")]
    print(Table(f"Kernels in float32 against central differences in float64, step {STEP:g}, on {batch_size} random "
                f"images", rows, columns, None))
    print()
    if sharp:
        print(f"{sharp} unclear element{'s' * (sharp > 1)}: a ReLU or a maximum decides otherwise within a "
              "step to one side, so that there is no one slope.")
    if margin < MARGIN:
        print(f"A ReLU or a maximum is a close call ({margin:.0e} of its input's size) in each of {DRAWS} draws of "
              "images: in float32 it may have decided otherwise.")
    wrong = [row for row in rows if not row.error <= tolerance]
    if wrong:
        print(f"{len(wrong)} of {len(rows)} gradients are wrong by more than {tolerance:g}, or unclear: "
              f"{', '.join(row.name for row in wrong)}")
        return 1
    worst = max(rows, key=lambda row: row.error)
    print(f"All {len(rows)} gradients are right: the largest error is {worst.error:.1e}, of {worst.name}, the "
          f"tolerance {tolerance:g}")
    return 0
