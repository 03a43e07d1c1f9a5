"""The cache of compiled kernels.

The folder's name holds a hash of all kernel sources: an edit to any of them starts a new folder.  A file holds one
kernel for one combination of argument types, with a checksum over its bytes: damaged machine code is never run.
"""
import hashlib
import os
import secrets
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

UNUSED_DAYS = 60            # a folder of other kernel sources is deleted when unused for so long
DIGEST = 32                 # bytes of SHA-256 in front of the content


def user_cache():
    """The per-user cache folder of this project, which may not exist; RuntimeError when the user has no home folder."""
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
    """The folder for kernels compiled from the present sources, created if needed; None when it cannot be written.

    CNN_NUMBA_CACHE_DIR or NUMBA_CACHE_DIR override the per-user cache.  A folder of another user is not used, because
    the code in it would be run.
    """
    base = os.environ.get("CNN_NUMBA_CACHE_DIR") or os.environ.get("NUMBA_CACHE_DIR")
    try:
        folder = (Path(base) if base else user_cache()) / f"kernels-{sources_hash()}"
        fresh = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        if os.name == "posix" and folder.stat().st_uid != os.geteuid():
            return None
        probe = folder / f"probe-{secrets.token_hex(8)}"
        probe.touch()
        probe.unlink()
        os.utime(folder)
    except (OSError, RuntimeError):
        return None
    if fresh:
        _delete_unused(folder)
    return folder


def _delete_unused(folder):
    """Delete the folders of other kernel sources that no process has used for a while."""
    with suppress(OSError):
        for other in folder.parent.glob("kernels-*"):
            if other != folder and time.time() - other.stat().st_mtime > UNUSED_DAYS * 86400:
                shutil.rmtree(other, ignore_errors=True)


def read(path):
    """The content of a file written by `write`; None when it is missing or damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    whole = hashlib.sha256(content[DIGEST:]).digest() == content[:DIGEST]
    return content[DIGEST:] if whole else None


def write(path, content):
    """Replace a file by these bytes and their checksum; when that fails, leave it unchanged."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    with suppress(OSError):
        try:
            part.write_bytes(hashlib.sha256(content).digest() + content)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
