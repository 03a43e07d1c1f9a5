"""What tests compute in two ways: by themselves, in compiled kernels, and here, in one process with interpreted ones.

    NUMBA_DISABLE_JIT=1 python tests/both_ways.py FOLDER

writes the results of every function in PARTS to a file in the folder; see the fixture `interpreted`.
"""
import sys
from pathlib import Path

import examples
import numpy as np
from random_numbers import lane_numbers, masks, scalar_numbers
from trainings import dataset, trained

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


PARTS = random_numbers, dropout, training, every_layer, own_training

if __name__ == "__main__":
    assert not JIT, "this is for interpreted kernels"
    for part in PARTS:
        np.savez(Path(sys.argv[1]) / f"{part.__name__}.npz", **part())
