"""Files that are written whole or not at all."""
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cnn_numba.errors import InputError

STALE = 24 * 3600           # seconds; a part that is older has no writer any more
PART = re.compile(r"\..*\.[0-9a-f]{16}\.part")


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file object whose bytes replace the file at `path` when the block ends, unless something fails.

    The bytes go to a file under another name in the same folder, are flushed to the disk, and the file is renamed.  An
    existing file keeps its mode.  Raises InputError when the file cannot be written.
    """
    try:
        path = Path(os.path.realpath(path))             # fails in a folder that was deleted
        part = _part_of(path)
        _refuse_other_things(path)
        try:
            with open(part, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                if path.exists() and os.name == "posix":
                    os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error})") from None


def write(path: str | os.PathLike, content: bytes) -> None:
    """Replace a file by these bytes: after a failure, it holds all of them, or what it held before.

    Raises InputError when it cannot be written.
    """
    with writing(path) as file:
        file.write(content)


def check_writable(path: str | os.PathLike) -> None:
    """Raise the InputError of `write` now if a file cannot be written there; changes nothing."""
    try:
        path = Path(os.path.realpath(path))             # fails in a folder that was deleted
        part = _part_of(path)
        _refuse_other_things(path)
        open(part, "xb").close()
        part.unlink()
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error})") from None


def delete_stale_parts(folder: Path, seconds: float = STALE) -> None:
    """Delete the parts that killed processes left in a folder, if older than `seconds`."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            if PART.fullmatch(entry.name) and time.time() - entry.stat().st_mtime > seconds:
                os.unlink(entry.path)


def _part_of(path):
    """A name in the same folder that no other writer uses, short enough for every file system."""
    return path.with_name(f".{os.fsdecode(os.fsencode(path.name)[:150])}.{secrets.token_hex(8)}.part")


def _refuse_other_things(path):
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a file, so nothing can be written to it")


def _sync_folder(folder):
    """Flush the new name to the disk, on systems and file systems that can; the file is whole in any case."""
    if os.name == "posix":
        with suppress(OSError):
            opened = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)
