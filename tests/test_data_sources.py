"""Data sets from files: what CSV, .npz, IDX and folders of images give, what they refuse, and what is kept of them."""

import gzip
import importlib.util
import io
import os
import re
import struct
import subprocess
import sys
import textwrap
import tracemalloc
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cnn_numba.data import Format, cache, csvfile, folder, formats, load_dataset, register_format
from cnn_numba.data.csvfile import read_csv
from cnn_numba.data.folder import ImageFile
from cnn_numba.data.npz import read_npz
from cnn_numba.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
random = np.random.default_rng(0)


def digits(count, shape, seed=0):
    """Random images and labels of every class from 0 to 3."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *shape), np.uint8), np.arange(count) * 3 % 4


def csv(images, labels, end="\n"):
    rows = np.concatenate([labels[:, None], images.reshape(len(images), -1)], axis=1)
    return "".join(",".join(map(str, row)) + end for row in rows.tolist()).encode()


def refused(read, *sentence):
    """Check that read() is refused in one sentence with these words, and return the sentence."""
    with pytest.raises(InputError) as refusal:
        read()
    text = str(refusal.value)
    assert "\n" not in text and all(words in text for words in sentence), text
    return text


def peak(read):
    """What read() returns, or None when it is refused, and the most memory it took in bytes."""
    tracemalloc.start()
    try:
        return read(), tracemalloc.get_traced_memory()[1]
    except InputError:
        return None, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture
def load(tmp_path):
    """load_dataset with a data folder of its own, from paths below tmp_path; `load.reads` lists what is really read."""
    @contextmanager
    def noting(name, total):
        load.reads.append(name)
        yield lambda amount: None

    def load(*paths, test_data=None, report=pytest.fail, **options):
        name = paths[0] if len(paths) == 1 else paths
        return load_dataset(name, test_data=test_data, data_dir=tmp_path / "data", report=report, progress=noting,
                            **options)
    load.reads = []
    return load


# ---- CSV ---------------------------------------------------------------------------------------------------
IMAGES, LABELS = digits(50, (1, 5, 5))
PLAIN = csv(IMAGES, LABELS)
HEADER = ",".join(["label", *(f"pixel{i}" for i in range(25))]).encode()


@pytest.mark.parametrize("content", [
    PLAIN, PLAIN[:-1], csv(IMAGES, LABELS, "\r\n"), HEADER + b"\n" + PLAIN,
    HEADER.replace(b"label", b'"label"') + b"\n" + PLAIN, b"\xef\xbb\xbf" + PLAIN,
    b"\xef\xbb\xbf" + HEADER + b"\r\n" + PLAIN, b"\n\n" + PLAIN + b"\n\n", PLAIN.replace(b"\n", b"\n\n"),
    PLAIN.replace(b",", b" , "), PLAIN.replace(b",", b".0,"), PLAIN.replace(b",", b",00"),
    b'"' + PLAIN.replace(b",", b'","').replace(b"\n", b'"\n"')[:-1], gzip.compress(PLAIN),
    gzip.compress(PLAIN[:1000]) + gzip.compress(PLAIN[1000:])],
    ids=["plain", "no end of line", "CR LF", "header", "quoted header", "BOM", "BOM, header", "blank lines",
         "blank between", "spaces", "decimals", "zeros in front", "quotes", "gzip", "gzip in two members"])
@pytest.mark.parametrize("block", [64, csvfile.BLOCK])
def test_a_csv_file_gives_back_what_was_written(tmp_path, monkeypatch, content, block):
    monkeypatch.setattr(csvfile, "BLOCK", block)
    (tmp_path / "some.csv").write_bytes(content)
    images, labels = read_csv(tmp_path / "some.csv")
    assert images.dtype == np.uint8 and labels.dtype == np.int64
    assert np.array_equal(images, IMAGES) and np.array_equal(labels, LABELS)


def test_every_pixel_value_and_length_of_number_is_read(tmp_path):
    images = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(2, 0)
    images[1] = images[1, :, ::-1, ::-1]
    (tmp_path / "all.csv").write_bytes(csv(images, np.array([0, 1])))
    assert np.array_equal(read_csv(tmp_path / "all.csv")[0], images)


def test_other_numbers_become_float32(tmp_path):
    values = random.normal(size=(20, 1, 3, 3)).astype(np.float32)
    values[:10] = np.round(values[:10] * 9 + 128)            # whole numbers at first, so that uint8 has to give way
    (tmp_path / "some.csv").write_bytes(csv(values.astype(object), np.arange(20)))
    images, labels = read_csv(tmp_path / "some.csv")
    assert images.dtype == np.float32 and np.array_equal(images, values) and labels[-1] == 19
    (tmp_path / "256.csv").write_bytes(b"0,256,0,0,-1\n1,0,0,0,0\n")
    assert read_csv(tmp_path / "256.csv")[0].ravel().tolist() == [256, 0, 0, -1, 0, 0, 0, 0]


def test_column_numbers_that_pandas_writes_are_a_header(tmp_path):
    images, labels = digits(3, (1, 20, 20))
    header = ",".join(map(str, range(401))).encode()
    (tmp_path / "some.csv").write_bytes(header + b"\n" + csv(images, labels))
    assert np.array_equal(read_csv(tmp_path / "some.csv")[0], images)


def test_the_image_shape_of_a_csv_file(tmp_path):
    images, labels = digits(4, (3, 4, 2))
    (tmp_path / "some.csv").write_bytes(csv(images, labels))
    assert np.array_equal(read_csv(tmp_path / "some.csv", (3, 4, 2))[0], images)
    refused(lambda: read_csv(tmp_path / "some.csv"), "some.csv, line 1", "a label and 24 pixels, which is not a square",
            "an image without a label", "--image-shape", "--label-column")
    refused(lambda: read_csv(tmp_path / "some.csv", (1, 5, 5)), "24 pixels, but the image shape 1x5x5 has 25")


LINES = PLAIN.splitlines(keepends=True)
BAD_CSV = {
    "nothing": (b"", "holds no images"),
    "blank lines": (b"\n\n\n", "holds no images"),
    "header only": (HEADER + b"\n", "holds no images"),
    "one column": (b"5\n6\n", "line 1, is '5', expected a label and pixels, separated by commas"),
    "other separators": (PLAIN.replace(b",", b"|"), "line 1, is", "separated by commas"),
    "a short line": (b"".join(LINES[:9]) + b"1,2,3\n" + LINES[9], "line 10, has 3 values, expected 26"),
    "a long line": (b"".join(LINES[:9]) + b"1," + LINES[9], "line 10, has 27 values, expected 26"),
    "two lines in one": (LINES[0] + LINES[1][:-1] + b"," + LINES[2], "line 2, has 52 values"),
    "cut": (PLAIN[:-40], "line 50, has"),
    "a word": (LINES[0] + LINES[1].replace(b",", b",x", 1), "line 2, column 2 is 'x", "expected a number"),
    "a blank field": (LINES[0] + b"1" + b"," * 25 + b"\n", "line 2, column 2 is ''"),
    "not a number": (LINES[0] + b"1" + b",nan" * 25 + b"\n", "line 2, column 2 is 'nan'"),
    "infinite": (LINES[0] + b"1,1e39" + b",0" * 24 + b"\n", "line 2, column 2 is '1e39'"),
    "a label below 0": (LINES[0] + b"-1" + b",0" * 25, "line 2, begins with '-1', expected a label"),
    "half a label": (LINES[0] + b"1.5" + b",0" * 25, "line 2, begins with '1.5'"),
    "a large label": (LINES[0] + b"10000" + b",0" * 25, "line 2, begins with '10000'"),
    "a named label": (LINES[0] + b"cat" + b",0" * 25, "line 2, column 1 is 'cat'"),
    "UTF-16": (PLAIN.decode().encode("utf-16"), "zero bytes as in UTF-16: expected a text in UTF-8"),
    "zeros": (b"\0" * 5000, "line 1, is"),
    "gzip, cut": (gzip.compress(PLAIN)[:-9], "corrupt gzip"),
    "gzip, wrong checksum": (gzip.compress(PLAIN)[:-8] + b"12345678", "corrupt gzip"),
    "gzip, then something": (gzip.compress(PLAIN) + b"some", "corrupt gzip"),
}


@pytest.mark.parametrize("content, sentence", [(content, words) for content, *words in BAD_CSV.values()], ids=BAD_CSV)
def test_a_bad_csv_file_is_refused_in_one_sentence(tmp_path, content, sentence):
    (tmp_path / "bad.csv").write_bytes(content)
    refused(lambda: read_csv(tmp_path / "bad.csv"), str(tmp_path / "bad.csv"), *sentence)


@pytest.mark.parametrize("unit, count, sentence", [
    (b"0,0,0,0,0\n" * 10_000, 1500, "unpacks to more than 200 times its size"),
    (b"0" * 100_000, 400, "a line of more than 16 MB")],
    ids=["many lines", "one line"])
def test_a_csv_file_without_end_is_given_up(tmp_path, monkeypatch, unit, count, sentence):
    pack, packed = zlib.compressobj(wbits=31), b""
    monkeypatch.setattr(csvfile, "LONGEST_LINE", 1 << 24)
    for _ in range(count):
        packed += pack.compress(unit)
    (tmp_path / "bomb.csv.gz").write_bytes(packed + pack.flush())
    refused(lambda: read_csv(tmp_path / "bomb.csv.gz"), sentence)


def test_a_csv_file_takes_at_most_three_times_the_memory_of_its_images(tmp_path):
    images, labels = digits(12_000, (1, 28, 28))
    (tmp_path / "some.csv").write_bytes(csv(images, labels))
    (read, _), memory = peak(lambda: read_csv(tmp_path / "some.csv"))
    assert np.array_equal(read, images) and memory < 3 * images.nbytes


# ---- npz ---------------------------------------------------------------------------------------------------
def npz(path, save=np.savez, **arrays):
    save(path, **arrays)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("kind", [np.uint8, np.bool_, np.int64, ">i2", np.float16, np.float32, np.float64])
def test_an_npz_file_gives_back_what_was_written(tmp_path, save, kind):
    images, labels = digits(9, (4, 6))
    images = images > 99 if kind is np.bool_ else images.astype(kind)
    path = npz(tmp_path / "some.npz", save, x_train=images, y_train=labels, other=labels)
    parts = read_npz(path)
    assert parts.keys() == {"train"}
    read, read_labels = parts["train"]
    assert read.dtype == np.uint8 and read.shape == (9, 1, 4, 6) and np.array_equal(read[:, 0], images)
    assert read_labels.dtype == np.int64 and np.array_equal(read_labels, labels)


@pytest.mark.parametrize("given, image_shape, expected", [
    ((6, 9), None, (1, 3, 3)), ((6, 24), (3, 4, 2), (3, 4, 2)), ((6, 5, 7), None, (1, 5, 7)),
    ((6, 3, 8, 8), None, (3, 8, 8)), ((6, 8, 8, 3), None, (3, 8, 8)), ((6, 8, 8, 1), None, (1, 8, 8)),
    ((6, 3, 8, 3), (3, 8, 3), (3, 8, 3)), ((6, 3, 8, 3), (3, 3, 8), (3, 3, 8)), ((6, 16, 1), None, (1, 4, 4)),
    ((6, 16, 8, 8), None, (16, 8, 8))])
@pytest.mark.parametrize("order", "CF")
def test_the_image_shape_of_an_npz_file(tmp_path, given, image_shape, expected, order):
    images = random.normal(size=given).astype(np.float32)
    path = npz(tmp_path / "some.npz", x_train=np.array(images, order=order), y_train=np.arange(6)[:, None])
    read, labels = read_npz(path, image_shape)["train"]
    assert read.shape[1:] == expected and read.dtype == np.float32 and read.flags.c_contiguous
    moved = images if expected == given[1:] or len(given) < 4 else images.transpose(0, 3, 1, 2)
    assert np.array_equal(read.ravel(), moved.ravel()) and labels.tolist() == list(range(6))


X, Y = np.arange(96, dtype=np.uint8).reshape(6, 4, 4), np.arange(6)
BAD_NPZ = {
    "no labels": ({"x_train": X}, "holds x_train: x_train has no labels, which are called y_train"),
    "no images": ({"y_train": Y}, "y_train has no images, which are called x_train or train_images"),
    "other names": ({"one": X, "two": Y}, "holds one, two, expected x_train"),
    "two names": ({"X_train": X, "train_images": X, "y_train": Y}, "both X_train and train_images", "keep one"),
    "with and without a part": ({"x": X, "y": Y, "x_test": X, "y_test": Y}, "with and without the name of a part"),
    "either layout": ({"x": np.zeros((6, 3, 4, 3)), "y": Y}, "3x4x3", "--image-layout CHW", "--image-layout HWC"),
    "nothing": ({}, "holds nothing"),
    "counts": ({"x_train": X, "y_train": Y[:5]}, "y_train of", "5 labels", "6 images"),
    "objects": ({"x_train": X, "y_train": Y.astype(object)}, "y_train of", "pickled objects, which are never loaded"),
    "text": ({"x_train": X.astype(str), "y_train": Y}, "x_train of", "expected numbers"),
    "complex": ({"x_train": X.astype(complex), "y_train": Y}, "x_train of", "expected numbers"),
    "fields": ({"x_train": np.zeros(6, "u1,u1"), "y_train": Y}, "x_train of",
               "expected the header of an array of numbers"),
    "fractions": ({"x_train": X, "y_train": Y / 2}, "y_train of", "float64", "0.5, expected whole numbers"),
    "NaN labels": ({"x_train": X, "y_train": Y * np.nan}, "y_train of", "nan, expected whole numbers"),
    "two-hot": ({"x_train": X, "y_train": 1 - np.eye(6)}, "shape (6, 6), expected one label per image", "one-hot"),
    "three axes": ({"x_train": X, "y_train": X}, "shape (6, 4, 4), expected one label per image"),
    "one axis": ({"x_train": Y, "y_train": Y}, "x_train of", "shape (6,)"),
    "no pixels": ({"x_train": X[:, :0], "y_train": Y}, "shape (6, 0, 4)"),
    "zero images": ({"x_train": X[:0], "y_train": Y[:0]}, "shape (0, 4, 4)"),
    "a label below 0": ({"x_train": X, "y_train": Y - 1}, "the label -1, expected 0 to 9999"),
    "a large label": ({"x_train": X, "y_train": Y.astype(np.uint64) + 2**63}, "the label 92233720368547758"),
    "not a number": ({"x_train": X + np.nan, "y_train": Y}, "NaN or infinity"),
    "too large": ({"x_train": X * 1e300, "y_train": Y}, "NaN or infinity"),
    "no square": ({"x_train": X.reshape(6, 16)[:, :15], "y_train": Y}, "15 pixels, which is not a square"),
}


@pytest.mark.parametrize("arrays, sentence", [(arrays, words) for arrays, *words in BAD_NPZ.values()], ids=BAD_NPZ)
def test_bad_arrays_are_refused_in_one_sentence(tmp_path, load, arrays, sentence):
    path = npz(tmp_path / "bad.npz", **arrays)
    refused(lambda: load(path), str(path), *sentence)


def archive(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def npy(array, shape=None, zeros=0):
    """The bytes of a .npy file; with another shape in its header, and zeros behind, when told."""
    file = io.BytesIO()
    np.save(file, array)
    content, header = file.getvalue(), repr(array.shape).encode()
    other = repr(array.shape if shape is None else shape).encode()
    return content.replace(header + b", }" + b" " * (len(other) - len(header)), other + b", }", 1) + bytes(zeros)


class Spy:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def test_pickles_in_an_npz_file_are_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = npz(tmp_path / "evil.npz", x_train=np.array([Spy()], dtype=object), y_train=np.array([0]))
    refused(lambda: read_npz(path), "x_train of", "never loaded")
    assert not os.path.exists("unpickled")
    with np.load(path, allow_pickle=True) as control:
        control["x_train"]
    assert os.path.exists("unpickled")


BILLIONS, HUGE = (2**32, 28, 28), (2**32,) * 4
GOOD_NPZ = {"x_train": npy(X), "y_train": npy(Y)}


@pytest.mark.parametrize("members, sentence", [
    (GOOD_NPZ | {"x_train": npy(X, BILLIONS)}, "promises 3367254360064 bytes"),
    (GOOD_NPZ | {"x_train": npy(X, HUGE)}, "promises 340282366920938463463374607431768211456 bytes"),
    (GOOD_NPZ | {"x_train": npy(X)[:-1]}, "promises 96 bytes (6 x 4 x 4 of uint8), but has 95"),
    (GOOD_NPZ | {"x_train": b"some"}, "expected a .npy file"),
    (GOOD_NPZ | {"x_train": b""}, "expected a .npy file"),
    (GOOD_NPZ | {"x_train": b"\x93NUMPY\2\0" + struct.pack("<I", 2**31)}, "header of 2147483660 bytes"),
    (GOOD_NPZ | {"x_train": npy(X).replace(b"'|u1'", b"input")}, "expected the header of an array of numbers"),
    (GOOD_NPZ | {"x_train": npy(X).replace(b"(6,", b"(-6")}, "expected the header of an array of numbers"),
    ({"x_train": npy(X, (200, 1000, 1000), 200_000_000 - X.nbytes), "y_train": npy(Y, (200,), 194 * 8)},
     "unpacks to more than 200 times its size")],
    ids=["billions", "huge", "cut", "text", "empty", "long header", "no type", "below 0", "bomb"])
def test_a_header_that_lies_takes_no_memory(tmp_path, members, sentence):
    path = archive(tmp_path / "bad.npz", members)
    members.clear()
    read, memory = peak(lambda: read_npz(path))
    assert read is None and memory < 4e6
    refused(lambda: read_npz(path), "x_train of", str(path), sentence)


def test_a_bomb_of_honest_size_would_take_memory(tmp_path):
    path = archive(tmp_path / "control.npz", {"x_train": npy(X, (60, 1000, 1000), 60_000_000 - X.nbytes),
                                              "y_train": npy(Y, (60,), 54 * 8)})
    parts, memory = peak(lambda: read_npz(path))
    images, _ = parts["train"]
    assert images.shape == (60, 1, 1000, 1000) and 60e6 < memory < 3 * images.nbytes


@pytest.mark.parametrize("damage, sentence", [
    (lambda content: b"", "corrupt .npz"), (lambda content: b"PK" + content, ""),
    (lambda content: content[:-30], "corrupt .npz"),
    (lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:], "corrupt .npz")],
    ids=["empty", "shifted", "cut", "checksum"])
def test_a_damaged_archive_is_refused(tmp_path, damage, sentence):
    path = archive(tmp_path / "bad.npz", GOOD_NPZ, zipfile.ZIP_STORED)
    path.write_bytes(damage(path.read_bytes()))
    if sentence:
        refused(lambda: read_npz(path), str(path), sentence)
    else:
        assert np.array_equal(read_npz(path)["train"][0][:, 0], X)       # zip files may have something in front


def test_a_packing_that_numpy_does_not_write_is_refused(tmp_path):
    path = archive(tmp_path / "bad.npz", GOOD_NPZ, zipfile.ZIP_BZIP2)
    refused(lambda: read_npz(path), "x_train of", "packed by a method that NumPy does not use")


# ---- folders of images -------------------------------------------------------------------------------------
@pytest.fixture
def picture():
    """picture(path, array or mode, ...) writes an image file."""
    image = pytest.importorskip("PIL.Image")

    def picture(path, pixels, mode=None, **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn = image.fromarray(np.asarray(pixels))
        (drawn.convert(mode) if mode else drawn).save(path, **options)
        return path
    return picture


def folder_of(picture, place, images, labels, names=("ant", "bee", "cat", "dog"), ending="png"):
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        picture(place / names[label] / f"{number:03}.{ending}", image)
    return place


def test_a_folder_gives_every_image_with_its_class(tmp_path, load, picture):
    images, labels = digits(150, (7, 5))
    folder_of(picture, tmp_path / "animals", images, labels)
    (tmp_path / "animals" / "notes.txt").write_text("not an image")
    (tmp_path / "animals" / ".hidden").mkdir()
    (tmp_path / "animals" / "ant" / "Thumbs.db").write_text("not an image")
    said = []
    data = load(tmp_path / "animals", report=said.append)
    assert said == [f"{tmp_path / 'animals'}: left out 1 file beside the class folders (notes.txt)"]
    assert data.name == "animals" and data.classes == ("ant", "bee", "cat", "dog") and data.num_classes == 4
    assert data.train_images.shape == (125, 1, 7, 5) and data.test_images.shape == (25, 1, 7, 5)
    expected = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    for part in (data.train_images, data.train_labels), (data.test_images, data.test_labels):
        assert all(expected.pop(image.tobytes()) == label for image, label in zip(*part, strict=True))
    assert not expected
    assert len(set(data.train_labels[:12])) == 4            # the first ones are some of every class
    assert np.array_equal(load(tmp_path / "animals", report=said.append).train_images, data.train_images)


def test_train_and_test_folders(tmp_path, load, picture):
    images, labels = digits(20, (6, 6))
    place = tmp_path / "animals"
    folder_of(picture, place / "train", images, labels)
    folder_of(picture, place / "test", images[:6], labels[:6] * 0 + 2)
    data = load(place)
    assert len(data.train_images) == 20 and data.test_labels.tolist() == [2] * 6 and data.num_classes == 4
    beside = load(place / "train", test_data=place / "test")
    assert np.array_equal(beside.test_images, data.test_images) and beside.name == "train"
    picture(place / "test" / "emu" / "1.png", images[0])
    refused(lambda: load(place), f"{place} (test part) holds the class 'emu', which the training part lacks")
    refused(lambda: load(place, test_data=place / "test"), "has a test part of its own")


def test_classes_that_are_numbers_are_sorted_as_such(tmp_path, load, picture):
    names = tuple(map(str, range(12)))
    folder_of(picture, tmp_path / "some", random.integers(0, 256, (24, 4, 4), np.uint8), np.arange(24) % 12, names)
    assert load(tmp_path / "some").classes == names


def test_grey_and_colour_are_kept(tmp_path, load, picture, monkeypatch):
    grey, colour = random.integers(0, 256, (8, 8), np.uint8), random.integers(0, 256, (8, 8, 3), np.uint8)
    for label in "ab":
        for number in range(6):
            picture(tmp_path / "grey" / label / f"{number}.png", grey)
            picture(tmp_path / "colour" / label / f"{number}.bmp", colour)
            picture(tmp_path / "mixed" / label / f"{number}.png", colour if number == 3 else grey)
    assert np.array_equal(load(tmp_path / "grey").train_images[0], grey[None])
    assert np.array_equal(load(tmp_path / "colour").train_images[0], colour.transpose(2, 0, 1))
    mixed = load(tmp_path / "mixed")
    kinds = [np.array_equal(image, colour.transpose(2, 0, 1)) for image in (*mixed.train_images, *mixed.test_images)]
    assert sum(kinds) == 2
    assert all(kind or (image == grey).all() for kind, image in zip(kinds, (*mixed.train_images, *mixed.test_images),
                                                                    strict=True))
    said = []
    fitted = load(tmp_path / "colour", test_data=tmp_path / "grey", report=said.append)
    assert said == ["grey: 12 of 12 images were brought to 3x8x8"]
    monkeypatch.setattr("cnn_numba.data.cache.SECONDS", 0)
    for words in "grey: 12 of 12 images were brought to 3x8x8", "grey: images were brought to 3x8x8":
        said.clear()                                # the second time from the kept arrays
        again = load(tmp_path / "colour", test_data=tmp_path / "grey", report=said.append)
        assert np.array_equal(again.test_images, fitted.test_images)
        assert said == [words]
    assert np.array_equal(fitted.test_images[0], np.stack([grey] * 3))


def test_every_kind_of_image_file(tmp_path, picture):
    image = pytest.importorskip("PIL.Image")
    from cnn_numba.data.image import read_image

    grey = np.repeat(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4, 1)
    grey = grey.reshape(8, 8)
    colour = np.stack([grey, grey[::-1], grey.T], axis=2)
    def read(name, pixels, mode=None, **options):
        return read_image(picture(tmp_path / name, pixels, mode, **options))
    for name in "a.png", "a.bmp", "a.tif", "a.pgm", "a.gif":
        assert np.array_equal(read(name, grey), grey[None]), name
    for name in "c.png", "c.bmp", "c.tif", "c.ppm":
        assert np.array_equal(read(name, colour), colour.transpose(2, 0, 1)), name
    assert np.abs(read("a.jpg", grey, quality=100).astype(int) - grey).max() < 6
    assert read("c.jpg", colour, "CMYK").shape == (3, 8, 8) and read("c.webp", colour, lossless=True).shape == (3, 8, 8)
    assert np.array_equal(read("1.png", grey > 99), (grey > 99)[None] * 255)
    assert np.array_equal(read("16.png", grey.astype(np.uint16) * 256 + 77), grey[None])
    assert read("p.png", colour, "P").shape == (3, 8, 8) and np.array_equal(read("p.gif", grey, "P"), grey[None])
    # black on nothing is black on white, not black
    ink = np.zeros((8, 8, 4), np.uint8)
    ink[2:4, :, 3] = 255
    assert read("ink.png", ink)[0, :4, 0].tolist() == [255, 255, 0, 0]
    grey_ink = read("la.png", ink, "LA")
    assert grey_ink.shape == (1, 8, 8) and grey_ink[0, :4, 0].tolist() == [255, 255, 0, 0]
    # what the camera says
    exif = image.Exif()
    exif[0x0112] = 6
    turned = read("turned.png", grey[:, :4], exif=exif)
    assert np.array_equal(turned[0], np.rot90(grey[:, :4], -1))


def test_images_of_different_sizes_need_an_image_size(tmp_path, load, picture):
    for label in "ab":
        for number in range(6):
            picture(tmp_path / "some" / label / f"{number}.png", np.full((8, 6 + number % 2), 40 * number, np.uint8)
                    + np.arange(8, dtype=np.uint8)[:, None] // 4 * 50)
    text = refused(lambda: load(tmp_path / "some"), ".png has 8 x ", " pixels, but ", "--image-size")
    assert text.count(".png") == 2 and {"8 x 6", "8 x 7"} <= set(re.findall("8 x .", text))
    data = load(tmp_path / "some", image_size=(4, 5))
    assert data.train_images.shape == (10, 1, 4, 5) and data.train_images.max() <= 250


@pytest.mark.parametrize("content, sentence", [
    (b"some text", "unknown format"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unknown format"),
    (b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 60000, 60000, 8, 0, 0, 0, 0), "3600000000 pixels"),
    (b"P5 65500 65500 255\n" + bytes(1000), "4290250000 pixels"),
    (b"P5 12000 12000 255\n" + bytes(1000), "12000 x 12000 pixels in 1019 bytes")],
    ids=["text", "a program", "huge PNG", "huge PGM", "large PGM"])
def test_a_file_that_is_no_image_is_named(tmp_path, load, picture, content, sentence):
    if content[:4] == b"\x89PNG":
        content += struct.pack(">I", zlib.crc32(content[12:])) + struct.pack(">I4s", 0, b"IDAT") + bytes(100)
    for label in "ab":
        picture(tmp_path / "some" / label / "1.png", np.zeros((4, 4), np.uint8))
        picture(tmp_path / "some" / label / "3.png", np.zeros((4, 4), np.uint8))
    (tmp_path / "some" / "b" / "2.png").write_bytes(content)
    read, memory = peak(lambda: load(tmp_path / "some"))
    assert read is None and memory < 8e6
    refused(lambda: load(tmp_path / "some"), str(tmp_path / "some" / "b" / "2.png"), sentence)


def test_a_cut_image_is_named(tmp_path, load, picture):
    images, labels = digits(20, (9, 9))
    place = folder_of(picture, tmp_path / "some", images, labels)
    (place / "dog" / "001.png").write_bytes((place / "dog" / "001.png").read_bytes()[:60])
    refused(lambda: load(place), str(place / "dog" / "001.png"), "cannot be read as an image")


def test_folders_without_classes_or_images_are_refused(tmp_path, load, picture):
    (tmp_path / "some" / "a").mkdir(parents=True)
    refused(lambda: load(tmp_path), "some", "holds no images")
    refused(lambda: load(tmp_path / "some" / "a"), "a holds 0 folders, expected one for each class, 10000 at most")
    for name in "1.png", "2.png":
        picture(tmp_path / "some" / "a" / name, np.zeros((4, 4), np.uint8))
    refused(lambda: load(tmp_path / "some"), "the number of classes in", "some (train part) is 1, expected 2 to 10000")


def test_without_pillow_one_sentence_says_so(tmp_path, load, monkeypatch):
    for label in "ab":
        (tmp_path / "some" / label).mkdir(parents=True)
        (tmp_path / "some" / label / "1.png").write_bytes(b"")
    for name in [name for name in sys.modules if name.partition(".")[0] == "PIL"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "PIL", None)
    refused(lambda: load(tmp_path / "some"), "image files are read by Pillow, which is missing: pip install pillow")


# ---- parts -------------------------------------------------------------------------------------------------
@pytest.fixture
def table(tmp_path):
    """table(name, count=..., labels=...) writes a CSV file of images of 5 x 5."""
    def table(name, count=24, shape=(1, 5, 5), labels=None):
        images, every = digits(count, shape, seed=count)
        (tmp_path / name).write_bytes(csv(images, every if labels is None else np.array(labels)))
        return tmp_path / name
    return table


def test_every_sixth_image_of_a_class_is_held_back(load, table):
    labels = np.repeat([0, 1, 2], [12, 6, 6])
    data = load(table("sorted.csv", labels=labels))
    assert data.name == "sorted.csv" and data.classes == ("0", "1", "2")
    assert np.bincount(data.train_labels).tolist() == [10, 5, 5] and np.bincount(data.test_labels).tolist() == [2, 1, 1]
    again = load(table("sorted.csv", labels=labels))
    assert np.array_equal(data.test_images, again.test_images)
    both = np.concatenate([data.train_images, data.test_images]).reshape(24, -1)
    assert len(np.unique(both, axis=0)) == 24


def test_the_statistics_are_those_of_the_training_part(load, table):
    data = load(table("some.csv"))
    np.testing.assert_allclose(data.mean, data.train_images.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(data.std, data.train_images.std((0, 2, 3)), rtol=1e-6)


def test_train_and_test_from_two_files(load, table):
    data = load(table("train.csv"), test_data=table("test.csv", 5))
    assert len(data.train_images) == 24 and np.array_equal(data.test_images, digits(5, (1, 5, 5), seed=5)[0])
    few = load(table("train.csv"), test_data=table("test.csv", 5), train_size=7, test_size=2)
    assert few.train_labels.shape == (7,) and few.test_labels.shape == (2,)


def test_train_and_test_in_an_npz_file(tmp_path, load):
    path = npz(tmp_path / "some.npz", x_train=X, y_train=Y, x_test=X[:2], y_test=Y[:2])
    data = load(path)
    assert len(data.train_images) == 6 and len(data.test_images) == 2 and data.num_classes == 6
    refused(lambda: load(path, test_data=path), "has a test part of its own")
    test = npz(tmp_path / "test.npz", x_test=X[:3], y_test=Y[:3])
    refused(lambda: load(test), "test.npz has no training part")
    train = npz(tmp_path / "train.npz", x_train=np.repeat(X, 6, 0), y_train=np.tile(Y, 6))
    assert len(load(train, test_data=test).test_images) == 3 and len(load(train).test_images) == 6


def test_a_pair_of_idx_files(tmp_path, load):
    images, labels = digits(24, (5, 4))
    content = {"train-images-idx3-ubyte": (images, images.shape), "train-labels-idx1-ubyte": (labels, labels.shape)}
    for name, (array, shape) in content.items():
        header = bytes((0, 0, 8, len(shape))) + np.array(shape, ">u4").tobytes()
        (tmp_path / name).write_bytes(header + array.astype(np.uint8).tobytes())
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))
    paths = [tmp_path / name for name in content]
    data = load(paths[0], test_data=paths)
    assert np.array_equal(data.test_images[:, 0], images) and np.array_equal(data.train_labels, labels)
    paths[1].unlink()
    assert np.array_equal(load(paths[0], test_data=paths[0]).train_labels, labels)     # the packed labels
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    refused(lambda: load(paths[0]), "train-labels-idx1-ubyte.gz cannot be read (No such file")


def test_parts_that_do_not_match_are_refused(tmp_path, load, table, picture):
    train, more = table("train.csv"), table("more.csv", 3, labels=[0, 1, 4])
    colours = npz(tmp_path / "colours.npz", x_test=np.zeros((2, 4, 5, 5)), y_test=Y[:2])
    refused(lambda: load(train, test_data=colours), "colours.npz (test part) holds images of 4x5x5, expected 1x5x5")
    refused(lambda: load(train, test_data=more), "more.csv (test part) holds the label 4, but the training part only",
            "0 to 3")
    refused(lambda: load(table("one.csv", 9, labels=[0] * 9)), "classes in", "one.csv (train part) is 1, exp")
    refused(lambda: load(table("few.csv", 5)), "few.csv holds 5 images, too few to split off a test", "--test-data")
    refused(lambda: load(train, test_data=tmp_path / "none.csv"), "none.csv does not exist")
    folder = folder_of(picture, tmp_path / "some", *digits(8, (5, 5)))
    refused(lambda: load(train, test_data=folder), "some (test part) and the training part must both label images",
            "with names, as image folders do, or both with numbers")


def test_options_without_a_meaning_are_refused(tmp_path, load, table, picture):
    folder = folder_of(picture, tmp_path / "some", *digits(8, (5, 5)))
    refused(lambda: load(folder, image_shape=(1, 5, 5)), "some has the format image folder, which takes no image shape")
    refused(lambda: load(table("some.csv"), image_size=(5, 5)), "csv has the format CSV, which takes no image size")
    refused(lambda: load("digits", image_size=(5, 5)), "image_size is for data sets from files, not for digits")
    refused(lambda: load_dataset(image_shape=(1, 5, 5)), "image_shape is for data sets from files, not for mnist")
    refused(lambda: load("digits", test_data=table("some.csv")), "test_data is for data sets from files")
    (tmp_path / "notes.txt").write_text("some")
    refused(lambda: load(tmp_path / "notes.txt"), "notes.txt is not a data set, expected one of the formats",
            "CSV (*.csv, *.csv.gz, *.tsv", "NPZ (*.npz)", "NPY (*.npy)", "IDX (*idx", "image folder (*/)")
    refused(lambda: load("a", "b", "c"), "got 'a b c'")


def test_a_directory_does_not_hide_a_data_set_of_that_name(tmp_path, load, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert load("digits").train_images.shape == (1437, 1, 8, 8)
    refused(lambda: load("./digits"), "digits holds 0 folders")


# ---- what is kept ------------------------------------------------------------------------------------------
@pytest.fixture
def slow(monkeypatch, tmp_path):
    """Every reading counts as slow; gives a function that lists what is kept."""
    monkeypatch.setattr(cache, "SECONDS", -1)
    return lambda: sorted(path.name for path in (tmp_path / "data" / "arrays").glob("*"))


def test_what_took_long_to_read_is_kept(load, table, slow):
    path = table("some.csv")
    first, second = load(path), load(path)
    assert len(load.reads) == 1 and len(slow()) == 2 and all(name.startswith("some.csv-") for name in slow())
    assert np.array_equal(first.train_images, second.train_images)
    assert np.array_equal(first.test_labels, second.test_labels)
    load(path, image_shape=(1, 5, 5))                        # another question, another answer
    assert len(load.reads) == 2 and len(slow()) == 4


def test_quick_readings_are_not_kept(load, table, tmp_path):
    load(table("some.csv"))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("change", ["content", "size"])
def test_a_changed_file_is_read_again(load, table, slow, change):
    path = table("some.csv")
    first, status = load(path), path.stat()
    before = slow()
    if change == "content":
        path.write_bytes(path.read_bytes().translate(bytes.maketrans(b"56789", b"98765")))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert path.stat().st_size == status.st_size
    else:
        table("some.csv", 30)
    data = load(path)
    assert len(load.reads) == 2 and len(data.train_images) == (20 if change == "content" else 25)
    assert not np.array_equal(data.train_images[:20], first.train_images)
    assert len(slow()) == 2 and not set(slow()) & set(before)    # and the old arrays are gone


@pytest.mark.parametrize("times", [True, False], ids=["times", "no times"])
def test_another_image_of_the_same_size_and_time_is_noticed(tmp_path, load, picture, slow, monkeypatch, times):
    """By the time of its entry, or by its content where the file system has no such times."""
    if not times:
        monkeypatch.setattr(folder, "ImageFile", lambda name, size, _: ImageFile(name, size, (0, 0, 0)))
    images, labels = digits(24, (6, 6))
    place = folder_of(picture, tmp_path / "some", images, labels, ending="bmp")
    load(place)
    first, second = place / "ant" / "000.bmp", place / "ant" / "004.bmp"
    before, status = slow(), first.stat()
    first.write_bytes(second.read_bytes())
    os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (first.stat().st_size, first.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    load(place)
    assert len(slow()) == 2 and slow() != before


def flip(kept):
    """Change one bit of the last number."""
    content = bytearray(kept.read_bytes())
    content[-cache.DIGEST - 2] ^= 1
    kept.write_bytes(content)


def write_kept(kept, array):
    """Keep another array under the name, with a right checksum."""
    cache.save_kept(array, kept)


@pytest.mark.parametrize("spoil", [
    lambda kept: kept.write_bytes(kept.read_bytes()[:-1]), lambda kept: kept.write_bytes(b""),
    lambda kept: np.save(kept, np.zeros(3)), Path.unlink, flip,
    lambda kept: write_kept(kept, np.full((20, 1, 5, 5), np.nan, np.float32)),
    lambda kept: write_kept(kept, np.zeros((25, 1, 5, 5), np.float64)),
    lambda kept: write_kept(kept, np.full(25, 2**31)), lambda kept: write_kept(kept, np.full(25, -1)),
    lambda kept: write_kept(kept, np.zeros(25, np.complex128))],
    ids=["cut", "empty", "other", "gone", "flipped", "NaN", "float64", "2^31", "negative", "complex"])
@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_damaged_array_is_as_good_as_none(tmp_path, load, table, slow, spoil, kind):
    expected = load(table("some.csv"))
    spoil(next((tmp_path / "data" / "arrays").glob(f"*{kind}.npy")))
    data = load(tmp_path / "some.csv")
    assert len(load.reads) == 2 and np.array_equal(data.train_images, expected.train_images)
    load(tmp_path / "some.csv")
    assert len(load.reads) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="no limit to the size of a file")
def test_a_disk_that_fills_up_keeps_nothing_and_is_no_reason_to_stop(tmp_path, table):
    code = ("import resource, sys; from cnn_numba.data import cache, load_dataset; cache.SECONDS = -1\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (400, resource.RLIM_INFINITY))\n"
            "print(len(load_dataset(sys.argv[1], data_dir=sys.argv[2]).train_images))")
    ended = subprocess.run([sys.executable, "-c", code, table("some.csv"), tmp_path / "data"], cwd=ROOT,
                           capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("20\n", "") and os.listdir(tmp_path / "data" / "arrays") == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.npz", "a-idx3-ubyte", "class/a.png", "a.npy"])
def test_pipes_and_devices_are_refused_at_once(tmp_path, load, name):
    """Also inside of a folder, where an image could be a link to an endless device."""
    path = tmp_path / "some" / name
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    place = tmp_path / "some" if "/" in name else path
    sentence = "no images" if "/" in name else f"{path} cannot be read: it is a "
    report = list[str]().append if "/" in name else pytest.fail
    refused(lambda: load(*[place] * (1 + name.endswith("npy")), report=report), sentence + "pipe" * ("/" not in name))
    path.unlink()
    path.symlink_to("/dev/zero")
    refused(lambda: load(*[place] * (1 + name.endswith("npy")), report=report), sentence + "device" * ("/" not in name))


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path, load, table, slow):
    (tmp_path / "data").write_bytes(b"")
    assert len(load(table("some.csv")).train_images) == 20 and len(load.reads) == 1


def test_an_image_that_is_added_changed_or_removed_is_noticed(tmp_path, load, picture, slow):
    images, labels = digits(24, (6, 6))
    place = folder_of(picture, tmp_path / "some", images, labels)
    first = load(place)
    assert len(slow()) == 2
    os.utime(place / "ant" / "000.png", ns=(0, 5))
    load(place)
    names = slow()
    assert len(names) == 2
    picture(place / "bee" / "new.png", images[0])
    assert len(load(place).train_images) + len(load(place).test_images) == 25 and slow() != names
    (place / "bee" / "new.png").unlink()
    (place / "bee").rename(place / "wasp")
    again = load(place)
    assert again.classes == ("ant", "cat", "dog", "wasp") and len(again.train_images) == len(first.train_images)


# ---- formats of users --------------------------------------------------------------------------------------
@pytest.fixture
def register(monkeypatch):
    """register_format, for one test."""
    monkeypatch.setattr(formats, "FORMATS", list(formats.FORMATS))
    return register_format


def test_a_format_of_a_user_is_read_by_its_ending(tmp_path, load, register):
    images, labels = digits(12, (2, 3, 4))
    path = tmp_path / "MY.BYTES"
    path.write_bytes(images.tobytes())
    refused(lambda: load(path), "is not a data set")

    def read(path):
        return np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 2, 3, 4), labels
    register(Format("bytes", ("*.bytes",), read))
    data = load(path)
    assert data.name == "MY.BYTES" and data.num_classes == 4
    assert (data.train_images.shape, data.test_images.shape) == ((10, 2, 3, 4), (2, 2, 3, 4))
    beside = load(path, test_data=path, train_size=5)
    assert np.array_equal(beside.test_images, images) and np.array_equal(beside.train_labels, labels[:5])
    refused(lambda: load(path, image_shape=(2, 3, 4)), "has the format bytes, which takes no image shape")


def test_a_format_may_have_several_parts_and_names_of_classes(tmp_path, load, register):
    images = digits(6, (1, 3, 4))[0]
    names = np.array(["10", "cat", "9", "bee", "cat", "9"])
    parts = {"train": (images / 2, names), "validation": (images[:2] / 2, names[:2]),
             "test": (images[2:3].astype(np.float64), ["9"])}
    place = tmp_path / "some.zarr"
    place.mkdir()
    register(Format("zarr", ("*.zarr/",), lambda path: parts))
    data = load(place)
    assert data.classes == ("9", "10", "bee", "cat") and data.train_labels.tolist() == [1, 3, 0, 2, 3, 0]
    assert data.train_images.dtype == np.float32 and data.test_images.dtype == np.uint8
    assert data.validation_labels.tolist() == [1, 3] and data.test_labels.tolist() == [0]
    refused(lambda: load(place, test_data=place), "has a test part of its own")
    parts["validation"] = images[:1], np.array(["dog"])
    refused(lambda: load(place), "some.zarr (validation part) holds the class 'dog'")


def test_a_format_gets_the_options_that_it_takes(tmp_path, load, register, slow):
    calls = []

    def read(path, like, image_size, keep, progress):
        def really_read():
            with progress(path.name, 1) as advance:
                advance(1)
            calls.append((path.name, like, image_size))
            return digits(12, (1, 3, 4))
        return keep(path, path.stat().st_mtime_ns, (like, image_size), really_read)
    register(Format("my CSV", ("*.csv",), read, ("like", "image_size", "keep", "progress")))
    for name in "train.csv", "test.csv":
        (tmp_path / name).write_bytes(b"")
    for _ in range(2):
        data = load(tmp_path / "train.csv", test_data=tmp_path / "test.csv", image_size=(3, 4))
        assert len(data.train_images) == 12 and len(slow()) == 4
    assert calls == [("train.csv", None, (3, 4)), ("test.csv", (1, 3, 4), (3, 4))]      # once, instead of read_csv
    assert load.reads == ["train.csv", "test.csv"]


THREE = np.zeros((3, 1, 2, 2))


@pytest.mark.parametrize("content, sentence", [
    ((THREE[0], np.arange(3)), "images of the shape (1, 2, 2) and labels of the shape (3,), expected (N, C, H, W)"),
    ((THREE, np.arange(2)), "labels of the shape (2,)"),
    ((THREE[:0], np.arange(0)), "images of the shape (0, 1, 2, 2)"),
    ((THREE.astype(str), np.arange(3)), "images of the type <U"),
    ((THREE, np.arange(3.0)), "labels of the type float64"),
    ((THREE, np.arange(3) - 1), "holds the label -1, expected 0 to 9999"),
    ({"train": (THREE, np.arange(3)), "dev": (THREE, np.arange(3))}, "the parts train, dev, expected some of train,"),
    ({}, "the parts none"), ({"test": (THREE, np.arange(3))}, "has no training part")])
def test_what_a_format_gives_is_checked(tmp_path, load, register, content, sentence):
    (tmp_path / "some.mine").write_bytes(b"")
    register(Format("mine", ("*.mine",), lambda path: content))
    refused(lambda: load(tmp_path / "some.mine"), str(tmp_path / "some.mine"), sentence)


def test_a_format_with_wrong_fields_is_refused():
    refused(lambda: Format("mine", "*.mine", read_csv), "Format mine: patterns must be a tuple", "'*.mine'")
    refused(lambda: Format("mine", ("*.mine",), read_csv, ("shape",)), "options must be some of", "got 'shape'")


def test_the_example_in_the_docstring_of_format_trains_from_the_command_line(tmp_path):
    example = textwrap.dedent(Format.__doc__.partition("one file:\n")[2].partition("    Parameters")[0])
    (tmp_path / "bytes_format.py").write_text(example)
    images, labels = digits(64, (1, 28, 28))
    rows = np.concatenate([labels[:, None].astype(np.uint8), images.reshape(64, -1)], axis=1)
    (tmp_path / "my.bytes").write_bytes(rows.tobytes())
    ended = subprocess.run([sys.executable, "bytes_format.py", "--dataset", "my.bytes", "--epochs", "1"], cwd=tmp_path,
                           env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert re.search("^Data set my.bytes: 5[0-9] training and [0-9]+ test images, 1 x 28 x 28, 4 classes$",
                     ended.stdout, re.MULTILINE)


# ---- progress, and the fuzzer ------------------------------------------------------------------------------
def test_progress_of_reading_is_reported_up_to_the_total_and_nothing_is_printed(tmp_path, table, picture, capfd):
    done = {}

    @contextmanager
    def noting(name, total):
        def advance(amount):
            done[name] += amount / total
        done[name] = 0
        yield advance

    archive = npz(tmp_path / "some.npz", x_train=np.repeat(X, 6, 0), y_train=np.tile(Y, 6))
    folder = folder_of(picture, tmp_path / "some", *digits(24, (5, 5)))
    for path in table("some.csv"), archive, folder:
        load_dataset(path, data_dir=tmp_path / "data", progress=noting)
    assert done == pytest.approx({"some.csv": 1, f"x_train of {archive}": 1, f"y_train of {archive}": 1, "some": 1})
    load_dataset(folder, data_dir=tmp_path / "data")
    assert capfd.readouterr() == ("", "")


def test_files_are_read_without_the_packages_that_others_need(tmp_path, table):
    code = (f"import sys; from cnn_numba.data import load_dataset; load_dataset({str(table('some.csv'))!r}); "
            "print(sorted({'numba', 'progress', 'requests', 'PIL'} & set(sys.modules)))")
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


@pytest.fixture(scope="module")
def fuzzer():
    pytest.importorskip("PIL")
    spec = importlib.util.spec_from_file_location("fuzz", ROOT / "scripts" / "fuzz.py")
    module = sys.modules["fuzz"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["idx", "csv", "npz", "npy", "image", "folder", "model", "checkpoint", "onnx",
                                  "safetensors", "kernel-cache", "kept", "checkpoint-folder"])
def test_damaged_files_are_read_or_refused(fuzzer, name, tmp_path, monkeypatch, capsys):
    if name in ("onnx", "safetensors"):
        pytest.importorskip(name, reason=f"the package {name} is not installed")
    monkeypatch.chdir(tmp_path)
    assert fuzzer.main([name, "--count", "30" if name == "folder" else "300"]) == 0, capsys.readouterr().err
    parser, path = fuzzer.PARSERS[name], tmp_path / "b" / f"valid.{fuzzer.PARSERS[name].ending}"
    path.parent.mkdir()
    if isinstance(parser.contents()[0], bytes) and name != "folder":
        for content in parser.contents():
            path.write_bytes(content)
            parser.read(path)                               # what is damaged was whole before


CONTROL = """
import sys
from dataclasses import replace
import fuzz

calls = []

def read(path):         # well-behaved at first, when the fuzzer looks at what memory is taken without an input
    calls.append(path)
    return {reader} if len(calls) == 3 else None

fuzz.PARSERS["csv"] = replace(fuzz.PARSERS["csv"], read=read)
sys.exit(fuzz.main(["csv", "--count", "3", "--seconds", "0.5"]))
"""


@pytest.mark.parametrize("reader, why", [
    ("{}['key']", "KeyError"), ("[0 for _ in iter(int, 1)]", "no end within"),
    ("len(b'x' * 100_000_000)", "MB of memory")],
    ids=["an exception", "a hang", "memory"])
def test_the_fuzzer_notices(tmp_path, reader, why):
    pytest.importorskip("PIL")
    ended = subprocess.run([sys.executable, "-c", CONTROL.replace("{reader}", reader)], cwd=tmp_path, text=True,
                           env=os.environ | {"PYTHONPATH": str(ROOT / "scripts")}, capture_output=True)
    assert ended.returncode == 1 and why in ended.stderr and os.listdir(tmp_path) == ["fuzz-csv-0-1.csv"]
