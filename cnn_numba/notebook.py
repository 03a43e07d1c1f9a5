"""Progress in notebooks, whose output is a page and no terminal."""
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

DELAY = 0.2                 # seconds before a bar is shown: most reading is done by then


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


@contextmanager
def notebook_progress(name: str, total: int) -> Iterator[Callable[[int], object]]:
    """Gives a function that advances a bar by an amount of the total; it shows nothing outside of notebooks."""
    bars = notebook_bars()
    if bars is None:
        yield lambda amount: None
        return
    with bars(desc=name, total=total, unit_scale=True, leave=False, delay=DELAY) as bar:
        yield bar.update
