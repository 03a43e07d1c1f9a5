"""Finds the files of a data set in a folder, by the parts in their names."""

import os
from pathlib import Path

from cnn_numba.data.formats import NPY, Format, format_of
from cnn_numba.data.idx import labels_beside
from cnn_numba.data.parts import PARTS, part_in, role_of
from cnn_numba.data.reading import Say
from cnn_numba.errors import InputError

IDX_PACKED = ".gz"


def data_files(folder: Path, report: Say) -> dict[str, tuple[Path, ...]]:
    """{part, or "" for the only file: its path, or those of images and labels} in a folder of data files.

    It is empty for a folder that holds other folders, or no data files.  Raises InputError when it cannot be told
    which file is which part.
    """
    found: dict[str, list[tuple[Path, ...]]] = {}
    others = []
    for path in _files(folder):
        try:
            format = format_of(path)
        except InputError:
            others.append(path.name)
            continue
        if paths := _with_labels(path, format, folder):
            found.setdefault(_part(path) or "", []).append(paths)
    if found and set(found) != {""}:
        others += [paths[0].name for paths in found.pop("", [])]
    for part, several in found.items():
        if len(several) > 1:
            names = ", ".join(paths[0].name for paths in several[:4]) + ", ..." * (len(several) > 4)
            raise InputError(f"{folder} holds {len(several)} files that can be the {part or 'data'}"
                             f"{' part' if part else ''}, {names}: give the path of one")
    if found and others:
        report(f"{folder}: left out {len(others)} {'files' if len(others) > 1 else 'file'} "
               f"({', '.join(sorted(others)[:3])}{', ...' * (len(others) > 3)})")
    return {part: found[part][0] for part in ("", *PARTS) if part in found}


def _files(folder: Path) -> list[Path]:
    """The files in a folder, and those in folders of the same name as their only file, as Kaggle unpacks them.

    It is empty when the folder holds others than that, and lists a file before its compressed copy.
    """
    files: dict[str, Path] = {}
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror})") from None
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() == "__macosx":
            continue
        path = Path(entry.path)
        if entry.is_dir():
            path /= entry.name
            if not path.is_file():
                return []
        key = path.name.lower().removesuffix(IDX_PACKED).replace(".idx", "-idx")
        if key not in files or files[key].name.endswith(IDX_PACKED):
            files[key] = path
    return list(files.values())


def _with_labels(path: Path, format: Format, folder: Path) -> tuple[Path, ...]:
    """The path of a file, or those of images and labels; nothing for labels."""
    if format is NPY:
        role = role_of(path.stem)
        if role is None or role[1] == "labels":
            return ()
        partners = [each for each in _files(folder) if each.suffix == path.suffix
                    and role_of(each.stem) == (role[0], "labels")]
        return (path, partners[0]) if len(partners) == 1 else ()
    if "labels_path" in format.options:
        if "label" in path.name.lower():
            return ()
        labels = labels_beside(path)
        if not labels.exists():                     # in a folder of its own
            labels = folder / labels.name.removesuffix(IDX_PACKED) / labels.name.removesuffix(IDX_PACKED)
        return path, labels
    return (path,)


def _part(path: Path) -> str | None:
    role = role_of(path.stem) if path.suffix == ".npy" else None
    return role[0] if role else part_in(path.name)


