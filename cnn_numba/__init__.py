"""Convolutional networks whose training runs in Numba kernels, with PyTorch's names, shapes and semantics.

The public names are looked up on first use, so that importing the package does not import Numba.
"""
from importlib import import_module
from pathlib import Path

__version__ = "0.1.0"

# In a checkout `kernels/` is beside this package, in an installation inside it; its name is cnn_numba.kernels in both.
if not (Path(__file__).parent / "kernels").is_dir():
    __path__.append(str(Path(__file__).parents[1]))

_MODULES = {
    "augment": ("Augment",),
    "data": ("Dataset", "load_dataset"),
    "errors": ("Diverged", "InputError"),
    "execution": ("describe", "set_execution"),
    "layers": ("AdaptiveAvgPool2d", "AvgPool2d", "BatchNorm1d", "BatchNorm2d", "Conv2d", "Dropout", "Flatten",
               "LeakyReLU", "Linear", "LogSoftmax", "MaxPool2d", "ReLU", "Reshape", "Residual", "Sigmoid", "Softmax",
               "Tanh"),
    "losses": ("CrossEntropyLoss", "MSELoss"),
    "lr_scheduler": ("CosineAnnealingLR", "ExponentialLR", "LinearLR", "MultiStepLR", "OneCycleLR", "ReduceLROnPlateau",
                     "StepLR"),
    "model": ("Parameter", "Sequential"),
    "files.network_json": ("read_network",),
    "optim": ("Adam", "AdamW", "GradientNorm", "Optimizer", "RMSprop", "SGD", "clip_grad_norm_"),
    "presets": ("PRESETS",),
    "files.model_file": ("load",),
    "training": ("Trainer",),
}
_SUBMODULES = "functional", "init", "lr_scheduler", "optim"
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted([*_MODULE_OF, *_SUBMODULES])


def __getattr__(name):
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return value


def __dir__():
    return sorted({*globals(), *__all__})
