"""Every layer of the table in `examples`, in PyTorch."""
import examples
import numpy as np
import pytest
from networks import make
from pytorch import PARITY, differences, distance, one_thread_each, sequential, twin  # noqa: F401

from cnn_numba import Sequential

every_example = pytest.mark.parametrize(
    "example", [example for example in examples.LAYERS if not example.arguments.get("return_indices")], ids=str)


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def model_of(example, seed=1):
    """The layer as a network, its parameters numbers like others."""
    model, rng = Sequential(*make([example.layer]), seed=seed), np.random.default_rng(seed)
    for p in model.parameters():
        if p.value.ndim == 1:
            p.value += 0.3 * normal(rng, *p.value.shape)
    return model


@every_example
@pytest.mark.parametrize("training", (True, False))
def test_numbers(example, training):
    """Output, all gradients, and the statistics that a training collects; then those are used."""
    if training and example.random:
        pytest.skip("PyTorch draws other random numbers")
    rng, model = np.random.default_rng(0), model_of(example).train(training)
    for images in 17, 3:
        other = twin([example.layer], model).train(training)
        x, dy = normal(rng, images, *example.shape), normal(rng, images, *example.output_shape)
        found = differences(model, other, x, dy)
        assert max(found.values()) < PARITY, found
        for name, value in other.state_dict().items():
            assert distance(model.state_dict()[name], value) < PARITY, name
    for p in model.parameters()[:1]:
        p.value *= 1.001
        assert max(differences(model, other, x, dy).values()) > 10 * PARITY, "a wrong weight does not pass"


@every_example
def test_text_names_and_shapes(example):
    model, other = Sequential(*make([example.layer])), sequential([example.layer])
    if example.text:
        assert repr(model) == repr(other)
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: tuple(value.shape) for name, value in other.state_dict().items()}
    assert [p.name for p in model.parameters()] == [name for name, _ in other.named_parameters()]
