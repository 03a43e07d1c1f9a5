"""Folders of image files, one folder for each class, read with Pillow."""

import hashlib
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnn_numba.data.image import ENDINGS, keep_images, pillow, read_file
from cnn_numba.data.parts import part_of
from cnn_numba.data.reading import (
    MAX_LABEL,
    Arrays,
    Keep,
    Progress,
    Say,
    StrPath,
    class_order,
    keep_nothing,
    no_progress,
    say_nothing,
)
from cnn_numba.errors import InputError

JUNK = "thumbs.db", "desktop.ini"       # which file managers write
PACKER = "__macosx"                     # a folder that an archive from a Mac has beside its content
SAMPLED = 64                            # files whose content is compared with that of kept arrays
SHOWN = 3                               # names in a sentence


class ImageFile(NamedTuple):
    """An image file as its folder lists it.

    name : relative to the folder of the data set; begins with the name of the class and a "/"
    size : in bytes
    changed : times of the last change of the content and of the entry, in ns, and the number of the entry: at least
        one of them changes when another file of the same size and time takes the place
    """

    name: str
    size: int
    changed: tuple[int, int, int]


class LeftOut:
    """What a folder holds and is not read: names by reason."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        self.names.setdefault(reason, []).append(name)

    def __str__(self) -> str:
        """Such as "2 files with other endings than images (a.txt, b.txt), 1 empty file (c.png)"."""
        return ", ".join(f"{counted(len(names), reason)} ({', '.join(sorted(names)[:SHOWN])}"
                         f"{', ...' * (len(names) > SHOWN)})" for reason, names in self.names.items())


def counted(number: int, words: str) -> str:
    """The number and the words, whose plural becomes a singular for 1."""
    if number == 1:
        words = re.sub(r"\b(file|folder|link|class)(e?s)\b", r"\1", words, count=1)
    return f"{number} {words}"


def read_folder(path: StrPath, image_size: tuple[int, int] | None = None, like: tuple[int, int, int] | None = None,
                skip_broken: bool | None = None, keep: Keep = keep_nothing, progress: Progress = no_progress,
                report: Say = say_nothing, note: Say = say_nothing) -> Arrays | dict[str, Arrays]:
    """Read a folder with a folder of images for each class, or with a folder of those for each part.

    Parts have names such as train, Training, val, test (see `data.parts`).  A folder that holds nothing but another
    folder stands for that one.

    Parameters
    ----------
    path : path of the folder
    image_size : (rows, columns) to which images are resized; by default all must have one size
    like : (C, H, W) that all images get
    skip_broken : whether broken image files are left out, or refused
    keep, progress, report, note : see `Format`

    Returns
    -------
    uint8 images (N, C, H, W) and the names of their classes (N,), or such pairs for "train", "validation", "test".
    Images are shuffled, always in the same order, so that the first ones are of all classes.

    Raises
    ------
    InputError : Pillow is missing, bad image files, images of different sizes, no images.
    """
    path = Path(path)
    left_out = LeftOut()
    folders = subfolders(path, left_out)
    while len(folders) == 1 and not _has_images(path / folders[0]) and _has_folders(path / folders[0]):
        path /= folders[0]
        folders = subfolders(path, left_out)
    parts = parts_of_folders(path, folders, left_out)
    if not parts:
        note(f"image folder, a class for each of {len(folders)} folders")
        return _read_classes(path, folders, image_size, like, skip_broken, keep, progress, report, left_out)
    note("image folder, " + ", ".join(f"{name} as the {part} part" for part, name in parts.items()))
    if left_out.names:
        report(f"{path}: left out {left_out}")
    read: dict[str, Arrays] = {}
    for part, name in parts.items():
        inner = LeftOut()
        classes = subfolders(path / name, inner)
        read[part] = _read_classes(path / name, classes, image_size, like, skip_broken, keep, progress, report, inner)
        like = like or read[part][0].shape[1:]
    return read


def subfolders(folder: Path, left_out: LeftOut) -> tuple[str, ...]:
    """Names of the folders in `folder`, sorted, numbers by value.

    Raises InputError when `folder` cannot be read, holds no folder or holds more than 10,000.
    """
    names = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.lower() == PACKER:
                    left_out.add("folders of an archive program", entry.name)
                elif entry.name.startswith(".") or entry.name.lower() in JUNK:
                    continue
                elif entry.is_dir():
                    names.append(entry.name)
                else:
                    left_out.add("files beside the class folders", entry.name)
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror})") from None
    if not 1 <= len(names) <= MAX_LABEL + 1:
        raise InputError(f"{folder} holds {len(names)} folders, expected one for each class, {MAX_LABEL + 1} at most")
    return tuple(sorted(names, key=class_order))


def parts_of_folders(path: Path, folders: tuple[str, ...], left_out: LeftOut) -> dict[str, str]:
    """{part: folder} when folders are called after different parts, else nothing, and all folders are classes.

    Raises InputError when two folders can be the same part.
    """
    parts: dict[str, str] = {}
    others = []
    for name in folders:
        part = part_of(name)
        if part is None:
            others.append(name)
        elif part in parts:
            raise InputError(f"{path} holds both {parts[part]} and {name}, which can be the {part} part: keep one of "
                             "them")
        else:
            parts[part] = name
    if len(parts) < 2 and (others or not parts or _has_images(path / folders[0])):
        return {}
    for name in others:
        left_out.add("folders beside the parts", name)
    return {part: parts[part] for part in ("train", "validation", "test") if part in parts}


def _has_images(folder: Path) -> bool:
    return any(entry.name.lower().endswith(ENDINGS) for entry in _entries(folder))


def _has_folders(folder: Path) -> bool:
    return any(entry.is_dir() for entry in _entries(folder) if not entry.name.startswith("."))


def _entries(folder: Path) -> "list[os.DirEntry[str]]":
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror})") from None


def _read_classes(folder: Path, classes: tuple[str, ...], image_size: tuple[int, int] | None,
                  like: tuple[int, ...] | None, skip_broken: bool | None, keep: Keep, progress: Progress, report: Say,
                  left_out: LeftOut) -> Arrays:
    pillow()
    files = list_images(folder, classes, left_out)
    if left_out.names:
        report(f"{folder}: left out {left_out}")
    counts = Counter(file.name.partition("/")[0] for file in files)
    if like is None and (single := [name for name in classes if counts[name] == 1]):
        report(f"{folder}: {len(single)} {'classes have' if len(single) > 1 else 'class has'} a single image "
               f"({', '.join(single[:SHOWN])}{', ...' * (len(single) > SHOWN)})")
    shuffled = [files[i] for i in np.random.default_rng(0).permutation(len(files))]
    names = np.array([file.name.partition("/")[0] for file in shuffled])
    paths = [os.path.join(folder, file.name) for file in shuffled]
    kept = partial(keep, folder, (sample_digest(paths), [tuple(file) for file in files]), (image_size, like))
    return keep_images(paths, folder, names, kept, image_size, like, skip_broken, progress, report)


def sample_digest(paths: list[str]) -> str:
    """The SHA-256 of the first SAMPLED of some files: on some file systems, times do not tell of changes."""
    digest = hashlib.sha256()
    for path in paths[:SAMPLED]:
        with suppress(InputError):                      # is reported when it is read as an image
            digest.update(read_file(path))
    return digest.hexdigest()


def list_images(folder: StrPath, classes: tuple[str, ...], left_out: LeftOut) -> list[ImageFile]:
    """The image files in and below the class folders of `folder`, class by class.

    Raises InputError when a class folder cannot be read, or when there is no image at all.
    """
    files = []
    for name in classes:
        try:
            found = sorted(_walk(os.path.join(folder, name), name, left_out))
        except OSError as error:
            raise InputError(f"{Path(folder) / name} cannot be read ({error.strerror})") from None
        if not found:
            left_out.add("classes without images", name)
        files += found
    if not files:
        raise InputError(f"{folder} holds no images ({', '.join(ENDINGS)}) in its folders "
                         f"{', '.join(itertools.islice(classes, SHOWN))}{', ...' * (len(classes) > SHOWN)}")
    return files


def _walk(folder: str, name: str, left_out: LeftOut) -> Iterator[ImageFile]:
    with os.scandir(folder) as entries:
        for entry in entries:
            inner, ending = f"{name}/{entry.name}", entry.name.lower()
            if entry.name.startswith(".") or ending in JUNK:
                continue
            if ending == PACKER:
                left_out.add("folders of an archive program", inner)
            elif entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, inner, left_out)
            elif entry.is_dir():
                left_out.add("linked folders", inner)
            elif not ending.endswith(ENDINGS):
                left_out.add("files with other endings than images", inner)
            elif not entry.is_file():
                left_out.add("dead links" if entry.is_symlink() else "pipes and devices", inner)
            elif (status := entry.stat()).st_size == 0:
                left_out.add("empty files", inner)
            else:
                yield ImageFile(inner, status.st_size, (status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
