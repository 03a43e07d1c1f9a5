"""Downloads published files into a folder: from one mirror after the other, resumed, verified, whole or not at all."""

import hashlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cnn_numba.data.reading import Progress, no_progress
from cnn_numba.errors import InputError
from cnn_numba.escaping import printable
from cnn_numba.kernels.lock import locked

ANSWER_SECONDS = 5      # limit from a request to its answer: name look-up, connecting, redirects
STALL_SECONDS = 10      # limit without a byte in the middle of a file
SLOW_SECONDS = 20       # after these, a mirror that has sent fewer than LEAST_RATE bytes per second gives way
LEAST_RATE = 2048
CHUNK = 1 << 16
WAIT_SECONDS = 600      # limit of waiting for another process that downloads into the same folder


@dataclass(frozen=True)
class PublishedFile:
    """A file as its publisher describes it: name, size in bytes, MD5 in hexadecimal."""

    name: str
    size: int
    md5: str


class DownloadError(InputError):
    """A file could not be downloaded.  `reason` says why, the message also what to do."""

    def __init__(self, reason: str, remedy: str):
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason


class _Refused(Exception):
    """A mirror, or every mirror, did not deliver; the message is the reason in few words."""


def download(files: Sequence[PublishedFile], folder: Path, mirrors: Sequence[str],
             progress: Progress = no_progress) -> None:
    """Download the files that `folder` lacks, each from the first mirror that delivers it with its published MD5.

    A file is written as `NAME.part` and renamed when its MD5 is right.  When a transfer breaks, the next mirror or a
    later call resumes it.  Processes that download into the same folder take turns.

    Parameters
    ----------
    files : the published files
    folder : created when it does not exist
    mirrors : URLs to which "/NAME" is appended; a mirror that fails is tried last for the next files
    progress : see `Format`; totals and amounts are bytes

    Raises
    ------
    DownloadError : no mirror delivered, or the folder cannot be written.
    """
    in_turn = deque(mirrors)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock", WAIT_SECONDS) as held:
            if not held:
                raise TimeoutError(f"another process has held .lock for {WAIT_SECONDS} seconds")
            for file in files:
                if not (folder / file.name).exists():
                    _fetch(file, folder, in_turn, progress)
    except _Refused as refusals:
        names = ", ".join(file.name for file in files)
        remedy = f"put {names} into {folder} by hand, as published or unzipped"
        raise DownloadError(str(refusals), remedy) from None
    except OSError as error:
        raise DownloadError(f"{folder} cannot be written ({error.strerror or error})",
                            f"to download {files[0].name}, choose another data folder") from None


def _fetch(file: PublishedFile, folder: Path, mirrors: deque[str], progress: Progress) -> None:
    unfinished = folder / f"{file.name}.part"
    refusals = []
    for _ in range(len(mirrors)):
        try:
            _fetch_from(mirrors[0], file, unfinished, progress)
        except _Refused as refusal:
            refusals.append(f"{urlsplit(mirrors[0]).netloc.rpartition('@')[2]}: {refusal}")
            mirrors.rotate(-1)
        else:
            os.replace(unfinished, folder / file.name)
            return
    raise _Refused(f"no mirror delivers {file.name} ({', '.join(refusals)})")


def _fetch_from(mirror: str, file: PublishedFile, unfinished: Path, progress: Progress) -> None:
    """Complete the unfinished file, or raise _Refused and leave what a later call can resume."""
    url = f"{mirror.rstrip('/')}/{file.name}"
    resumed = _receive(url, file, unfinished, progress)
    if resumed and not _intact(unfinished, file):       # the mirror need not have sent the wrong bytes: start again
        unfinished.unlink()
        _receive(url, file, unfinished, progress)
    if not _intact(unfinished, file):
        unfinished.unlink()
        raise _Refused("wrong MD5")


def _receive(url: str, file: PublishedFile, unfinished: Path, progress: Progress) -> bool:
    """Bring the unfinished file to its full size; returns whether it kept earlier bytes."""
    import requests
    from urllib3.exceptions import HTTPError

    start = unfinished.stat().st_size if unfinished.exists() else 0
    if start >= file.size:
        return True
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        with _answer(url, headers) as answer:
            partial = answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
            if start and (answer.status_code == 416 or answer.status_code == 206 and not partial):
                return True
            if not answer.ok:
                raise _Refused(printable(f"{answer.status_code} {answer.reason}"))
            if answer.headers.get("Content-Type", "").startswith("text/html"):
                raise _Refused("a web page instead of the file")
            start = start if partial else 0
            with open(unfinished, "ab" if start else "wb") as out, progress(file.name, file.size) as advance:
                advance(start)
                began = time.monotonic()
                for chunk in _chunks(answer.raw):
                    out.write(chunk)
                    advance(len(chunk))
                    seconds = time.monotonic() - began
                    if seconds > SLOW_SECONDS and out.tell() - start < LEAST_RATE * seconds:
                        raise _Refused("too slow")
                    if out.tell() > file.size:
                        break
                out.flush()
                os.fsync(out.fileno())
    except (requests.RequestException, HTTPError) as error:
        raise _Refused(_in_short(error)) from None
    if unfinished.stat().st_size < file.size:
        raise _Refused(f"the file ends after {unfinished.stat().st_size} of {file.size} bytes")
    return start > 0


def _chunks(raw: Any) -> Iterator[bytes]:
    """The bytes of an answer as they arrive, where urllib3 can (from version 2.1), else in whole blocks."""
    if not hasattr(raw, "read1"):
        yield from raw.stream(CHUNK, decode_content=False)
        return
    while chunk := raw.read1(CHUNK, decode_content=False):
        yield chunk


def _answer(url: str, headers: dict[str, str]) -> Any:
    """The Response of `requests.get`; raises _Refused when it takes longer than ANSWER_SECONDS.

    The timeout of `requests.get` restarts for every address of a host and does not cover the name look-up: behind a
    firewall that drops packets, it takes minutes.
    """
    import requests

    outcome: queue.SimpleQueue = queue.SimpleQueue()

    def ask() -> None:
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


def _in_short(error: Exception) -> str:
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


def _intact(path: Path, file: PublishedFile) -> bool:
    with open(path, "rb") as content:
        return hashlib.file_digest(content, "md5").hexdigest() == file.md5
