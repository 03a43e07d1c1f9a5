"""Which layers apply a neighbour's ReLU and its gradient: every rule of `fusion.fuse`, on lists of layers."""
from dataclasses import replace

import numpy as np
import pytest

from cnn_numba import (
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    LeakyReLU,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    Tanh,
    plan,
)
from cnn_numba.fusion import Stage, fuse
from cnn_numba.layers import infer_shapes

LETTERS = {Conv2d: "conv", ReLU: "relu", MaxPool2d: "pool", AvgPool2d: "avg", Flatten: "flatten", Linear: "linear",
           LeakyReLU: "leaky", Tanh: "tanh", BatchNorm2d: "norm", Dropout: "dropout", Residual: "residual"}
MAKE = {"conv": lambda: Conv2d(2, 2, 3, padding=1), "relu": ReLU, "pool": lambda: MaxPool2d(2, stride=1, padding=1),
        "avg": lambda: AvgPool2d(3, stride=1, padding=1), "flatten": Flatten, "linear": lambda: Linear(40, 40),
        "leaky": LeakyReLU, "tanh": Tanh, "norm": lambda: BatchNorm2d(2), "dropout": Dropout,
        "residual": lambda: Residual([Conv2d(2, 2, 1)])}


def fused(words, shared_gradient=False):
    """The stages of layers in words: "+relu" applies the ReLU after it, "mask+" that of the ReLU before it to its
    gradient, and "!" begins its own backward pass with the gradient of the ReLU that it applied."""
    layers = [MAKE[word]() for word in words.split()]
    stages = fuse(layers, shared_gradient)
    assert [layers[stage.position] for stage in stages] == [stage.layer for stage in stages]
    return " ".join("mask+" * stage.relu_before + LETTERS[type(stage.layer)] + "+relu" * stage.relu_after
                    + "!" * stage.mask for stage in stages)


@pytest.mark.parametrize("layers, stages", (
    # nothing to do
    ("conv", "conv"), ("conv pool conv", "conv pool conv"), ("conv leaky tanh linear", "conv leaky tanh linear"),
    # a ReLU disappears into the layer before it where that can apply one
    ("conv relu", "conv+relu!"), ("linear relu", "linear+relu!"), ("norm relu", "norm+relu"),
    ("residual relu", "residual+relu!"),
    # and stays where that cannot, or there is none
    ("relu", "relu"), ("relu conv", "relu conv"), ("pool relu", "pool relu"), ("avg relu conv", "avg relu conv"),
    ("tanh relu", "tanh relu"), ("flatten relu", "flatten relu"), ("dropout relu", "dropout relu"),
    # its gradient is applied by the next layer, where that can
    ("conv relu conv", "conv+relu mask+conv"), ("conv relu pool", "conv+relu mask+pool"),
    ("conv relu avg", "conv+relu mask+avg"), ("conv relu dropout", "conv+relu mask+dropout"),
    ("conv relu norm", "conv+relu mask+norm"), ("conv relu residual", "conv+relu mask+residual"),
    ("linear relu linear", "linear+relu mask+linear"),
    # else by the layer that has applied it
    ("conv relu leaky", "conv+relu! leaky"), ("conv relu tanh conv", "conv+relu! tanh conv"),
    ("norm relu tanh", "norm+relu tanh"),
    # a layer that only reshapes passes it on
    ("conv relu flatten", "conv+relu! flatten"), ("conv relu flatten linear", "conv+relu flatten mask+linear"),
    ("conv relu flatten flatten linear", "conv+relu flatten flatten mask+linear"),
    ("conv relu flatten tanh", "conv+relu! flatten tanh"), ("conv flatten relu linear", "conv flatten relu linear"),
    # a ReLU after a ReLU runs by itself, and masks nothing
    ("conv relu relu", "conv+relu! relu"), ("conv relu relu conv", "conv+relu! relu conv"),
    ("conv relu flatten relu linear", "conv+relu! flatten relu linear"),
    # several
    ("conv relu conv relu pool relu flatten linear relu linear",
     "conv+relu mask+conv+relu mask+pool relu flatten linear+relu mask+linear"),
    ("norm relu conv norm relu dropout conv", "norm+relu conv norm+relu dropout conv"),
))
def test_rules(layers, stages):
    assert fused(layers) == stages


@pytest.mark.parametrize("words, pool, applied", (
    ("norm pool", {}, 2), ("conv norm relu pool conv", {}, 4), ("norm relu pool relu", {}, 3),
    ("norm pool", {"kernel_size": (3, 2)}, 2), ("norm pool pool", {}, 2),
    # windows that overlap, leave pixels out, or reach over the edge
    ("norm pool", {"stride": 1}, None), ("norm pool", {"kernel_size": 4}, None),
    ("norm pool", {"kernel_size": 4, "ceil_mode": True}, None), ("norm pool", {"kernel_size": 3, "padding": 1}, None),
    ("norm pool", {"return_indices": True}, None),
    # no normalisation right before it, or an average
    ("norm tanh pool", {}, None), ("conv relu pool", {}, None), ("norm avg", {}, None),
    ("norm relu relu pool", {}, None),
))
def test_normalisation_applies_a_pooling_that_tiles_the_image(words, pool, applied):
    layers = [MaxPool2d(**{"kernel_size": 2} | pool) if word == "pool" else MAKE[word]() for word in words.split()]
    shapes = infer_shapes(layers, (2, 6, 6))
    fusing = [stage for stage in fuse(layers, shapes=shapes) if stage.pool_after]
    assert [stage.end for stage in fusing] == ([] if applied is None else [applied])
    for stage in fusing:
        assert stage.pool_after is layers[applied - 1] and isinstance(stage.layer, BatchNorm2d) and not stage.mask
    assert not any(stage.pool_after for stage in fuse(layers))


@pytest.mark.parametrize("layers, stages", (
    ("conv relu", "conv relu"), ("conv relu relu", "conv+relu! relu"), ("conv relu conv", "conv+relu mask+conv"),
    ("conv relu conv relu", "conv+relu mask+conv relu"), ("relu", "relu"), ("conv", "conv"),
))
def test_a_gradient_with_other_readers_is_not_changed(layers, stages):
    """At the end of a branch: the shortcut reads the same gradient."""
    assert fused(layers, shared_gradient=True) == stages


def results(words):
    """The output and all gradients of a network."""
    model = Sequential(*(MAKE[word]() for word in words.split()), seed=1).eval()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 2, 4, 5)).astype(np.float32)
    y = np.array(model(x))
    dx = model.backward(rng.normal(size=y.shape))
    return [y, dx, model.grads.copy()]


def unfused(layers, shared_gradient=False, shapes=()):
    return [Stage(k, layer) for k, layer in enumerate(layers)]


NETWORKS = ("conv relu conv relu flatten linear", "norm relu leaky conv relu avg conv",
            "conv relu dropout residual relu residual", "conv relu flatten linear relu tanh",
            "residual relu tanh residual relu", "norm relu tanh conv relu")


@pytest.mark.parametrize("words", (*NETWORKS, "conv relu relu pool"))
def test_a_fused_network_is_the_same_to_the_bit(words, monkeypatch):
    want = results(words)
    monkeypatch.setattr(plan, "fuse", unfused)
    for got, wanted in zip(results(words), want, strict=True):
        assert np.array_equal(got, wanted) and wanted.any()


@pytest.mark.parametrize("words", NETWORKS)
def test_every_mark_of_a_stage_matters(words, monkeypatch):
    """Negative control: without any one of them, the network gives other numbers."""
    want, stages = results(words), fuse([MAKE[word]() for word in words.split()])
    marks = [(k, mark) for k, stage in enumerate(stages) for mark in ("relu_after", "relu_before", "mask")
             if getattr(stage, mark)]
    assert len(marks) >= 2
    for wrong in marks:
        def without(layers, shared_gradient=False, shapes=(), wrong=wrong):
            right = fuse(layers, shared_gradient, shapes)
            return [replace(stage, **{wrong[1]: False}) if k == wrong[0] and len(right) == len(stages) else stage
                    for k, stage in enumerate(right)]

        monkeypatch.setattr(plan, "fuse", without)
        assert not all(np.array_equal(a, b) for a, b in zip(results(words), want, strict=True)), wrong
