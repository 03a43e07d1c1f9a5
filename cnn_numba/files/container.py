"""Files of arrays with a description: an .npz that NumPy opens, with a JSON text in it and a checksum at its end.

Reading trusts nothing: members are stored as they are, so that a file takes no more memory than its own size; a header
is matched with a pattern and never evaluated; and there is no pickle.  Writing never leaves half a file: the bytes go
to a file beside, to the disk, and then get the name.
"""
import hashlib
import io
import json
import math
import os
import re
import stat
import struct
import zipfile
from pathlib import Path

import numpy as np

from cnn_numba.errors import InputError

TEXT = "description.json"
LONGEST_TEXT = 1 << 20
MOST_DIGITS = 18            # of a whole number in the text
SEAL = 64                   # hexadecimal digits of SHA-256 over all bytes before; the comment of the zip archive
HEADER = re.compile(rb"\{'descr': '<f4', 'fortran_order': False, 'shape': \((([0-9]{1,18}, ?)*[0-9]{0,18})\), ?\} *\n")


def pack(description, arrays):
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


def sealed(content):
    """The content and its checksum."""
    return content + hashlib.sha256(content).hexdigest().encode()


def read(path, kind):
    """The description and the arrays of a file that `pack` made.

    Parameters
    ----------
    path : path of the file
    kind : what the file should be, for the sentence that says that it is not

    Returns
    -------
    (dict, {name: float32 array})

    Raises
    ------
    InputError : the file cannot be read, is damaged, or is something else.
    """
    try:
        content = Path(path).read_bytes() if stat.S_ISREG(os.stat(path).st_mode) else None   # a pipe would wait
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None
    if content is None:
        raise InputError(f"{path} is not a file, expected a {kind}")
    if content[:2] != b"PK":
        raise InputError(f"{path} is no {kind} of this program")
    if sealed(content[:-SEAL]) != content:
        raise InputError(f"{path} is damaged, or no {kind} of this program: its checksum is wrong")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = _members(archive, len(content))
    # What zipfile raises on bad archives, and _members, _array and json on bad members.
    except (zipfile.BadZipFile, struct.error, EOFError, NotImplementedError, RuntimeError, OverflowError, ValueError,
            IndexError, OSError) as error:
        raise InputError(f"{path} is no {kind} of this program ({_first_line(error)})") from None
    return members.pop(TEXT), members


def _members(archive, size):
    members = {}
    for info in archive.infolist():
        name, size = info.filename, size - info.file_size
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or size < 0:
            raise ValueError("packed, which it never is")
        if name in members:
            raise ValueError("a name twice")
        if name == TEXT:
            if info.file_size > LONGEST_TEXT:
                raise ValueError("too long a description")
            members[name] = _parsed(archive.read(info))
        elif name.endswith(".npy"):
            members[name.removesuffix(".npy")] = _array(archive.read(info))
        else:
            raise ValueError("a member that is no array")
    if TEXT not in members:
        raise ValueError("no description")
    return members


def _parsed(text):
    def whole(digits):
        if len(digits) > MOST_DIGITS:
            raise ValueError("a number too large")
        return int(digits)

    def unknown(name):
        raise ValueError(f"{name} where a number should be")

    # A RuntimeError is what too many brackets in each other are.
    description = json.loads(text, parse_int=whole, parse_constant=unknown)
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
        raise ValueError("an array that promises other than it holds")
    return np.frombuffer(content, "<f4", offset=10 + length).reshape(shape).astype(np.float32)


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0][:100]


def write(path, content):
    """Make a file hold these bytes; whatever fails, it holds all of them, or what it held before.

    Raises InputError when it cannot be written.
    """
    path = Path(os.path.realpath(path))
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        _refuse_other_things(path)
        try:
            with open(beside, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error})") from None


def check_writable(path):
    """Raise the InputError of `write` at once when nothing can be written there, and change nothing."""
    path = Path(os.path.realpath(path))
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        _refuse_other_things(path)
        beside.touch()
        beside.unlink()
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error})") from None


def _refuse_other_things(path):
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a file, so that nothing can be written to it")


def _sync_folder(folder):
    """Bring the new name to the disk, where folders can be opened (not on Windows)."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
