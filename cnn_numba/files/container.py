"""Files of arrays with a description: an .npz that NumPy opens, with a JSON text in it and a checksum at its end.

Reading trusts nothing: members are not compressed, so that a file takes no more memory than its own size; headers are
matched with a pattern and never evaluated; nothing is unpickled.
"""
import hashlib
import io
import json
import math
import os
import re
import struct
import zipfile
from typing import Any

import numpy as np

from cnn_numba.errors import InputError
from cnn_numba.files import strict_json
from cnn_numba.files.opening import open_regular

TEXT = "description.json"
LONGEST_TEXT = 1 << 20
SEAL = 64                   # hexadecimal digits of SHA-256 over all bytes before them; the comment of the zip archive
HEADER = re.compile(rb"\{'descr': '<f4', 'fortran_order': False, 'shape': \((([0-9]{1,18}, ?)*[0-9]{0,18})\), ?\} *\n")


def pack(description: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    """The bytes of a file; `arrays` are {name: float32 array}."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.comment = b"0" * SEAL
        archive.writestr(zipfile.ZipInfo(TEXT), json.dumps(description, allow_nan=False))
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(array, "<f4", order="C"), (1, 0), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getbuffer())
    return sealed(file.getvalue()[:-SEAL])


def sealed(content: bytes) -> bytes:
    """The content and its checksum."""
    return content + hashlib.sha256(content).hexdigest().encode()


def read(path: str | os.PathLike, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The description and the arrays of a file that `pack` wrote.

    Parameters
    ----------
    path : path of the file
    kind : what the file should be, for the error message

    Returns
    -------
    (dict, {name: float32 array})

    Raises
    ------
    InputError : the file cannot be read, is damaged, or is of another kind.
    """
    try:
        with open_regular(path) as file:
            if file.read(2) != b"PK":
                raise InputError(f"{path} is not a cnn-numba {kind}")
            file.seek(max(0, os.fstat(file.fileno()).st_size - SEAL))
            whole = re.fullmatch(rb"[0-9a-f]{64}", file.read()) is not None     # before a large file takes memory
            file.seek(0)
            content = file.read() if whole else b""
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None
    if not whole or sealed(content[:-SEAL]) != content:
        raise InputError(f"{path} is damaged, or not a cnn-numba {kind}: its checksum is wrong")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = _members(archive, len(content))
    # zipfile raises these on bad archives; _members, _array and json on bad members.
    except (zipfile.BadZipFile, struct.error, EOFError, NotImplementedError, RuntimeError, OverflowError, ValueError,
            IndexError, OSError) as error:
        raise InputError(f"{path} is not a cnn-numba {kind} ({_first_line(error)})") from None
    return members.pop(TEXT), members


def begins_as_one(path: str | os.PathLike) -> bool:
    """Whether a file is missing, empty, or begins as `pack` does, so that nothing else is lost when it is replaced."""
    try:
        with open_regular(path) as file:
            start = file.read(30 + len(TEXT))
    except OSError:
        return True                                     # what is wrong is said when it is written
    return not start or start[:4] == b"PK\3\4" and start[30:] == TEXT.encode()


def _members(archive, size):
    members = {}
    for info in archive.infolist():
        name, size = info.filename, size - info.file_size
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or size < 0:
            raise ValueError("a compressed member")
        if name in members:
            raise ValueError("a name that occurs twice")
        if name == TEXT:
            if info.file_size > LONGEST_TEXT:
                raise ValueError("a description that is too long")
            members[name] = _description(archive.read(info))
        elif name.endswith(".npy"):
            members[name.removesuffix(".npy")] = _array(archive.read(info))
        else:
            raise ValueError("a member that is not an array")
    if TEXT not in members:
        raise ValueError("no description")
    return members


def _description(text):
    description = strict_json.loads(text)
    if not isinstance(description, dict):
        raise ValueError("no description")
    return description


def _array(content):
    length = int.from_bytes(content[8:10], "little")
    header = HEADER.fullmatch(content[10:10 + length])
    if content[:8] != b"\x93NUMPY\1\0" or not header:
        raise ValueError("an array that is not float32")
    shape = tuple(int(n) for n in header[1].decode().split(",") if n.strip())
    if math.prod(shape) * 4 != len(content) - 10 - length or len(shape) > 32:
        raise ValueError("an array whose size differs from its header")
    return np.frombuffer(content, "<f4", offset=10 + length).reshape(shape).astype(np.float32)


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0][:100]
