"""Layers with branches: residual blocks, and branches side by side."""
import numpy as np

from cnn_numba.buffer import Buffer
from cnn_numba.errors import InputError, naming
from cnn_numba.kernels import residual
from cnn_numba.kernels.program import Call
from cnn_numba.layers.base import (
    Layer,
    Setup,
    Shape,
    Sides,
    Wires,
    below,
    container_text,
    every_layer,
    infer_shapes,
    shape_text,
)

__all__ = ["Concat", "Residual"]


class Residual(Layer):
    """body(x) + shortcut(x): He et al., "Deep Residual Learning for Image Recognition" (2015).

    Parameters
    ----------
    body : Layer, Sequential, or list of Layer
        The layers beside the shortcut, which run one after the other.
    shortcut : the same, optional
        Default: the identity, x itself.  A 1x1 convolution, for example, can give x the shape of body(x).

    The layers of a Sequential keep their weights if it has been used.

    Shapes
    ------
    body and shortcut must give the same shape.  Names in `state_dict`: "body.0.weight", "shortcut.0.weight", ...

    Raises InputError (a ValueError) when something is not a layer or occurs twice, or when a branch begins or ends in
    Flatten.
    """

    applies_relu = masks_relu = True
    branch_names = "body", "shortcut"
    aliases = ("ResidualBlock",)

    def __init__(self, body, shortcut=None):
        self.body = _layers("Residual", "body", body)
        self.shortcut = () if shortcut is None else _layers("Residual", "shortcut", shortcut)
        self.branches = {"body": self.body, "shortcut": self.shortcut}

    @property
    def masks_own_relu(self) -> bool:                   # type: ignore[override]
        return self.body[-1].adds_shortcut

    def output_shape(self, shape: Shape) -> Shape:
        ends = {name: shapes[-1] for name, shapes in _shapes(self, shape).items()}
        if ends["body"] != ends["shortcut"]:
            raise InputError(f"Residual adds body and shortcut, which give {shape_text(ends['body'])} and "
                             f"{shape_text(ends['shortcut'])}, expected the same shape")
        return ends["body"]

    def padding_sides(self) -> Sides:
        return tuple(map(max, *(layers[0].padding_sides() for layers in (self.body, self.shortcut or self.body))))

    def gradient_sides(self, shape: Shape, setup: Setup) -> tuple[Sides, Sides]:
        shapes = _shapes(self, shape)
        after = [layers[-1].gradient_sides(shapes[name][-2], setup)[1]
                 for name, layers in self.branches.items() if layers]
        return self.body[0].gradient_sides(shape, setup)[0], tuple(map(max, zip(*after, strict=True)))

    def shares_gradient(self, shape: Shape, setup: Setup) -> bool:
        return self.masks_own_relu and not self.shortcut and self.body[0].adds_to_dx(shape, setup)

    def calls(self, wires: Wires) -> None:
        """The body's last layer adds the shortcut, if it can; a last call adds the gradient of the shortcut, unless the
        body's first layer adds its own to it."""
        beside, dbeside = wires.x, wires.dy
        if self.shortcut:
            sides = self.shortcut[0].gradient_sides(wires.x.shape, wires.setup)[0]
            dbeside = None if wires.dx is None else Buffer(wires.blocks, wires.x.shape, sides)
            wires.buffers += [] if dbeside is None else [dbeside]
            beside = wires.branch("shortcut", self.shortcut, dbeside)
        if self.masks_own_relu:
            wires.branch("body", self.body, wires.dx, (wires.y, wires.dy), beside)
        else:
            body = wires.branch("body", self.body, wires.dx)
            wires.forward.append(Call(residual.add_forward, wires.pieces(wires.y.shape[0]), y=wires.y.image(),
                                      a=body.image(), b=beside.image(), relu=int(wires.relu_after),
                                      cut=dict(y=1, a=1, b=1)))
        if wires.dx is not None and wires.dx is not wires.dy:
            wires.backward.append(_add_backward(wires, dbeside, wires.masked, wires.relu_before))

    def textbook(self, x, parameters, run):
        return sum(run.forward(layers, x, below(f"{name}.", parameters)) for name, layers in self.branches.items())

    def __repr__(self):
        return container_text("Residual", (
            (name, container_text("Sequential", enumerate(layers)) if layers else "Identity()")
            for name, layers in self.branches.items()))


def _shapes(layer, shape):
    """{name of the branch: [input shape of each of its layers, ..., output shape]}"""
    found = {}
    for name, layers in layer.branches.items():
        with naming(name):
            found[name] = infer_shapes(layers, shape)
    return found


class Concat(Layer):
    """The outputs of two to four branches side by side: their channels one after the other, or their features.
    `torch.cat` of the branches' outputs along axis 1.

    Parameters
    ----------
    first, second : Layer, Sequential, or list of Layer
        The layers of a branch, which run one after the other; `Identity()` gives x itself.
    third, fourth : the same, optional

    The layers of a Sequential keep their weights if it has been used.

    Shapes
    ------
    The branches must give images of the same rows and columns, or features: (C1, H, W), (C2, H, W), ... ->
    (C1 + C2 + ..., H, W).  Names in `state_dict`: "first.0.weight", "second.0.weight", ...

    Raises InputError (a ValueError) when something is not a layer or occurs twice, or when a branch begins or ends in
    Flatten.
    """

    branch_names = "first", "second", "third", "fourth"

    def __init__(self, first, second, third=None, fourth=None):
        for name, value in zip(self.branch_names, (first, second, third, fourth), strict=True):
            setattr(self, name, () if value is None else _layers("Concat", name, value))
        self.branches = {name: getattr(self, name) for name in self.branch_names if getattr(self, name)}

    def argument(self, name):
        return getattr(self, name) or None

    def output_shape(self, shape: Shape) -> Shape:
        ends = {name: shapes[-1] for name, shapes in _shapes(self, shape).items()}
        if len({end[1:] for end in ends.values()}) > 1:
            raise InputError("Concat: the branches must give the same rows and columns, got "
                             f"{', '.join(f'{name} {shape_text(end)}' for name, end in ends.items())}")
        return sum(end[0] for end in ends.values()), *ends["first"][1:]

    def padding_sides(self) -> Sides:
        return tuple(map(max, *(layers[0].padding_sides() for layers in self.branches.values())))

    def gradient_sides(self, shape: Shape, setup: Setup) -> tuple[Sides, Sides]:
        shapes = _shapes(self, shape)
        after = [layers[-1].gradient_sides(shapes[name][-2], setup)[1] for name, layers in self.branches.items()]
        return self.first[0].gradient_sides(shape, setup)[0], tuple(map(max, zip(*after, strict=True)))

    def calls(self, wires: Wires) -> None:
        """Each branch works on its channels of y and dy; the first writes dx, and calls add the others' gradients."""
        begin, others = 0, []
        for name, shapes in _shapes(self, wires.x.shape).items():
            layers, dx = self.branches[name], wires.dx
            if dx is not None and begin:
                dx = Buffer(wires.blocks, wires.x.shape,
                            layers[0].gradient_sides(wires.x.shape, wires.setup)[0])
                others.append(dx)
                wires.buffers.append(dx)
            end = [None if whole is None else Buffer(
                whole.blocks, shapes[-1], whole.border, array=whole.array[:, begin:begin + shapes[-1][0]])
                for whole in (wires.y, wires.dy)]
            wires.branch(name, layers, dx, end)
            begin += shapes[-1][0]
        wires.backward += [_add_backward(wires, other, wires.dx, False) for other in others]

    def textbook(self, x, parameters, run):
        return np.concatenate([run.forward(layers, x, below(f"{name}.", parameters))
                               for name, layers in self.branches.items()], axis=1)

    def __repr__(self):
        return container_text("Concat", ((name, container_text("Sequential", enumerate(layers)))
                                         for name, layers in self.branches.items()))


def _add_backward(wires, other, x, relu):
    """The call that adds another gradient to dx; `relu`: 0 where x is not positive."""
    return Call(residual.add_backward, wires.pieces(wires.x.shape[0]), dx=wires.dx.image(), db=other.image(),
                x=x.image(), relu=int(relu), cut=dict(dx=1, db=1, x=1))


def _layers(owner, name, value):
    layers = [value] if isinstance(value, Layer) else getattr(value, "layers", value)
    if not isinstance(layers, (list, tuple)) or not all(isinstance(layer, Layer) for layer in layers):
        raise InputError(f"{owner}: {name} must be a layer or a list of layers, got {value!r}")
    if not layers:
        raise InputError(f"{owner}: {name} needs at least one layer, got none")
    if layers[0].reshapes or layers[-1].reshapes:
        raise InputError(f"{owner}: {name} must not begin or end in Flatten")
    if not isinstance(value, (Layer, list, tuple)):
        for layer in every_layer(layers):
            layer.owner = None              # the network around the block makes the parameters, not this one
    return tuple(layers)
