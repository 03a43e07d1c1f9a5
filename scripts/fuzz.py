"""Feed every parser of files with damaged inputs and see that each is read or refused in one sentence.

    python scripts/fuzz.py --count 100000           # all parsers
    python scripts/fuzz.py --count 1000 --seed 7 csv npz

Inputs are small valid files with a few bytes flipped, cut, doubled, overwritten by extreme numbers or by words of
the format.  In formats with checksums or compression half of them are damaged inside and wrapped up correctly, so
that the damage reaches the parser.  An input fails when the parser raises anything but InputError, when the message
is not one line that names the file, when it takes longer than --seconds, or when it takes more than --megabytes of
memory.  It is then written to the current folder; the seed and its number make it again.
"""
import argparse
import contextlib
import functools
import gzip
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from cnn_numba import (  # noqa: E402
    SGD,
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    Dataset,
    Flatten,
    LeakyReLU,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    Trainer,
    export,
    load,
    load_weights,
)
from cnn_numba.callbacks import Checkpoint  # noqa: E402
from cnn_numba.data.cache import DIGEST, read_kept, save_kept  # noqa: E402
from cnn_numba.data.csvfile import read_csv  # noqa: E402
from cnn_numba.data.files import load_files  # noqa: E402
from cnn_numba.data.idx import read_idx_images  # noqa: E402
from cnn_numba.data.image import read_image  # noqa: E402
from cnn_numba.data.npy import read_npy  # noqa: E402
from cnn_numba.data.npz import read_npz  # noqa: E402
from cnn_numba.data.parquet import read_parquet  # noqa: E402
from cnn_numba.data.reading import MAX_LABEL  # noqa: E402
from cnn_numba.errors import InputError  # noqa: E402
from cnn_numba.files.checkpoints import newest_checkpoint, read_checkpoint  # noqa: E402
from cnn_numba.files.container import SEAL, TEXT, sealed  # noqa: E402
from cnn_numba.files.network_json import read_layers  # noqa: E402
from cnn_numba.kernels import cache as kernel_cache  # noqa: E402

try:
    import resource
except ImportError:     # Windows: memory is not watched
    resource = None

STATUS = Path("/proc/self/status")
EXTREME = [0, 1, 2, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]


# ---- damage ------------------------------------------------------------------------------------------------
def damaged(rng, content, words):
    """The content after one to eight random changes."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5, 8))):
        place = rng.randrange(len(content) + 1)
        span = min(len(content) - place, rng.choice((1, 1, 2, 4, 8, 64)))
        match rng.randrange(8):
            case 0 if span:
                content[place] ^= 1 << rng.randrange(8)
            case 1 if span:
                content[place:place + span] = rng.randbytes(span)
            case 2:
                del content[place:place + span]
            case 3:
                content[place:place] = content[place:place + span] * rng.choice((1, 2, 100))
            case 4:
                width, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
                content[place:place + width] = (rng.choice(EXTREME) % 256**width).to_bytes(width, order)
            case 5:
                content[place:place + rng.choice((0, span))] = rng.choice(words)
            case 6:
                del content[place:]
            case 7:
                start = rng.randrange(len(content) + 1)
                content[place:place + span] = content[start:start + span]
    return bytes(content)


def damage_plain_or_gzip(rng, contents, words):
    content = rng.choice(contents)
    match rng.randrange(4):
        case 0:
            return damaged(rng, gzip.compress(content, mtime=0), [b"\x1f\x8b", b"\0\0", b"\xff\xff"])
        case 1:
            return gzip.compress(damaged(rng, content, words), 1, mtime=0)
    return damaged(rng, content, words)


def damage_npz(rng, contents, words):
    members = dict(rng.choice(contents))
    outside = rng.randrange(2)
    if not outside:
        name = rng.choice(list(members))
        members[name] = damaged(rng, members[name], words)
    archive = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(archive, "w", method) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    content = archive.getvalue()
    return damaged(rng, content, [b"PK\1\2", b"PK\5\6", b"PK\6\6", b"\xff\xff\xff\xff"]) if outside else content


def damage_image(rng, contents, words):
    content = damaged(rng, rng.choice(contents), words)
    return with_checksums(content) if content[:4] == b"\x89PNG" and rng.randrange(2) else content


def with_checksums(png):
    """The PNG file with right checksums, as far as its chunks can be told apart."""
    fixed, place = bytearray(png), 8
    while place + 12 <= len(fixed):
        length = int.from_bytes(fixed[place:place + 4], "big")
        end = place + 8 + length
        if end + 4 > len(fixed):
            break
        fixed[end:end + 4] = struct.pack(">I", zlib.crc32(fixed[place + 4:end]))
        place = end + 4
    return bytes(fixed)


def damage_archive(rng, contents, words):
    """Damage a model file or checkpoint outside, or inside and with a right checksum: its description (as text, or one
    of its values), its arrays, or the archive around them."""
    content = rng.choice(contents)
    match rng.randrange(5):
        case 0:
            return damaged(rng, content, words)
        case 1:
            return sealed(damaged(rng, content[:-SEAL], [b"PK\1\2", b"PK\5\6", b"PK\6\6", b"\xff\xff\xff\xff"]))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if rng.randrange(3):
        text = json.loads(members[TEXT])
        for _ in range(rng.choice((1, 1, 2))):
            change_value(rng, text)
        members[TEXT] = json.dumps(text).encode()
    else:
        name = rng.choice(list(members))
        members[name] = damaged(rng, members[name], words)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.comment = b"0" * SEAL
        for name, member in members.items():
            archive.writestr(name, member)
    return sealed(file.getvalue()[:-SEAL])


def damage_onnx(rng, contents, words):
    """Damage the bytes, or change, delete or double some fields of the graph."""
    import onnx

    content = rng.choice(contents)
    if not rng.randrange(4):
        return b"\x08" + damaged(rng, content[1:], words)
    model = onnx.load_from_string(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        change_message(rng, model)
    return model.SerializeToString()


def change_message(rng, message):
    """Change one field somewhere in a protobuf message."""
    while True:
        fields = message.ListFields()
        if not fields:
            return
        field, value = rng.choice(fields)
        inner = rng.choice(value) if field.is_repeated and value else value
        if not hasattr(inner, "ListFields") or not rng.randrange(4):
            break
        message = inner
    if field.is_repeated:
        k = rng.randrange(len(value))
        if hasattr(inner, "ListFields"):
            if rng.randrange(2):
                del value[k]
            value.extend([inner] * rng.choice((0, 1, 2)))
        else:
            with contextlib.suppress(ValueError):
                value[k] = other_value(rng, inner)
            value.extend([value[k]] * rng.choice((0, 0, 1, 300)))
    elif hasattr(inner, "ListFields"):
        message.ClearField(field.name)
    else:
        with contextlib.suppress(ValueError):           # not a number of an enumeration
            setattr(message, field.name, other_value(rng, inner))


OPERATORS = ("Conv", "Gemm", "MatMul", "MaxPool", "AveragePool", "Relu", "Softmax", "Reshape", "Flatten", "Add", "Mul",
             "Div", "Pad", "BatchNormalization", "ReduceMean", "Concat", "Slice", "Gather", "Shape", "ConstantOfShape",
             "Cast", "Transpose", "Squeeze", "Unsqueeze", "Dropout", "If")


def other_value(rng, value):
    """Another value of the type of a field."""
    if isinstance(value, bytes):
        return damaged(rng, value, [b"\0" * 4, b"\x7f\xc0\0\0", b"\xff\xff\x7f\x7f"])
    if isinstance(value, str):
        return rng.choice((*OPERATORS, "", "x" * 3000, "0.weight", "images", "probabilities", "../x", value[::-1]))
    if isinstance(value, float):
        return rng.choice((0.0, -1.0, 0.5, 1e30, float("nan"), float("inf")))
    return rng.choice((0, 1, 2, 3, 7, 8, 16, 127, 2**15, 2**31 - 1, -1, -(2**31)))


def damage_safetensors(rng, contents, words):
    """Damage the bytes, or the header, with its right length."""
    content = rng.choice(contents)
    if not rng.randrange(3):
        return damaged(rng, content, words)
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    if rng.randrange(2) and "cnn-numba" in header.get("__metadata__", {}):
        description = json.loads(header["__metadata__"]["cnn-numba"])
        change_value(rng, description)
        header["__metadata__"]["cnn-numba"] = json.dumps(description)
    else:
        change_value(rng, header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[end:]


def damage_json(rng, contents, words):
    """Damage the text, or some of its values."""
    content = rng.choice(contents)
    if rng.randrange(2):
        return damaged(rng, content, words)
    value = json.loads(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if value:
            change_value(rng, value)
    return json.dumps(value).encode()


def change_value(rng, value):
    """Change, delete or double one value somewhere in a JSON value."""
    while True:
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        inner = value[key]
        if not isinstance(inner, (dict, list)) or not inner or not rng.randrange(4):
            break
        value = inner
    match rng.randrange(4):
        case 0:
            del value[key]
        case 1 if isinstance(value, list):
            value.insert(key, inner)
        case 2 if isinstance(inner, (int, float)):
            value[key] = inner + rng.choice((-1, 1, 0.5, 2**31, 10**17))
        case _:
            value[key] = rng.choice((None, True, 0, -1, 3, 2**31, 10**17, 1e300, "", "same", "x" * 5000, [], [1, 2],
                                     [[]], {}, {"type": "Linear"}, "Conv2d", "Residual", "0.weight",
                                     "__import__('os')"))


def damage_kept(rng, contents, words):
    """Damage kept images or labels; half of them get a right checksum again."""
    content = rng.choice(contents)
    if rng.randrange(2):
        return damaged(rng, content, words)
    content = damaged(rng, content[:-DIGEST], words)
    return content + hashlib.sha256(content).digest()


# ---- valid files -------------------------------------------------------------------------------------------
def idx_files():
    pixels = np.arange(60, dtype=np.uint8)
    return [bytes((0, 0, 8, 3)) + struct.pack(">3I", 5, 3, 4) + pixels.tobytes(),
            bytes((0, 0, 8, 3)) + struct.pack(">3I", 1, 1, 60) + pixels.tobytes(),
            bytes((0, 0, 13, 4)) + struct.pack(">4I", 5, 2, 2, 3) + pixels.astype(">f4").tobytes(),
            bytes((0, 0, 12, 2)) + struct.pack(">2I", 15, 4) + pixels.astype(">i4").tobytes()]


def npy_files():
    return [content for members in npz_files() for name, content in members.items() if "test" not in name]


def csv_files():
    rng = np.random.default_rng(0)
    lines = [",".join(map(str, [k % 10, *row])) for k, row in enumerate(rng.integers(0, 256, (40, 16)))]
    header = ",".join(["label", *(f"pixel{i}" for i in range(16))])
    decimal = [",".join([str(k % 3), *(f"{x:.4g}" for x in row)]) for k, row in enumerate(rng.normal(size=(9, 4)))]
    last = [";".join([str(k), *line.split(",")[1:], f'"name {k % 3}"']) for k, line in enumerate(lines)]
    named = ";".join(["id", *(f"p{i}" for i in range(16)), "class"])
    tabs = [line.replace(",", "\t") for line in lines]
    return ["\n".join(lines).encode(), "\r\n".join([header, *lines, ""]).encode(), "\n".join(decimal).encode(),
            "\n".join([named, *last]).encode(), "\r".join(tabs).encode()]


def npz_files():
    rng, sets = np.random.default_rng(0), []
    for shape, kind in ((5, 4, 4), np.uint8), ((5, 4, 4, 3), np.float32), ((5, 16), np.int64), ((5, 1, 4, 4), ">f8"):
        images, labels = rng.integers(0, 256, shape).astype(kind), np.arange(5)
        arrays = {"x_train": images, "y_train": labels, "x_test": images[:2], "y_test": labels[:2].astype(np.uint8)}
        sets.append({name: npy(array) for name, array in arrays.items()})
    images, labels = rng.integers(0, 256, (5, 3, 4, 4), np.uint8), np.arange(5)
    for names in ("images", "labels"), ("X", "target"), ("arr_0", "arr_1"):
        for kind in labels.astype(float), np.eye(5)[labels], np.array(["cat", "dog", "cat", "emu", "emu"]), labels > 2:
            sets.append({names[0]: npy(images), names[1]: npy(kind)})
    return sets


def parquet_files():
    import pyarrow as pa
    import pyarrow.parquet as pq

    images, contents = image_files()[:3], []
    structures = [{"bytes": image, "path": "x"} for image in images]
    for column in structures, images, np.arange(48).reshape(3, 16).tolist(), np.arange(12.0).reshape(3, 2, 2).tolist():
        for labels in [0, 2, 1], ["b", "a", "b"]:
            file = io.BytesIO()
            pq.write_table(pa.table({"image": column, "label": labels}), file)
            contents.append(file.getvalue())
    return contents


KERNELS = [bytes(range(256)) * 20, b"\x7fELF" + bytes(5000)]


def kernel_files():
    with tempfile.TemporaryDirectory() as folder:
        for number, kernel in enumerate(KERNELS):
            kernel_cache.write(Path(folder) / str(number), kernel)
        return [(Path(folder) / str(number)).read_bytes() for number in range(len(KERNELS))]


@functools.cache
def kept_files():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 1, 4, 4), np.uint8)
    arrays = images, np.arange(6), images.astype(np.float32) / 7, np.array(["cat", "dog", "cat", "emu", "emu", "a"])
    with tempfile.TemporaryDirectory() as folder:
        for number, array in enumerate(arrays):
            save_kept(array, Path(folder) / str(number))
        return [(Path(folder) / str(number)).read_bytes() for number in range(len(arrays))]


def model_files():
    model, _ = small_training()
    facts = {"mean": [1.5], "std": [2.5], "classes": ["a", "b", "c"], "accuracy": 50}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.npz"
        model.save(path, input_shape=(1, 4, 4), **facts)
        whole = path.read_bytes()
        Sequential(Flatten(), Linear(16, 3)).save(path)
        return [whole, path.read_bytes()]


def exported_files(ending):
    """Models for other programs: with every kind of node, and small."""
    model, _ = small_training()
    branches = Residual([Conv2d(1, 2, 3, padding=1), BatchNorm2d(2)], [Conv2d(1, 2, 1)])
    other = Sequential(branches, AvgPool2d(3, 2, 1, ceil_mode=True), LeakyReLU(), AdaptiveAvgPool2d((2, 1)), Flatten(),
                       Linear(4, 3, bias=False))
    other.input_shape, other.mean, other.std = (1, 4, 4), np.float32([1.5]), np.float32([2.5])
    other.classes = "a", "b", "c"
    with tempfile.TemporaryDirectory() as folder:
        path, contents = Path(folder) / f"model{ending}", []
        for each in model, other:
            export(each, path)
            contents.append(path.read_bytes())
        return contents


@functools.cache
def checkpoint_files():
    _, trainer = small_training()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(folder, {"epochs": 2})
        checkpoint.save(trainer)
        return [checkpoint.last.read_bytes()]


def small_network():
    return Sequential(Conv2d(1, 2, 3, padding=1), ReLU(), MaxPool2d(2), Flatten(), Linear(8, 3))


def small_training():
    images, labels = np.arange(6 * 16).reshape(6, 1, 4, 4).astype(np.uint8), np.arange(6) % 3
    model = small_network()
    return model, Trainer(model, Dataset("six", images, labels, images, labels, 3), SGD(model, lr=0.1), batch_size=4)


def network_files():
    def entry(kind, **params):
        return {"type": kind, "params": params}

    conv = entry("conv", filters=4, kernel_size=3, pad=1)
    lists = [[conv, entry("BN"), entry("ReLU"), entry("maxpool", pool_size=2), entry("fc", units=16), entry("fc")],
             [entry("Conv2d", in_channels=1, out_channels=2, kernel_size=[3, 3], padding="same", groups=1, bias=True),
              entry("Residual", body=[conv, entry("residual", body=[entry("relu")])], shortcut=[conv]),
              entry("flatten"), entry("Linear", in_features=256, out_features=3), entry("cross_entropy")]]
    return [json.dumps(lists[0], indent=1).encode(), json.dumps({"layers": lists[1]}).encode()]


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def image_files():
    from PIL import Image

    rng, contents = np.random.default_rng(0), []
    pixels = Image.fromarray(rng.integers(0, 256, (9, 8, 3), np.uint8))
    forms_of = {"L": ("PNG", "JPEG", "PPM", "TIFF", "BMP"), "RGB": ("PNG", "JPEG", "PPM", "TIFF", "BMP", "WEBP"),
                "P": ("PNG", "GIF", "BMP"), "RGBA": ("PNG", "WEBP"), "1": ("PNG", "TIFF"),
                "I;16": ("PNG", "TIFF"), "CMYK": ("JPEG", "TIFF")}
    for mode, forms in forms_of.items():
        image = pixels.convert("L").convert("I").convert("I;16") if mode == "I;16" else pixels.convert(mode)
        for form in forms:
            file = io.BytesIO()
            image.save(file, form)
            contents.append(file.getvalue())
    return contents


# ---- parsers -----------------------------------------------------------------------------------------------
def read_damaged_image(path):
    return read_image(path, channels=None, size=(8, 8))


def read_folder(path):
    """A folder of two classes, in which the damaged image is one of two."""
    return load_files([path.parent.parent], [], path.parent.parent, {"image_size": (6, 6)})


def resume(path):
    """Read a checkpoint and take it over in a trainer, which is always the same one."""
    saved = read_checkpoint(path)
    if not trainers:
        trainers.append(small_training()[1])
    Checkpoint(path.parent.parent / "resumed").resume(trainers[0], saved)


trainers = []


def read_npy_pair(path):
    """Read a file as images or, when it holds none, as the labels of five images."""
    try:
        read_npy(path, labelled=False)
    except InputError:
        images = path.parent.parent / "five.npy"
        np.save(images, np.zeros((5, 4, 4), np.uint8))
        read_npy(images, path)


def read_small_parquet(path):
    return read_parquet(path, image_size=(6, 6))


def read_any_weights(path):
    """A network with its weights, or weights alone for a network that they fit."""
    try:
        load(path)
    except InputError:
        load_weights(small_network(), path)


def read_kernel(path):
    """Read a file of the kernel cache: what comes back must be what was written."""
    content = kernel_cache.read(path)
    if content is None:
        raise InputError(f"{path.name} is damaged")
    if content not in KERNELS:
        raise AssertionError("other code than was written")


def read_kept_pair(path):
    """Read a file as kept images and as kept labels, beside whole ones: what comes back must be of the right kind."""
    whole = [path.parent.parent / f"{kind}.npy" for kind in ("images", "labels")]
    for place, content in zip(whole, kept_files(), strict=False):
        place.write_bytes(content)
    pairs = [pair for pair in (read_kept(path, whole[1]), read_kept(whole[0], path)) if pair]
    if not pairs:
        raise InputError(f"{path.name} is damaged")
    for images, labels in pairs:
        kinds = images.dtype in (np.uint8, np.float32), labels.dtype == np.int64 or labels.dtype.kind == "U"
        if not all(kinds) or len(images) != len(labels) or images.ndim != 4 or not np.isfinite(images).all() or (
                labels.dtype.kind == "i" and not 0 <= labels.min() <= labels.max() <= MAX_LABEL):
            raise AssertionError(f"{images.dtype} images {images.shape} and {labels.dtype} labels {labels.shape}")


def read_checkpoint_folder(path):
    """Resume a training from a folder with two checkpoints, of which one or both are damaged, beside other things."""
    content, place = path.read_bytes(), path.parent / "run"
    rng = random.Random(content)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    names = [place / f"checkpoint-{epochs:06d}-00000000.npz" for epochs in (0, 1)]
    for name in names:
        name.write_bytes(checkpoint_files()[0])
    for name in rng.sample(names, rng.choice((1, 1, 1, 2))):
        name.write_bytes(content)
    odd = place / rng.choice(("checkpoint-000009-00000000.npz", "checkpoint-999999999999999999-0.npz", ".lock",
                              "checkpoint--1-0.npz", ".checkpoint.npz.0123456789abcdef.part", "x\n.npz"))
    match rng.randrange(8):
        case 0:
            odd.mkdir()
        case 1 if odd.name != ".lock":
            os.mkfifo(odd)
        case 2:
            odd.symlink_to(odd)
        case 3:
            odd.write_bytes(content[:100])
        case 4:
            rng.choice(names).unlink(missing_ok=True)
    if not trainers:
        trainers.append(small_training()[1])
    with contextlib.closing(ReleasedCheckpoint(place)) as checkpoint:
        checkpoint.resume(trainers[0], newest_checkpoint(place, lambda line: None))


class ReleasedCheckpoint(Checkpoint):
    """Gives the lock of its folder back at once."""

    def close(self):
        self._lock.release()


def read_network(path):
    return read_layers(path, image_shape=(1, 8, 8), num_classes=3)


@dataclass(frozen=True)
class Parser:
    """How a format is fuzzed.

    contents : function that gives valid inputs
    damage : function(random.Random, contents, words) that gives the bytes of one bad input
    read : function(path) under test
    """

    ending: str
    contents: Callable
    damage: Callable
    words: list[bytes]
    read: Callable


ARCHIVE_WORDS = [b"[" * 3000, b"9" * 5000, b"9" * 15, b"-1", b"1e999", b"NaN", b"null", b"true", b'"', b"{", b"}", b",",
                 b'"Linear"', b"'|O'", b"'<f8'", b"(" * 60, b"\x93NUMPY\3\0", b"\\ud800", b"\n", b"\xff"]
PARSERS = {
    "idx": Parser("idx", idx_files, damage_plain_or_gzip, [b"\0\0\x08\3", b"\xff" * 4, b"\0" * 4, b"\1\0\0\0"],
                  read_idx_images),
    "csv": Parser("csv", csv_files, damage_plain_or_gzip,
                  [b",", b"\n", b"\r", b'"', b"nan", b"-inf", b"1e999", b"-1", b"9" * 5000, b"0x1", b"label", b",,",
                   b" ", b";", b"\t", b"id", b"class", b'""',
                   b"\xef\xbb\xbf", b"\0", b"1_0", b"\xd9\xa1", b"," * 300, b"\n" * 300], read_csv),
    "npz": Parser("npz", npz_files, damage_npz,
                  [b"'|O'", b"'<f8'", b"'<i1000000000'", b"True", b"(" * 60, b"9" * 50, b"-1", b"1e9", b"None", b"}",
                   b"'", b"\\", b"\x93NUMPY\3\0", b"lambda: 0", b"[0] * 10**9"], read_npz),
    "npy": Parser("npy", npy_files, lambda rng, contents, words: damaged(rng, rng.choice(contents), words),
                  [b"'|O'", b"'<f8'", b"'<U3'", b"'|S0'", b"True", b"(" * 60, b"9" * 50, b"-1", b"}", b"'",
                   b"\x93NUMPY\3\0", b"[0] * 10**9"], read_npy_pair),
    "image": Parser("png", image_files, damage_image,
                    [b"IHDR", b"IDAT", b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"acTL", b"\xff\xd8", b"\xff\xda",
                     b"\xff\xc0", b"\0" * 8, b"\xff" * 4, b"RIFF", b"VP8L", b"II*\0", b"P5 99999 99999 255\n",
                     b"GIF89a"],
                    read_damaged_image),
    "folder": Parser("png", image_files, damage_image, [b"IHDR", b"IDAT", b"\0\0\xff\xff", b"\xff\xc0", b"\xff" * 4],
                     read_folder),
    "parquet": Parser("parquet", parquet_files, lambda rng, contents, words: damaged(rng, rng.choice(contents), words),
                      [b"PAR1", b"\xff" * 4, b"\0" * 4, b"image", b"label", b"bytes", b"\x15\0", b"\x19\x1c"],
                      read_small_parquet),
    "model": Parser("npz", model_files, damage_archive, ARCHIVE_WORDS, load),
    "onnx": Parser("onnx", lambda: exported_files(".onnx"), damage_onnx,
                   [b"Conv", b"Reshape", b"\x08\x11", b"\xff" * 9, b"\0" * 4, b"\x0a\x7f", b"images", b"../x"],
                   load),
    "safetensors": Parser("safetensors", lambda: exported_files(".safetensors"), damage_safetensors,
                          [*ARCHIVE_WORDS, b'"F32"', b'"BF16"', b'"data_offsets"', b'"__metadata__"', b"\0" * 8],
                          read_any_weights),
    "checkpoint": Parser("npz", checkpoint_files, damage_archive, ARCHIVE_WORDS, resume),
    "kernel-cache": Parser("nbc", kernel_files, lambda rng, contents, words: damaged(rng, rng.choice(contents), words),
                           [b"\x7fELF", b"\0" * 32, b"\xff" * 64], read_kernel),
    "kept": Parser("npy", kept_files, damage_kept,
                   [b"'|O'", b"'<f8'", b"'<U3'", b"'|S0'", b"True", b"(" * 60, b"9" * 50, b"-1", b"}", b"'",
                    b"\x93NUMPY\3\0", b"\xff" * 8], read_kept_pair),
    "checkpoint-folder": Parser("npz", checkpoint_files, damage_archive, ARCHIVE_WORDS, read_checkpoint_folder),
    "network": Parser("json", network_files, damage_json,
                      [*ARCHIVE_WORDS, b'"conv"', b'"residual"', b'"body"', b'"cross_entropy"', b'"units"', b"[]",
                       b"{}", b'{"type": "fc"},', b"\xef\xbb\xbf"], read_network),
}


# ---- the run -----------------------------------------------------------------------------------------------
class TooLong(BaseException):
    """Raised in a parser that has run out of time; no parser catches it."""


@contextlib.contextmanager
def time_limit(seconds):
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number, frame):
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def peak_memory():
    """The most memory that this process has had, in MB."""
    if STATUS.exists():     # Linux: getrusage counts what the process that started this one had
        return int(re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text())[1]) / 2**10
    if resource is None:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def verdict(read, path, seconds):
    """("read" or "refused", None), or ("failed", why)."""
    try:
        with time_limit(seconds):
            read(path)
    except InputError as error:
        sentence = str(error)
        where = re.search(rf"{re.escape(path.name)}|{re.escape(str(path.parent))}", sentence)
        if "\n" in sentence or len(sentence) > 1000 or not where:
            return "failed", f"no sentence that names the file: {sentence!r}"
        return "refused", None
    except TooLong:
        return "failed", f"no end within {seconds} seconds"
    except Exception:
        return "failed", traceback.format_exc()
    return "read", None


def fuzz(name, count, seed, seconds=10, megabytes=64):
    """Fuzz one parser and print a line of figures; returns the number of inputs that failed."""
    parser = PARSERS[name]
    try:
        contents = parser.contents()
    except InputError as error:             # a package is missing
        print(f"{name}: not fuzzed, {error}", flush=True)
        return 0
    outcomes, slowest, start = {"read": 0, "refused": 0, "failed": 0}, 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        path = Path(folder) / "a" / f"input.{parser.ending}"
        for label in "a", "b":
            (Path(folder) / label).mkdir()
            for number in range(5):
                place = Path(folder) / label / f"valid{number}.{parser.ending}"
                place.write_bytes(contents[0] if isinstance(contents[0], bytes) else b"")
        path.write_bytes(parser.damage(random.Random(0), contents, parser.words))
        verdict(parser.read, path, seconds)         # imports are no memory of an input
        before = peak_memory()
        for number in range(count):
            content = parser.damage(random.Random(f"{name} {seed} {number}"), contents, parser.words)
            path.write_bytes(content)
            began, lowest = time.perf_counter(), peak_memory()
            outcome, why = verdict(parser.read, path, seconds)
            slowest = max(slowest, time.perf_counter() - began)
            if outcome != "failed" and peak_memory() > lowest + megabytes:
                outcome, why = "failed", f"took {peak_memory() - lowest:.0f} MB of memory"
            outcomes[outcome] += 1
            if outcome == "failed":
                kept = Path(f"fuzz-{name}-{seed}-{number}.{parser.ending}")
                kept.write_bytes(content)
                print(f"{kept}: {why}", file=sys.stderr)
    print(f"{name}: {count} inputs, {outcomes['read']} read, {outcomes['refused']} refused, "
          f"{outcomes['failed']} failed; slowest {slowest * 1000:.0f} ms, memory +{peak_memory() - before:.0f} MB, "
          f"{time.perf_counter() - start:.0f} s in all", flush=True)
    return outcomes["failed"]


def main(argv=None):
    """Returns the exit code: 0 when no input failed, else 1."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("parsers", nargs="*", choices=[[], *PARSERS], help="which parsers (default: all)")
    arguments.add_argument("--count", type=int, default=1000, help="inputs for each parser (default: %(default)s)")
    arguments.add_argument("--seed", type=int, default=0, help="of the inputs (default: %(default)s)")
    arguments.add_argument("--seconds", type=float, default=10, help="for one input (default: %(default)s)")
    arguments.add_argument("--megabytes", type=float, default=64, help="for one input (default: %(default)s)")
    args = arguments.parse_args(argv)
    return min(1, sum(fuzz(name, args.count, args.seed, args.seconds, args.megabytes)
                      for name in args.parsers or PARSERS))


if __name__ == "__main__":
    raise SystemExit(main())
