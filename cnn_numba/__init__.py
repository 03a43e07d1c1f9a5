"""Convolutional networks whose training runs in Numba kernels, with PyTorch's names, shapes and semantics.

Public names are looked up on first use, so that importing the package does not import Numba.
"""
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

# In a checkout `kernels/` is beside this package, in an installation inside it; its name is cnn_numba.kernels in both.
if not (Path(__file__).parent / "kernels").is_dir():
    __path__.append(str(Path(__file__).parents[1]))

if TYPE_CHECKING:
    from cnn_numba.augment import *
    from cnn_numba.callbacks import *
    from cnn_numba.data import *
    from cnn_numba.errors import *
    from cnn_numba.execution import *
    from cnn_numba.files.network_json import *
    from cnn_numba.forward_pass import *
    from cnn_numba.history import *
    from cnn_numba.interchange.formats import *
    from cnn_numba.layers import *
    from cnn_numba.losses import *
    from cnn_numba.lr_scheduler import *
    from cnn_numba.model import *
    from cnn_numba.optim import *
    from cnn_numba.presets import *
    from cnn_numba.recipe import *
    from cnn_numba.training import *

# Where a name is looked for, in this order: modules that do not need Numba come first.
_MODULES = ("errors", "data", "presets", "recipe", "history", "execution", "augment", "layers", "losses", "optim",
            "lr_scheduler", "forward_pass", "model", "training", "callbacks", "interchange.formats",
            "files.network_json")
_SUBMODULES = "callbacks", "data", "functional", "init", "kernels", "layers", "losses", "lr_scheduler", "optim"


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    if name == "__all__":               # of `from cnn_numba import *`
        return _public_names()
    if not name.startswith("_"):
        for module in _MODULES:
            found = import_module(f"{__name__}.{module}")
            if name in found.__all__:
                value = globals()[name] = getattr(found, name)
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _public_names() -> list[str]:
    modules = [import_module(f"{__name__}.{module}") for module in _MODULES]
    return sorted({*_SUBMODULES, *(name for module in modules for name in module.__all__)})


def __dir__() -> list[str]:
    return sorted({*globals(), *_public_names()})
