"""Layers beside a short cut."""
from cnn_numba.errors import InputError, naming
from cnn_numba.kernels import residual
from cnn_numba.kernels.program import Call
from cnn_numba.layers.base import Layer, below, container_text, infer_shapes, shape_text


class Residual(Layer):
    """body(x) + shortcut(x): He et al., "Deep Residual Learning for Image Recognition" (2015).

    Parameters
    ----------
    body : Layer, Sequential, or list of Layer
        What runs beside the short cut, one layer after the other.
    shortcut : the same, optional
        Default: the identity, x itself; else for example a 1x1 convolution that gives x the shape of body(x).

    Weights that a Sequential has already are not taken over: they start anew with the network around them.

    Shapes
    ------
    body and shortcut must give the same shape.  Names in `state_dict`: "body.0.weight", "shortcut.0.weight", ...

    Raises InputError (a ValueError) when something is not a layer, or stands at two places, or a branch begins or ends
    in Flatten.
    """

    applies_relu = masks_relu = True

    def __init__(self, body, shortcut=None):
        self.body = _layers("body", body)
        self.shortcut = () if shortcut is None else _layers("shortcut", shortcut)
        self.branches = {"body": self.body, "shortcut": self.shortcut}

    def _shapes(self, shape):
        """{name of the branch: [input shape of each of its layers ..., output shape]}"""
        found = {}
        for name, layers in self.branches.items():
            with naming(name):
                found[name] = infer_shapes(layers, shape)
        return found

    def output_shape(self, shape):
        ends = {name: shapes[-1] for name, shapes in self._shapes(shape).items()}
        if ends["body"] != ends["shortcut"]:
            raise InputError(f"Residual adds body and shortcut, which give {shape_text(ends['body'])} and "
                             f"{shape_text(ends['shortcut'])}, expected the same shape")
        return ends["body"]

    def _of_layers(self, method):
        return {f"{branch}.{k}.{name}": shape for branch, layers in self.branches.items()
                for k, layer in enumerate(layers) for name, shape in getattr(layer, method)().items()}

    def parameter_shapes(self):
        return self._of_layers("parameter_shapes")

    def statistic_shapes(self):
        return self._of_layers("statistic_shapes")

    def reset_parameters(self, values, initialise):
        for branch, layers in self.branches.items():
            for k, layer in enumerate(layers):
                part = f"{branch}.{k}."
                layer.reset_parameters(
                    below(part, values),
                    lambda name, value, init, part=part: initialise(part + name, value, init))

    def padding_sides(self):
        return tuple(map(max, *(layers[0].padding_sides() for layers in (self.body, self.shortcut or self.body))))

    def gradient_sides(self, shape):
        shapes = self._shapes(shape)
        after = [layers[-1].gradient_sides(shapes[name][-2])[1] for name, layers in self.branches.items() if layers]
        return self.body[0].gradient_sides(shape)[0], tuple(map(max, zip(*after, strict=True)))

    def branch_ends(self, wires, buffer):
        """[(gradient of its input, output)] of body and shortcut; the body's gradient takes the place of the sum."""
        ends = [(wires.dx, buffer(wires.blocks, wires.y.shape))]
        if not self.shortcut:
            return [*ends, (wires.dy, wires.x)]
        beside = self.shortcut[0].gradient_sides(wires.x.shape)[0]
        dx = None if wires.dx is None else buffer(wires.blocks, wires.x.shape, (0, 0, *beside))
        return [*ends, (dx, buffer(wires.blocks, wires.y.shape))]

    def calls(self, wires, body, shortcut):
        wires.forward.append(Call(residual.add_forward, wires.blocks, wires.y.image(), body[1].image(),
                                  shortcut[1].image(), int(wires.relu_after)))
        if wires.dx is not None:
            wires.backward.append(Call(residual.add_backward, wires.blocks, wires.dx.image(), shortcut[0].image(),
                                       wires.x.image(), int(wires.relu_before)))

    def __repr__(self):
        return container_text("Residual", (
            (name, container_text("Sequential", enumerate(layers)) if layers else "Identity()")
            for name, layers in self.branches.items()))


def _layers(name, value):
    layers = [value] if isinstance(value, Layer) else getattr(value, "layers", value)
    if not isinstance(layers, (list, tuple)) or not all(isinstance(layer, Layer) for layer in layers):
        raise InputError(f"Residual: {name} must be a layer or a list of layers, got {value!r}")
    if not layers:
        raise InputError(f"Residual: {name} needs at least one layer, got none")
    if layers[0].reshapes or layers[-1].reshapes:
        raise InputError(f"Residual: {name} must not begin or end in Flatten")
    return tuple(layers)
