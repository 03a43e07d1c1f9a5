"""A network as a list of layers, its parameters in one flat vector, and its forward and backward pass."""
import math
import os
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnn_numba.errors import InputError, seed_number
from cnn_numba.execution import textbook
from cnn_numba.init import INITS, init_name
from cnn_numba.kernels import driver
from cnn_numba.kernels.lanes import LANES, aligned
from cnn_numba.layers import Layer, container_text, every_layer, infer_shapes, shape_text
from cnn_numba.plan import Plan

__all__ = ["Parameter", "Sequential"]

PLANS_KEPT = 3          # number of batch sizes whose buffers a model keeps


class Parameter:
    """A weight, a bias or a statistic, as views of the model's flat vectors.

    name : as in `state_dict`, "0.weight"
    value, grad : float32 arrays of PyTorch's shape; a statistic has no gradient.  Assigned values are copied
        into the model's vectors; InputError when the shape differs.
    grad_vectors : float32 (vectors, LANES)
        The memory of the gradient up to the start of the next parameter; numbers past its end are always 0.
    """

    def __init__(self, name: str, value: np.ndarray, grad: np.ndarray | None = None,
                 grad_vectors: np.ndarray | None = None):
        self.name, self._value, self._grad, self.grad_vectors = name, value, grad, grad_vectors

    @property
    def value(self) -> np.ndarray:
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        _copy_into(self._value, value, self.name)

    @property
    def grad(self) -> Any:
        return self._grad

    @grad.setter
    def grad(self, value: Any) -> None:
        if self._grad is None:
            raise InputError(f"{self.name} is a statistic, which has no gradient")
        _copy_into(self._grad, value, f"the gradient of {self.name}")

    def __repr__(self) -> str:
        return f"Parameter({self.name!r}, {'x'.join(map(str, self._value.shape))})"


def _copy_into(array, value, name):
    value = _numbers(name, value)
    if value.shape != array.shape:
        raise InputError(f"{name} has shape {array.shape}, got an array of shape {value.shape}")
    array[...] = value


def _numbers(owner, value):
    try:
        return np.asarray(value, np.float32)
    except (TypeError, ValueError):
        raise InputError(f"{owner} must be an array of numbers, got {type(value).__name__}") from None


class Output(np.ndarray):
    """What `model(x)` returns: an array that knows its forward pass, so that a loss can send its gradient back.

    It is read-only, because the gradient belongs to these values.  Arrays computed from it do not know the forward
    pass.
    """

    model: "Sequential | None" = None
    forward_pass: object = None


class Sequential:
    """A network whose layers run one after the other, as `torch.nn.Sequential`.

    Parameters
    ----------
    *layers : Layer
    seed : int
        Weights and the masks of dropout derive from this seed.
    init : str
        Weight initialisation, one of `init.INITS`; biases start at zero.

    Attributes
    ----------
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

    Raises InputError (a ValueError) when an argument is not a layer, or a layer occurs twice.
    """

    input_shape: tuple[int, ...] | None = None
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    classes: tuple[str, ...] | None = None
    accuracy: float | None = None
    recipe: dict[str, Any] | None = None
    training = True

    def __init__(self, *layers: Layer, seed: int = 0, init: str = "xavier_uniform"):
        for k, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise InputError(f"Sequential: argument {k} must be a layer, got {type(layer).__name__}")
        everyone = list(every_layer(layers))
        for k, layer in enumerate(everyone):
            if any(layer is other for other in everyone[:k]):
                raise InputError(f"Sequential: the layer {layer!r} occurs twice; weights cannot be shared")
        if not layers:
            raise InputError("Sequential needs at least one layer, got none")
        self.seed, self.init = seed_number("Sequential", seed), init_name("Sequential", init)
        self._build(layers)

    def add(self, layer: Layer) -> "Sequential":
        """Append a layer and initialise all parameters again, as `Sequential(*layers, layer)` does.

        Optimizers made before do not know the new parameters.  Returns the model.  Raises InputError when the argument
        is not a layer, or is already in the model.
        """
        Sequential.__init__(self, *self.layers, layer, seed=self.seed, init=self.init)
        return self

    def _build(self, layers):
        self.layers = list(layers)
        parameters, self.values = _flat(layer.parameter_shapes() for layer in layers)
        statistics, self.statistics = _flat(layer.statistic_shapes() for layer in layers)
        self.grads = aligned(self.values.shape)
        self._parameters = [
            {name: Parameter(f"{k}.{name}", *(_view(flat, part) for flat in (self.values, self.grads)),
                             self.grads[part.start:part.end].reshape(-1, LANES)) for name, part in of_layer.items()}
            for k, of_layer in enumerate(parameters)]
        self._statistics = [{name: Parameter(f"{k}.{name}", _view(self.statistics, part))
                             for name, part in of_layer.items()} for k, of_layer in enumerate(statistics)]
        index = {p.name: k for k, p in enumerate(self.parameters())}
        for k, (layer, tensors) in enumerate(zip(layers, self._tensors(), strict=True)):
            layer.reset_parameters(
                {name: p.value for name, p in tensors.items()},
                lambda name, value, init, k=k: value.__setitem__(
                    ..., INITS[init or self.init](value.shape, self.seed, index[f"{k}.{name}"])))
        self._plans, self._last, self._passes = OrderedDict(), None, 0

    def _tensors(self):
        """{name: Parameter} of each layer: its parameters and statistics."""
        return [of_layer | more for of_layer, more in zip(self._parameters, self._statistics, strict=True)]

    def train(self, mode: bool = True) -> "Sequential":
        """Switch to training mode, the mode of a new model: batch normalisation uses and collects the statistics of the
        batch, and dropout is active.  Returns the model."""
        self.training = bool(mode)
        return self

    def eval(self) -> "Sequential":
        """Switch to evaluation: the collected statistics are used, and dropout is off.  Returns the model."""
        return self.train(False)

    def parameters(self) -> list[Parameter]:
        """The parameters, in the order of the layers."""
        return [p for of_layer in self._parameters for p in of_layer.values()]

    def state_dict(self) -> dict[str, np.ndarray]:
        """{name: copy of the value} of parameters and statistics, with PyTorch's names and shapes."""
        return {p.name: p.value.copy() for of_layer in self._tensors() for p in of_layer.values()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy values with the names and shapes of `state_dict`; InputError, and no change, when these differ."""
        mine = {p.name: p for of_layer in self._tensors() for p in of_layer.values()}
        if not isinstance(state, dict):
            raise InputError(f"load_state_dict: expected a dict of arrays, got {type(state).__name__}")
        if set(mine) != set(state):
            odd = sorted(set(mine) ^ set(state))[0]
            wrong = "missing" if odd in mine else "not a parameter of this model"
            raise InputError(f"load_state_dict: {odd!r} is {wrong}, expected exactly {', '.join(mine)}")
        new = {name: _numbers(f"load_state_dict: {name!r}", value).copy() for name, value in state.items()}
        for name, value in new.items():
            if value.shape != mine[name].value.shape:
                raise InputError(f"load_state_dict: {name!r} has shape {value.shape}, "
                                 f"expected {mine[name].value.shape}")
        self.values[:] = 0          # also past the ends, where a step with an infinite learning rate leaves NaN
        for name, value in new.items():
            mine[name].value[...] = value

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

        save(self, path, **facts)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The output shape of one image for its input shape; InputError, naming the layer, when layers do not fit."""
        return infer_shapes(self.layers, shape)[-1]

    def plan(self, shape: tuple[int, ...], blocks: int, logits: bool = False, **options: Any) -> Plan:
        """A new layout of this network (see `plan.Plan`) for images of a shape.

        logits : whether to leave out a Softmax or LogSoftmax at the end
        """
        cut = logits and self.layers[-1].takes_logits and len(self.layers) > 1
        layers = self.layers[:-1] if cut else self.layers
        return Plan(layers, self._tensors(), infer_shapes(layers, shape), blocks,
                    **({"textbook": textbook()} | options))

    def __call__(self, images: Any) -> Any:
        """The forward pass.

        Parameters
        ----------
        images : array (N, C, H, W), or (N, K) when the first layer is dense

        Returns
        -------
        Output : float32 (N, classes); if the last layer is a MaxPool2d with return_indices, (Output, int64 indices)

        Raises InputError for an empty batch, NaN or infinity in the images, and shapes that do not fit.
        """
        images = _numbers("model: the images", images)
        if images.ndim not in (2, 4) or not len(images):
            raise InputError(f"model: expected images (N, C, H, W) or features (N, K), got shape {images.shape}")
        if not np.isfinite(images).all():
            raise InputError("model: the images contain NaN or infinity, expected finite numbers")
        with driver.exclusive:          # other Python threads use the same buffers
            return self._forward(images)

    def _forward(self, images):
        key = images.shape[1:], math.ceil(len(images) / LANES), self.training, textbook()
        if key not in self._plans:
            plan = self.plan(*key[:2], training=self.training)
            self._plans[key] = plan, *plan.programs()
            if len(self._plans) > PLANS_KEPT:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        plan, forward, _ = self._plans[key]
        plan.x.put(images)
        plan.setup.batch[1] = len(images)
        plan.setup.draw[:] = self.seed, self._passes
        self._passes += self.training
        forward()
        output = plan.z.get(len(images)).view(Output)
        output.model, output.forward_pass = self, object()
        output.flags.writeable = False
        self._last = output.forward_pass, key, len(images)
        return output if plan.indices is None else (output, plan.indices.get(len(images)).astype(np.int64))

    def backward(self, doutput: Any) -> np.ndarray:
        """The backward pass of the last forward pass; overwrites all gradients.

        Parameters
        ----------
        doutput : array, the shape of the output of the last `model(images)`

        Returns
        -------
        float32 array : the gradient of the images, in their shape

        Raises InputError before a forward pass, or when the shape differs.
        """
        doutput = _numbers("model.backward: the gradient", doutput)
        with driver.exclusive:
            if self._last is None:
                raise InputError("model.backward needs a forward pass first: call model(images)")
            _, key, n = self._last
            plan, _, backward = self._plans[key]
            if doutput.shape != (n, *plan.z.shape):
                raise InputError(f"model.backward: expected a gradient of shape {(n, *plan.z.shape)}, got "
                                 f"{doutput.shape}")
            plan.dz.put(doutput)
            backward()
            return plan.dx.get(n)

    def ran_last(self, forward_pass: object) -> bool:
        """Whether this forward pass is the last one, whose values a backward pass needs."""
        return self._last is not None and self._last[0] is forward_pass

    def __reduce__(self):
        """Rebuild copies and pickles, so that their parameters are views of their own vectors."""
        facts = {name: vars(self)[name] for name in (
            "input_shape", "mean", "std", "classes", "accuracy", "recipe", "training", "_passes") if name in vars(self)}
        return _restored, (self.layers, self.seed, self.init, self.values.copy(), self.statistics.copy()), facts

    def __repr__(self):
        return container_text("Sequential", enumerate(self.layers))

    def __len__(self) -> int:
        return len(self.layers)

    def summary(self, shape: tuple[int, ...]) -> str:
        """One line of text: the shapes of an image on its way through the layers, and the number of parameters."""
        shapes = infer_shapes(self.layers, shape)
        path = [shapes[0]] + [b for a, b in zip(shapes, shapes[1:], strict=False) if a != b]
        count = sum(p.value.size for p in self.parameters())
        return f"{' -> '.join(map(shape_text, path))}, {count:,} parameters"


@dataclass(frozen=True)
class _Slice:
    """The part of a flat vector that holds a tensor: it begins at start; the next one begins at end."""

    start: int
    end: int
    shape: tuple


def _flat(shapes):
    """[{name: _Slice}] for [{name: shape}], and a vector of zeros for all of them."""
    slices, end = [], 0
    for of_layer in shapes:
        slices.append({})
        for name, shape in of_layer.items():
            start, end = end, end + math.ceil(math.prod(shape) / LANES) * LANES
            slices[-1][name] = _Slice(start, end, shape)
    return slices, aligned(end)


def _view(flat, part):
    return flat[part.start:part.start + math.prod(part.shape)].reshape(part.shape)


def _restored(layers, seed, init, values, statistics):
    model = Sequential(*layers, seed=seed, init=init)
    model.values[...], model.statistics[...] = values, statistics
    return model
