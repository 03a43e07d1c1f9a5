"""Data sets: IDX files good and bad, downloads from a mirror that misbehaves, and what load_dataset takes."""

import gzip
import hashlib
import math
import os
import re
import socket
import subprocess
import sys
import time
import tracemalloc
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from mirror import serving

from cnn_numba.commands import progress
from cnn_numba.data import Dataset, catalogue, data_folder, download, load_dataset
from cnn_numba.data.catalogue import FASHION_MNIST, KMNIST, MNIST, IdxSet
from cnn_numba.data.download import DownloadError, PublishedFile
from cnn_numba.data.idx import read_idx, read_idx_pair
from cnn_numba.errors import InputError

ROOT = Path(__file__).resolve().parents[1]


def idx(array, shape=None):
    """The bytes of an IDX file of this array, with another shape in the header when one is given."""
    shape = array.shape if shape is None else shape
    return bytes((0, 0, 8, len(shape))) + np.array(shape, ">u4").tobytes() + array.tobytes()


def pack(content, level=9):
    return gzip.compress(content, level, mtime=0)


def published(name, content):
    return PublishedFile(name, len(content), hashlib.md5(content).hexdigest())


random = np.random.default_rng(0)
ARRAYS = {"train-images": random.integers(0, 256, (400, 16, 16), np.uint8),
         "train-labels": random.integers(0, 10, 400, np.uint8),
         "test-images": random.integers(0, 256, (50, 16, 16), np.uint8),
         "test-labels": random.integers(0, 10, 50, np.uint8)}
CONTENTS = {f"{name}.gz": pack(idx(array)) for name, array in ARRAYS.items()}
FILES = tuple(published(name, content) for name, content in CONTENTS.items())
IMAGES = FILES[0]
WHOLE = CONTENTS[IMAGES.name]


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch):
    """No test reaches the network, and no proxy gets the requests to the local mirror."""
    look_up = socket.getaddrinfo

    def guarded(host, *args, **kwargs):
        assert host == "127.0.0.1", f"a test asked for the host {host}"
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", guarded)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("CNN_NUMBA_DATA_DIR", raising=False)


@pytest.fixture(scope="module")
def server():
    with serving(CONTENTS) as mirror:
        yield mirror


@pytest.fixture
def mirror(server):
    server.requests.clear()
    return server


@pytest.fixture
def closed():
    """URL of a port at which no server listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}"


@pytest.fixture
def fetch(mirror, tmp_path):
    """fetch(behaviour, ...) downloads the images from mirrors that behave so; returns the requests."""
    def fetch(*behaviours):
        mirror.requests.clear()
        download.download([IMAGES], tmp_path, [mirror.url(behaviour) for behaviour in behaviours])
        assert (tmp_path / IMAGES.name).read_bytes() == WHOLE
        assert sorted(os.listdir(tmp_path)) == [".lock", IMAGES.name]
        return [(behaviour, asked) for behaviour, _, asked in mirror.requests]

    fetch.unfinished = tmp_path / f"{IMAGES.name}.part"
    return fetch


def place(folder, changes=()):
    """Write the four files, with changes {name: content, or None for a missing file}."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (CONTENTS | dict(changes)).items():
        if content is not None:
            (folder / name).write_bytes(content)


def same(data):
    arrays = data.train_images[:, 0], data.train_labels, data.test_images[:, 0], data.test_labels
    return all(map(np.array_equal, arrays, ARRAYS.values()))


# ---- IDX ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("packed", [bytes, pack])
@pytest.mark.parametrize("shape", [(1,), (7,), (2, 3), (3, 5, 4), (2, 3, 4, 5)])
def test_idx_gives_back_what_was_written(tmp_path, packed, shape):
    array = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    (tmp_path / "file").write_bytes(packed(idx(array)))
    read = read_idx(tmp_path / "file", len(shape))
    assert read.dtype == np.uint8 and np.array_equal(read, array)
    assert read.flags.writeable and read.flags.c_contiguous


PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
GOOD = pack(idx(PIXELS))
FOUR_BILLION = idx(np.zeros(1000, np.uint8), (2**32 - 1, 28, 28))
BAD = {
    "nothing": (b"", "starts with the bytes ''"),
    "no gzip at all": (b"<html>", "starts with the bytes '3c68746d'"),
    "wrong magic": (idx(PIXELS[0]), "starts with the bytes '00000802'.* starts with '00000803'"),
    "wrong type": (b"\0\0\x0a\3" + idx(PIXELS)[4:], "starts with the bytes '00000a03'"),
    "too few for its type": (b"\0\0\x0d\3" + idx(PIXELS)[4:], "fewer bytes than the 112"),
    "half a header": (idx(PIXELS)[:9], "ends within its header, after 9 of 16 bytes"),
    "truncated": (idx(PIXELS)[:-1], r"fewer bytes than the 40 that its header promises \(2 x 3 x 4\)"),
    "overlong": (idx(PIXELS) + b"\0", "more bytes than the 40"),
    "no images": (idx(PIXELS[:0]), "is empty: its header says 0 x 3 x 4"),
    "no pixels": (idx(PIXELS[:, :0]), "is empty: its header says 2 x 0 x 4"),
    "truncated, packed": (pack(idx(PIXELS)[:-1]), "fewer bytes than the 40"),
    "overlong, packed": (pack(idx(PIXELS) + b"\0"), "more bytes than the 40"),
    "gzip cut in its content": (GOOD[:-12], "corrupt gzip"),
    "gzip cut in its checksum": (GOOD[:-3], "corrupt gzip"),
    "gzip header only": (GOOD[:5], "corrupt gzip"),
    "gzip with another checksum": (GOOD[:-8] + bytes([GOOD[-8] ^ 1]) + GOOD[-7:], "corrupt gzip"),
    "gzip with a flipped bit": (WHOLE[:900] + bytes([WHOLE[900] ^ 4]) + WHOLE[901:], "corrupt gzip"),
    "four billion images": (FOUR_BILLION, "fewer bytes"),
    "four billion images, packed": (pack(FOUR_BILLION), "fewer bytes"),
    "all dimensions huge": (idx(PIXELS, (2**32 - 1,) * 3), "fewer bytes"),
}


@pytest.mark.parametrize("content, sentence", BAD.values(), ids=BAD)
def test_a_bad_file_is_refused_in_one_sentence(tmp_path, content, sentence):
    (tmp_path / "images").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(InputError, match=sentence) as refusal:
        read_idx(tmp_path / "images", 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(tmp_path / "images") in str(refusal.value) and "\n" not in str(refusal.value)
    assert peak < 4e6


def test_a_gzip_bomb_is_unpacked_no_further_than_its_header_promises(tmp_path):
    def peak(shape):
        (tmp_path / "bomb").write_bytes(pack(idx(np.zeros(50_000_000, np.uint8), shape)))
        tracemalloc.start()
        try:
            return read_idx(tmp_path / "bomb", 3).size, tracemalloc.get_traced_memory()[1]
        except InputError:
            return 0, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    size, memory = peak((1, 28, 28))
    assert size == 0 and memory < 4e6
    size, memory = peak((50_000, 50, 20))       # control: a true promise, and the bytes take memory
    assert size == 50_000_000 and memory > 50e6


@pytest.mark.parametrize("code, kind", [(9, "i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")])
def test_idx_of_every_type(tmp_path, code, kind):
    values = np.array([[[0, 1], [2, 100]], [[5, 6], [7, 8]]], kind)
    (tmp_path / "i-idx3").write_bytes(bytes((0, 0, code, 3)) + np.array(values.shape, ">u4").tobytes()
                                      + values.tobytes())
    (tmp_path / "i-idx1").write_bytes(bytes((0, 0, code, 1)) + np.array([2], ">u4").tobytes()
                                      + np.array([3, 0], kind).tobytes())
    read = read_idx(tmp_path / "i-idx3", 3)
    assert read.dtype.isnative and read.dtype.kind == np.dtype(kind).kind and np.array_equal(read, values)
    images, labels = read_idx_pair(tmp_path / "i-idx3")
    assert images.dtype == np.uint8 and np.array_equal(images[:, 0], values) and labels.tolist() == [3, 0]


@pytest.mark.parametrize("shape, options, want", [
    ((2, 9), {}, (1, 3, 3)), ((2, 24), {"image_shape": (3, 4, 2)}, (3, 4, 2)), ((2, 3, 5, 6), {}, (3, 5, 6)),
    ((2, 5, 6, 3), {}, (3, 5, 6)), ((2, 3, 6, 3), {"image_layout": "HWC"}, (3, 3, 6))])
def test_idx_images_of_other_shapes(tmp_path, shape, options, want):
    values = np.arange(math.prod(shape), dtype=np.uint8).reshape(shape)
    (tmp_path / "images").write_bytes(idx(values))
    (tmp_path / "labels").write_bytes(idx(np.array([[0, 1], [1, 0]], np.uint8)))
    images, labels = read_idx_pair(tmp_path / "images", tmp_path / "labels", **options)
    moved = values.transpose(0, 3, 1, 2) if shape[1:] != want and len(shape) == 4 else values
    assert images.shape[1:] == want and images.tobytes() == moved.tobytes() and labels.tolist() == [1, 0]


@pytest.mark.parametrize("name", ["missing", "."])
def test_what_cannot_be_read_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="cannot be read"):
        read_idx(tmp_path / name, 3)


@pytest.mark.parametrize("labels, sentence", [
    ([1], "labels holds 1 labels, but .*images holds 2 images"), ([1, 2, 3], "labels holds 3 labels"),
    ([1, 10], "labels holds the label 10, expected 0 to 9"), ([[1, 2]], "expected one label per image, or rows with"),
    ([[[1, 2]]], "starts with the bytes '00000803', but an IDX file of 1 or 2 dimensions starts with '00000801'")])
def test_labels_that_do_not_fit_the_images_are_refused(tmp_path, labels, sentence):
    (tmp_path / "images").write_bytes(idx(PIXELS))
    (tmp_path / "labels").write_bytes(idx(np.array(labels, np.uint8)))
    with pytest.raises(InputError, match=sentence):
        read_idx_pair(tmp_path / "images", tmp_path / "labels", 10)


def test_labels_may_reach_the_last_class(tmp_path):
    (tmp_path / "images").write_bytes(idx(PIXELS))
    (tmp_path / "labels").write_bytes(idx(np.array([0, 9], np.uint8)))
    images, labels = read_idx_pair(tmp_path / "images", tmp_path / "labels", 10)
    assert images.shape == (2, 1, 3, 4) and labels.dtype == np.int64 and labels.tolist() == [0, 9]


# ---- download ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("behaviour", ["good", "ignores-range", "encoded", "redirect"])
def test_a_mirror_that_delivers(fetch, behaviour):
    assert fetch(behaviour)[0] == (behaviour, None)


@pytest.mark.parametrize("behaviour, words", [
    ("404", "404 Not Found"), ("503", "503 Service Unavailable"), ("html", "a web page"),
    ("corrupt", "wrong MD5"), ("long", "wrong MD5"), ("truncated", "connection lost"),
    ("short", "the file ends after"), ("text", "the file ends after 13 of"), ("circle", "TooManyRedirects"),
    ("stalled", "stalled"), ("silent", "no answer"), ("trickle", "too slow")])
def test_a_mirror_that_fails_gives_way_to_the_next(fetch, mirror, tmp_path, monkeypatch, behaviour, words):
    monkeypatch.setattr(download, "STALL_SECONDS", 0.3)
    monkeypatch.setattr(download, "SLOW_SECONDS", 0.5)
    monkeypatch.setattr(download, "ANSWER_SECONDS", 0.6 if behaviour == "silent" else 5)
    with pytest.raises(DownloadError, match=words) as refusal:
        download.download([IMAGES], tmp_path, [mirror.url(behaviour)])
    sentence = str(refusal.value)
    assert "\n" not in sentence and f"127.0.0.1:{mirror.server_port}: {words}" in sentence
    assert f"put {IMAGES.name} into {tmp_path} by hand" in sentence
    assert not (tmp_path / IMAGES.name).exists()
    assert fetch.unfinished.exists() == (behaviour in {"truncated", "short", "text", "stalled", "trickle"})
    fetch.unfinished.unlink(missing_ok=True)
    asked = fetch(behaviour, "good")
    assert asked[0] == (behaviour, None) and asked[-1][0] == "good"


def test_a_closed_port_gives_way_at_once(mirror, tmp_path, closed):
    started = time.perf_counter()
    download.download([IMAGES], tmp_path, [closed, mirror.url("good")])
    assert (tmp_path / IMAGES.name).read_bytes() == WHOLE
    assert time.perf_counter() - started < download.ANSWER_SECONDS


def test_a_broken_transfer_goes_on_where_it_stopped(fetch, mirror, tmp_path):
    asked = fetch("truncated", "good")
    start = int(asked[1][1].removeprefix("bytes=").removesuffix("-"))
    assert asked[0] == ("truncated", None) and 0 < start <= len(WHOLE) // 2

    (tmp_path / IMAGES.name).unlink()
    with pytest.raises(DownloadError):
        download.download([IMAGES], tmp_path, [mirror.url("truncated")])
    assert WHOLE.startswith(fetch.unfinished.read_bytes())
    assert fetch("good") == [("good", f"bytes={start}-")]       # a later call, too


@pytest.mark.parametrize("behaviour, requests",
                         [("ignores-range", 1), ("refuses-range", 2), ("misplaces-range", 2)])
def test_a_mirror_without_ranges_starts_again(fetch, behaviour, requests):
    fetch.unfinished.write_bytes(WHOLE[:1000])
    asked = fetch(behaviour)
    assert asked[0] == (behaviour, "bytes=1000-") and len(asked) == requests


def test_a_spoiled_part_is_not_blamed_on_the_mirror(fetch):
    fetch.unfinished.write_bytes(b"x" * 1000)
    assert fetch("good") == [("good", "bytes=1000-"), ("good", None)]
    for size in len(WHOLE), len(WHOLE) + 1:
        (fetch.unfinished.parent / IMAGES.name).unlink()
        fetch.unfinished.write_bytes(b"x" * size)
        assert fetch("good") == [("good", None)]


def test_a_part_that_only_lacked_its_name_is_not_fetched_again(fetch):
    fetch.unfinished.write_bytes(WHOLE)
    assert fetch("good") == []


def test_a_mirror_that_failed_is_asked_last_for_the_files_that_follow(mirror, tmp_path):
    download.download(FILES, tmp_path, [mirror.url("404"), mirror.url("good")])
    assert [behaviour for behaviour, *_ in mirror.requests] == ["404", "good", "good", "good", "good"]


def test_every_refusal_is_named(mirror, tmp_path, closed):
    with pytest.raises(DownloadError, match="no connection, .*: 404 Not Found, .*: wrong MD5") as refusal:
        download.download(FILES, tmp_path, [closed, mirror.url("404"), mirror.url("corrupt")])
    assert all(file.name in str(refusal.value) for file in FILES)


def test_a_password_in_a_url_is_not_repeated(tmp_path, closed):
    with pytest.raises(DownloadError) as refusal:
        download.download([IMAGES], tmp_path, [closed.replace("//", "//me:hunter2@")])
    assert "hunter2" not in str(refusal.value) and "127.0.0.1" in str(refusal.value)


def test_a_folder_that_cannot_be_written_is_one_sentence(mirror, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match="file/tiny cannot be written") as refusal:
        download.download([IMAGES], tmp_path / "file" / "tiny", [mirror.url("good")])
    assert "\n" not in str(refusal.value) and mirror.requests == []


LIMITED = """
import resource, sys
from pathlib import Path
from cnn_numba.data.download import DownloadError, PublishedFile, download
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
try:
    download([PublishedFile(sys.argv[3], int(sys.argv[4]), sys.argv[5])], Path(sys.argv[1]), [sys.argv[2]])
except DownloadError as error:
    sys.exit(str(error))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit to the size of a file")
def test_a_disk_that_fills_up_is_one_sentence_and_the_rest_follows_later(fetch, mirror, tmp_path):
    arguments = [tmp_path, mirror.url("good"), IMAGES.name, str(IMAGES.size), IMAGES.md5]
    ended = subprocess.run([sys.executable, "-c", LIMITED, *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1 and ended.stderr.count("\n") == 1
    assert f"{tmp_path} cannot be written (File too large); to download {IMAGES.name}" in ended.stderr
    assert not (tmp_path / IMAGES.name).exists() and fetch.unfinished.stat().st_size <= 5000
    fetch("good")


def test_progress_is_reported_in_bytes_and_nothing_is_printed(fetch, mirror, tmp_path, capfd):
    read = []

    @contextmanager
    def noting(name, total):
        read.append([name, total, 0])

        def advance(amount):
            read[-1][2] += amount
        yield advance

    fetch.unfinished.write_bytes(WHOLE[:1000])
    download.download([IMAGES], tmp_path, [mirror.url("good")], noting)
    assert read == [[IMAGES.name, len(WHOLE), len(WHOLE)]]      # with the bytes that were there before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("interval", [0, 60])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_bar_is_drawn_on_a_terminal_only_and_after_a_while(monkeypatch, is_terminal, interval):
    import progress.bar as package

    stderr = StringIO()
    stderr.isatty = lambda: is_terminal
    monkeypatch.setattr(package.Bar, "file", stderr)
    monkeypatch.setattr(progress, "INTERVAL", interval)
    with pytest.raises(KeyboardInterrupt), progress.bar("some.csv", 200) as advance:
        advance(50)
        advance(100)
        raise KeyboardInterrupt
    shown = stderr.getvalue()
    assert bool(shown) == (is_terminal and not interval)
    if shown:
        assert "some.csv" in shown and shown.index("25%") < shown.index("75%") and "100%" not in shown
        assert shown.endswith("\x1b[?25h")                      # the cursor is back


CHILD = """
import sys
from pathlib import Path
from cnn_numba.data.download import PublishedFile, download
folder, url, *fields = sys.argv[1:]
files = [PublishedFile(name, int(size), md5) for name, size, md5 in zip(*[iter(fields)] * 3)]
print("ready", flush=True)
input()
download(files, Path(folder), [url])
"""


@pytest.fixture
def start(mirror, tmp_path):
    """start(behaviour) gives a process that downloads the files as soon as it gets a line."""
    children = []

    def start(behaviour, files=FILES):
        fields = [str(field) for file in files for field in (file.name, file.size, file.md5)]
        command = [sys.executable, "-c", CHILD, tmp_path, mirror.url(behaviour), *fields]
        child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


def go(*children):
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()


def test_two_processes_download_every_file_once(start, mirror, tmp_path):
    children = start("slow"), start("slow")
    go(*children)
    assert [child.wait(20) for child in children] == [0, 0]
    assert {file.name: (tmp_path / file.name).read_bytes() for file in FILES} == CONTENTS
    assert sorted(name for _, name, _ in mirror.requests) == sorted(CONTENTS)
    assert sorted(os.listdir(tmp_path)) == sorted([".lock", *CONTENTS])


@pytest.fixture
def stalled(start, fetch):
    """A process in the middle of downloading the images."""
    child = start("stalled", [IMAGES])
    go(child)
    deadline = time.monotonic() + 10
    while not (fetch.unfinished.exists() and fetch.unfinished.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    return child


def test_a_killed_download_is_resumed(stalled, fetch):
    stalled.kill()
    stalled.wait()
    size = fetch.unfinished.stat().st_size
    assert fetch("good") == [("good", f"bytes={size}-")] and 0 < size < len(WHOLE)


def test_another_process_is_not_waited_for_without_end(stalled, mirror, fetch, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "WAIT_SECONDS", 0.2)
    with pytest.raises(DownloadError, match="another process has held"):
        download.download([IMAGES], tmp_path, [mirror.url("good")])
    stalled.kill()
    stalled.wait()
    fetch("good")


# ---- a data set of four files ------------------------------------------------------------------------------
@pytest.fixture
def tiny(closed):
    return IdxSet("tiny", FILES, (closed,), tuple("0123456789"))


def test_missing_files_are_fetched_from_the_given_mirror_first(tiny, mirror, tmp_path):
    place(tmp_path / "tiny", {"train-labels.gz": None, "test-labels.gz": None})
    assert same(tiny.load(tmp_path, mirror.url("good")))
    assert [name for _, name, _ in mirror.requests] == ["train-labels.gz", "test-labels.gz"]
    mirror.requests.clear()
    assert same(tiny.load(tmp_path)) and mirror.requests == []


@pytest.mark.parametrize("changes", [
    {"train-images.gz": None, "train-images": idx(ARRAYS["train-images"])},
    {"train-images.gz": b"spoiled", "train-images": idx(ARRAYS["train-images"])},
    {"train-images.gz": pack(idx(ARRAYS["train-images"]), level=1)},
    {"train-images.gz": idx(ARRAYS["train-images"])}],
    ids=["unzipped", "unzipped beside", "packed again", "unzipped under the packed name"])
def test_files_placed_by_hand_count_by_what_they_hold(tiny, tmp_path, changes):
    place(tmp_path / "tiny", changes)
    before = sorted(os.listdir(tmp_path / "tiny"))
    (tmp_path / "tiny").chmod(0o555)
    assert same(tiny.load(tmp_path))
    assert sorted(os.listdir(tmp_path / "tiny")) == before      # nothing is written beside them


@pytest.mark.parametrize("name, content", [
    ("train-images.gz", WHOLE[:-100]), ("test-labels.gz", CONTENTS["train-labels.gz"]),
    ("test-images.gz", pack(idx(ARRAYS["test-images"][:, 1:])))], ids=["cut", "other count", "other size"])
def test_a_bad_file_placed_by_hand_is_named_and_kept(tiny, tmp_path, name, content):
    place(tmp_path / "tiny", {name: content})
    with pytest.raises(InputError, match=name) as refusal:
        tiny.load(tmp_path)
    assert not isinstance(refusal.value, DownloadError) and "\n" not in str(refusal.value)
    assert (tmp_path / "tiny" / name).read_bytes() == content


# ---- load_dataset ------------------------------------------------------------------------------------------
@pytest.fixture
def offline(monkeypatch, closed):
    monkeypatch.setitem(catalogue.PUBLISHED, "mnist", replace(MNIST, mirrors=(closed, closed)))


def test_without_network_the_digits_are_used_and_a_warning_says_so(offline, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("CNN_NUMBA_DATA_DIR", str(tmp_path))
    with pytest.warns(UserWarning, match=f"^MNIST is not in {tmp_path} and cannot be downloaded .no mirror") as warned:
        assert load_dataset().name == "digits"
    assert len(warned) == 1 and warned[0].filename == __file__ and capfd.readouterr() == ("", "")


def test_without_network_the_digits_are_used_and_one_line_says_so(offline, tmp_path, monkeypatch):
    lines = []
    monkeypatch.setenv("CNN_NUMBA_DATA_DIR", str(tmp_path))
    data = load_dataset(report=lines.append)
    assert data.name == "digits" and len(lines) == 1
    assert "\n" not in lines[0] and str(tmp_path) in lines[0] and lines[0].count("no connection") == 2
    with pytest.raises(InputError, match=f"into {tmp_path / 'mnist'} by hand"):
        load_dataset("mnist", report=lines.append)
    assert len(lines) == 1 and os.listdir(tmp_path / "mnist") == [".lock"]


def test_a_data_folder_that_is_named_never_ends_in_other_data(offline, tmp_path):
    with pytest.raises(InputError, match=f"into {tmp_path / 'mnist'} by hand"):
        load_dataset(data_dir=tmp_path, report=pytest.fail)


DOTS = {file.name: file.name.removesuffix(".gz").replace("-idx", ".idx") for file in MNIST.files}


@pytest.mark.parametrize("place, below", [
    (lambda name: f"mnist/{name}", ""), (lambda name: f"MNIST/raw/{name}", ""), (lambda name: f"mnist/raw/{name}", ""),
    (lambda name: f"mnist/{DOTS[name]}", ""), (lambda name: f"MNIST/{DOTS[name]}/{DOTS[name]}", ""),
    (lambda name: f"mnist/{name}", "mnist"), (lambda name: f"MNIST/raw/{name}", "MNIST"),
    (lambda name: f"MNIST/raw/{name}", "MNIST/raw")],
    ids=["our own", "torchvision", "raw", "dots", "Kaggle", "the folder itself", "above raw", "raw itself"])
def test_mnist_is_found_as_others_leave_it(offline, tmp_path, place, below):
    for file, array in zip(MNIST.files, ARRAYS.values(), strict=True):
        path = tmp_path / place(file.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(idx(array))
    assert same(load_dataset(data_dir=tmp_path / below, report=pytest.fail))
    assert same(load_dataset("mnist", data_dir=tmp_path / below, report=pytest.fail))


@pytest.mark.parametrize("folder", ["", "mnist"])
def test_mnist_is_found_as_keras_leaves_it(offline, tmp_path, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    names = "x_train", "y_train", "x_test", "y_test"
    np.savez(tmp_path / folder / "mnist.npz", **dict(zip(names, ARRAYS.values(), strict=True)))
    data = load_dataset(data_dir=tmp_path, report=pytest.fail)
    assert same(data) and data.name == "mnist" and data.notes == (f"files in {tmp_path / folder}",)
    np.savez(tmp_path / folder / "mnist.npz", x_train=ARRAYS["train-images"], y_train=ARRAYS["train-labels"])
    with pytest.raises(InputError, match="mnist.npz has the parts train, expected train and test"):
        load_dataset(data_dir=tmp_path)


def test_files_in_a_folder_of_another_name_are_not_taken_for_mnist(offline, tmp_path):
    """Fashion-MNIST and KMNIST have files of the same names."""
    place(tmp_path / "fashion-mnist", {})
    with pytest.raises(DownloadError):
        load_dataset("mnist", data_dir=tmp_path / "fashion-mnist")


def test_a_bad_cached_file_is_no_reason_to_use_the_digits(offline, tmp_path):
    place(tmp_path / "mnist", {file.name: b"spoiled" for file in MNIST.files})
    with pytest.raises(InputError, match="train-images-idx3-ubyte.gz starts with"):
        load_dataset(data_dir=tmp_path, report=pytest.fail)


def test_mnist_is_preferred_when_it_is_there(monkeypatch, tiny, tmp_path):
    monkeypatch.setitem(catalogue.PUBLISHED, "mnist", tiny)
    place(tmp_path / "tiny")
    assert same(load_dataset(data_dir=tmp_path, report=pytest.fail))


@pytest.mark.parametrize("source", [MNIST, FASHION_MNIST, KMNIST], ids=lambda source: source.name)
def test_what_is_published_is_written_down_whole(source):
    assert catalogue.PUBLISHED[source.name] == source and len(set(source.classes)) == 10
    assert [file.name for file in source.files] == [file.name for file in MNIST.files]
    assert all(re.fullmatch("[0-9a-f]{32}", file.md5) for file in source.files)
    assert len({file.md5 for file in MNIST.files + FASHION_MNIST.files + KMNIST.files}) == 12
    assert len(source.mirrors) > 1


def test_the_digits_are_those_of_scikit_learn():
    data = load_dataset("digits", report=pytest.fail)
    images, labels = (np.concatenate(pair) for pair in ((data.train_images, data.test_images),
                                                        (data.train_labels, data.test_labels)))
    assert (data.train_images.shape, data.test_images.shape) == ((1437, 1, 8, 8), (360, 1, 8, 8))
    assert images.max() == 16
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    values = hashlib.md5(images.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest()
    assert values == "7696c07daa6d85010f8268703ab8b067"         # computed from its digits.csv.gz


def test_sizes_keep_the_first_images():
    whole, some = load_dataset("digits"), load_dataset("digits", train_size=100, test_size=1)
    assert np.array_equal(some.train_images, whole.train_images[:100]) and len(some.train_labels) == 100
    assert np.array_equal(some.test_labels, whole.test_labels[:1]) and len(some.test_images) == 1
    assert not np.array_equal(some.mean, whole.mean)            # the statistics follow
    assert len(load_dataset("digits", train_size=1437).train_images) == 1437


@pytest.mark.parametrize("arguments, sentence", [
    ({"train_size": 0}, "train_size must be 1 to 1437 for digits, got 0"), ({"train_size": 1438}, "got 1438"),
    ({"test_size": -1}, "test_size must be 1 to 360"), ({"test_size": 361}, "got 361"),
    ({"name": "mnits"}, "must be one of mnist, fashion-mnist, kmnist, digits, or the path .*, "
                        "got 'mnits': did you mean 'mnist'.$"),
    ({"name": "letters"}, "must be one of .*, got 'letters'$"),
    ({"name": "letters.csv"}, "^letters.csv does not exist$"), ({"name": "./mnits"}, "^mnits does not exist$"),
    ({"name": "/x/mnist"}, "^/x/mnist does not exist$"),
    ({"mirror": "ftp://host"}, "got 'ftp://host'"),
    ({"mirror": "example.org/mnist"}, "starts with http:// or https://")])
def test_a_bad_argument_is_refused_in_one_sentence(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        load_dataset(**{"name": "digits"} | arguments)


@pytest.mark.parametrize("images", [
    random.integers(0, 256, (700, 3, 20, 21), np.uint8), random.integers(0, 256, (1, 1, 1, 1), np.uint8),
    np.full((5, 2, 3, 3), 255, np.uint8), random.integers(0, 9, (2, 1, 600, 600), np.uint8),
    random.normal(0.1, 2, (50, 2, 5, 5)).astype(np.float32)],
    ids=["colour", "one", "constant", "large", "float"])
def test_statistics_are_those_of_numpy_in_float64(images):
    labels = np.zeros(len(images), np.int64)
    data = Dataset("some", images, labels, images[:1], labels[:1], 1)
    wide = images.astype(np.float64)
    assert data.mean.dtype == data.std.dtype == np.float32
    np.testing.assert_allclose(data.mean, wide.mean((0, 2, 3)), rtol=1e-7)
    np.testing.assert_allclose(data.std, wide.std((0, 2, 3)), rtol=2e-7)
    assert data.mean is data.mean


def test_a_data_set_says_what_it_is():
    assert repr(load_dataset("digits")) == ("Dataset digits: 1437 training and 360 test images of 1 x 8 x 8, uint8\n"
                                            "10 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9")
    pixels, labels = np.zeros((5, 3, 2, 4), np.float32), np.zeros(5, np.int64)
    many = Dataset("many", pixels, labels, pixels[:2], labels[:2], 12, tuple("abcdefghijkl")).hold_out(1)
    assert repr(many) == ("Dataset many: 4 training, 1 validation and 2 test images of 3 x 2 x 4, float32\n"
                          "12 classes: a, b, c, d, e, f, g, h, i, j, ...")


def test_the_data_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert data_folder() == tmp_path / ".cache/cnn_numba/data"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert data_folder() == tmp_path / "xdg/cnn_numba/data"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert data_folder() == tmp_path / "Library/Caches/cnn_numba/data"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert data_folder() == tmp_path / "local/cnn_numba/data"
    monkeypatch.setenv("CNN_NUMBA_DATA_DIR", "~/sets")
    assert data_folder() == tmp_path / "sets"
    assert data_folder(tmp_path / "chosen") == tmp_path / "chosen"


def test_reading_a_data_set_imports_nothing_that_only_a_download_needs():
    code = ("import sys; from cnn_numba.data import load_dataset; load_dataset('digits'); "
            "print(sorted({'numba', 'progress', 'requests', 'urllib3', 'numpy'} & set(sys.modules)))")
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == "['numpy']\n"


# ---- the real thing ----------------------------------------------------------------------------------------
REAL = os.environ.get("CNN_NUMBA_DATA_DIR", "")


@pytest.mark.mnist
@pytest.mark.skipif(not all((Path(REAL) / "mnist" / file.name).is_file() for file in MNIST.files),
                    reason="the published MNIST files are not in $CNN_NUMBA_DATA_DIR/mnist")
def test_mnist_itself():
    for file in MNIST.files:
        assert published(file.name, (Path(REAL) / "mnist" / file.name).read_bytes()) == file
    data = load_dataset("mnist", data_dir=REAL, report=pytest.fail)
    assert (data.train_images.shape, data.test_images.shape) == ((60000, 1, 28, 28), (10000, 1, 28, 28))
    assert data.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    np.testing.assert_allclose((data.mean[0] / 255, data.std[0] / 255), (0.1307, 0.3081), atol=5e-5)


def test_the_digits_need_no_home(monkeypatch):
    monkeypatch.delenv("CNN_NUMBA_DATA_DIR", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert len(load_dataset("digits").train_images) == 1437
    with pytest.raises(InputError, match="there is no data folder"):
        load_dataset("mnist")


def test_files_of_the_user_need_no_home(monkeypatch, tmp_path):
    monkeypatch.delenv("CNN_NUMBA_DATA_DIR", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("cnn_numba.data.cache.SECONDS", 0)          # what took this long is kept where that is possible
    lines = (f"{k % 2},{k},{9 * k},7,{k + 1}" for k in range(20))
    (tmp_path / "a.csv").write_text("label,a,b,c,d\n" + "\n".join(lines))
    assert len(load_dataset(tmp_path / "a.csv").train_images) == 17
    assert os.listdir(tmp_path) == ["a.csv"]
