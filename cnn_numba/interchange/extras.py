"""The packages that formats of other programs need, and the sentence for one that is missing."""
from importlib import import_module
from types import ModuleType

from cnn_numba.errors import InputError


def package(name: str) -> ModuleType:
    """A package of an extra, or a module of it; InputError, with the line that installs it, when it is missing."""
    try:
        return import_module(name)
    except ImportError:
        whole = name.partition(".")[0]
        raise InputError(f"this needs the package {whole}, which is missing: pip install {whole}") from None
