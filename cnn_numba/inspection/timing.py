"""How long calls take, and whether other programs were in competition."""
import os
import time
from collections.abc import Callable


def per_call(f: Callable[[], object], seconds: float) -> float:
    """Seconds per call of f: the mean over calls that take `seconds` together, after two that wake the threads up."""
    f()
    start = time.perf_counter()
    f()
    count = max(1, int(seconds / max(1e-9, time.perf_counter() - start)))
    start = time.perf_counter()
    for _ in range(count):
        f()
    return (time.perf_counter() - start) / count


def fastest_call(f: Callable[[], object], seconds: float) -> float:
    """Seconds of the fastest call of f, of those that take `seconds` together, after one that wakes the threads up."""
    f()
    fastest, begin = float("inf"), time.perf_counter()
    end = begin + seconds
    while begin < end:
        f()
        now = time.perf_counter()
        fastest, begin = min(fastest, now - begin), now
    return fastest


def other_load(threads: int = 0) -> float:
    """How many processors other programs used in the last minute, by the load average; 0.0 where there is none.

    threads : how many threads of this program and its children may have been busy for all of that minute; with 0, the
        processor time of this process is subtracted
    """
    if not hasattr(os, "getloadavg"):
        return 0.0
    return max(0.0, os.getloadavg()[0] - (threads or time.process_time() / 60))


def load_note(*loads: float) -> str:
    """A sentence about the largest of some values of `other_load`; "" where it cannot matter."""
    load, processors = max(loads), os.cpu_count() or 1
    if load < 0.5:
        return ""
    return (f"Other programs wanted {load:.1f} of {processors} processors (by the load average of the last minute): "
            "times can be too long.")
