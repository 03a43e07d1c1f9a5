"""Memory that workers use again: buffers that nothing reads after the chain of an image block.

All blocks run at once, so every buffer has a row for each block.  Most rows are dead when the chain of calls that wrote
them ends, and a worker runs one chain at a time.  It can keep such a row in one place for all blocks, and for all
buffers of that shape that are never alive together: memory that stays in its core's cache, instead of a row that
comes from far away, is written, and goes back.
"""
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnn_numba.buffer import Buffer
from cnn_numba.kernels.program import Call, PerWorker

Phases = list[list[list[tuple[Call, int]]]]
Moment = tuple[int, int]                # number of a phase, and of a call in its chains


def reuse(phases: Phases, buffers: Sequence[Buffer]) -> Phases:
    """The phases, for `Program`, with the rows of some buffers in memory of the worker.

    A buffer stays as it is unless the same chain makes all calls that use a row.  Results do not change.

    buffers : whose rows are written before they are read, and which only the calls of the phases use
    """
    found = _Memory(buffers)
    chains = [_calls_of_blocks(phase) for phase in phases]
    for p, phase in enumerate(phases):
        for at, call in enumerate(chains[p] or {id(call): call for chain in phase for call, _ in chain}.values()):
            found.note(call, (p, at) if chains[p] else None)
    calls = found.moved()
    return [[[(calls.get(id(call), call), item) for call, item in chain] for chain in phase] for phase in phases]


def _calls_of_blocks(phase):
    """The calls of a phase in order, if every chain makes all of them for one item, its number; else None."""
    calls = [call for call, _ in phase[0]] if phase else []
    same = all([(id(call), item) for call, item in chain] == [(id(call), k) for call in calls]
               for k, chain in enumerate(phase))
    return calls if same and all(call.pieces.each == 1 for call in calls) else None


class _Memory:
    """Buffers, the calls that use each, and when."""

    def __init__(self, buffers: Sequence[Buffer]):
        self._buffers = sorted(buffers, key=lambda buffer: _address(buffer.array))
        self._starts = [_address(buffer.array) for buffer in self._buffers]
        self._moments: list[list[Moment]] = [[] for _ in buffers]
        self._arguments: list[list[tuple[Call, str]]] = [[] for _ in buffers]
        self._fixed: set[int] = set()

    def note(self, call: Call, moment: Moment | None) -> None:
        """A call uses its arguments; moment None: not in a chain of its block."""
        for name, value in call.args.items():
            k = self._owner(value) if isinstance(value, np.ndarray) else None
            if k is None:
                continue
            whole = self._buffers[k].array
            rows = value.shape[0] == whole.shape[0] == call.items and value.strides[0] == whole.strides[0]
            if moment is None or not rows:
                self._fixed.add(k)
            else:
                self._moments[k].append(moment)
                self._arguments[k].append((call, name))

    def _owner(self, array):
        """The number of the buffer in whose memory an array lies."""
        k = bisect_right(self._starts, _address(array)) - 1
        inside = k >= 0 and _address(array) < self._starts[k] + _extent(self._buffers[k].array)
        return k if inside else None

    def moved(self) -> dict[int, Call]:
        """{id of a call: the call that works on memory of the worker}"""
        arguments: dict[int, tuple[Call, dict[str, Any]]] = {}
        free: dict[tuple, list[tuple[Moment, PerWorker]]] = {}
        moves = [k for k, moments in enumerate(self._moments)
                 if k not in self._fixed and len({phase for phase, _ in moments}) == 1]
        for k in sorted(moves, key=lambda k: min(self._moments[k])):
            array, border = self._buffers[k].array, self._buffers[k].border
            places = free.setdefault((array.shape[1:], array.strides[1:], border), [])     # whose border is zero
            first, last = min(self._moments[k]), max(self._moments[k])
            at = next((at for at, (until, _) in enumerate(places) if until < first), None)
            memory = PerWorker(_extent(array[:1]) // array.itemsize) if at is None else places.pop(at)[1]
            places.append((last, memory))
            for call, name in self._arguments[k]:
                arguments.setdefault(id(call), (call, {}))[1][name] = _rows(memory, array, call.args[name])
        return {key: call.with_args(**args) for key, (call, args) in arguments.items()}


def _rows(memory, whole, view):
    """A view of a buffer, moved to the memory that has room for one of its rows: all rows are the same."""
    offset, strides = _address(view) - _address(whole), (0, *view.strides[1:])
    return memory.viewed(lambda row: np.ndarray(view.shape, view.dtype, row, offset, strides))


def _address(array):
    return array.__array_interface__["data"][0]


def _extent(array):
    """Bytes from the first number of an array to the end of its last; no stride is negative."""
    return array.itemsize + sum((size - 1) * stride for size, stride in zip(array.shape, array.strides, strict=True))
