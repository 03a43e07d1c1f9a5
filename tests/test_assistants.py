"""Processes that compile beside this one: nothing depends on them, and none is left behind."""
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cnn_numba.kernels import assistants, cache, compiled, driver
from cnn_numba.kernels.compiled import JIT, KernelError

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
import numpy as np
from cnn_numba.kernels import assistants, compiled

ask, start, compile_one, mine, pids = assistants.ask, assistants.start, compiled._compile, [], []
assistants._processors = lambda: 3                  # two assistants, on any machine
signal.signal(signal.SIGINT, signal.default_int_handler)    # a shell may have started the tests without it

def watched(function, signature):
    mine.append(function)
    return compile_one(function, signature)

def then(kernels):
    ask(kernels)
    pids.extend(process.pid for process in assistants._running)
    {action}

compiled._compile, assistants.ask = watched, then
{before}
from cnn_numba import Conv2d, CrossEntropyLoss, Flatten, Linear, ReLU, SGD, Sequential, Trainer, Dataset
rng = np.random.default_rng(0)
data = Dataset("random", rng.integers(0, 256, (40, 1, 6, 6), np.uint8), rng.integers(0, 3, 40),
               rng.integers(0, 256, (8, 1, 6, 6), np.uint8), rng.integers(0, 3, 8), 3)
model = Sequential(Conv2d(1, 3, 3), ReLU(), Flatten(), Linear(48, 3), seed=1)
Trainer(model, data, SGD(model, lr=0.1), 16).fit(2)
assert not assistants._running
print(len(mine), len(pids), model.values.tobytes().hex())
"""
UNTIL_DONE = """
    paths = [compiled._path(*kernel) for kernel in kernels]
    while not all(path.exists() for path in paths) and all(process.poll() is None for process in assistants._running):
        time.sleep(0.01)
"""
KILL = """
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
"""
SAY_AND_WAIT = """
    print(*pids, flush=True)
    time.sleep(60)
"""

pytestmark = pytest.mark.skipif(not JIT, reason="interpreted, nothing is compiled")
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


def start_script(folder, action="pass", before=""):
    script = SCRIPT.format(root=str(ROOT), action=action, before=before)
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=os.environ | {"CNN_NUMBA_CACHE_DIR": str(folder)})


def run(folder, *args):
    """(kernels that the process compiled itself, assistants, weights after the training) of a script."""
    with start_script(folder, *args) as process:
        out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    mine, helped, weights = out.split()
    return int(mine), int(helped), weights


def entries(folder):
    """The names in the cache, which are those of whole files."""
    paths = sorted(folder.glob("kernels-*/*"))
    assert all(path.suffix == ".nbc" and cache.read(path) for path in paths)
    return [path.name for path in paths]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """(cache entries, weights) of a first start without assistants."""
    folder = tmp_path_factory.mktemp("alone")
    mine, helped, weights = run(folder, "pass", "assistants.WORTH = 1000")
    assert mine == len(entries(folder)) > assistants.WORTH and not helped
    return entries(folder), weights


def test_assistants_leave_the_same_entries_and_give_the_same_bits(tmp_path, alone):
    mine, helped, weights = run(tmp_path, UNTIL_DONE)
    assert (entries(tmp_path), weights) == alone
    assert (mine, helped) == (0, 2)


def test_with_a_warm_cache_none_is_started(tmp_path, alone):
    run(tmp_path)
    mine, helped, weights = run(tmp_path, "pass", "assistants.start_if_cold(); assert not assistants._running")
    assert (mine, helped, weights) == (0, 0, alone[1])


def test_those_that_were_started_early_take_the_requests(tmp_path, alone):
    before = "assistants.start_if_cold(); early = [*assistants._running]; assert len(early) == 2"
    mine, helped, weights = run(tmp_path, f"assert assistants._running == early\n{UNTIL_DONE}", before)
    assert (entries(tmp_path), weights, mine, helped) == (*alone, 0, 2)


@needs_signals
def test_a_killed_assistant_does_no_harm(tmp_path, alone):
    mine, helped, weights = run(tmp_path, KILL)
    assert (entries(tmp_path), weights, mine, helped) == (*alone, len(alone[0]), 2)


def test_where_no_process_can_be_started_this_one_compiles(tmp_path, alone):
    mine, helped, weights = run(tmp_path, "pass", "sys.executable = '/nowhere/python'")
    assert (entries(tmp_path), weights, mine, helped) == (*alone, len(alone[0]), 0)


@needs_signals
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_none_outlives_the_process(tmp_path, number):
    with start_script(tmp_path, SAY_AND_WAIT) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2 and not any(map(gone, pids))
        process.send_signal(number)
        process.wait(60)
        deadline = time.monotonic() + 60
        while not all(map(gone, pids)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert all(map(gone, pids))


def gone(pid):
    """Whether a process has ended, even if nothing has asked for its exit code."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return not state or state.startswith("Z")


@pytest.mark.parametrize("name, value", [("NUMBA_DISABLE_JIT", "1"), ("NUMBA_NUM_THREADS", "1")])
def test_none_is_started_where_it_cannot_help(name, value, tmp_path, monkeypatch):
    monkeypatch.setenv("CNN_NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv(name, value)
    assistants.start_if_cold()
    assert not assistants._running


def test_none_is_started_without_a_cache(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("CNN_NUMBA_CACHE_DIR", str(tmp_path / "file"))
    assistants.start_if_cold()
    assert not assistants._running


def test_requests_are_compiled_with_the_first_that_is_needed(monkeypatch):
    monkeypatch.setattr(compiled, "_compiled", {})
    monkeypatch.setattr(compiled, "_requested", {})
    serial, parallel = driver.replay_serial, driver.replay_parallel
    compiled.request(serial, driver._signature)
    assert not compiled._compiled
    compiled.compiled(parallel, driver._signature)
    assert [function for function, _ in compiled._compiled] == [serial, parallel] and not compiled._requested


def stops(item, x):
    breakpoint()


@pytest.mark.parametrize("enabled", [True, False])
def test_compiling_leaves_the_search_for_garbage_as_it_was(enabled, monkeypatch):
    from numba import njit

    monkeypatch.setattr(compiled, "FOLDER", None)
    monkeypatch.setattr(compiled, "_requested", {})
    function = njit(**compiled.KERNEL)(stops)
    (gc.enable if enabled else gc.disable)()
    try:
        for _ in range(2):              # a kernel that has failed is no longer requested
            with pytest.raises(KernelError):
                compiled.address(function, compiled.signature([np.zeros(3)]))
            assert gc.isenabled() == enabled and not compiled._requested
    finally:
        gc.enable()
