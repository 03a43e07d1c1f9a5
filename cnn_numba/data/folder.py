"""Folders of image files, one folder for each class, read with Pillow."""

import itertools
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from cnn_numba.data.reading import (
    MAX_LABEL,
    Arrays,
    Keep,
    Progress,
    StrPath,
    class_order,
    first_line,
    keep_nothing,
    no_progress,
)
from cnn_numba.errors import InputError

# Pillow's names of image formats, and their endings.  Pillow tries no others: EPS would start a program.
IMAGE_FORMATS = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "BMP": (".bmp",), "GIF": (".gif",),
                 "WEBP": (".webp",), "PPM": (".pgm", ".ppm", ".pnm"), "TIFF": (".tif", ".tiff")}
ENDINGS = tuple(itertools.chain(*IMAGE_FORMATS.values()))
LARGEST_FILE = 1 << 28      # bytes
PIXELS = 1 << 22            # pixels that every file may promise;
PIXELS_PER_BYTE = 2000      # a larger image may have this many for each byte of its file: a PNG of one colour has 1000
TASK = 64                   # files that a thread reads in a row


class ImageFile(NamedTuple):
    """An image file as its folder lists it.

    name : relative to the folder of the data set; begins with the name of the class and a "/"
    size : in bytes
    changed : time of the last change, in ns
    """

    name: str
    size: int
    changed: int


def read_folder(path: StrPath, image_size: tuple[int, int] | None = None, like: tuple[int, int, int] | None = None,
                keep: Keep = keep_nothing, progress: Progress = no_progress) -> Arrays | dict[str, Arrays]:
    """Read a folder with a folder of images for each class, or with two of those, `train` and `test`.

    Parameters
    ----------
    path : path of the folder
    image_size : (rows, columns) to which images are resized; by default all images must have one size
    like : (C, H, W) of the training part when `path` is its test part
    keep, progress : see `Format`

    Returns
    -------
    uint8 images (N, C, H, W) and the names of their classes (N,), or {"train": the same, "test": the same}.  Images
    are shuffled, always in the same order, so that the first ones are of all classes.

    Raises
    ------
    InputError : Pillow is missing, a bad image file, images of different sizes, a class without images.
    """
    folders = [Path(path) / part for part in ("train", "test")]
    if not all(folder.is_dir() for folder in folders):
        return _read_classes(Path(path), image_size, like, keep, progress)
    train = _read_classes(folders[0], image_size, like, keep, progress)
    return {"train": train, "test": _read_classes(folders[1], image_size, train[0].shape[1:], keep, progress)}


def _read_classes(folder: Path, image_size: tuple[int, int] | None, like: tuple[int, ...] | None, keep: Keep,
                  progress: Progress) -> Arrays:
    files = list_images(folder, class_names(folder))

    def read() -> Arrays:
        channels, size = (like[0], like[1:]) if like else (None, image_size)
        shuffled = [files[i] for i in np.random.default_rng(0).permutation(len(files))]
        images = read_images(folder, shuffled, channels, size, resize=image_size is not None, progress=progress)
        return images, np.array([file.name.partition("/")[0] for file in shuffled])
    return keep(folder, [tuple(file) for file in files], (image_size, like), read)


def class_names(folder: StrPath) -> tuple[str, ...]:
    """Names of the folders in `folder`, sorted, numbers by value.

    Raises InputError when `folder` cannot be read, holds no folder or holds more than 10,000.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror})") from None
    if not 1 <= len(names) <= MAX_LABEL + 1:
        raise InputError(f"{folder} holds {len(names)} folders, expected one for each class, {MAX_LABEL + 1} at most")
    return tuple(sorted(names, key=class_order))


def list_images(folder: StrPath, classes: tuple[str, ...]) -> list[ImageFile]:
    """The image files in and below the class folders of `folder`, class by class.

    Raises InputError when a class folder cannot be read, or holds no image.
    """
    files = []
    for name in classes:
        try:
            found = sorted(_walk(os.path.join(folder, name), name))
        except OSError as error:
            raise InputError(f"{Path(folder) / name} cannot be read ({error.strerror})") from None
        if not found:
            raise InputError(f"{Path(folder) / name} holds no images ({', '.join(ENDINGS)})")
        files += found
    return files


def _walk(folder: str, name: str) -> Iterator[ImageFile]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, f"{name}/{entry.name}")
            elif entry.name.lower().endswith(ENDINGS) and entry.is_file():
                status = entry.stat()
                yield ImageFile(f"{name}/{entry.name}", status.st_size, status.st_mtime_ns)


def read_images(folder: StrPath, files: list[ImageFile], channels: int | None = None,
                size: tuple[int, ...] | None = None, resize: bool = False,
                progress: Progress = no_progress) -> np.ndarray:
    """Read image files, in parallel.

    Parameters
    ----------
    folder : path to which the names of the files are relative
    files : list of ImageFile
    channels : 1 or 3; by default 3 when any image has colours, else 1
    size : (rows, columns); by default the size of the first image
    resize : whether images of another size are resized or refused

    Returns
    -------
    uint8 array (N, C, H, W)

    Raises
    ------
    InputError : Pillow is missing, a file is not an image, or an image has another size.
    """
    pillow()
    paths = [os.path.join(folder, file.name) for file in files]
    images, done, target = np.empty((0, 0, 0, 0), np.uint8), 0, size if resize else None
    with warnings.catch_warnings(action="ignore"), progress(Path(folder).name, len(files)) as advance:
        for image in _in_parallel(lambda path: read_image(path, channels, target), paths):
            if not done:
                images = np.empty((len(files), image.shape[0], *(size or image.shape[1:])), np.uint8)
            rows, columns = images.shape[2:]
            if image.shape[1:] != (rows, columns):
                expected = f"but {paths[0]} has" if done else "expected"
                raise InputError(f"{paths[done]} has {image.shape[1]} x {image.shape[2]} pixels, "
                                 f"{expected} {rows} x {columns}: give the image size (--image-size)")
            if image.shape[0] > images.shape[1]:
                images = np.repeat(images, 3, axis=1)
            images[done] = image
            done += 1
            advance(1)
    return images


def read_image(path: StrPath, channels: int | None = None, size: tuple[int, ...] | None = None) -> np.ndarray:
    """Read one image file as uint8 (C, H, W), upright by its Exif data, and white where it is transparent.

    Parameters
    ----------
    path : path of the file
    channels : 1 or 3; by default 3 when the image has colours, else 1
    size : (rows, columns) to which it is resized; by default it keeps its size

    Raises
    ------
    InputError : Pillow is missing, or the file is not an image that it can read.
    """
    PIL = pillow()
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > LARGEST_FILE:
                raise InputError(f"{path} is too large for an image, expected at most {LARGEST_FILE >> 20} MB")
            content = file.read()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    try:
        with PIL.Image.open(BytesIO(content), formats=tuple(IMAGE_FORMATS)) as image:
            width, height = image.size
            if width * height <= max(PIXELS, PIXELS_PER_BYTE * len(content)):
                return _pixels(PIL, image, channels, size)
    # Pillow's decoders raise anything for a bad file: SyntaxError, struct.error, IndexError, MemoryError, ...
    except Exception as error:
        reason = "unknown format" if isinstance(error, PIL.UnidentifiedImageError) else first_line(error)
        raise InputError(f"{path} cannot be read as an image ({reason})") from None
    raise InputError(f"{path} promises {width} x {height} pixels in {len(content)} bytes")


def _pixels(PIL: ModuleType, image: Any, channels: int | None, size: tuple[int, ...] | None) -> np.ndarray:
    if "exif" in image.info:
        image = PIL.ImageOps.exif_transpose(image)
    sixteen_bits, palette = image.mode == "I" or image.mode.startswith("I;"), image.mode == "P"
    colours = not sixteen_bits and image.mode not in ("1", "L", "LA", "F")
    if sixteen_bits:            # Pillow would clip them at 255
        high = np.asarray(image).astype(np.int64) >> 8
        image = PIL.Image.fromarray(high.clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if palette:
        image = image.convert("RGB")
        red, green, blue = np.moveaxis(np.asarray(image), 2, 0)
        colours = not (np.array_equal(red, green) and np.array_equal(green, blue))
    mode = "RGB" if (channels or (3 if colours else 1)) == 3 else "L"
    if image.mode != mode:
        image = image.convert(mode)
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), PIL.Image.Resampling.BILINEAR)
    pixels = np.array(image)
    return pixels[None] if mode == "L" else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _in_parallel(read: Callable[[str], np.ndarray], paths: list[str]) -> Iterator[np.ndarray]:
    """read(path) for every path, in order; in threads, because Pillow releases the interpreter lock to decode."""
    workers = os.cpu_count() or 1
    tasks = (paths[start:start + TASK] for start in range(0, len(paths), TASK))
    with ThreadPoolExecutor(workers) as pool:
        ahead = deque(pool.submit(list, map(read, task)) for task in itertools.islice(tasks, 2 * workers))
        try:
            while ahead:
                yield from ahead.popleft().result()
                ahead.extend(pool.submit(list, map(read, task)) for task in itertools.islice(tasks, 1))
        finally:
            pool.shutdown(cancel_futures=True)


def pillow() -> ModuleType:
    """The package that reads image files; raises InputError when it is missing."""
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError:
        raise InputError("image files are read by Pillow, which is missing: pip install pillow") from None
    return PIL
