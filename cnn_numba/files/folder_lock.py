"""Keeps a folder for one training at a time."""
import os
from contextlib import ExitStack
from pathlib import Path

from cnn_numba.errors import InputError
from cnn_numba.kernels.lock import locked

NAME = ".lock"


class FolderLock:
    """A lock on a folder, which the operating system releases when the process ends, however it does.

    On a file system without locks it always succeeds.  Its file stays in the folder.

    folder : path of a folder that exists
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self._held: ExitStack | None = None

    def acquire(self) -> None:
        """Take the lock, unless this object has it; InputError when another process or object has it."""
        if self._held is not None:
            return
        with ExitStack() as stack:
            try:
                held = stack.enter_context(locked(self.folder / NAME, 0))
            except OSError as error:
                raise InputError(f"{self.folder} cannot be written ({error.strerror or error})") from None
            if not held:
                raise InputError(f"{self.folder} is in use by another training: wait until it ends, or choose another "
                                 "folder")
            self._held = stack.pop_all()

    def release(self) -> None:
        """Give the lock back, if this object has it."""
        if self._held is not None:
            self._held.close()
            self._held = None
