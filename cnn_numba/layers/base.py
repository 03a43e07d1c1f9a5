"""What every layer offers to a plan, and what the plan gives it."""
from dataclasses import dataclass, field

from cnn_numba.errors import InputError, naming, whole_number
from cnn_numba.kernels.lanes import REGISTERS

WIDE = REGISTERS > 8            # registers for large tiles: AVX-512


@dataclass
class Wires:
    """What connects a layer to its neighbours in one plan: buffers (see `plan.Buffer`), parameters, and how many lanes
    of a block can hold an image.

    parameters : {name: Parameter}, for the names of `parameter_shapes` and `statistic_shapes`
    training : whether the layer is to behave as in a training
    window : int64 (first, count); the batch has `count` images, and is images first, first + 1, ... of its pass
    draw : int64 (seed, pass), from which random numbers derive, with the layer's `index` and the place in the pass
    indices : Buffer of y's shape for where the maxima of y stand, where somebody can take a second result

    dx and dy are None in a plan without backward pass; dx also where nobody needs it.  `relu_after`: the next layer is
    a ReLU that this one applies on its way; `relu_before`: x comes from such a ReLU, whose gradient this layer applies.
    Lanes without an image may hold anything finite in x and y, but must get 0 in dx when they hold 0 in dy.
    """

    x: object
    y: object
    lanes: int
    dx: object = None
    dy: object = None
    parameters: dict = field(default_factory=dict)
    training: bool = True
    window: object = None
    draw: object = None
    index: int = 0
    indices: object = None
    relu_after: bool = False
    relu_before: bool = False
    prepare: list = field(default_factory=list)
    forward: list = field(default_factory=list)
    backward: list = field(default_factory=list)
    gradients: list = field(default_factory=list)

    @property
    def blocks(self):
        return self.x.blocks


class Layer:
    """What a plan asks of every layer."""

    applies_relu = False        # can apply a ReLU that follows to its output
    masks_relu = False          # can apply the gradient of a ReLU before it to its dx
    reshapes = False            # gives the numbers of its input another shape, in the same place
    init = None                 # the initialisation of its weights, when it is not the model's
    takes_logits = False        # turns logits into probabilities or their logarithms
    gives_indices = False       # has a second result: where the maxima stand
    branches = {}               # {name: layers} inside of it

    def output_shape(self, shape):
        """The shape of one image's output for one image's input shape; InputError when they cannot meet."""
        return shape

    def parameter_shapes(self):
        """{name: shape} of what is trained."""
        return {}

    def statistic_shapes(self):
        """{name: shape} of what a training collects besides."""
        return {}

    def reset_parameters(self, values, initialise):
        """Set {name: array of zeros}, what is trained and what is collected, to the values that a training starts with.

        initialise(name, array, init) : fills an array with random weights; init None: in the way of the model
        """
        for name, value in values.items():
            if value.ndim > 1:
                initialise(name, value, self.init)

    def padding_sides(self):
        """Rows and columns of zeros that its input needs: (top, bottom, left, right)."""
        return 0, 0, 0, 0

    def gradient_sides(self, shape):
        """(of dx, of dy): columns that the backward pass needs beside them, (left, right), for an input shape.

        Those beside dy hold zeros; those beside dx it writes, and leaves zeros there.
        """
        return (0, 0), (0, 0)

    def calls(self, wires):
        """Append the kernel calls to the lists of the wires."""
        raise NotImplementedError

    def __repr__(self):
        return f"{type(self).__name__}({self.extra_repr()})"

    def extra_repr(self):
        return ""


def container_text(name, parts):
    """A container as PyTorch prints it; parts: (name, layer or its text)."""
    lines = ["  ({}): {}\n".format(part, str(inside).replace("\n", "\n  ")) for part, inside in parts]
    return f"{name}(\n{''.join(lines)})"


def below(prefix, named):
    """{rest of the name: value} of the names that begin with a prefix."""
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}


def infer_shapes(layers, shape):
    """The input shape of each layer and the output shape of the last, of one image.

    Raises InputError, naming the layer, when two layers cannot meet.
    """
    shapes = [tuple(shape)]
    for k, layer in enumerate(layers):
        with naming(f"layer {k}"):
            shapes.append(tuple(layer.output_shape(shapes[-1])))
    return shapes


def every_layer(layers):
    """The layers, each followed by those inside of it."""
    for layer in layers:
        yield layer
        for branch in layer.branches.values():
            yield from every_layer(branch)


def pair(owner, name, value, least=1):
    """(rows, columns) for one number or two; InputError when one is below `least`."""
    both = value if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2:
        raise InputError(f"{owner}: {name} must be a whole number or a pair of them, got {value!r}")
    return tuple(whole_number(owner, name, v, least) for v in both)


def one_or_pair(owner, name, value, least=1):
    """The number or the pair as it came, which is how PyTorch keeps and prints it, checked as in `pair`."""
    checked = pair(owner, name, value, least)
    return checked if isinstance(value, (tuple, list)) else checked[0]


def both(value):
    """(rows, columns) of a value from `one_or_pair`."""
    return value if isinstance(value, tuple) else (value, value)


def image_shape(owner, shape):
    if len(shape) != 3:
        raise InputError(f"{owner} expects images (channels, rows, columns), got {shape_text(shape)}")
    return shape


def shape_text(shape):
    return "x".join(map(str, shape)) + (" features" if len(shape) == 1 else "")
