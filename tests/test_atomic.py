"""Files that are written whole or not at all, whoever else writes or reads them at the same time."""
import os
import re
import stat
import sys
import threading
import time

import pytest

from cnn_numba import InputError
from cnn_numba.files.atomic import check_writable, delete_stale_parts, write, writing

posix = pytest.mark.skipif(os.name != "posix", reason="modes and links of POSIX")
CONTENTS = [bytes([65 + k]) * (200_000 + k) for k in range(4)]


def test_readers_see_one_whole_content_while_threads_write_different_ones(tmp_path):
    path, ended, failed = tmp_path / "file", threading.Event(), []
    write(path, CONTENTS[0])

    def write_again_and_again(content):
        for _ in range(25):
            write(path, content)

    def read_again_and_again():
        while not ended.is_set():
            content = path.read_bytes()
            if content not in CONTENTS:
                failed.append((len(content), set(content)))

    readers = [threading.Thread(target=read_again_and_again) for _ in range(2)]
    writers = [threading.Thread(target=write_again_and_again, args=[content]) for content in CONTENTS]
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in readers + writers:
            thread.start()
        for thread in writers:
            thread.join()
    finally:
        sys.setswitchinterval(switch)
        ended.set()
        for thread in readers:
            thread.join()
    assert not failed and path.read_bytes() in CONTENTS
    assert os.listdir(tmp_path) == ["file"], "no part is left"


def test_negative_control_of_the_readers(tmp_path):
    """A file that is written in place is seen half."""
    path = tmp_path / "file"
    path.write_bytes(CONTENTS[0])
    with open(path, "wb") as file:
        file.write(CONTENTS[1][:1000])
        file.flush()
        assert path.read_bytes() not in CONTENTS


def test_what_is_written_bit_by_bit_appears_at_the_end(tmp_path):
    path = tmp_path / "file"
    write(path, b"old")
    with writing(path) as file:
        file.write(b"ne")
        file.flush()
        assert path.read_bytes() == b"old" and len(os.listdir(tmp_path)) == 2
        file.write(b"w")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", (ZeroDivisionError, KeyboardInterrupt))
def test_whatever_fails_the_file_stays_as_it_was(tmp_path, error):
    path = tmp_path / "file"
    write(path, b"old")
    with pytest.raises(error), writing(path) as file:
        file.write(b"new")
        raise error
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ("n" * 200 + ".npz", "n" * 255, "ä" * 120, "a file (1).npz", ".hidden", "-rf"))
def test_names(tmp_path, name):
    write(tmp_path / name, b"1")
    check_writable(tmp_path / name)
    write(tmp_path / name, b"22")
    assert (tmp_path / name).read_bytes() == b"22" and os.listdir(tmp_path) == [name]


def test_a_name_that_is_too_long_is_refused_and_leaves_nothing(tmp_path):
    for attempt in lambda path: write(path, b"1"), check_writable:
        with pytest.raises(InputError, match=r"cannot be written \(File name too long\)"):
            attempt(tmp_path / ("n" * 256))
    assert os.listdir(tmp_path) == []


@posix
@pytest.mark.parametrize("mode", (0o600, 0o640, 0o444, 0o755))
def test_a_file_that_exists_keeps_its_mode(tmp_path, mode):
    path = tmp_path / "file"
    write(path, b"old")
    path.chmod(mode)
    write(path, b"new")
    assert path.read_bytes() == b"new" and stat.S_IMODE(path.stat().st_mode) == mode


@posix
def test_a_new_file_has_the_mode_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "file", b"1")
        (tmp_path / "other").touch()
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "other")]
    assert modes == [0o640, 0o640]


@posix
def test_a_link_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    link.symlink_to(target)
    write(link, b"1")
    assert link.is_symlink() and target.read_bytes() == b"1" and os.listdir(tmp_path / "folder") == ["target"]


@posix
@pytest.mark.parametrize("place, why", (("folder", "is not a file"), ("nowhere/file", "No such file"),
                                        ("old/file", "Not a directory"), ("pipe", "is not a file")))
def test_places_that_cannot_be_written(tmp_path, place, why):
    (tmp_path / "folder").mkdir()
    write(tmp_path / "old", b"old")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(os.listdir(tmp_path))
    for attempt in lambda path: write(path, b"1"), check_writable:
        with pytest.raises(InputError, match=why) as error:
            attempt(tmp_path / place)
        assert "\n" not in str(error.value) and str(tmp_path / place) in str(error.value)
    assert sorted(os.listdir(tmp_path)) == before and (tmp_path / "old").read_bytes() == b"old"


def test_parts_of_killed_processes_are_deleted_when_they_are_old(tmp_path):
    for name in ".file.0123456789abcdef.part", ".file.0123456789ABCDEF.part", "file.part", ".file.0123.part", "file":
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - 1e6,) * 2)
    (tmp_path / ".new.fedcba9876543210.part").touch()
    delete_stale_parts(tmp_path)
    left = sorted(os.listdir(tmp_path))
    assert ".file.0123456789abcdef.part" not in left and len(left) == 5
    delete_stale_parts(tmp_path, seconds=-1)
    assert ".new.fedcba9876543210.part" not in os.listdir(tmp_path)
    delete_stale_parts(tmp_path / "nowhere")
    with writing(tmp_path / "written"):
        part, = (name for name in os.listdir(tmp_path) if ".written." in name)
    assert re.fullmatch(r"\.written\.[0-9a-f]{16}\.part", part)


@pytest.mark.skipif(os.name != "posix", reason="folders are not flushed")
def test_a_file_system_that_cannot_flush_folders_is_no_reason_to_fail(tmp_path, monkeypatch):
    flush = os.fsync

    def refuse_folders(file):
        if os.path.isdir(f"/proc/self/fd/{file}"):
            raise OSError(22, "Invalid argument")
        flush(file)
    monkeypatch.setattr(os, "fsync", refuse_folders)
    write(tmp_path / "a", b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"


@pytest.mark.skipif(os.name != "posix", reason="an open folder cannot be deleted")
def test_a_folder_that_was_deleted_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for use in check_writable, lambda path: write(path, b"x"):
        with pytest.raises(InputError, match="^x.npz cannot be written"):
            use("x.npz")
