"""How long calls take, and whether other programs were in competition."""
import os
import statistics
import time
from collections.abc import Callable

STAT = "/proc/stat"
SHORTEST = 0.1              # seconds: in less, the ticks of 0.01 s that the system counts say nothing


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


def median_call(f: Callable[[], object], seconds: float) -> float:
    """Seconds of a call of f: the median of those that take `seconds` together, after two that wake the threads up."""
    f()
    return statistics.median(_times(f, seconds))


def fastest_call(f: Callable[[], object], seconds: float) -> float:
    """Seconds of the fastest call of f, of those that take `seconds` together, after one that wakes the threads up."""
    return min(_times(f, seconds))


def _times(f: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call of f, of those that take `seconds` together; one before them does not count."""
    f()
    times, begin = [], time.perf_counter()
    end = begin + seconds
    while begin < end:
        f()
        now = time.perf_counter()
        times.append(now - begin)
        begin = now
    return times


class LoadMeter:
    """Measures how many processors other programs use, from the moment it is made."""

    def __init__(self) -> None:
        self._start, self._busy, self._own = time.perf_counter(), busy_seconds(), time.process_time()

    def read(self) -> float:
        """Processors that other programs used on average; where the system does not count, by the load average."""
        seconds, own = time.perf_counter() - self._start, time.process_time() - self._own
        busy = busy_seconds()
        if busy is not None and self._busy is not None:
            return max(0.0, (busy - self._busy - own) / seconds) if seconds >= SHORTEST else 0.0
        return max(0.0, os.getloadavg()[0] - own / seconds) if hasattr(os, "getloadavg") else 0.0


def busy_seconds() -> float | None:
    """Seconds that all processors have been busy since the system started, also for other virtual machines on them.

    None where there is no /proc/stat.
    """
    try:
        with open(STAT) as file:
            user, nice, system, _, _, interrupts, soft, stolen = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")


def load_note(load: float) -> str:
    """A sentence about the load that was seen, and about what it means for times."""
    return (f"Other programs used {load:.1f} of {os.cpu_count() or 1} processors meanwhile"
            + (": times can be too long." if load >= 0.25 else "."))
