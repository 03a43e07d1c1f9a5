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
    from cnn_numba.dataloader import *
    from cnn_numba.errors import *
    from cnn_numba.execution import *
    from cnn_numba.files.network_json import *
    from cnn_numba.files.state_file import *
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
            "lr_scheduler", "dataloader", "forward_pass", "model", "training", "callbacks", "interchange.formats",
            "files.network_json", "files.state_file")
_SUBMODULES = ("callbacks", "data", "functional", "init", "kernels", "layers", "losses", "lr_scheduler", "optim",
               "transforms")


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
    instead = f": {_INSTEAD[name]}" if name in _INSTEAD else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{instead}")


_FREE = ("use Sequential, with Residual and Concat for branches, and a forward of a subclass for what is done between "
         "layers; docs/pytorch.md has the rest")
_CPU = "networks run on the CPU in float32; arrays need no device"
_OTHER = "this library is for convolutional networks of images, with the layers that the README lists"
_OWN = "a kernel of your own takes one file, as docs/extending.md shows"
# What PyTorch has and this library has not, and what to use instead.
_INSTEAD = {
    **dict.fromkeys(("Module", "ModuleList", "ModuleDict"), _FREE),
    **dict.fromkeys(("cuda", "device", "mps", "float16", "bfloat16", "float64", "compile", "jit"), _CPU),
    **dict.fromkeys(("tensor", "Tensor", "from_numpy", "as_tensor", "zeros", "randn", "cat"),
                    "NumPy arrays take the place of tensors"),
    "autograd": "gradients go back from losses only; a loss of your own is a subclass of ClassLoss",
    "utils": "clip_grad_norm_, DataLoader, TensorDataset and random_split are names of the package itself",
    **dict.fromkeys(("Conv1d", "Conv3d", "MaxPool1d", "AvgPool1d"), "give Conv2d or MaxPool2d images of one row"),
    **dict.fromkeys(("LSTM", "GRU", "RNN", "Embedding", "MultiheadAttention", "Transformer"), _OTHER),
    **dict.fromkeys(("Adadelta", "Adagrad", "Adamax", "NAdam", "RAdam", "LBFGS", "L1Loss", "BCELoss",
                     "BCEWithLogitsLoss", "Hardtanh", "ReLU6", "Hardswish", "Mish", "PReLU"), _OWN),
}


def _public_names() -> list[str]:
    modules = [import_module(f"{__name__}.{module}") for module in _MODULES]
    return sorted({*_SUBMODULES, *(name for module in modules for name in module.__all__)})


def __dir__() -> list[str]:
    return sorted({*globals(), *_public_names()})
