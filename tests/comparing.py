"""Comparisons of kernels with the loops of `reference`.

The tolerances are float32's.  With u = 2**-24:
- On small whole numbers every product and partial sum is a whole number below 2**24, hence exact in any order, and a
  kernel that differs at all is wrong: no tolerance.
- On normal numbers a sum of n products is right to 4 sqrt(n + 2) u sum |a b|, whatever the order (Higham and Mary, "A
  new approach to probabilistic rounding error analysis", 2019).
- Cook-Toom products subtract what they added before: their errors go with the largest sum of products around, and grow
  by the factors of their constant matrices (TOOM).
- Networks: the errors of some layers in a row, NETWORK of the largest number.
"""
import numpy as np
import pytest
import reference
from networks import build, build_normal, decided, whole

from cnn_numba.execution import textbook
from cnn_numba.layers import Conv2d, Setup

ROUNDING = 2.0**-24
EXACT = 2**24
TOOM = 32 * ROUNDING            # measured: up to 10
NETWORK = 5e-6                  # measured: up to 5e-7


def named(*cases):
    """pytest parameters of (name, value, ..., perhaps a mark)."""
    marked = [case if isinstance(case[-1], pytest.MarkDecorator) else (*case, ()) for case in cases]
    return [pytest.param(*values, id=name, marks=mark) for name, *values, mark in marked]


def same(got, want, what, tolerance=0.0):
    """Equal in type, shape and, up to the tolerance, in every number; a NaN is equal to nothing."""
    assert got.dtype == np.float32, f"{what}: {got.dtype}"
    assert got.shape == want.shape, f"{what}: shape {got.shape} instead of {want.shape}"
    wrong = ~(np.abs(np.asarray(got) - want) <= tolerance)
    assert not wrong.any(), f"{what}: {wrong.sum()} of {wrong.size} differ, first at {np.argwhere(wrong)[0]}"


def rejected(got, want, tolerance=0.0):
    """The comparison fails, as a negative control must."""
    with pytest.raises(AssertionError, match="differ"):
        same(got, want, "negative control", tolerance)


def both(layers, shape, images, seed=0):
    """A model and its reference, whole-number images, and a whole-number gradient of the output."""
    rng = np.random.default_rng(seed)
    model = build(layers, rng)
    x = whole(rng, (images, *shape))
    dy = whole(rng, (images, *model.output_shape(shape)))
    return model, reference.Network(layers, model.state_dict()), x, dy


def toom_axes(layer, shape):
    """Along how many axes a layer runs as a Cook-Toom product for an input shape: 0, 1 or 2."""
    setup = Setup(16, True, textbook(), np.zeros(2, np.int64), np.zeros(2, np.int64))
    products = isinstance(layer, Conv2d) and layer.toom(shape, setup) or ()
    return sum(product is not None for product in products)


def is_toom(layer, shape):
    """Whether a layer runs as a Cook-Toom product for an input shape."""
    return toom_axes(layer, shape) > 0


def by_model(model, x, dy):
    """The output and the input gradient, as users get them; adds to the gradients of the parameters."""
    return model(x), model.backward(dy)


def by_plan(model, x, dy, **options):
    """The same from one block of a plan, which has lanes for so many images only, as that of a Trainer."""
    plan = model.plan(x.shape[1:], 1, lanes=len(x), batch=np.array([0, len(x)]), **options)
    forward, backward = plan.programs()
    plan.x.put(x)
    forward()
    plan.dz.put(dy)
    backward()
    assert not plan.dx.inner[..., len(x):].any(), "gradients in lanes without an image"
    return plan.z.get(len(x)), plan.dx.get(len(x))


def check(layer, shape, images, run=by_model):
    """Output, input gradient and parameter gradients of a single layer are those of the reference, exactly, or to TOOM
    of the largest sum of products."""
    model, network, x, dy = both([layer], shape, images)
    model.zero_grad()
    y, dx = run(model, x, dy)
    wanted = {"output": network.forward(x)}
    wanted["input gradient"], gradients = network.backward(dy)
    assert network.largest < EXACT, "the numbers of this test are too large to be exact"
    products = reference.Network([layer], {name: abs(value) for name, value in network.parameters.items()})
    sums = {"output": products.forward(abs(x))}
    sums["input gradient"], more = products.backward(abs(dy))
    got = {"output": y, "input gradient": dx} | {p.name: p.grad for p in model.parameters()}
    assert got.keys() == (wanted | gradients).keys()
    for what, want in (wanted | gradients).items():
        same(got[what], want, what, is_toom(model.layers[0], shape) * TOOM * (sums | more)[what].max())


def outputs_and_gradients(model, x, dy, run=by_model):
    """{what: array} of a forward and a backward pass."""
    model.zero_grad()
    y, dx = run(model, x, dy)
    return {"output": y, "input gradient": dx} | {p.name: p.grad for p in model.parameters()}


def check_network(layers, shape, images, run=by_model):
    """Output and gradients of a network on normal numbers are those of the reference, to NETWORK of the largest; 0.1 %
    more is rejected."""
    rng = np.random.default_rng(0)
    model = build_normal(layers, rng)
    network = reference.Network(layers, model.state_dict())
    x = decided(rng, layers, model, (images, *shape))
    dy = rng.normal(size=(images, *model.output_shape(shape))).astype(np.float32)
    got = outputs_and_gradients(model, x, dy, run)
    wanted = {"output": network.forward(x)}
    wanted["input gradient"], gradients = network.backward(dy)
    for what, want in (wanted | gradients).items():
        tolerance = NETWORK * np.abs(want).max()
        same(got[what], want, what, tolerance)
        rejected(got[what], 1.001 * want, tolerance)
