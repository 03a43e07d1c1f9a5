"""Writes the goldens: what PyTorch computes, in float64, for some networks.  `python tests/make_goldens.py`

Each file holds a network, its parameters, a batch, and the logits, the loss, all gradients and the losses of some
steps of SGD.
"""
import json
import sys
import warnings
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import torch  # noqa: E402
from networks import build_normal, conv, decided, flatten, linear, make, pool, relu  # noqa: E402

SGD = dict(lr=0.05, momentum=0.9, weight_decay=0.01)
STEPS = 5

NETWORKS = {
    "lenet": ([conv(1, 6, 5, padding=2), relu, pool(2), conv(6, 8, 5), relu, pool(2), flatten,
               linear(32, 16), relu, linear(16, 10)], (1, 16, 16), 5),
    "arguments": ([conv(3, 6, (2, 3), stride=(1, 2), padding=(1, 2), dilation=(2, 1), groups=3), relu,
                   pool(3, stride=2, padding=1), conv(6, 8, 4, padding="same", groups=2, bias=False), pool(2, stride=1),
                   relu, flatten, linear(48, 10, bias=False)], (3, 8, 9), 17),
    "dense": ([flatten, linear(45, 21), relu, relu, linear(21, 7)], (1, 9, 5), 33),
}


def golden(layers, shape, images, seed):
    rng = np.random.default_rng(seed)
    model = build_normal(layers, rng)
    state, x = model.state_dict(), decided(rng, layers, model, (images, *shape))
    network = torch.nn.Sequential(*make(layers, torch.nn)).double()
    network.load_state_dict({name: torch.from_numpy(value).double() for name, value in state.items()})
    pixels = torch.from_numpy(x).double().requires_grad_()
    labels = torch.from_numpy(rng.integers(0, network(pixels).shape[1], images))
    optimizer = torch.optim.SGD(network.parameters(), **SGD)
    losses, first = [], None
    for _ in range(STEPS):
        optimizer.zero_grad()
        pixels.grad = None
        logits = network(pixels)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        loss.backward()
        losses.append(loss.item())
        if first is None:
            first = {"logits": logits, "gradient.images": pixels.grad.clone()}
            first |= {f"gradient.{name}": p.grad.clone() for name, p in network.named_parameters()}
        optimizer.step()
    return {
        "layers": np.array(json.dumps(layers)), "sgd": np.array(json.dumps(SGD)), "images": x, "labels": labels.numpy(),
        **{f"parameter.{name}": value for name, value in state.items()},
        **{name: value.detach().numpy().astype(np.float32) for name, value in first.items()},
        "losses": np.array(losses),
    }


def main():
    folder = TESTS / "golden"
    folder.mkdir(exist_ok=True)
    warnings.simplefilter("ignore", UserWarning)                # padding="same" with an even kernel copies the input
    for seed, (name, network) in enumerate(NETWORKS.items()):
        np.savez_compressed(folder / f"{name}.npz", **golden(*network, seed))


if __name__ == "__main__":
    main()
