"""Calls of kernels by the names of their arguments, programs of calls, and kernels that cannot be compiled."""
import ast
import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import njit

import cnn_numba as nn
from cnn_numba import set_execution
from cnn_numba.kernels import driver
from cnn_numba.kernels.compiled import JIT, KERNEL, KernelError
from cnn_numba.kernels.driver import max_threads
from cnn_numba.kernels.pieces import piece
from cnn_numba.kernels.program import Call, PerWorker, Pieces, Program, at_once, by_one, in_order

ROOT = Path(__file__).resolve().parents[1]



@njit(**KERNEL)
def append(item, out, length, value):
    """Append 100 * item + value to row `item` of out."""
    out[item, length[item]] = 100 * item + value
    length[item] += 1


@njit(**KERNEL)
def add_rows(item, total, out, length):
    """total[item] = the sum of all rows of out."""
    total[item] = 0
    for row in range(out.shape[0]):
        for k in range(length[row]):
            total[item] += out[row, k]


@njit(**KERNEL)
def square_pieces(item, y, x, scratch, pieces):
    """y[n] = x[n]^2 for a piece of row n, by way of scratch, which is left as it is."""
    n, first, end = piece(item, pieces, x.shape[1])
    for k in range(first, end):
        scratch[k] = x[n, k]
    for k in range(first, end):
        y[n, k] = scratch[k] * scratch[k]


@njit(**KERNEL)
def scale_rows(n, y, x, factors, rows):
    """y[n, k] = factors[k] * x[n, k], and the number of rows that the kernel sees in y[n, k, 0]."""
    for k in range(x.shape[1]):
        for j in range(x.shape[2]):
            y[n, k, j] = factors[k] * x[n, k, j]
        y[n, k, 0] = rows


@njit(**KERNEL)
def stops(item, x):
    breakpoint()
    x[item] = 1


@njit(**KERNEL)
def traces(item, x):
    import pdb
    pdb.set_trace()
    x[item] = 1


@njit(**KERNEL)
def uses_an_unknown_name(item, x):
    x[item] = unknown           # noqa: F821


@njit(**KERNEL)
def stores_text(item, x):
    x[item] = "text"


def arrays(items=3):
    return np.zeros((items, 9), np.int64), np.zeros(items, np.int64)


# ---- names of arguments -------------------------------------------------------------------------------------------
def test_arguments_are_told_by_their_names_in_any_order():
    out, length = arrays()
    call = Call(append, 3, value=7, length=length, out=out)
    Program(in_order([call]))()
    assert out[:, 0].tolist() == [7, 107, 207] and length.tolist() == [1, 1, 1]
    assert list(call.args) == ["out", "length", "value"] and call.args["out"] is out
    assert repr(call) == "<append(out, length, value) for 3 items>"


@pytest.mark.parametrize("change, sentence", (
    ({"value": None}, "append misses value, expected out, length, value"),
    ({"value": None, "out": None}, "append misses out, expected out, length, value"),
    ({"values": 7}, "append has no argument values, expected out, length, value"),
    ({"value": None, "values": 7}, "append misses value, expected"),
    ({"item": 0}, "append has no argument item, expected out, length, value"),
    ({"kernel": append}, "append has no argument kernel, expected"),
))
def test_wrong_and_missing_names_are_refused_when_the_call_is_made(change, sentence):
    out, length = arrays()
    args = {name: value for name, value in ({"out": out, "length": length, "value": 7} | change).items()
            if value is not None}
    with pytest.raises(TypeError) as error:
        Call(append, 3, **args)
    assert str(error.value).startswith(sentence)


def test_doubled_names_and_arguments_without_a_name_are_refused():
    out, length = arrays()
    more = {"value": 8}
    with pytest.raises(TypeError, match="multiple values for keyword argument 'value'"):
        Call(append, 3, out=out, length=length, value=7, **more)
    with pytest.raises(TypeError, match="positional"):
        Call(append, 3, out, length, 7)


# ---- programs -----------------------------------------------------------------------------------------------------
def test_calls_of_as_many_items_run_as_one_chain_for_each_item():
    out, length = arrays()
    calls = [Call(append, 3, out=out, length=length, value=k) for k in range(4)]
    phases = in_order(calls)
    assert [[item for _, item in chain] for chain in phases[0]] == [[0] * 4, [1] * 4, [2] * 4] and len(phases) == 1
    Program(phases)()
    assert out[:, :4].tolist() == [[100 * item + k for k in range(4)] for item in range(3)]


def test_a_call_that_needs_all_items_begins_a_phase():
    out, length = arrays()
    totals = [np.zeros(n, np.int64) for n in (3, 2)]
    calls = [Call(append, 3, out=out, length=length, value=1),
             Call(add_rows, 3, total=totals[0], out=out, length=length, after_all=True),
             Call(add_rows, 2, total=totals[1], out=out, length=length)]
    phases = in_order(calls)
    assert [len(phase) for phase in phases] == [3, 3, 2]
    Program(phases)()
    assert totals[0].tolist() == [303] * 3 and totals[1].tolist() == [303] * 2


def test_a_call_apart_has_a_phase_of_its_own():
    out, length = arrays()
    total = np.zeros(3, np.int64)
    calls = [Call(append, 3, out=out, length=length, value=1),
             Call(add_rows, 3, total=total, out=out, length=length, apart=True),
             Call(append, 3, out=out, length=length, value=2)]
    phases = in_order(calls)
    assert [[len(chain) for chain in phase] for phase in phases] == [[1] * 3] * 3
    Program(phases)()
    assert total.tolist() == [303] * 3 and length.tolist() == [2] * 3


def test_calls_that_do_not_depend_on_each_other_are_chains_of_one_phase():
    out, length = arrays()
    calls = [Call(append, 1, out=out[k:], length=length[k:], value=k) for k in range(3)]
    phase, = at_once(calls)
    assert len(phase) == 3 and all(len(chain) == 1 for chain in phase)
    Program([phase])()
    assert out[:, 0].tolist() == [0, 1, 2]


def test_pieces_cover_every_block_once_on_scratch_of_each_worker():
    for mode, threads in [("serial", 1)] + [("parallel", max_threads())] * JIT:
        set_execution(mode, threads)
        for each in 1, 2, 3, 7:
            x, scratch = np.arange(21.0).reshape(3, 7), PerWorker((7,))
            y = np.zeros_like(x)
            items = Pieces(3, each, 7)
            Program(in_order([Call(square_pieces, items, y=y, x=x, scratch=scratch, pieces=each)]))()
            assert np.array_equal(y, x ** 2)
            assert len(scratch.arrays) == max_threads() and any(array.any() for array in scratch.arrays)


def test_a_piece_sees_its_own_channels():
    for mode, threads in [("serial", 1)] + [("parallel", max_threads())] * JIT:
        set_execution(mode, threads)
        for each, shares in (1, [6]), (2, [3, 3]), (4, [1, 2, 1, 2]):
            x, factors = np.random.default_rng(0).normal(size=(3, 12, 5)), np.arange(1.0, 13)       # two rows a channel
            y = np.zeros_like(x)
            Program(in_order([Call(scale_rows, Pieces(3, each, 6), y=y, x=x, factors=factors, rows=12,
                                   cut=dict(y=1, x=1, factors=0, rows=0))]))()
            assert np.array_equal(y[:, :, 1:], (x * factors[:, None])[:, :, 1:])
            assert y[:, :, 0].tolist() == [[2.0 * share for share in shares for _ in range(2 * share)]] * 3


def test_an_axis_that_is_no_multiple_of_the_channels_cannot_be_cut():
    x = np.zeros((1, 7, 2))
    with pytest.raises(ValueError, match="axis of 7 cannot be cut into ranges of 3 channels"):
        Call(scale_rows, Pieces(1, 3, 3), y=x, x=x, factors=np.zeros(7), rows=7, cut=dict(y=1))


@pytest.mark.parametrize("items, phases", (
    ((Pieces(2, 3, 6, whole=True), Pieces(2, 3, 6, whole=False)), 1),
    ((Pieces(2, 3, 6, whole=False), Pieces(2, 3, 6, whole=True)), 2),
    ((Pieces(2, 3, 6, whole=False), Pieces(2, 3, 9, whole=False)), 2),
    ((Pieces(2, 3, 6, whole=False), Pieces(2, 2, 6, whole=False)), 2),
    ((Pieces(3, 2, 6, whole=False), Pieces(2, 3, 6, whole=False)), 2),
    ((Pieces(2, 1, 6, whole=True), Pieces(2, 1, 9, whole=True), 2), 1),
    ((6, Pieces(2, 3, 6, whole=False)), 2),
    ((Pieces(1, 6), 6), 2),
))
def test_a_chain_goes_on_where_a_piece_reads_only_itself(items, phases):
    x, y = np.zeros((6, 7)), np.zeros((6, 7))
    calls = [Call(square_pieces, of, y=y, x=x, scratch=PerWorker((7,)), pieces=1) for of in items]
    assert len(in_order(calls)) == phases


def chains_of_pieces(model, shape, blocks):
    """The most chains of a phase of the forward pass with 1, 2, 3 and 8 pieces, which give the same bits."""
    rng, results, chains = np.random.default_rng(0), [], []
    x, dz = (rng.normal(size=(16 * blocks, *each)) for each in (shape, model.output_shape(shape)))
    for pieces in 1, 2, 3, 8:
        plan = model.plan(shape, blocks, pieces=pieces)
        model.grads[:] = 0
        plan.x.put(x)
        plan.dz.put(dz)
        for program in plan.programs():
            program()
        results.append([plan.z.get(len(x)), plan.dx.get(len(x)), model.grads.copy()])
        chains.append(max(len(phase) for phase in in_order(plan.calls.forward)))
    assert all(np.array_equal(got, want) for other in results[1:] for got, want in zip(other, results[0], strict=True))
    assert all(array.any() for array in results[0])
    return chains


@pytest.mark.parametrize("blocks", (1, 2))
def test_pieces_do_not_change_the_bits(blocks):
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 7, 5, padding=2), nn.ReLU(),
        nn.Conv2d(7, 5, (1, 3)), nn.Flatten(), nn.Linear(5 * 3 * 4, 150), nn.ReLU(), nn.Linear(150, 60), seed=1)
    assert chains_of_pieces(model, (2, 6, 12), blocks) == [blocks, 2 * blocks, 3 * blocks, 8 * blocks]


@pytest.mark.parametrize("blocks", (1, 2))
def test_pieces_of_products_along_both_axes_do_not_change_the_bits(blocks):
    """Pieces that share a panel of tiles, and tiles of a piece that share outputs with those of another."""
    wide = [nn.ReLU(), nn.Conv2d(12, 33, 3, padding=1), nn.ReLU(), nn.Conv2d(33, 63, 3)]
    model = nn.Sequential(nn.Conv2d(4, 12, 3), *wide * JIT, seed=1)             # interpreted, these take minutes
    assert chains_of_pieces(model, (4, 11, 17), blocks)[:3] == [blocks, 2 * blocks, 3 * blocks]


@pytest.mark.parametrize("blocks", (1, 2))
def test_pieces_of_other_layers_do_not_change_the_bits(blocks):
    """Strides, groups, gradients of the weights by vectors of filters, batch norms and shortcuts."""
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3, stride=2), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 18, 3, groups=3),
        nn.BatchNorm2d(18), nn.MaxPool2d(2), nn.Conv2d(18, 16, 1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Residual([nn.Conv2d(16, 16, 2, padding="same"), nn.BatchNorm2d(16)]), nn.ReLU(),
        nn.Residual([nn.Conv2d(16, 32, 3, stride=2, padding=1)], [nn.Conv2d(16, 32, 1, stride=2)]), nn.AvgPool2d(2),
        nn.ConvTranspose2d(32, 8, 3, groups=4), seed=1)
    assert chains_of_pieces(model, (3, 20, 23), blocks)[:3] == [blocks, 2 * blocks, 3 * blocks]


def test_a_program_is_replayed_as_often_as_asked():
    ways = [("serial", 1)] + [("parallel", n) for n in {1, max_threads()}] * JIT
    for mode, threads in ways:
        set_execution(mode, threads)
        out, length = arrays()
        program = Program(in_order([Call(append, 3, out=out, length=length, value=1)]), most=5)
        program(5)
        program()
        assert length.tolist() == [6, 6, 6] and out[2].tolist() == [201] * 6 + [0] * 3


def test_an_empty_program_does_nothing():
    Program([])()
    Program([[]])()
    Program([[[]]])()


# ---- what cannot be compiled --------------------------------------------------------------------------------------
@pytest.mark.skipif(not JIT, reason="interpreted, it is reached")
@pytest.mark.parametrize("kernel", (stops, traces, uses_an_unknown_name, stores_text))
def test_a_kernel_that_cannot_be_compiled_says_why_in_a_sentence(kernel):
    with pytest.raises(KernelError) as error:
        Program(in_order([Call(kernel, 3, x=np.zeros(3))]))()
    text, line = str(error.value), kernel.py_func.__code__.co_firstlineno
    assert text.startswith(f"{kernel.__name__} ({__file__}, line {line}) cannot be compiled: ")
    assert "breakpoint()" in text and "NUMBA_DISABLE_JIT=1" in text
    assert "\n" not in text and len(text) < 700


@pytest.mark.skipif(JIT, reason="compiled, it is refused")
def test_an_interpreted_kernel_stops_at_its_breakpoint(monkeypatch):
    reached, x = [], np.zeros(3)
    monkeypatch.setattr(sys, "breakpointhook", lambda: reached.append(sys._getframe(1).f_locals["item"]))
    Program(in_order([Call(stops, 3, x=x)]))()
    assert reached == [0, 1, 2] and x.all()


# ---- the package --------------------------------------------------------------------------------------------------
def test_the_vectors_have_the_same_names_compiled_and_interpreted():
    names = []
    for file in "compiled.py", "interpreted.py":
        tree = ast.parse((ROOT / "kernels" / "lanes" / file).read_text())
        listed, = (ast.literal_eval(node.value) for node in tree.body
                   if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__")
        names.append(listed)
        module = importlib.import_module(f"cnn_numba.kernels.lanes.{file[:-3]}") if JIT or "inter" in file else None
        assert module is None or all(hasattr(module, name) for name in listed)
    assert sorted(names[0]) == sorted(names[1]) and len(set(names[0])) == len(names[0]) > 20


def test_the_kernels_are_not_imported_by_themselves():
    """`kernels` is the name of another package, too."""
    with pytest.raises(ImportError) as error:
        importlib.import_module("kernels")
    assert re.fullmatch(r"the kernels are part of cnn_numba: import cnn_numba\.kernels instead of kernels",
                        str(error.value))
    assert "kernels" not in sys.modules


@pytest.mark.skipif(not JIT or max_threads() < 2, reason="one worker runs everything")
@pytest.mark.parametrize("run", [
    lambda model, x: nn.CrossEntropyLoss()(x, np.zeros(64, int)), lambda model, x: nn.clip_grad_norm_(model, 1.0),
    lambda model, x: nn.functional.max_pool2d(x.reshape(64, 1, 10, 40), 2)], ids=["loss", "norm", "pooling"])
def test_a_program_that_runs_once_is_left_to_one_worker(monkeypatch, run):
    modes, ready = [], driver._ready
    monkeypatch.setattr(driver, "_ready", lambda mode: modes.append(mode) or ready(mode))
    model = nn.Sequential(nn.Linear(400, 300))
    model.bind()
    set_execution("parallel")
    run(model, np.zeros((64, 400), np.float32))
    assert modes == ["serial"]


def test_one_worker_runs_all_items_in_order():
    out, length = arrays()
    calls = [Call(append, 3, out=out, length=length, value=value) for value in (1, 2)]
    assert by_one(calls) == [[[(call, item) for call in calls for item in range(3)]]]
    Program(by_one(calls))()
    assert length.tolist() == [2, 2, 2] and out[2].tolist()[:3] == [201, 202, 0]
