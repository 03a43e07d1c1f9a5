"""The bytes that a training step reads and writes for each image: every layer in passes of its own, and as they run.

    python scripts/traffic.py [networks] [--layers]

An array counts once for a call that reads it and once for a call that writes it, however often it does so; scratch that
each worker keeps in its cache does not count.  The source of a kernel says which arrays it reads and writes.
"""
import argparse
import ast
import inspect
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cnn_numba import BatchNorm1d, BatchNorm2d  # noqa: E402
from cnn_numba.benchmark.networks import NETWORKS, image_shape  # noqa: E402
from cnn_numba.fusion import Stage  # noqa: E402
from cnn_numba.kernels.lanes import LANES  # noqa: E402
from cnn_numba.table import Table, number  # noqa: E402

BLOCKS = 4


def reached(node, off):
    """A node of the source and those below it, without what runs only if one of the parameters `off` is not 0."""
    yield node
    dead = isinstance(node, (ast.If, ast.IfExp)) and isinstance(node.test, ast.Name) and node.test.id in off
    rest = node.orelse if dead else ast.iter_child_nodes(node)
    for below in [rest] if isinstance(rest, ast.AST) else rest:
        yield from reached(below, off)


@cache
def uses(function, off=frozenset()):
    """{parameter of a kernel: "r" if it reads that array, "w" if it writes it, or both}; off: parameters that are 0"""
    function = getattr(function, "py_func", function)
    tree = ast.parse(inspect.getsource(function))
    found = {name: set() for name in inspect.signature(function).parameters}

    def note(node, letters):
        if isinstance(node, ast.Name) and node.id in found:
            found[node.id].update(letters)

    for node in reached(tree, off):
        if isinstance(node, ast.Subscript):
            note(node.value, "w" if isinstance(node.ctx, ast.Store) else "r")
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Subscript):
            note(node.target.value, "r")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            name, callee = node.func.id, function.__globals__.get(node.func.id)
            helper = hasattr(callee, "py_func")
            for k, arg in enumerate(node.args):
                first = "w" if name.startswith("store") else "rw" if name == "add_tile" else "r"
                note(arg, list(uses(callee).values())[k] if helper else "r" if k else first)
    return found


def traffic(call):
    """The bytes that a call reads and writes."""
    arrays = {}
    off = frozenset(name for name, value in call.args.items() if isinstance(value, int) and value == 0)
    for name, letters in uses(call.kernel, off).items():
        value = call.args.get(name)
        if isinstance(value, np.ndarray):
            size = value.itemsize * int(np.prod([n for n, s in zip(value.shape, value.strides, strict=True) if s]))
            arrays.setdefault(value.ctypes.data, (size, set()))[1].update(letters)
    return sum(size * len(letters) for size, letters in arrays.values())


def apart(layers, shared_gradient=False, shapes=()):
    """As `fusion.fuse`, with every layer on its own."""
    return [Stage(k, layer) for k, layer in enumerate(layers)]


def of_layers(network):
    """{(name of a layer, its type): kB per image, (forward, backward)} of a step with BLOCKS full blocks."""
    model = NETWORKS[network](image_shape(network), 10)
    plan = model.plan(image_shape(network), BLOCKS, input_gradient=False)
    owners = {id(call): (name, type(layer).__name__) for name, layer, wires in plan.stages  # layers in containers last
              for call in (*wires.prepare, *wires.forward, *wires.backward, *wires.gradients)}
    found = {}
    for backward, calls in (False, plan.calls.prepare + plan.calls.forward), \
            (True, plan.calls.backward + plan.calls.gradients):
        for call in calls:
            found.setdefault(owners[id(call)], [0, 0])[backward] += traffic(call) / (1000 * BLOCKS * LANES)
    return found


def table(network, by_layer):
    """A row for each layer, or for each type of layer: kB forward and backward, apart and as they run."""
    with mock.patch("cnn_numba.plan.fuse", apart), mock.patch.object(BatchNorm1d, "adds_shortcut", False), \
            mock.patch.object(BatchNorm2d, "adds_shortcut", False):
        before = of_layers(network)
    rows = {}
    for k, found in enumerate((before, of_layers(network))):
        for key, (forward, backward) in found.items():
            row = rows.setdefault(" ".join(key) if by_layer else key[1], Counter())
            row.update({("forward", k): forward, ("backward", k): backward, ("both", k): forward + backward})
    columns = [("layer" if by_layer else "layers", lambda row: row)] + [
        (f"{direction}, {'now' if k else 'apart'}", lambda row, key=(direction, k): number(rows[row][key]))
        for direction in ("forward", "backward", "both") for k in (0, 1)]
    rows["sum"] = sum(rows.values(), Counter())
    return Table(columns, [row for row in rows if row != "sum"], f"{network}: kB for each image",
                 total=[text("sum") for _, text in columns])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=["resnet8", "bn-cnn"])
    parser.add_argument("--layers", action="store_true", help="a row for each layer, not for each type")
    args = parser.parse_args()
    print("\n\n".join(str(table(network, args.layers)) for network in args.networks))


if __name__ == "__main__":
    main()
