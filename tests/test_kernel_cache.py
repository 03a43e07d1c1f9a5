"""The cache of compiled kernels: damage is noticed and mended, and other users' files are not run."""
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cnn_numba.kernels import cache
from cnn_numba.kernels.compiled import JIT

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import numpy as np
from cnn_numba import Linear, SGD, ReLU, Sequential, CrossEntropyLoss, set_execution
set_execution("serial")
model = Sequential(Linear(20, 12), ReLU(), Linear(12, 5), seed=2)
rng = np.random.default_rng(0)
x, labels = rng.normal(size=(40, 20)), rng.integers(0, 5, 40)
optimizer = SGD(model, lr=0.1)
for _ in range(3):
    optimizer.zero_grad()
    CrossEntropyLoss()(model(x), labels).backward()
    optimizer.step()
print(model.values.tobytes().hex())
"""


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "file"
    cache.write(path, b"content")
    assert cache.read(path) == b"content" and os.listdir(tmp_path) == ["file"]
    assert cache.read(tmp_path / "other") is None


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "longer"])
def test_damage_is_noticed(tmp_path, damage):
    path, rng = tmp_path / "file", random.Random(0)
    for _ in range(50):
        cache.write(path, bytes(range(256)))
        content = bytearray(path.read_bytes())
        if damage == "flip":
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        elif damage == "cut":
            del content[rng.randrange(len(content)):]
        elif damage == "empty":
            content.clear()
        else:
            content += b"\0"
        path.write_bytes(content)
        assert cache.read(path) is None


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "file"
    cache.write(path, b"before")

    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    cache.write(path, b"after")
    monkeypatch.undo()
    assert cache.read(path) == b"before" and os.listdir(tmp_path) == ["file"]


def test_the_folder_of_another_user_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("CNN_NUMBA_CACHE_DIR", str(tmp_path))
    assert cache.kernel_cache() is not None
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert cache.kernel_cache() is None


def test_folders_that_no_process_has_used_for_a_while_are_deleted(tmp_path, monkeypatch):
    monkeypatch.setenv("CNN_NUMBA_CACHE_DIR", str(tmp_path))
    old, recent, other = (tmp_path / name for name in ("kernels-old", "kernels-recent", "something-old"))
    for folder in old, recent, other:
        folder.mkdir()
        (folder / "file").write_bytes(b"x")
    long_ago = time.time() - (cache.UNUSED_DAYS + 1) * 86400
    os.utime(old, (long_ago, long_ago))
    os.utime(other, (long_ago, long_ago))
    folder = cache.kernel_cache()
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name, "kernels-recent", "something-old"]


@pytest.mark.skipif(not JIT, reason="interpreted, nothing is compiled")
def test_damaged_machine_code_is_compiled_again_and_replaced(tmp_path):
    def run():
        done = subprocess.run([sys.executable, "-c", SCRIPT.format(root=str(ROOT))], capture_output=True, text=True,
                              env=os.environ | {"CNN_NUMBA_CACHE_DIR": str(tmp_path)})
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    want, rng = run(), random.Random(3)
    files = sorted(tmp_path.rglob("*.nbc"))
    assert len(files) > 5
    whole = {path: path.read_bytes() for path in files}
    for path in files[::2]:
        content = bytearray(whole[path])
        begin = content.find(b"\x7fELF")
        content[rng.randrange(begin, len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    assert run() == want
    assert all(cache.read(path) is not None for path in files)
