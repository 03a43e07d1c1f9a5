"""Where compiled kernels are kept between runs.

Numba's own cache knows neither the other files that a function calls nor its compile options, and has no lock.  So the
folder's name holds a hash of all kernel sources: an edit anywhere starts a fresh folder.  A process compiles or loads
one kernel at a time while it holds a lock file, because two processes that save at once could swap each other's code.
"""
import hashlib
import os
import sys
from pathlib import Path


def user_cache():
    """The per-user cache folder of this project, which need not exist; RuntimeError when the user has no home."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "cnn_numba"


def sources_hash():
    """A short hash of every kernel source."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def kernel_cache():
    """The folder for the compiled kernels of these very sources, made if need be; None when none can be written.

    CNN_NUMBA_CACHE_DIR or NUMBA_CACHE_DIR override the per-user cache.
    """
    base = os.environ.get("CNN_NUMBA_CACHE_DIR") or os.environ.get("NUMBA_CACHE_DIR")
    try:
        folder = (Path(base) if base else user_cache()) / f"kernels-{sources_hash()}"
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except (OSError, RuntimeError):
        return None
    return folder
