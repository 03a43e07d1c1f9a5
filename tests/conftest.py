"""Settings that must be in force before any test module imports the kernels, and fixtures of many tests."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]

# Compiled kernels stay out of the user's cache, in a folder that outlives the run: the next compiles nothing.
os.environ.setdefault("CNN_NUMBA_CACHE_DIR", str(ROOT / ".cache" / "kernels"))


@pytest.fixture(autouse=True)
def no_new_names():
    """Layers, optimizers and losses that a test defines are unknown afterwards, in messages and in files."""
    from cnn_numba.layers import Layer
    from cnn_numba.losses import ClassLoss
    from cnn_numba.optim import Optimizer

    before = [(base.known, dict(base.known)) for base in (Layer, ClassLoss, Optimizer)]
    yield
    for known, names in before:
        for name in known.keys() - names.keys():
            if not known[name].__module__.startswith("cnn_numba."):
                del known[name]


@pytest.fixture(autouse=True)
def same_execution():
    """Tests may change how the kernels run: afterwards it is as before."""
    from cnn_numba.kernels import driver

    before = driver.execution()
    yield
    driver.execute(*before)


@pytest.fixture
def interpreted(tmp_path):
    """interpreted(name) gives what the function of that name in `both_ways` computes in an interpreted process.

    In this process every warning is an error.  A test that asks for it is skipped where the kernels are interpreted
    anyway.
    """
    from cnn_numba.kernels.compiled import JIT

    if not JIT:
        pytest.skip("compares interpreted kernels with compiled ones")

    def results(name):
        path = tmp_path / "interpreted.npz"
        subprocess.run([sys.executable, "-W", "error", ROOT / "tests" / "both_ways.py", name, path], check=True,
                       env=os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(ROOT)})
        with np.load(path) as file:
            return dict(file)
    return results
