"""Extensions: Python files outside the package that define layers, optimizers, losses or data formats."""
import importlib.util
import os
import sys
import traceback
from pathlib import Path

from cnn_numba.errors import InputError


def load_extension(path: str | os.PathLike) -> str:
    """Import a Python file, and return its name without the folder.

    Raises InputError, which names the line, when it does not exist or fails.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} {'is not a file' if path.exists() else 'does not exist'}")
    name = f"cnn_numba_extension_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file, expected a name that ends in .py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        reason = f"{error}" if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise InputError(f"{_place(path, error)}: {reason}") from error
    return path.name


def _place(path: Path, error: Exception) -> str:
    """The file, and the line in it where an error occurred."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    if isinstance(error, SyntaxError) and error.filename == str(path):
        lines.append(error.lineno)
    return f"{path}, line {lines[-1]}" if lines else str(path)
