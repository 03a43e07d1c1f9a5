"""What tests compute in two ways: by themselves, in compiled kernels, and here, in a process with interpreted ones.

    NUMBA_DISABLE_JIT=1 python tests/both_ways.py NAME FILE

writes the results of the function of that name to the file; see the fixture `interpreted`.
"""
import os
import sys

import examples
import numpy as np
from random_numbers import lane_numbers, masks, scalar_numbers
from trainings import dataset, trained

import cnn_numba
from cnn_numba import execution
from cnn_numba.kernels.compiled import JIT


def random_numbers():
    return {"words": scalar_numbers([3, -5], 50)[0], "lanes": lane_numbers(3, 2, 2, 50)}


def dropout():
    return {"masks": np.concatenate(masks(0.3, 20, (60,), passes=2))}


def training():
    """Six steps of a small network."""
    model, history = trained(dataset(train=40), epochs=2, batch_size=16)
    return {"losses": history["loss"], **model.state_dict()}


def every_layer():
    """A training with every layer, and all that a trainer can be told."""
    trainer = examples.everything()
    return {"losses": trainer.fit(examples.EPOCHS)["loss"], **trainer.model.state_dict()}


def own_training():
    """A training of a user's own layer, optimizer and loss, which are known from here on."""
    import own_classes

    trainer = own_classes.trainer_of()
    return {"losses": trainer.fit(3)["loss"], **trainer.model.state_dict()}


def rounded_training(precision="medium", unit=None):
    """Two steps of a network with factors rounded to bf16, by NumPy or by the float32 instructions that do the same."""
    before = os.environ.get(execution.UNIT)
    os.environ[execution.UNIT] = unit or ("plain" if JIT else "numpy")
    cnn_numba.set_float32_matmul_precision(precision)
    try:
        rng = np.random.default_rng(3)
        model = cnn_numba.Sequential(
            cnn_numba.Conv2d(16, 34, 3, stride=2, padding=1), cnn_numba.ReLU(), cnn_numba.Flatten(),
            cnn_numba.Linear(34 * 9, 17), cnn_numba.ReLU(), cnn_numba.Linear(17, 16), seed=4)
        optimizer = cnn_numba.SGD(model, lr=0.1)
        losses = []
        for images in 40, 14:                           # one block of them is cut into pieces for the workers
            optimizer.zero_grad()
            loss = cnn_numba.CrossEntropyLoss()(model(rng.normal(size=(images, 16, 5, 6)).astype(np.float32)),
                                                rng.integers(0, 16, images))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return {"losses": np.array(losses), **model.state_dict()}
    finally:
        cnn_numba.set_float32_matmul_precision("highest")
        del os.environ[execution.UNIT]
        if before is not None:
            os.environ[execution.UNIT] = before


if __name__ == "__main__":
    assert not JIT, "this is for interpreted kernels"
    name, file = sys.argv[1:]
    np.savez(file, **globals()[name]())
