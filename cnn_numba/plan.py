"""Plans: the buffers of a network for a number of image blocks, and the kernel calls that run on them."""
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnn_numba.buffer import Buffer
from cnn_numba.fusion import fuse
from cnn_numba.kernels import activation
from cnn_numba.kernels.driver import execution
from cnn_numba.kernels.lanes import LANES
from cnn_numba.kernels.matrix import Bf16
from cnn_numba.kernels.program import Call, Program, at_once, in_order
from cnn_numba.layers import Calls, Layer, Setup, Wires, below, every_layer, infer_shapes

MOST_BYTES = 1 << 28        # of the buffers for images that are evaluated together


@dataclass(frozen=True)
class Needs:
    """Requirements of a layer for the buffers of its input.

    border : rows and columns of zeros around the value, (top, bottom, left, right)
    around : the same around the gradient
    dense : no gaps between the channels, so that the memory can be reshaped
    """

    border: tuple[int, ...] = (0, 0, 0, 0)
    around: tuple[int, ...] = (0, 0, 0, 0)
    dense: bool = False


def blocks_for(shapes: Sequence[tuple[int, ...]], images: int, most_images: int) -> int:
    """The number of blocks to evaluate at a time: no more than the images fill, and within MOST_BYTES.

    shapes : of one image between the layers; buffers take about three times that memory, with borders and transforms
    """
    bytes_of_block = 3 * 4 * LANES * sum(math.prod(shape) for shape in shapes)
    return max(1, min(math.ceil(min(images, most_images) / LANES), MOST_BYTES // bytes_of_block))


def pieces_for(blocks: int) -> int:
    """The number of pieces into which to cut each block, so that every worker in use has something to do."""
    return math.ceil(execution()[1] / blocks)


class Plan:
    """A network laid out for a number of blocks: x -> z and, in a plan with a backward pass, dz -> dx.

    Parameters
    ----------
    layers : list of Layer
    tensors : list of dict
        {name: parameter.Wired} of each layer: its parameters and statistics.
    shapes : list of tuple
        The input shape of each layer for one image, and the output shape of the last.
    blocks : int
    backward, input_gradient : bool
        Whether gradients are computed, and whether that of the images is, too.  Below the first layer with a parameter
        that is trained, nothing is computed.
    lanes : int
        The number of lanes per block that can hold an image: below LANES when there are fewer images.
    training, own_modes, textbook, bf16, batch, draw, pieces : see `layers.Setup`; arrays are made when missing

    Attributes
    ----------
    x, dx, z, dz : Buffer
    calls : Calls
    stages : list of (name, Layer, Wires)
        Every layer that runs, including those in containers, with its own calls; the name is that in `state_dict`.
    indices : Buffer or None
        The position of each maximum of z, if the last layer gives it.
    """

    def __init__(self, layers: Sequence[Layer], tensors: Sequence[dict[str, Any]], shapes: Sequence[tuple[int, ...]],
                 blocks: int, backward: bool = True, input_gradient: bool = True, lanes: int = LANES,
                 training: bool = True, textbook: bool = False, batch: np.ndarray | None = None,
                 draw: np.ndarray | None = None, own_modes: bool = False, bf16: Bf16 | None = None,
                 pieces: int = 1):
        self.blocks, self.shapes, self.backward = blocks, shapes, backward
        self.setup = Setup(lanes, training, textbook, np.array([0, blocks * LANES]) if batch is None else batch,
                           np.zeros(2, np.int64) if draw is None else draw, own_modes, bf16, pieces)
        self.stages: list[tuple[str, Layer, Wires]] = []
        self.indices: Buffer | None = None
        self._index = {id(layer): k for k, layer in enumerate(every_layer(layers))}
        needs = self._needs(layers[0], shapes[0])
        self.x = Buffer(blocks, shapes[0], needs.border, needs.dense)
        self.dx = Buffer(blocks, shapes[0], needs.around, needs.dense) if backward and input_gradient else None
        self.calls, self.z, self.dz = self._lay_out("", layers, tensors, shapes, self.x, self.dx)
        self.calls.buffers.append(self.x)

    def _needs(self, layer: Layer, shape: tuple[int, ...]) -> Needs:
        return Needs(layer.padding_sides(), layer.gradient_sides(shape, self.setup)[0], layer.reshapes)

    def _lay_out(self, prefix: str, layers: Sequence[Layer], tensors: Sequence[dict[str, Any]],
                 shapes: Sequence[tuple[int, ...]], x: Buffer, dx: Buffer | None,
                 end: tuple[Buffer, Buffer | None] | None = None, shortcut: Buffer | None = None,
                 relu: bool = False) -> tuple[Calls, Buffer, Buffer | None]:
        """Lay out layers that run one after the other; returns their calls, their output and its gradient.

        end : output and gradient, if they exist already and the gradient has other readers
        shortcut, relu : what the last layer adds to its output, and whether it then applies a ReLU
        """
        calls, stages = Calls(), fuse(layers, end is not None, shapes)
        for stage, reader in zip(stages, [*stages[1:], None], strict=True):
            k, layer = stage.position, stage.layer
            wires = Wires(
                x=x, y=None, dx=dx, parameters=tensors[k], setup=self.setup, index=self._index[id(layer)],
                relu_after=stage.relu_after, relu_before=stage.relu_before,
                pool_after=stage.pool_after, plan=self, name=f"{prefix}{k}")
            gradient = self.backward and (
                reader is None or dx is not None or any(p.requires_grad for p in tensors[k].values()))
            wires.adds = end is not None and stage is stages[0] and dx is not None and dx is end[1]
            if end and reader is None:
                wires.y, wires.dy = end
                wires.shortcut, wires.relu_after = shortcut, wires.relu_after or relu
            else:
                needs = Needs() if reader is None else self._needs(reader.layer, shapes[reader.position])
                own = layer.gradient_sides(shapes[k], self.setup)[1]
                self._add_outputs(wires, layer, shapes[stage.end], own, needs, gradient)
            if layer.gives_indices and reader is None and not prefix:
                wires.indices = self.indices = Buffer(self.blocks, wires.y.shape)
            self.stages.append((wires.name, layer, wires))
            layer.calls(wires)
            wires.plan = None               # no longer needed, and a cycle would keep the buffers until a collection
            if stage.mask and wires.dy is not None:             # before the branches of a container, too
                dy = wires.dy.image()
                wires.backward.insert(0, Call(activation.relu_backward, self.blocks, dx=dy, dy=dy, y=wires.y.image()))
            calls.append(wires)
            x, dx = wires.y, wires.dy
        return calls, x, dx

    def _add_outputs(self, wires: Wires, layer: Layer, shape: tuple[int, ...], own: tuple[int, ...],
                     needs: Needs, gradient: bool) -> None:
        """Make y with the border that the next layer reads, and dy with the border that either layer needs."""
        if layer.reshapes:
            wires.y = wires.x.flat()
            if gradient:
                plain = wires.dx is not None and not any(wires.dx.border)
                wires.dy = wires.dx.flat() if plain else Buffer(self.blocks, shape)
                wires.buffers += [] if plain else [wires.dy]
            return
        wires.y = Buffer(self.blocks, shape, needs.border, needs.dense)
        wires.buffers.append(wires.y)
        sides = tuple(map(max, own, needs.around))
        if gradient and wires.dx and not needs.dense and not wires.relu_before and wires.dx.border == sides \
                and layer.shares_gradient(wires.x.shape, self.setup):
            wires.dy = wires.dx
        elif gradient:
            wires.dy = Buffer(self.blocks, shape, sides, needs.dense)
            wires.buffers.append(wires.dy)

    def lay_out_branch(self, wires: Wires, name: str, layers: Sequence[Layer], dx: Buffer | None,
                       end: tuple[Buffer, Buffer | None] | None, shortcut: Buffer | None) -> Buffer:
        """See `layers.Wires.branch`."""
        tensors = [below(f"{name}.{k}.", wires.parameters) for k in range(len(layers))]
        z, dz = end or (Buffer(self.blocks, wires.y.shape), wires.dy)
        wires.buffers += [] if end else [z]
        calls, *_ = self._lay_out(f"{wires.name}.{name}.", layers, tensors, infer_shapes(layers, wires.x.shape),
                                  wires.x, dx, (z, dz), shortcut, shortcut is not None and wires.relu_after)
        wires.append(calls)
        return z

    def programs(self, after: Sequence[Call] = ()) -> tuple[Program, Program]:
        """(forward pass, backward pass with all gradients); after : calls at the end of the backward pass"""
        return (Program(at_once(self.calls.prepare) + in_order(self.calls.forward)),
                Program(in_order(self.calls.backward) + at_once(self.calls.gradients) + at_once(after)))
