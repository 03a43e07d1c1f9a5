"""safetensors files: the arrays of `state_dict`, and the description of the network as JSON in the metadata."""
import json
import os
from typing import Any

import numpy as np

from cnn_numba.errors import InputError
from cnn_numba.escaping import printable
from cnn_numba.files import strict_json
from cnn_numba.files.atomic import write
from cnn_numba.files.model_file import describe, rebuild
from cnn_numba.interchange.extras import package
from cnn_numba.model import Sequential

KEY = "cnn-numba"               # of the description
TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2",
         "I8": "i1", "U8": "u1", "BOOL": "?"}


def looks_like(head: bytes, size: int) -> bool:
    """Whether a file of `size` bytes begins as the format does: the length of a JSON object, and the object."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def write_model(model: Sequential, path: str | os.PathLike) -> None:
    """Write a model, whole or not at all; InputError as in `formats.export`."""
    save = package("safetensors.numpy").save
    description, state = describe(model)
    arrays = {name: np.array(array, np.float32, order="C") for name, array in state.items()}    # views come out wrong
    write(path, save(arrays, {"format": "pt", KEY: json.dumps(description, allow_nan=False)}))


def read(content: bytes) -> Sequential:
    """The model, in evaluation mode, of the bytes of a file; InputError unless `write_model` wrote them."""
    tensors, metadata = unpack(content)
    if not is_ours(metadata):
        names = printable(", ".join(list(tensors)[:3]))
        raise InputError(f"the file holds weights without a network ({names[:100]}, ...): train --model NAME --weights "
                         "FILE begins with them, export --model NAME --load FILE makes a model of them")
    description = strict_json.loads(metadata[KEY])
    if not isinstance(description, dict):
        raise InputError("the description of the network is not an object")
    return rebuild(description, {name: array.astype(np.float32) for name, array in tensors.items()})


def is_ours(metadata: dict[str, str]) -> bool:
    """Whether the metadata describe a network."""
    return KEY in metadata


def unpack(content: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """({name: array}, metadata) of the bytes of a file; InputError when they are damaged."""
    safetensors = package("safetensors")
    try:
        entries = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        raise InputError(f"this is not a safetensors file ({str(error)[:100]})") from None
    length = int.from_bytes(content[:8], "little")
    metadata = strict_json.loads(content[8:8 + length]).get("__metadata__") or {}
    return {name: _array(name, entry) for name, entry in sorted(entries, key=lambda entry: entry[0])}, metadata


def _array(name: str, entry: dict[str, Any]) -> np.ndarray:
    kind = TYPES.get(entry["dtype"])
    if kind is None:
        raise InputError(f"the numbers of {name[:100]!r} are of the type {entry['dtype']}, expected one of "
                         f"{', '.join(TYPES)}")
    array = np.frombuffer(entry["data"], kind)
    if entry["dtype"] == "BF16":                        # the upper half of a float32
        array = (array.astype("<u4") << 16).view("<f4")
    return array.reshape(entry["shape"])
