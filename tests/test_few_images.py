"""Forward passes of a few images, whose vectors hold channels: beside those whose vectors hold images."""
import numpy as np
import pytest

import cnn_numba as nn
from cnn_numba import few_images
from cnn_numba.few_images import FewImages
from cnn_numba.inference import Classifier
from cnn_numba.kernels import few_images as kernels
from cnn_numba.kernels.lanes import LANES, Tile, aligned
from cnn_numba.kernels.program import Call, Program, in_order

MANY = few_images.MOST + 1
NETWORKS = {
    "strides, dilation, tails of vectors": ((2, 13, 11), lambda: (
        nn.Conv2d(2, 19, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)), nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1), nn.Conv2d(19, 5, 1, bias=False), nn.Dropout(0.5), nn.ReLU(), nn.Flatten(),
        nn.Linear(5 * 4 * 7, 17), nn.BatchNorm1d(17), nn.ReLU(), nn.Linear(17, 3))),
    "averages and pixels at the end": ((3, 9, 7), lambda: (
        nn.Conv2d(3, 6, 3, padding="same"), nn.BatchNorm2d(6), nn.AvgPool2d(2, padding=1), nn.ReLU(), nn.Identity())),
    "residual blocks": ((3, 8, 8), lambda: (
        nn.Conv2d(3, 20, 3, padding=1), nn.ReLU(),
        nn.Residual([nn.Conv2d(20, 20, 3, padding=1), nn.BatchNorm2d(20)]), nn.ReLU(),
        nn.Residual([nn.Conv2d(20, 33, 3, 2, padding=1), nn.ReLU(), nn.Conv2d(33, 33, 3, padding=1)],
                    [nn.Conv2d(20, 33, 1, 2, bias=False)]),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(33, 4))),
    "dense layers": ((150,), lambda: (nn.Linear(150, 40), nn.ReLU(), nn.Linear(40, 70, bias=False))),
    "dense layers behind Flatten": ((2, 5, 5), lambda: (nn.Flatten(), nn.Linear(50, 3))),
}


@pytest.fixture(autouse=True)
def textbook():
    """The direct convolutions for any number of images: they add in the same order."""
    nn.set_textbook(True)
    yield
    nn.set_textbook(False)


def evaluated(layers, shape):
    """A network in evaluation whose statistics have collected a batch, and MANY images."""
    model, rng = nn.Sequential(*layers, seed=1), np.random.default_rng(2)
    images = rng.normal(size=(MANY, *shape)).astype(np.float32)
    with nn.no_grad():
        model(images)
    for p in model.parameters():
        p.value += rng.normal(scale=0.1, size=p.shape)
    return model.eval(), images


def layouts(model):
    return [type(laid.plan) for laid in model._plans.values()]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_few_images_give_the_bits_of_many(name):
    shape, layers = NETWORKS[name]
    model, images = evaluated(layers(), shape)
    with nn.no_grad():
        expected = model(images)
        for count in (1, 3):
            assert np.array_equal(model(images[:count]), expected[:count])
            assert layouts(model)[-1] is FewImages
    assert np.abs(expected[0] - expected[1]).max() > 1e-3


def test_the_classifier_normalises_and_leaves_softmax_out():
    model, images = evaluated([nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5), nn.Softmax()], (2, 6, 6))
    classifier = Classifier(model.takes_images((2, 6, 6), [1, 2], [3, 0]))
    together = classifier.logits(images)
    assert np.array_equal(np.concatenate([classifier.logits(image[None]) for image in images]), together)
    assert {type(plan).__name__ for plan, _ in classifier._plans.values()} == {"FewImages", "Plan"}


def test_changed_weights_count():
    model, images = evaluated([nn.Linear(150, 4)], (150,))
    with nn.no_grad():
        before = model(images[:1])
        model.values[:] *= 2
        assert np.allclose(model(images[:1]), 2 * before, rtol=1e-6)


@pytest.mark.parametrize("layer", [
    nn.Conv2d(2, 4, 3, groups=2), nn.MaxPool2d(2), nn.LeakyReLU(), nn.BatchNorm2d(2, track_running_stats=False)])
def test_other_layers_run_with_images_in_the_lanes(layer):
    model, images = evaluated([layer, nn.Flatten()], (2, 6, 6))
    with nn.no_grad():
        model(images[:2])
    assert FewImages not in layouts(model)


def test_training_runs_with_images_in_the_lanes():
    model, images = evaluated([nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)], (2, 6, 6))
    model.train()
    with nn.no_grad():
        model(images[:2])
    model.eval()(images[:2])
    assert FewImages not in layouts(model)


def convolution(bands, tile, bits=0):
    """few_conv2d_forward on an image of 18 channels, and float64 loops; bits: an error in the last filter's bias."""
    rng = np.random.default_rng(3)
    F, C, KH, KW, OH, OW = 21, 18, 2, 3, 5, 7
    x, weight = aligned((1, 2, OH + 1, 2 * OW + 1, LANES)), rng.normal(size=(F, C, KH, KW)).astype(np.float32)
    image, bias = rng.normal(size=(C, OH + 1, 2 * OW + 1)).astype(np.float32), rng.normal(size=F).astype(np.float32)
    for c in range(C):
        x[0, c // LANES, :, :, c % LANES] = image[c]
    y, packed, packed_bias = aligned((1, 2, OH, OW, LANES)), aligned((2, C * KH * KW, LANES)), aligned((2, 1, LANES))
    calls = [Call(kernels.gather_filters, 2, packed=packed, weight=weight.reshape(F, -1)),
             Call(kernels.gather_filters, 2, packed=packed_bias, weight=bias.reshape(F, 1)),
             Call(kernels.few_conv2d_forward, bands, y=y, x=x, weight=packed.reshape(2, C, KH, KW, LANES),
                  bias=packed_bias, C=C, stride=1, dilation_h=1, dilation_w=1, bands=bands, relu=1, T=tile,
                  after_all=True)]
    Program(in_order(calls))()
    windows = np.lib.stride_tricks.sliding_window_view(image.astype(np.float64), (KH, KW), (1, 2))[:, :, ::2]
    expected = np.einsum("fcpq,cijpq->fij", weight, windows) + bias[:, None, None]
    expected[-1] += bits * 2.0**-16
    got = np.moveaxis(y[0], -1, 1).reshape(-1, OH, OW)[:F]
    size = np.einsum("fcpq,cijpq->fij", abs(weight), abs(windows)) + abs(bias[:, None, None])
    return np.abs(got - np.maximum(0, expected)), (C * KH * KW + 1) * 2.0**-24 * size


@pytest.mark.parametrize("bands, tile", [(1, Tile(1, 3, 2 * LANES)), (3, Tile(2, 2, 2 * LANES)),
                                         (4, Tile(1, 1, 2 * LANES))])
def test_convolution_beside_float64(bands, tile):
    error, bound = convolution(bands, tile)
    assert (error <= bound).all()


def test_a_wrong_bias_is_noticed():
    error, bound = convolution(1, Tile(1, 3, 2 * LANES), bits=4096)
    assert (error > bound).any()
