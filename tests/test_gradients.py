"""Gradients against central differences.

The differences are taken of the float64 reference network at the model's parameters: differences of a float32 forward
pass would be too noisy to tell a gradient that is wrong by a thousandth from a right one.
"""
import numpy as np
import pytest
import reference
from networks import build_normal, conv, decided, flatten, linear, pool, relu

from cnn_numba import CrossEntropyLoss

STEP = 1e-6             # central differences of float64: their error is about 1e-10, of the rounding of the loss
TOLERANCE = 1e-5        # of the largest gradient: float32 sums of up to some hundreds of terms
SAMPLES = 8             # places probed in every parameter and in the images

NETWORKS = {
    "dense": ([linear(21, 18), relu, linear(18, 5)], (21,)),
    "lenet": ([conv(1, 6, 5, padding=2), relu, pool(2), conv(6, 16, 3), relu, pool(2), flatten,
               linear(64, 20), relu, linear(20, 5)], (1, 12, 12)),
    "strided, dilated, in groups": ([conv(2, 4, 3, stride=(2, 1), padding="valid"), relu,
                                     conv(4, 6, (2, 3), groups=2, dilation=(1, 2), padding=1, bias=False), relu,
                                     flatten, linear(120, 5)], (2, 9, 8)),
    "same, overlapping pools": ([conv(3, 4, 4, padding="same"), pool(3, stride=2, padding=1), relu,
                                 conv(4, 5, 2, padding="same"), pool(2, stride=1), flatten, linear(60, 5)], (3, 9, 7)),
}


def setup(name, images=5):
    """A model, its reference, a batch, and the model's gradients of the loss ({"images": ..., "0.weight": ...})."""
    layers, shape = NETWORKS[name]
    rng = np.random.default_rng(11)
    model = build_normal(layers, rng)
    x = decided(rng, layers, model, (images, *shape))
    labels = rng.integers(0, 5, images)
    loss = CrossEntropyLoss()(model(x), labels)
    loss.backward()
    gradients = {p.name: p.grad.copy() for p in model.parameters()}
    model.zero_grad()
    gradients["images"] = model.backward(loss.dlogits)
    return layers, model.state_dict() | {"images": x}, labels, gradients


def difference(layers, values, labels, name, place):
    """The slope of the float64 loss along one number of `values`."""
    def loss(step):
        moved = {key: np.array(value, np.float64) for key, value in values.items()}
        moved[name][place] += step
        images = moved.pop("images")
        return reference.cross_entropy(reference.Network(layers, moved).forward(images), labels)[0]
    return (loss(STEP) - loss(-STEP)) / (2 * STEP)


def probe(layers, values, labels, gradients):
    """For every array: the largest error of its gradient at some places, relative to its largest slope there."""
    rng, errors = np.random.default_rng(3), {}
    for name, gradient in gradients.items():
        places = [np.unravel_index(k, gradient.shape)
                  for k in rng.choice(gradient.size, min(SAMPLES, gradient.size), replace=False)]
        slopes = np.array([difference(layers, values, labels, name, place) for place in places])
        found = np.array([gradient[place] for place in places])
        assert np.abs(slopes).max() > 0, f"{name}: no place that was probed matters"
        errors[name] = np.abs(found - slopes).max() / np.abs(slopes).max()
    return errors


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients(name):
    errors = probe(*setup(name))
    assert max(errors.values()) < TOLERANCE, errors


def test_gradients_negative_controls():
    """The probe notices every single gradient that is off by a thousandth, and the gradients of other labels."""
    layers, values, labels, gradients = setup("strided, dilated, in groups")
    errors = probe(layers, values, labels, {name: 1.001 * gradient for name, gradient in gradients.items()})
    assert min(errors.values()) > TOLERANCE, errors
    errors = probe(layers, values, 0 * labels, gradients)
    assert min(errors.values()) > TOLERANCE, errors
