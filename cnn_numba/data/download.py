"""Fetch published files into a folder: mirrors in turn, resumed, verified, and whole or not there at all."""

import hashlib
import os
import queue
import threading
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from cnn_numba.errors import InputError

try:
    import fcntl

    def _lock(file):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
except ImportError:
    import msvcrt  # Windows

    def _lock(file):
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

ANSWER_SECONDS = 5      # from a request to its answer: name look-up, connecting, redirects
STALL_SECONDS = 10      # without a byte in the middle of a file
WAIT_SECONDS = 600      # for another process that downloads into the same folder


@dataclass(frozen=True)
class PublishedFile:
    """A file as its publisher describes it: name, size in bytes, MD5 in hexadecimal."""

    name: str
    size: int
    md5: str


class DownloadError(InputError):
    """Files that are needed could not be had.  `reason` says what happened, the message also what to do."""

    def __init__(self, reason, remedy):
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason


class _Refused(Exception):
    """A mirror, or every mirror, did not deliver; the message is why, in few words."""


def download(files, folder, mirrors):
    """Make every file be in `folder`, from the first mirror that delivers it with its published MD5.

    A file is written as `NAME.part`, which the next mirror or a later call resumes when the transfer breaks,
    and renamed when it is whole and right.  Processes that download into the same folder take turns.

    Parameters
    ----------
    files : PublishedFile objects
    folder : Path, made when it is missing
    mirrors : URLs to which "/NAME" is appended; one that fails is asked last for the files that follow

    Raises
    ------
    DownloadError : no mirror delivered, or the folder cannot be written.
    """
    mirrors = deque(mirrors)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _turn(folder / ".lock"):
            for file in files:
                if not (folder / file.name).exists():
                    _fetch(file, folder, mirrors)
    except _Refused as refusals:
        names = ", ".join(file.name for file in files)
        remedy = f"put {names} into {folder} by hand, as published or unzipped"
        raise DownloadError(str(refusals), remedy) from None
    except OSError as error:
        raise DownloadError(f"{folder} cannot be written ({error.strerror or error})",
                            f"to download {files[0].name}, choose another data folder") from None


def _fetch(file, folder, mirrors):
    part = folder / f"{file.name}.part"
    refusals = []
    for _ in range(len(mirrors)):
        try:
            _fetch_from(mirrors[0], file, part)
        except _Refused as refusal:
            refusals.append(f"{urlsplit(mirrors[0]).netloc.rpartition('@')[2]}: {refusal}")
            mirrors.rotate(-1)
        else:
            os.replace(part, folder / file.name)
            return
    raise _Refused(f"no mirror delivers {file.name} ({', '.join(refusals)})")


def _fetch_from(mirror, file, part):
    """Make `part` the whole and right file, or raise _Refused; what is left of it then is worth resuming."""
    url = f"{mirror.rstrip('/')}/{file.name}"
    resumed = _receive(url, file, part)
    if resumed and not _intact(part, file):     # the older bytes may be to blame, not the mirror
        part.unlink()
        _receive(url, file, part)
    if not _intact(part, file):
        part.unlink()
        raise _Refused("wrong MD5")


def _receive(url, file, part):
    """Bring `part` to the full size; returns whether that built on bytes that were there before."""
    import requests
    from progress.bar import Bar
    from urllib3.exceptions import HTTPError

    start = part.stat().st_size if part.exists() else 0
    if start >= file.size:
        return True
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        with _answer(url, headers) as answer:
            partial = answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
            if start and (answer.status_code == 416 or answer.status_code == 206 and not partial):
                return True
            if not answer.ok:
                raise _Refused(f"{answer.status_code} {answer.reason}")
            if answer.headers.get("Content-Type", "").startswith("text/html"):
                raise _Refused("a web page instead of the file")
            start = start if partial else 0
            bar = Bar(f"{file.name} ", index=start, max=file.size, suffix="%(percent)d%%")
            with open(part, "ab" if start else "wb") as out, bar:
                for chunk in answer.raw.stream(1 << 14, decode_content=False):
                    out.write(chunk)
                    bar.next(len(chunk))
                    if out.tell() > file.size:
                        break
                out.flush()
                os.fsync(out.fileno())
    except (requests.RequestException, HTTPError) as error:
        raise _Refused(_in_short(error)) from None
    if part.stat().st_size < file.size:
        raise _Refused(f"the file ends after {part.stat().st_size} of {file.size} bytes")
    return start > 0


def _answer(url, headers):
    """`requests.get`, given up after ANSWER_SECONDS in all.

    The timeout of requests alone starts anew for every address of a host and leaves out the name look-up:
    behind a firewall that drops packets it would take minutes.
    """
    import requests

    outcome = queue.SimpleQueue()

    def ask():
        try:
            outcome.put(requests.get(url, headers=headers, stream=True, timeout=STALL_SECONDS))
        except Exception as error:
            outcome.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = outcome.get(timeout=ANSWER_SECONDS)
    except queue.Empty:
        raise _Refused("no answer") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _in_short(error):
    import requests
    from urllib3.exceptions import ReadTimeoutError

    for kind, words in ((requests.exceptions.SSLError, "no trusted connection"),
                        (requests.Timeout, "no answer"),
                        (requests.ConnectionError, "no connection"),
                        (requests.RequestException, type(error).__name__),
                        (ReadTimeoutError, "stalled")):
        if isinstance(error, kind):
            return words
    return "connection lost"


def _intact(part, file):
    with open(part, "rb") as content:
        return hashlib.file_digest(content, "md5").hexdigest() == file.md5


@contextmanager
def _turn(path):
    """Hold the lock file `path`, as soon as no other process does."""
    deadline = time.monotonic() + WAIT_SECONDS
    with open(path, "wb") as file:
        while not _locked(file):
            if time.monotonic() > deadline:
                raise TimeoutError(f"another process has held {path.name} for {WAIT_SECONDS} seconds")
            time.sleep(0.1)
        yield


def _locked(file):
    try:
        _lock(file)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:     # a file system without locks: downloads at the same time may then disturb each other
        pass
    return True
