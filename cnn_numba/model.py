"""A network as a list of layers, its parameters in one flat vector, and its forward and backward pass."""
import math
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import cnn_numba.few_images as few_images
from cnn_numba.errors import InputError, seed_number
from cnn_numba.execution import algorithms
from cnn_numba.few_images import FewImages
from cnn_numba.forward_pass import ForwardPass, Inputs, Output, is_grad_enabled
from cnn_numba.init import INITS, default_seed, init_name, manual_seed, pytorch
from cnn_numba.kernels import driver, optimizer
from cnn_numba.kernels.lanes import LANES
from cnn_numba.kernels.program import Call, Program
from cnn_numba.layers import Layer, container_text, every_layer, infer_shapes, shape_text
from cnn_numba.layers.base import tensors_of
from cnn_numba.layers.module import Module
from cnn_numba.parameter import Parameter, Run, allocate, fingerprint, float32_array, runs
from cnn_numba.plan import Plan
from cnn_numba.table import Column, Table

__all__ = ["Parameter", "Sequential", "manual_seed"]

PLANS_KEPT = 3          # number of batch sizes whose buffers a model keeps
CHUNK = 256             # vectors per item of the sum of gradients


def _flat_vector(what: str, statistics: bool = False) -> property:
    """A property for a flat vector of the parameters or statistics; assigned numbers are copied into it."""
    def get(self):
        parts = self.runs(statistics)
        if len(parts) > 1:
            raise InputError("the parameters of this network are not side by side in memory, because other networks "
                             "share some: use parameters() instead of the flat vectors")
        return getattr(parts[0], what) if parts else np.zeros(0, np.float32)

    def set_numbers(self, values):
        get(self)[...] = values

    return property(get, set_numbers)


class Sequential(Module):
    """A network whose layers run one after the other, as `torch.nn.Sequential`.

    A subclass with a `forward` of its own runs that in `model(images)`, with gradients through every layer and network
    that it calls.  `Trainer`, `save` and `predict` run the layers in their order, and refuse such a model.

    Parameters
    ----------
    *layers : Layer or Sequential, or one OrderedDict of them
        The names in `state_dict` are PyTorch's: "0.weight", "conv1.weight", "0.1.bias".
    seed : int, optional
        Weights and the masks of dropout derive from this seed; default: that of `manual_seed`, or 0.
    init : str
        Weight initialisation, one of `init.INITS`; biases start at zero, except with "pytorch".

    Attributes
    ----------
    layers : list of Layer, also those of Sequentials inside
    values, grads : float32 (total,)
        All parameters and all gradients; each parameter starts on a 64-byte boundary.
    statistics : float32 (total,)
        The statistics that batch normalisation collects.
    training : bool
        Whether `model(images)` treats the images as a batch of a training; see `train` and `eval`.
    input_shape, mean, std, classes, accuracy, recipe
        Facts about the training: the shape of an image, float32 (C,) statistics in raw pixel units, the names of the
        classes, the accuracy on test images in per cent, and `Recipe.to_json()`.  None if unknown; a Trainer sets all
        but the last two.

    Weights are made when they are first needed.  A layer that another network uses already keeps its weights and shares
    them.  Raises InputError (a ValueError) when an argument is not a layer, or a layer occurs twice.
    """

    input_shape: tuple[int, ...] | None = None
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    classes: tuple[str, ...] | None = None
    accuracy: float | None = None
    recipe: dict[str, Any] | None = None
    training = True
    values = _flat_vector("values")
    grads = _flat_vector("grads")
    statistics = _flat_vector("values", statistics=True)

    def __init__(self, *layers: Any, seed: int | None = None, init: str = "xavier_uniform"):
        self._set_children(_named(layers))
        self.seed = default_seed() if seed is None else seed_number("Sequential", seed)
        self.init = init_name("Sequential", init)
        self._forget()

    def _set_children(self, children):
        """Take {name: layer or network}; InputError, and no change, when a layer occurs twice."""
        flat = dict(_flat(children, ""))
        everyone = list(every_layer(flat.values()))
        for k, layer in enumerate(everyone):
            if any(layer is other for other in everyone[:k]):
                raise InputError(f"Sequential: the layer {layer!r} occurs twice; weights cannot be shared")
        self._children, self.names, self.layers = children, list(flat), list(flat.values())
        inside = [layer for child in children.values() if isinstance(child, Sequential)
                  for layer in every_layer(child.layers)]
        for layer in everyone:                  # of several networks, the first one makes the parameters, or the outer
            if layer in inside or layer.owner is None:
                layer.owner = self

    def _forget(self) -> None:
        """Forget everything that depends on the layers."""
        self._bound: list[dict[str, Parameter]] | None = None
        self._plans: OrderedDict[tuple, _Laid] = OrderedDict()
        self._last: Inputs | None = None
        self._classifier: Any = None
        self._passes, self._input_gradient = 0, False

    def add(self, layer: Any) -> "Sequential":
        """Append a layer and initialise all parameters again, as a new `Sequential(*layers, layer)` does.

        Optimizers made before do not know the new parameters.  Returns the model.  Raises InputError when the argument
        is not a layer, or is already in the model.
        """
        self._set_children(self._children | {str(len(self._children)): _checked(len(self._children), layer)})
        for inside in every_layer(self.layers):
            inside.forget()
        self._forget()
        return self

    def append(self, layer: Any) -> "Sequential":
        """Append a layer, as `torch.nn.Sequential.append`; the others keep their weights.  Otherwise as `add`."""
        self.bind()
        self._set_children(self._children | {str(len(self._children)): _checked(len(self._children), layer)})
        self._forget()
        return self

    # ---- parameters -------------------------------------------------------------------------------------------------
    def bind(self) -> list[dict[str, Parameter]]:
        """{name: Parameter} of each layer, of its parameters and statistics; made now if they are not there yet."""
        if self._bound is None:
            for layer in every_layer(self.layers):
                if layer.own_tensors is None and layer.owner not in (None, self):
                    layer.owner.bind()
            index, fresh = 0, []
            made: dict[str, Parameter] = {}
            for name, layer in _leaves(self.names, self.layers):
                own = own_shapes(layer)
                if layer.own_tensors is None:
                    fresh.append((name, layer, own, index))
                index += len(own[0])
            for kind in 0, 1:
                wanted = [(f"{name}.{what}", shape) for name, _, own, _ in fresh for what, shape in own[kind].items()]
                made |= {p.name: p for p in allocate(wanted, statistic=bool(kind))}
            for name, layer, own, first in fresh:
                layer.own_tensors = {what: made[f"{name}.{what}"] for what in (*own[0], *own[1])}
                layer.owner = None
                self._reset(layer, own[0], first)
            self._bound = [tensors_of(layer) for layer in self.layers]
        return self._bound

    def _reset(self, layer, shapes, first):
        """Initialise the parameters of a layer, {name: shape}; first : the number of its first in this network."""
        number = {what: k for k, what in enumerate(shapes, first)}

        def initialise(what, value, init):
            init = init or self.init
            if value.ndim > 1:
                value[...] = INITS[init](value.shape, self.seed, number[what])
            elif init == "pytorch" and what == "bias" and len(shapes.get("weight", ())) > 1:
                value[...] = pytorch(value.shape, self.seed, number[what], math.prod(shapes["weight"][1:]))

        layer.reset_parameters({what: p.value for what, p in layer.own_tensors.items()}, initialise)

    def named_tensors(self) -> Iterator[tuple[str, Parameter]]:
        for name, of_layer in zip(self.names, self.bind(), strict=True):
            yield from ((f"{name}.{what}", p) for what, p in of_layer.items())

    def runs(self, statistics: bool = False) -> list[Run]:
        """The parameters, or the statistics, as runs of neighbours in memory; one, if no other network shares some."""
        return runs(self.buffers() if statistics else self.parameters())

    def is_finite(self) -> bool:
        """Whether all parameters and statistics are finite numbers."""
        return all(np.isfinite(part.values).all() for part in (*self.runs(), *self.runs(True)))

    # ---- the layers as a tree ---------------------------------------------------------------------------------------
    def named_children(self) -> Iterator[tuple[str, Module]]:
        return iter(self._children.items())

    def __len__(self) -> int:
        return len(self._children)

    def __iter__(self) -> Iterator[Module]:
        return self.children()

    def __getitem__(self, index: Any) -> Any:
        """A layer by its position, or a network of a slice of them, which shares their parameters."""
        if isinstance(index, slice):
            self.bind()
            part = Sequential(OrderedDict(list(self._children.items())[index]), seed=self.seed, init=self.init)
            part.training = self.training
            return part
        return list(self._children.values())[index]

    def __getattr__(self, name: str) -> Any:
        """A layer by its name in an OrderedDict."""
        children = vars(self).get("_children", {})
        if name in children:
            return children[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def train(self, mode: bool = True) -> "Sequential":
        """Switch to training mode, the mode of a new model: batch normalisation uses and collects the statistics of the
        batch, and dropout is active.  Returns the model."""
        self.training = bool(mode)
        for module in (self, *self.modules(), *every_layer(self.layers)):
            module.training = bool(mode)
        return self

    def eval(self) -> "Sequential":
        """Switch to evaluation: the collected statistics are used, and dropout is off.  Returns the model."""
        return self.train(False)

    def save(self, path: str | os.PathLike, **facts: Any) -> None:
        """Write the model to an .npz file, for `cnn_numba.load`; a failure leaves the file unchanged.

        Parameters
        ----------
        path : path of the file
        input_shape, mean, std, classes, accuracy, recipe : optional
            Values instead of the model's attributes of these names.

        Raises InputError when the file cannot be written, a layer is not of this library, or a number is not finite.
        """
        from cnn_numba.files.model_file import save

        self.refuse_own_forward("the file would not hold it; save its state_dict() with cnn_numba.save")
        save(self, path, **facts)

    def takes_images(self, shape: tuple[int, ...], mean: Any = 0.0, std: Any = 1.0,
                     classes: Sequence[str] | None = None) -> "Sequential":
        """Say what images a model takes that was trained in a loop of one's own, so that `predict`, `save` and the
        commands know it.  A Trainer does this itself.

        Parameters
        ----------
        shape : (C, H, W), or (K,) for features
        mean, std : float, or one for each channel
            The loop gave the model (pixels - mean) / std: for pixels / 16, mean=0 and std=16; for PyTorch's ToTensor
            and Normalize(m, s), which begin with pixels / 255, mean=255 * m and std=255 * s.
        classes : names of the classes, optional

        Returns the model.  Raises InputError when something does not fit the network.
        """
        from cnn_numba.files.model_file import checked_facts

        def of_channels(value):
            return np.array(np.broadcast_to(np.asarray(value, np.float32), shape[:1]))

        try:
            facts = dict(input_shape=shape, mean=of_channels(mean), std=of_channels(std), classes=classes)
        except (TypeError, ValueError):
            raise InputError(f"takes_images: mean and std must be numbers, or one for each channel of {shape}, got "
                             f"{mean!r} and {std!r}") from None
        for name, value in checked_facts(self.layers, facts).items():
            if name in facts:
                setattr(self, name, value)
        return self

    def predict_proba(self, images: Any) -> np.ndarray:
        """float64 (N, classes): the probabilities of images as they are in the files of the training.

        The images are normalised as in the training, and layers are in evaluation mode, whatever `training` says; the
        call `model(x)` does neither.  Raises InputError when the model does not know how (see `takes_images`), or the
        images have another shape.
        """
        from cnn_numba.inference import Classifier

        facts = (self.input_shape, *algorithms().values(),
                 *(None if fact is None else np.asarray(fact).tobytes() for fact in (self.mean, self.std)))
        if self._classifier is None or self._classifier[0] != facts:
            self.refuse_own_forward("predict runs the layers in their order")
            self._classifier = facts, Classifier(self)
        return self._classifier[1].probabilities(images)

    def predict(self, images: Any) -> np.ndarray:
        """int64 (N,): the most probable class of each image.  Images and errors are those of `predict_proba`."""
        return self.predict_proba(images).argmax(axis=1)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The output shape of one image for its input shape; InputError, naming the layer, when layers do not fit."""
        return infer_shapes(self.layers, shape)[-1]

    def plan(self, shape: tuple[int, ...], blocks: int, logits: bool = False, **options: Any) -> Plan:
        """A new layout of this network (see `plan.Plan`) for images of a shape; gradients overwrite those before.

        In a layout for training, a layer that is in evaluation mode inside a model that is not stays in that mode.

        logits : whether to leave out a Softmax or LogSoftmax at the end

        Raises InputError for a model with a `forward` of its own, which a layout does not know.
        """
        self.refuse_own_forward("only model(images) runs it; a Trainer, predict and save run the layers in their order")
        cut = logits and self.layers[-1].takes_logits and len(self.layers) > 1
        own_modes = options.get("training", True) and self.training
        return self._lay_out(shape, blocks, len(self.layers) - cut, False, own_modes=own_modes, **options)

    def few_images_plan(self, shape: tuple[int, ...], images: int) -> FewImages | None:
        """A new layout in evaluation mode, without a Softmax or LogSoftmax at the end, for a few images of a shape.

        None when there are too many, or a layer has no kernels for it: `plan` then is the layout to use.
        """
        self.refuse_own_forward("predict runs the layers in their order")
        layers = self.layers[:len(self.layers) - (self.layers[-1].takes_logits and len(self.layers) > 1)]
        return self._few_images_plan(layers, shape, images, lambda layer: False)

    def _few_images_plan(self, layers, shape, images, training):
        """A layout for a few images, or None, also for 0; training : whether a layer is in training mode."""
        if not images or not few_images.suits(layers, shape, images, training, **algorithms()):
            return None
        tensors = [{name: p.wired(False) for name, p in of_layer.items()} for of_layer in self.bind()[:len(layers)]]
        return FewImages(layers, tensors, infer_shapes(layers, shape), few_images.rounded(images))

    def _lay_out(self, shape, blocks, count, accumulate, **options):
        tensors = [{name: p.wired(accumulate) for name, p in of_layer.items()} for of_layer in self.bind()[:count]]
        layers = self.layers[:count]
        return Plan(layers, tensors, infer_shapes(layers, shape), blocks, **(algorithms() | options))

    def refuse_own_forward(self, why: str) -> None:
        """InputError if a subclass has a `forward` of its own."""
        if type(self).forward is not Sequential.forward:
            raise InputError(f"{type(self).__name__} has a forward of its own, and {why}")

    def __call__(self, images: Any) -> Any:
        """The forward pass: `forward(images)`."""
        return self.forward(images)

    def forward(self, images: Any) -> Any:
        """The forward pass.

        Parameters
        ----------
        images : array (N, C, H, W), or (N, K) when the first layer is dense
            As they are: `predict` also normalises them.  They can be the Output of another network, to which the
            gradient then goes on.

        Returns
        -------
        Output : float32 (N, classes); if the last layer is a MaxPool2d with return_indices, (Output, int64 indices)

        Raises InputError for an empty batch, NaN or infinity in the images, and shapes that do not fit.
        """
        source = images.forward_pass if isinstance(images, Output) and is_grad_enabled() else None
        images = float32_array("model: the images", images)
        if images.ndim not in (2, 4) or not len(images):
            raise InputError(f"model: expected images (N, C, H, W) or features (N, K), got shape {images.shape}")
        if not np.isfinite(images).all():
            raise InputError("model: the images contain NaN or infinity, expected finite numbers")
        with driver.exclusive:          # other Python threads use the same buffers
            return self._forward(images, source)

    def _key(self, images, input_gradient):
        """What a layout for a batch depends on."""
        modes = tuple(layer.training for layer in every_layer(self.layers))
        gradients = is_grad_enabled() and (tuple(p.requires_grad for p in self.parameters()), input_gradient)
        few = not gradients and len(images) <= few_images.MOST
        size = (few_images.rounded(len(images)), 1) if few else (0, math.ceil(len(images) / LANES))
        return images.shape[1:], size, modes, tuple(algorithms().items()), gradients

    def _laid(self, key):
        """The layout for a key, and its programs."""
        if key not in self._plans:
            shape, (few, blocks), _, chosen, gradients = key
            plan = self._few_images_plan(self.layers, shape, few, lambda layer: layer.training) or self._lay_out(
                shape, blocks, len(self.layers), True, backward=bool(gradients), own_modes=True,
                input_gradient=bool(gradients and gradients[1]), **dict(chosen))
            self._plans[key] = _Laid(plan, *plan.programs(self._sum_calls() if gradients else []))
            if len(self._plans) > PLANS_KEPT:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        return self._plans[key]

    def _sum_calls(self):
        """The calls that add the gradients of a backward pass to those before."""
        return [Call(optimizer.accumulate, math.ceil(len(part.grads) / LANES / CHUNK),
                     grad=part.grads.reshape(-1, LANES),
                     fresh=part.memory.fresh[part.start:part.end].reshape(-1, LANES), chunk=CHUNK)
                for part in runs(p for p in self.parameters() if p.requires_grad)]

    def _forward(self, images, source):
        key = self._key(images, source is not None or self._input_gradient)
        laid, draw = self._laid(key), (self.seed, self._passes)
        self._passes += self.training
        laid.run(images, draw)
        output = laid.plan.z.get(len(images)).view(Output)
        output.flags.writeable = False
        self._last = None
        if is_grad_enabled():
            self._last = laid.holder = Inputs(images.copy(), key, draw, fingerprint(self._weights(key)))
            output.forward_pass = ForwardPass(self, self._last, source)
        else:
            laid.holder, output.without_grad = None, True
        indices = laid.plan.indices
        return output if indices is None else (output, indices.get(len(images)).astype(np.int64))

    def _weights(self, key):
        """What a backward pass depends on: the parameters, and in evaluation the statistics."""
        return [*self.runs(), *(self.runs(True) if not any(key[2]) else [])]

    def run_backward(self, inputs: Inputs, doutput: Any, input_gradient: bool = False) -> Any:
        """The backward pass of the forward pass of these inputs, which runs again if its buffers were used since.

        input_gradient : whether the gradient of the images is needed; it is returned where there is one

        Raises InputError when the weights changed, or the gradient has another shape than the output.
        """
        if fingerprint(self._weights(inputs.key)) != inputs.weights:
            raise InputError("backward: the weights changed since the forward pass, so the gradient would be that of "
                             "neither; call the model again after step() or load_state_dict()")
        key, images = inputs.key, inputs.images
        if input_gradient and not key[-1][1]:
            self._input_gradient, key = True, (*key[:-1], (key[-1][0], True))
        laid = self._laid(key)
        shape = len(images), *laid.plan.z.shape
        doutput = float32_array("backward: the gradient", doutput)
        if doutput.shape != shape:
            raise InputError(f"backward: expected a gradient of shape {shape}, got {doutput.shape}")
        if laid.holder is not inputs:
            statistics = [(p, p.value.copy()) for p in self.buffers()]
            laid.run(images, inputs.draw)
            for p, value in statistics:
                p.value[...] = value
            laid.holder = inputs
        laid.plan.dz.put(doutput)
        laid.backward()
        return None if laid.plan.dx is None else laid.plan.dx.get(len(images))

    def backward(self, doutput: Any) -> np.ndarray:
        """The backward pass of the last forward pass; adds to the gradients of all parameters.

        Parameters
        ----------
        doutput : array, the shape of the output of the last `model(images)`

        Returns
        -------
        float32 array : the gradient of the images, in their shape

        Raises InputError before a forward pass, when the shape differs, or when the weights changed since.
        """
        with driver.exclusive:
            if self._last is None:
                raise InputError("model.backward needs a forward pass first: call model(images), not in no_grad()")
            return self.run_backward(self._last, doutput, input_gradient=True)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles have everything but the buffers."""
        self.bind()
        return {name: value for name, value in vars(self).items() if name not in (
            "_plans", "_last", "_bound", "_classifier")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._forget()
        vars(self).update(state)

    def __repr__(self):
        return container_text(type(self).__name__, self._children.items())

    def _repr_html_(self) -> str:
        """A table of the layers for notebooks, with their output shapes where `input_shape` is known."""
        shapes = infer_shapes(self.layers, self.input_shape)[1:] if self.input_shape else [None] * len(self.layers)
        counts = [sum(map(math.prod, layer.parameter_shapes().values())) for layer in self.layers]
        columns: list[Column] = [("", lambda row: str(row[0])), ("layer", lambda row: _brief(row[1]))]
        if self.input_shape:
            columns.append((f"{shape_text(self.input_shape)} becomes", lambda row: shape_text(row[2])))
        columns.append(("parameters", lambda row: f"{row[3]:,}" if row[3] else "-"))
        rows = list(zip(range(len(self.layers)), self.layers, shapes, counts, strict=True))
        total = ["", "total", *[""] * bool(self.input_shape), f"{sum(counts):,}"]
        return Table(columns, rows, left=2, total=total)._repr_html_()

    def summary(self, shape: tuple[int, ...]) -> str:
        """One line of text: the shapes of an image on its way through the layers, and the number of parameters."""
        shapes = infer_shapes(self.layers, shape)
        path = [shapes[0]] + [b for a, b in zip(shapes, shapes[1:], strict=False) if a != b]
        count = sum(p.value.size for p in self.parameters())
        return f"{' -> '.join(map(shape_text, path))}, {count:,} parameters"


def _brief(layer: Layer) -> str:
    """A layer in a line: of a container, the number of layers inside."""
    inside = sum(1 for _ in every_layer([layer])) - 1
    return f"{type(layer).__name__} of {inside} layers" if inside else repr(layer)


@dataclass
class _Laid:
    """A plan with its programs; holder : what the values in its buffers were computed from."""

    plan: Plan | FewImages
    forward: Program
    backward: Program | None
    holder: Inputs | None = None

    def run(self, images, draw):
        self.plan.x.put(images)
        self.plan.setup.batch[1] = len(images)
        self.plan.setup.draw[:] = draw
        self.forward()


def _checked(k, layer):
    if not isinstance(layer, (Layer, Sequential)):
        raise InputError(f"Sequential: argument {k} must be a layer, got {type(layer).__name__}")
    return layer


def _named(layers):
    """{name: layer or network} for the arguments of Sequential."""
    if len(layers) == 1 and isinstance(layers[0], dict):
        named = layers[0]
        for name in named:
            if not isinstance(name, str) or not name or "." in name:
                raise InputError(f"Sequential: the name of a layer must be text without a dot, got {name!r}")
    else:
        named = {str(k): layer for k, layer in enumerate(layers)}
    if not named:
        raise InputError("Sequential needs at least one layer, got none")
    return {name: _checked(k, layer) for k, (name, layer) in enumerate(named.items())}


def _flat(children, prefix):
    """(name, layer) of all layers, with those of the networks inside."""
    for name, child in children.items():
        if isinstance(child, Sequential):
            yield from _flat(child._children, f"{prefix}{name}.")
        else:
            yield prefix + name, child


def _leaves(names, layers):
    """(name, layer) of all layers, with those of containers inside."""
    for name, layer in zip(names, layers, strict=True):
        yield name, layer
        for branch, inside in layer.branches.items():
            yield from _leaves([f"{name}.{branch}.{k}" for k in range(len(inside))], inside)


def own_shapes(layer: Layer) -> tuple[dict[str, tuple], dict[str, tuple]]:
    """{name: shape} of the parameters and of the statistics of a layer itself, not of those inside it."""
    return tuple({name: shape for name, shape in shapes.items() if name.split(".")[0] not in layer.branches}
                 for shapes in (layer.parameter_shapes(), layer.statistic_shapes()))   # type: ignore[return-value]
