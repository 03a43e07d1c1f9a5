"""Progress in notebooks, whose output is a page and no terminal."""
import sys
import warnings
from typing import Any


def notebook_bars() -> Any:
    """The class of tqdm's bars where the program runs in the kernel of a notebook; None elsewhere.

    None, after a warning, also where tqdm is missing.
    """
    ipython = sys.modules.get("IPython")
    if ipython is None or not hasattr(ipython.get_ipython(), "kernel"):
        return None
    try:
        with warnings.catch_warnings(action="ignore"):      # that there are no ipywidgets: bars of text are as good
            from tqdm.auto import tqdm
    except ImportError:
        warnings.warn("notebooks show the progress with tqdm, which is missing: pip install tqdm", stacklevel=3)
        return None
    return tqdm
