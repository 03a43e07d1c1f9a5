"""The protocol of layers: what a plan asks of a layer, and what it hands to it."""
import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from cnn_numba.buffer import Buffer
from cnn_numba.errors import InputError, naming, register, whole_number
from cnn_numba.kernels.lanes import REGISTERS
from cnn_numba.kernels.matrix import Bf16
from cnn_numba.kernels.program import Call, PerWorker, Pieces
from cnn_numba.layers.module import Module
from cnn_numba.parameter import Parameter

WIDE = REGISTERS > 8            # registers for large tiles: AVX-512

Shape = tuple[int, ...]
Sides = tuple[int, int, int, int]


@dataclass
class Calls:
    """The kernel calls of a layer, or of a network.

    prepare : calls that the forward pass needs, of parameters only; independent of each other
    forward, backward : in the order in which they run
    gradients : gradients of parameters that need the backward pass of all images; independent of each other
    buffers : whose rows the calls write before they read them; `reuse` may move them to memory of a worker
    """

    prepare: list[Call] = field(default_factory=list)
    forward: list[Call] = field(default_factory=list)
    backward: list[Call] = field(default_factory=list)
    gradients: list[Call] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)

    def append(self, after: "Calls") -> None:
        """Add the calls of layers that run after these: their backward pass comes first."""
        self.prepare += after.prepare
        self.forward += after.forward
        self.backward[:0] = after.backward
        self.gradients += after.gradients
        self.buffers += after.buffers


@dataclass(frozen=True)
class Setup:
    """What all layers of a plan share.

    lanes : number of lanes per block that can hold an image
    training : whether layers are in training mode
    textbook : whether all convolutions run the plain loops
    bf16 : Bf16, for layers that round their factors to bf16 where that is faster; None: all compute in float32
    own_modes : whether each layer's own `training` counts instead
    batch : int64 (first, count): the batch holds `count` images, number first, first + 1, ... of the pass
    draw : int64 (seed, pass); random numbers derive from it, the layer's index and the image's position
    pieces : the number of pieces into which layers cut each block where they can: 1 if all workers have a block
    scratch : {shape: memory of a worker} (see `Wires.scratch`)
    """

    lanes: int
    training: bool
    textbook: bool
    batch: np.ndarray
    draw: np.ndarray
    own_modes: bool = False
    bf16: Bf16 | None = None
    pieces: int = 1
    scratch: dict[Shape, PerWorker] = field(default_factory=dict)

    def trains(self, layer: "Layer") -> bool:
        """Whether a layer is in training mode."""
        return layer.training if self.own_modes else self.training


@dataclass(kw_only=True)
class Wires(Calls):
    """What connects one layer to its network: the layer reads the buffers and appends its calls to the four lists.

    Buffers (see `buffer.Buffer`): x and y; dy in a plan with a backward pass, unless neither this layer nor an earlier
    one needs the gradient; dx if an earlier layer needs it.
    Lanes without an image may hold any finite number in x and y; dx must be 0 there when dy is.

    parameters : {name: parameter.Wired}, for the names of `parameter_shapes` and `statistic_shapes`; the gradient of
        one without `requires_grad` need not be computed
    index : number of the layer in the network, including the layers in containers
    relu_after : the layer applies the ReLU that follows to its y
    relu_before : x comes from such a ReLU, and the layer applies its gradient to dx
    pool_after : the MaxPool2d that follows (after that ReLU), if the layer applies it; y is then its output
    shortcut : Buffer that the layer adds to its y, before the ReLU; dy, the gradient of both, is then set to 0 where
        that ReLU gave 0
    adds : dx holds a gradient already, to which the layer adds its own
    indices : Buffer for a second output, the position of each maximum; None if nothing reads it
    """

    x: Any
    y: Any
    dx: Any = None
    dy: Any = None
    parameters: dict[str, Any] = field(default_factory=dict)
    setup: Setup
    index: int = 0
    relu_after: bool = False
    relu_before: bool = False
    pool_after: Any = None
    shortcut: Any = None
    adds: bool = False
    indices: Any = None
    plan: Any = None
    name: str = ""

    @property
    def blocks(self) -> int:
        return self.x.blocks

    @property
    def masked(self) -> Any:
        """The Buffer that decides where dx is 0; dx itself where none does, as nothing needs to keep x for that."""
        return self.x if self.relu_before else self.dx

    def pieces(self, channels: int, least: int = 1, whole: bool = False) -> Pieces:
        """Items that are ranges of at least so many channels, for a kernel that calls `piece`.

        whole : whether it reads all of a block, instead of only these channels
        """
        return Pieces(self.blocks, max(1, min(self.setup.pieces, channels // least)), channels, whole)

    def parts(self, count: int) -> Pieces:
        """Items that are ranges of so many parts of a block other than channels; a call after them needs them all."""
        return Pieces(self.blocks, max(1, min(self.setup.pieces, count)), 0)

    def scratch(self, shape: Shape) -> PerWorker:
        """Memory of a worker whose numbers last as long as an item: the same for all calls that ask for a shape, so
        two arguments of a call must not have the same."""
        if shape not in self.setup.scratch:
            self.setup.scratch[shape] = PerWorker(shape)
        return self.setup.scratch[shape]

    def reusable(self, array: np.ndarray) -> np.ndarray:
        """The array, with a row for each block that calls write before they read it, as one of the `buffers`."""
        self.buffers.append(Buffer(self.blocks, array.shape[1:-1], array=array))
        return array

    def branch(self, name: str, layers: Sequence["Layer"], dx: Any, end: Any = None, shortcut: Any = None) -> Any:
        """Lay out the layers of a container's branch from x to a new buffer of y's shape; returns that buffer.

        The branch's calls are added to these wires.  The gradient of its output is dy; that of its input goes to dx.
        end : (output, its gradient), Buffers to use instead of a new one and dy
        shortcut : Buffer that the branch's last layer adds to its output, before the ReLU that follows the container
        """
        return self.plan.lay_out_branch(self, name, layers, dx, end, shortcut)


class Layer(Module):
    """Base class of all layers.

    A subclass keeps the arguments of its constructor as attributes of the same names, and defines `calls`.  It defines
    `output_shape` if the layer changes the shape, and `parameter_shapes` if it is trained.  The name of the class is
    its type in JSON and in model files.  docs/extending.md builds a layer from scratch.

    A layer gets its parameters from the first network that uses it, or when it is used alone; other networks share
    them.  Called with images, it is a network of one layer.
    """

    applies_relu = False            # can apply a ReLU that follows to its output (`Wires.relu_after`)
    masks_own_relu = False          # applies the gradient of that ReLU itself, so that no later layer has to
    masks_relu = False              # can apply the gradient of a ReLU before it to its dx (`Wires.relu_before`)
    applies_pool = False            # can apply a MaxPool2d that follows to its output (`Wires.pool_after`)
    is_relu = False                 # max(0, x), which a neighbour may apply
    reshapes = False                # its output is its input in another shape, in the same memory
    takes_logits = False            # turns logits into probabilities or their logarithms
    adds_shortcut = False           # can add another image to its output, before that ReLU (`Wires.shortcut`)
    gives_indices = False           # has a second output, the position of each maximum
    init: str | None = None         # the initialisation of its weights; None: the model's
    branch_names: ClassVar[tuple[str, ...]] = ()    # the arguments of a container that are lists of layers
    branches: dict[str, tuple["Layer", ...]] = {}   # these lists, by the names of the arguments

    training = True                 # see `train` and `eval`
    own_tensors: dict[str, Parameter] | None = None     # without those of the branches; None: not made yet
    owner: Any = None               # the network that will make them
    _alone: Any = None              # the network of this layer alone

    aliases: ClassVar[tuple[str, ...]] = ()         # names of the layer in other programs, for networks in JSON
    written_defaults: ClassVar[dict[str, Any]] = {}     # of arguments that such a network may leave out
    known: ClassVar[dict[str, type["Layer"]]] = {}  # every layer class by its name

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.__name__.startswith("_"):
            return
        register(Layer.known, cls)

    def output_shape(self, shape: Shape) -> Shape:
        """The output shape of one image for its input shape; InputError when the layer does not accept it."""
        return shape

    def tiles(self, shape: Shape) -> bool:
        """Whether the layer is a MaxPool2d whose windows tile images of a shape, so that a neighbour may apply it."""
        return False

    def parameter_shapes(self) -> dict[str, Shape]:
        """{name: shape} of the trained parameters; of a container, those of its layers."""
        return self._of_branches("parameter_shapes")

    def statistic_shapes(self) -> dict[str, Shape]:
        """{name: shape} of the statistics that a training collects."""
        return self._of_branches("statistic_shapes")

    def _of_branches(self, method):
        return {f"{branch}.{k}.{name}": shape for branch, layers in self.branches.items()
                for k, layer in enumerate(layers) for name, shape in getattr(layer, method)().items()}

    def reset_parameters(self, values: dict[str, np.ndarray], initialise: Any) -> None:
        """Set the layer's own parameters and statistics, {name: array of zeros}, to their values before training.

        initialise(name, array, init) : fills an array with random weights; init None: the model's initialisation.  A
            bias stays zero, except with the initialisation "pytorch".
        """
        for name, value in values.items():
            initialise(name, value, self.init)

    def padding_sides(self) -> Sides:
        """Rows and columns of zeros that the input needs: (top, bottom, left, right)."""
        return 0, 0, 0, 0

    def gradient_sides(self, shape: Shape, setup: Setup) -> tuple[Sides, Sides]:
        """(of dx, of dy): the border, (top, bottom, left, right), that the backward pass needs, for an input shape.

        That of dy holds zeros.  The layer may write to that of dx, but leaves zeros there.
        """
        return (0, 0, 0, 0), (0, 0, 0, 0)

    def on_unit(self, shape: Shape, setup: Setup) -> bool:
        """Whether the layer, or one inside it, multiplies on the matrix unit of `setup.bf16`, for an input shape."""
        return any(any_on_unit(layers, shape, setup) for layers in self.branches.values())

    def adds_to_dx(self, shape: Shape, setup: Setup) -> bool:
        """Whether the layer can add its gradient to what dx holds (`Wires.adds`), for an input shape."""
        return False

    def shares_gradient(self, shape: Shape, setup: Setup) -> bool:
        """Whether dx may lie in the memory of dy, for an input shape: the gradient of x begins as that of y."""
        return False

    def calls(self, wires: Wires) -> None:
        """Append the layer's kernel calls to the lists of the wires."""
        raise NotImplementedError(f"{type(self).__name__}.calls")

    def textbook(self, x: np.ndarray, parameters: dict[str, np.ndarray], run: Any) -> np.ndarray:
        """The textbook forward pass in NumPy, for `check-gradients`: x (N, ...) in float64.

        parameters : {name: array}
        run : `inspection.textbook.Run`, which knows the batches and the masks of Dropout
        """
        raise InputError(f"{type(self).__name__} has no textbook() method, which check-gradients needs")

    def multiply_adds(self, before: Shape, after: Shape) -> int:
        """Multiply-adds of the forward pass of one image: each weight is used once for each pixel of the output."""
        return math.prod(self.parameter_shapes().get("weight", (0,))) * math.prod(after[1:])

    # ---- a layer as part of a tree, and alone ----------------------------------------------------------------------
    def named_children(self) -> Iterator[tuple[str, Module]]:
        return ((f"{branch}.{k}", layer) for branch, layers in self.branches.items() for k, layer in enumerate(layers))

    def alone(self) -> Any:
        """The network of this layer alone, which shares its parameters."""
        from cnn_numba.model import Sequential

        if self._alone is None:
            self._alone = Sequential(self)
        return self._alone

    def __call__(self, images: Any) -> Any:
        """The layer's output, as from a network of this layer alone."""
        return self.alone()(images)

    def named_tensors(self) -> Iterator[tuple[str, Parameter]]:
        self.alone().bind()
        yield from tensors_of(self).items()

    def __getattr__(self, name: str) -> Any:
        """Parameters and statistics are attributes, as in PyTorch: `layer.weight`."""
        if not name.startswith("_") and not vars(self).get("_asked"):
            self._asked = True                  # the shapes may need what is missing
            try:
                known = name in self.parameter_shapes() or name in self.statistic_shapes()
            finally:
                del self._asked
            if known:
                return dict(self.named_tensors())[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_alone", "owner")}

    def forget(self) -> None:
        """Forget the parameters: the next network makes them anew."""
        self.own_tensors = self._alone = None

    def train(self, mode: bool = True) -> "Layer":
        """Switch this layer, and those inside it, to training mode.  Returns the layer."""
        for layer in every_layer([self]):
            layer.training = bool(mode)
        return self

    def eval(self) -> "Layer":
        """Switch this layer, and those inside it, to evaluation mode.  Returns the layer."""
        return self.train(False)

    @classmethod
    def arguments(cls) -> dict[str, inspect.Parameter]:
        """{name: inspect.Parameter} of the constructor."""
        return dict(inspect.signature(cls).parameters)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def extra_repr(self) -> str:
        """The arguments in the layer's repr, as `torch.nn.Module.extra_repr`."""
        return ", ".join(f"{name}={self.argument(name)!r}" for name in self.arguments())

    def argument(self, name: str) -> Any:
        """The value of an argument of the constructor: the attribute of that name."""
        return getattr(self, name)


def container_text(name: str, parts: Any) -> str:
    """A container as PyTorch prints it; parts: (name, layer or its text)."""
    lines = ["  ({}): {}\n".format(part, str(inside).replace("\n", "\n  ")) for part, inside in parts]
    return f"{name}(\n{''.join(lines)})"


class Biased:
    """For layers whose argument `bias` says whether they have a parameter of that name."""

    has_bias: bool

    @property
    def bias(self) -> Parameter | None:
        """The bias, or None."""
        return dict(self.named_tensors())["bias"] if self.has_bias else None        # type: ignore[attr-defined]

    def argument(self, name: str) -> Any:
        return self.has_bias if name == "bias" else super().argument(name)          # type: ignore[misc]


def tensors_of(layer: Layer) -> dict[str, Parameter]:
    """{name: Parameter} of a layer whose parameters are made, and of those inside it."""
    found = dict(layer.own_tensors or {})
    for branch, layers in layer.branches.items():
        for k, inside in enumerate(layers):
            found |= {f"{branch}.{k}.{name}": p for name, p in tensors_of(inside).items()}
    return found


def below(prefix: str, named: dict[str, Any]) -> dict[str, Any]:
    """{rest of the name: value} for the names that begin with a prefix."""
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}


def infer_shapes(layers: Sequence[Layer], shape: Shape) -> list[Shape]:
    """The input shape of each layer for one image, and the output shape of the last.

    Raises InputError, which names the layer, when two layers do not fit together.
    """
    shapes = [tuple(shape)]
    for k, layer in enumerate(layers):
        with naming(f"layer {k}"):
            shapes.append(tuple(layer.output_shape(shapes[-1])))
    return shapes


def any_on_unit(layers: Sequence[Layer], shape: Shape, setup: Setup) -> bool:
    """`Layer.on_unit` of layers that run one after the other."""
    return any(layer.on_unit(before, setup) for layer, before in zip(layers, infer_shapes(layers, shape), strict=False))


def every_layer(layers: Sequence[Layer]) -> Iterator[Layer]:
    """The layers, each followed by those inside it."""
    for layer in layers:
        yield layer
        for branch in layer.branches.values():
            yield from every_layer(branch)


def pair(owner: str, name: str, value: Any, least: int = 1) -> tuple[int, int]:
    """(rows, columns) for one number or two; InputError when one is below `least`."""
    both = value if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2:
        raise InputError(f"{owner}: {name} must be a whole number or a pair of them, got {value!r}")
    return whole_number(owner, name, both[0], least), whole_number(owner, name, both[1], least)


def one_or_pair(owner: str, name: str, value: Any, least: int = 1) -> int | tuple[int, int]:
    """The number or the pair unchanged, as PyTorch keeps and prints it; checked as in `pair`."""
    checked = pair(owner, name, value, least)
    return checked if isinstance(value, (tuple, list)) else checked[0]


def both(value: int | tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of a value from `one_or_pair`."""
    return value if isinstance(value, tuple) else (value, value)


def image_shape(owner: str, shape: Shape) -> Shape:
    """The shape; InputError unless it is that of an image, (channels, rows, columns)."""
    if len(shape) != 3:
        raise InputError(f"{owner} expects images (channels, rows, columns), got {shape_text(shape)}")
    return shape


def shape_text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) + (" features" if len(shape) == 1 else "")
