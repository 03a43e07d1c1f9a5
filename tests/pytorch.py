"""The same networks in PyTorch.  A test module that imports this is skipped where PyTorch is not installed."""
import warnings

import numpy as np
import pytest
from examples import IN_PYTORCH, ONLY_HERE
from networks import make

from cnn_numba import set_execution
from cnn_numba.kernels import driver

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

PARITY = 1e-5                   # largest difference relative to the largest number; measured: up to 1.1e-6


class Modules:
    """`torch.nn`, with those of our layers that it makes of others, and without arguments that only we have."""

    def __getattr__(self, name):
        kind = IN_PYTORCH[name](torch.nn) if name in IN_PYTORCH else getattr(torch.nn, name)
        return lambda *args, **options: kind(
            *args, **{key: value for key, value in options.items() if key not in ONLY_HERE})


modules = Modules()


@pytest.fixture(scope="module", autouse=True)
def one_thread_each():
    """Two thread pools on the same processors starve each other; serial and parallel give the same bits."""
    threads, before = torch.get_num_threads(), driver.execution()
    torch.set_num_threads(1)
    set_execution("serial")
    yield
    torch.set_num_threads(threads)
    driver.execute(*before)


def array(tensor):
    return tensor.detach().numpy()


def distance(got, want):
    """The largest difference, of the largest number."""
    got, want = np.asarray(got), array(want)
    assert got.shape == want.shape
    return np.abs(got - want).max() / (np.abs(want).max() or 1)


def sequential(layers):
    return torch.nn.Sequential(*make(layers, modules))


def twin(layers, model):
    """The same network in PyTorch, with the parameters and statistics of the model, found by name."""
    other = sequential(layers)
    other.load_state_dict({name: torch.from_numpy(value) for name, value in model.state_dict().items()})
    return other


def run(other, x, dy):
    """The output and the gradient of the input."""
    images = torch.from_numpy(x).requires_grad_()
    other.zero_grad()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)            # padding="same" with an even kernel copies the input
        y = other(images)
    y.backward(torch.from_numpy(dy))
    return y, images.grad


def differences(model, other, x, dy):
    """{what: distance} of the output, the input gradient and the parameter gradients."""
    y, dx = run(other, x, dy)
    model.zero_grad()
    found = {"output": distance(model(x), y), "input gradient": distance(model.backward(dy), dx)}
    wanted = dict(other.named_parameters())
    assert [p.name for p in model.parameters()] == list(wanted)
    return found | {p.name: distance(p.grad, wanted[p.name].grad) for p in model.parameters()}
