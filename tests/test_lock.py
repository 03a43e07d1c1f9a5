"""The lock between processes: held by one, given up after a while, released by any death."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cnn_numba.kernels import lock
from cnn_numba.kernels.lock import locked

ROOT = Path(__file__).resolve().parents[1]
HOLDER = """
import sys, time
sys.path.insert(0, {root!r})
from cnn_numba.kernels.lock import locked
with locked({path!r}, 5) as held:
    print(held, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def held_elsewhere(tmp_path):
    """(path of a lock, the process that holds it)"""
    path = tmp_path / "lock"
    script = HOLDER.format(root=str(ROOT), path=str(path))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "True\n"
        yield path, holder
        holder.kill()


def test_a_lock_that_another_process_holds_is_given_up_after_the_time(held_elsewhere):
    path, _ = held_elsewhere
    start = time.monotonic()
    with locked(path, 0.3) as held:
        assert not held
    assert time.monotonic() - start >= 0.3


def test_a_killed_process_releases_the_lock(held_elsewhere):
    path, holder = held_elsewhere
    holder.send_signal(signal.SIGKILL)
    with locked(path, 30) as held:
        assert held


def test_a_stopped_process_keeps_it(held_elsewhere):
    path, holder = held_elsewhere
    os.kill(holder.pid, signal.SIGSTOP)
    with locked(path, 0.2) as held:
        assert not held


def test_a_file_system_without_locks_is_not_an_obstacle(monkeypatch, tmp_path):
    def refuse(file):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock, "_lock", refuse)
    with locked(tmp_path / "lock", 10) as held:
        assert held


def test_nor_is_a_folder_in_which_no_lock_can_be_made(tmp_path):
    with locked(tmp_path / "missing" / "lock", 10) as held:
        assert held
