"""Files of trained networks: which format a file has, by its content, and what reads and writes each."""
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cnn_numba.errors import InputError, naming, shortened
from cnn_numba.files.layers_json import describe_layers
from cnn_numba.files.model_file import read_model
from cnn_numba.files.network_json import build_network, read_json, rebuild_network
from cnn_numba.files.opening import open_regular
from cnn_numba.interchange import safetensors_file
from cnn_numba.interchange.weights import Weights, transfer
from cnn_numba.model import Sequential
from cnn_numba.presets import PRESETS

__all__ = ["export", "load", "load_weights"]

HEAD = 64                       # bytes that tell the formats apart
ONNX = b"\x08"                  # the first field of a ModelProto, the version of the format
CONVERT = ("python -c \"import torch, safetensors.torch as s; s.save_file({{k: v.contiguous().clone() for k, v in "
           "torch.load('{path}', weights_only=True).items()}}, '{name}.safetensors')\"")


def format_of(path: str | os.PathLike) -> str:
    """"npz", "safetensors", "onnx" or "json".

    Raises InputError when the file cannot be read or is none of these, and for one of PyTorch, with the line that
    converts it.
    """
    try:
        with open_regular(path) as file:
            head, size = file.read(HEAD), os.fstat(file.fileno()).st_size
            if head[:2] == b"PK" and _of_pytorch(file) or head[:2] in (b"\x80\2", b"\x80\3", b"\x80\4"):
                line = CONVERT.format(path=path, name=Path(path).stem)
                raise InputError(f"{path} is a file of PyTorch, which can run code when it is read; convert it: {line}")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None
    if head[:2] == b"PK":
        return "npz"
    if safetensors_file.looks_like(head, size):
        return "safetensors"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
        return "json"
    if head[:1] == ONNX:
        return "onnx"
    raise InputError(f"{path} is not a trained network, as .npz, ONNX or safetensors")


def _of_pytorch(file):
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError):
        return False


def load(path: str | os.PathLike) -> Sequential:
    """Read a trained network: a file of `model.save`, ONNX, or safetensors that `export` wrote.

    The content tells the format, not the name.  Code in a file is never executed.

    Parameters
    ----------
    path : path of the file

    Returns
    -------
    Sequential
        In the mode of `model.eval()`.  From a file that this library wrote, `input_shape`, `mean`, `std`, `classes`,
        `accuracy` and `recipe` are those saved with it, and from .npz and safetensors, the logits are those of the
        saved model bit for bit.  A network of another program knows its `input_shape`; where it does not normalise
        pixels itself, `mean` and `std` are None.

    Raises
    ------
    InputError (a ValueError) : the file cannot be read, is damaged, or holds something else than such a network; the
        package that a format needs (onnx, safetensors) is missing.
    """
    kind = format_of(path)
    if kind == "npz":
        return read_model(path)
    if kind == "json":
        raise InputError(f"{path} describes a network without weights, expected a trained one")
    try:
        if kind == "safetensors":
            return safetensors_file.read(_content(path))
        from cnn_numba.interchange.onnx_graph import read_graph
        from cnn_numba.interchange.onnx_import import import_graph

        return import_graph(read_graph(path, _content(path)))
    except InputError as error:
        raise InputError(f"{path}: {shortened(str(error))}") from None


def _content(path):
    try:
        with open_regular(path) as file:
            return file.read()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})") from None


# ---- writing --------------------------------------------------------------------------------------------------------
def export(model: Sequential, path: str | os.PathLike, opset: int | None = None, logits: bool = False,
           raw: bool = False) -> None:
    """Write a trained network for another program, whole or not at all; the ending of the name is the format.

    Parameters
    ----------
    model : Sequential
        With input_shape, mean and std, as after a training or `load`.
    path : path of an .onnx, .safetensors or .npz file
    opset : int, optional
        Of ONNX, from 15 to 21; default 17, which all runtimes of the last three years know.
    logits, raw : bool
        Of ONNX: whether the graph gives logits instead of probabilities, and whether it takes normalised numbers
        instead of pixels as they are in the files of the training.

    Raises InputError (a ValueError), before anything is written, when a layer has no equal in the format, the package
    that it needs is missing, or a number is not finite; also when the file cannot be written.
    """
    write = writer(path)
    if write is not write_onnx and (opset is not None or logits or raw):
        raise InputError("opset, logits and raw are for ONNX, for a name that ends in .onnx")
    write(model, path, **({"opset": opset, "logits": logits, "raw": raw} if write is write_onnx else {}))


def writer(path: str | os.PathLike) -> Callable[..., None]:
    """The function that writes a model to a name with this ending; InputError for another ending."""
    writers: dict[str, Callable[..., None]] = {
        ".onnx": write_onnx, ".safetensors": safetensors_file.write_model, ".npz": Sequential.save}
    found = writers.get(os.path.splitext(path)[1].lower())
    if found is None:
        raise InputError(f"the name must end in {', '.join(writers)}, got {os.fspath(path)!r}")
    return found


def write_onnx(model: Sequential, path: str | os.PathLike, opset: int | None, logits: bool, raw: bool) -> None:
    """`export` to ONNX."""
    from cnn_numba.interchange.onnx_export import OPSET, describe_graph, export_graph
    from cnn_numba.interchange.onnx_graph import write_graph

    graph = export_graph(model, OPSET if opset is None else opset, logits, raw)
    write_graph(path, graph, "network", describe_graph(model, logits, raw))


# ---- networks and weights to begin a training with ------------------------------------------------------------------
def make_network(name: str, image_shape: tuple[int, ...], num_classes: int, **options: Any) -> Sequential:
    """A new network: a preset, one in JSON, or the layers of a trained one, whose last dense layer gets as many outputs
    as there are classes.

    Arguments and errors are those of `build_network`, and the errors of `load`.
    """
    if name in PRESETS or format_of(name) == "json":
        return build_network(name, image_shape, num_classes, **options)
    description = describe_layers(load(name).layers)
    last = next((entry for entry in reversed(description) if "out_features" in entry["params"]), None)
    if last is not None:
        last["params"]["out_features"] = num_classes
    with naming(name):
        return rebuild_network(description, image_shape, num_classes, **options)


def check_network(path: str | os.PathLike) -> None:
    """InputError for a file that `make_network` cannot read."""
    if format_of(path) == "json":
        with naming(str(path)):
            read_json(path)
    else:
        load(path)


def load_weights(model: Sequential, path: str | os.PathLike,
                 report: Callable[[str], object] = lambda sentence: None) -> tuple[int, ...]:
    """Begin with the weights of a file: a trained network, or a `state_dict` of PyTorch that was saved as safetensors.

    Tensors are found by name; where names differ, by their order, or in a `state_dict`, which has none, by shapes that
    occur once.  A last layer of another size keeps its new weights.

    Parameters
    ----------
    model : Sequential
    path : path of the file
    report : callable
        Gets a sentence for a layer that keeps its new weights, and for weights that were found by their shape.

    Returns
    -------
    The numbers of the layers that keep new weights.

    Raises InputError, and changes nothing, when the weights do not fit the model, and as `load` does.
    """
    with naming(str(path)):
        return transfer(model, read_weights(path), report)


def read_weights(path: str | os.PathLike) -> Weights:
    """The weights of a file; InputError, without the path, as in `load`."""
    if format_of(path) == "safetensors":
        tensors, metadata = safetensors_file.unpack(_content(path))
        if not safetensors_file.is_ours(metadata):
            return Weights({name: _floats(name, array) for name, array in tensors.items()}, ordered=False)
    try:
        return Weights(load(path).state_dict(), ordered=True)
    except InputError as error:
        raise InputError(str(error).removeprefix(f"{path}: ")) from None


def _floats(name, array):
    if not np.isfinite(array).all():
        raise InputError(f"the parameter {name[:100]!r} holds NaN or infinity, expected finite numbers")
    return array.astype(np.float32)
