"""Buffers in memory of the workers: which ones `reuse` moves, where to, and that results stay the same to the bit."""
import numpy as np
import pytest
from numba import njit

import cnn_numba as nn
from cnn_numba import set_execution, training
from cnn_numba.buffer import Buffer
from cnn_numba.kernels.compiled import JIT, KERNEL
from cnn_numba.kernels.driver import max_threads
from cnn_numba.kernels.program import Call, PerWorker, Program, at_once, in_order
from cnn_numba.reuse import reuse

BLOCKS = 3


@njit(**KERNEL)
def one_more(n, y, x):
    """y = x + 1."""
    for k in range(x.shape[1]):
        for l in range(x.shape[2]):
            y[n, k, l] = x[n, k, l] + 1


@njit(**KERNEL)
def sum_of_blocks(n, y, x):
    """y = the sum of x over all blocks."""
    for k in range(x.shape[1]):
        for l in range(x.shape[2]):
            y[n, k, l] = 0
            for m in range(x.shape[0]):
                y[n, k, l] += x[m, k, l]


def buffers(count):
    return [Buffer(BLOCKS, (5,)) for _ in range(count)]


def more(y, x, **options):
    return Call(one_more, BLOCKS, y=y.array, x=x.array, **options)


def total(y, x):
    return Call(sum_of_blocks, BLOCKS, y=y.array, x=x.array, after_all=True)


def places(phases):
    """{name of a buffer: its memory} as the calls of the first chain of each phase see it."""
    return [{name: value.arrays[0].__array_interface__["data"][0] if isinstance(value, PerWorker) else None
             for name, value in call.args.items()} for phase in phases for call, _ in phase[0]]


def test_a_buffer_of_one_chain_moves_and_one_that_others_read_stays():
    x, a, b, c, d = buffers(5)
    x.array[:] = np.arange(BLOCKS)[:, None, None]
    calls = [more(a, x), more(b, a), total(c, b), more(d, c)]
    phases = reuse(in_order(calls), [a, b, c])
    found = places(phases)
    assert [set(name for name, place in each.items() if place) for each in found] == [{"y"}, {"x"}, {"y"}, {"x"}]
    assert found[0]["y"] == found[1]["x"] == found[2]["y"] == found[3]["x"], "a and c are never alive together"
    Program(phases)()
    assert (d.array == 3 + 3 * 2 + 1).all() and not a.array.any() and not c.array.any() and b.array.any()
    assert (b.array == x.array + 2).all()


def test_buffers_that_are_alive_together_have_memory_of_their_own():
    x, a, b, c, d = buffers(5)
    phases = reuse(in_order([more(a, x), more(b, a), more(c, b), more(d, c)]), [a, b, c])
    _, of_a, of_b, of_c = (each["x"] for each in places(phases))
    assert of_a == of_c != of_b and of_a and of_b
    Program(phases)()
    assert (d.array == 4).all()


@pytest.mark.parametrize("border", ((0, 0, 0, 0), (1, 0, 0, 0)))
def test_buffers_share_memory_only_with_the_same_zeros_around(border):
    plain, x = Buffer(BLOCKS, (2, 3, 4)), Buffer(BLOCKS, (2, 2, 4), (1, 0, 0, 0))
    other = Buffer(BLOCKS, (2, 3 - border[0], 4), border)
    calls = [Call(one_more, BLOCKS, y=buffer.array[:, 0, 1], x=x.array[:, 0, 1]) for buffer in (plain, other)]
    first, second = (each["y"] for each in places(reuse(in_order(calls), [plain, other])))
    assert (first == second) == (not any(border)) and first and second


def calls_at_once(a, b, x):
    return at_once([more(a, x), more(b, a)])


def a_call_apart(a, b, x):
    return in_order([more(a, x, apart=True), more(b, a)])


def a_later_phase(a, b, x):
    return in_order([more(a, x)]) + at_once([more(b, a)])


def another_order(a, b, x):
    first, second = more(a, x), more(b, a)
    return [[[(first, n), (second, (n + 1) % BLOCKS)] for n in range(BLOCKS)]]


def parts_of_rows(a, b, x):
    turned = a.array.reshape(5, BLOCKS, -1)
    return in_order([Call(one_more, BLOCKS, y=turned[:BLOCKS], x=x.array.reshape(turned.shape)[:BLOCKS]), more(b, a)])


@pytest.mark.parametrize("arrange", (calls_at_once, a_call_apart, a_later_phase, another_order, parts_of_rows))
def test_a_row_that_other_chains_may_use_stays(arrange):
    x, a, b = buffers(3)
    assert not any(place for each in places(reuse(arrange(a, b, x), [a])) for place in each.values())


NETWORKS = {
    "plain": ((1, 12, 12), lambda: (
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 30), nn.ReLU(),
        nn.Linear(30, 4))),
    "normalised": ((2, 8, 8), lambda: (
        nn.Conv2d(2, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Residual([nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
                     nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)]), nn.ReLU(),
        nn.Residual([nn.Conv2d(16, 8, 3, stride=2, padding=1), nn.Dropout(0.3)], [nn.Conv2d(16, 8, 1, stride=2)]),
        nn.Concat([nn.Conv2d(8, 3, 1), nn.Tanh()], [nn.Identity()], [nn.AvgPool2d(3, 1, padding=1)]),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(76, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 4))),
}


def trained(name, monkeypatch, reusing, batch=40, threads=1):
    """The weights and statistics after some epochs, and the loss on the test part."""
    monkeypatch.setattr(training, "reuse", reuse if reusing else lambda phases, buffers: phases)
    set_execution("parallel" if JIT else "serial", threads)
    shape, layers = NETWORKS[name]
    model, rng, count = nn.Sequential(*layers(), seed=1), np.random.default_rng(0), 90 if JIT else 17
    images, labels = rng.integers(0, 256, (count, *shape), dtype=np.uint8), rng.integers(0, 4, count)
    data = nn.Dataset("noise", images, labels, images[:17], labels[:17], num_classes=4)
    trainer = nn.Trainer(model, data, nn.SGD(model, lr=0.05, momentum=0.9), batch, augment=nn.Augment(shift=1))
    trainer.fit(2 if JIT else 1)
    return [value.tobytes() for value in model.state_dict().values()], trainer.evaluate(images[:17], labels[:17]).loss


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch", (40, 16) if JIT else (17,))
def test_training_is_the_same_to_the_bit(name, batch, monkeypatch):
    want = trained(name, monkeypatch, False, batch)
    for threads in range(1, max_threads() + 1):
        assert trained(name, monkeypatch, True, batch, threads) == want
    assert trained(name, monkeypatch, True, batch - 1) != want, "another batch does not pass"


def test_all_images_of_a_plain_network_move():
    shape, layers = NETWORKS["plain"]
    plan = nn.Sequential(*layers(), seed=1).plan(shape, BLOCKS, input_gradient=False)
    phases = reuse(in_order([*plan.calls.forward, *plan.calls.backward]) + at_once(plan.calls.gradients),
                   plan.calls.buffers)
    images = [(call.kernel.__name__, name, isinstance(value, PerWorker)) for call, _ in phases[0][0]
              for name, value in call.args.items() if name in ("x", "y", "v", "d", "dx", "dy")]
    stay = [(kernel, name) for kernel, name, moved in images if not moved and "linear" not in kernel]
    assert len(images) > 20
    assert stay == [("max_pool2d_forward", "y"), ("max_pool2d_backward", "y")], "a dense layer reads all blocks"
