"""A lock between processes: a file that the operating system unlocks when the process that holds it ends."""
import contextlib
import sys
import time

if sys.platform == "win32":
    import msvcrt

    def _lock(file):
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

POLL = 0.02             # seconds between two attempts


@contextlib.contextmanager
def locked(path, seconds):
    """Lock a file and wait at most `seconds` for that; yields whether the lock is held.

    On a file system without locks, or where the file cannot be made, this yields True: processes that run at the same
    time may then do the same work.
    """
    try:
        file = open(path, "ab")
    except OSError:
        yield True
        return
    with file:
        yield _acquired(file, time.monotonic() + seconds)


def _acquired(file, deadline):
    while True:
        try:
            _lock(file)
            return True
        except (BlockingIOError, PermissionError):
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL)
        except OSError:
            return True
