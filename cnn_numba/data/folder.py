"""Folders of image files, one folder for each class, read with Pillow."""

import itertools
import os
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnn_numba.data.reading import MAX_LABEL, shown
from cnn_numba.errors import InputError

# Pillow's names of the formats, and their endings.  Only these are tried: EPS would start a program.
FORMATS = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "BMP": (".bmp",), "GIF": (".gif",),
           "WEBP": (".webp",), "PPM": (".pgm", ".ppm", ".pnm"), "TIFF": (".tif", ".tiff")}
ENDINGS = tuple(itertools.chain(*FORMATS.values()))
LARGEST_FILE = 1 << 28      # bytes
PIXELS = 1 << 22            # that any file may promise,
PIXELS_PER_BYTE = 2000      # and above them this many for each of its bytes: a PNG of one colour has 1000
TASK = 64                   # files that a thread reads in a row


class ImageFile(NamedTuple):
    """An image file as its folder lists it; `name` is relative to the folder of the data set."""

    name: str
    label: int
    size: int
    changed: int


def class_names(folder):
    """Names of the folders in `folder`, sorted, numbers by value.

    Raises InputError when it cannot be read, or holds no folder or more than 10,000.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror})") from None
    if not 1 <= len(names) <= MAX_LABEL + 1:
        raise InputError(f"{folder} holds {len(names)} folders, expected one for each class, {MAX_LABEL + 1} at most")
    return tuple(sorted(names, key=lambda name: (int(name) if name.isdecimal() else MAX_LABEL, name)))


def list_images(folder, classes):
    """The image files in and below the class folders of `folder`, class by class, as a list of ImageFile.

    Raises InputError when a class folder cannot be read, or holds no image.
    """
    files = []
    for label, name in enumerate(classes):
        before = len(files)
        try:
            _walk(os.path.join(folder, name), name, label, files)
        except OSError as error:
            raise InputError(f"{Path(folder) / name} cannot be read ({error.strerror})") from None
        if len(files) == before:
            raise InputError(f"{Path(folder) / name} holds no images ({', '.join(ENDINGS)})")
        files[before:] = sorted(files[before:], key=lambda file: file.name)
    return files


def _walk(place, name, label, files):
    with os.scandir(place) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                _walk(entry.path, f"{name}/{entry.name}", label, files)
            elif entry.name.lower().endswith(ENDINGS) and entry.is_file():
                status = entry.stat()
                files.append(ImageFile(f"{name}/{entry.name}", label, status.st_size, status.st_mtime_ns))


def read_images(folder, files, channels=None, size=None, resize=False):
    """Read image files, in parallel.

    Parameters
    ----------
    folder : path to which the names of the files are relative
    files : list of ImageFile
    channels : 1 or 3; by default 3 when any image has colours, else 1
    size : (rows, columns); by default those of the first image
    resize : whether images of another size are resized, or refused

    Returns
    -------
    uint8 array (N, C, H, W)

    Raises
    ------
    InputError : Pillow is missing, a file is no image, or has another size than the others.
    """
    pillow()
    paths = [os.path.join(folder, file.name) for file in files]
    images, done, target = None, 0, size if resize else None
    total = sum(file.size for file in files)
    with warnings.catch_warnings(action="ignore"), shown(Path(folder).name, len(files), total) as advance:
        for image in _in_parallel(lambda path: read_image(path, channels, target), paths):
            if images is None:
                size, first = size or image.shape[1:], paths[0]
                images = np.empty((len(files), image.shape[0], *size), np.uint8)
            if image.shape[1:] != tuple(size):
                than = f"but {first} {size[0]} x {size[1]}" if done else f"expected {size[0]} x {size[1]}"
                raise InputError(f"{paths[done]} has {image.shape[1]} x {image.shape[2]} pixels, {than}: "
                                 "give the image size (--image-size)")
            if image.shape[0] > images.shape[1]:
                images = np.repeat(images, 3, axis=1)
            images[done] = image
            done += 1
            advance(1)
    return images


def read_image(path, channels=None, size=None):
    """Read one image file as uint8 (C, H, W), turned as its camera says; transparent parts become white.

    Parameters
    ----------
    path : path of the file
    channels : 1 or 3; by default 3 when the image has colours, else 1
    size : (rows, columns) to resize it to; by default it stays as it is

    Raises
    ------
    InputError : Pillow is missing, or the file is no image that can be read.
    """
    PIL = pillow()
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > LARGEST_FILE:
                raise InputError(f"{path} has more than {LARGEST_FILE >> 20} MB, too much for an image")
            content = file.read()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    try:
        with PIL.Image.open(BytesIO(content), formats=tuple(FORMATS)) as image:
            width, height = image.size
            if width * height <= max(PIXELS, PIXELS_PER_BYTE * len(content)):
                return _pixels(PIL, image, channels, size)
    # Whatever Pillow's decoders meet in a bad file: SyntaxError, struct.error, IndexError, MemoryError, ...
    except Exception as error:
        reason = "no known format" if isinstance(error, PIL.UnidentifiedImageError) else _first_line(error)
        raise InputError(f"{path} cannot be read as an image ({reason})") from None
    raise InputError(f"{path} promises {width} x {height} pixels in {len(content)} bytes")


def _pixels(PIL, image, channels, size):
    if "exif" in image.info:
        image = PIL.ImageOps.exif_transpose(image)
    sixteen_bits, palette = image.mode == "I" or image.mode.startswith("I;"), image.mode == "P"
    colours = not sixteen_bits and image.mode not in ("1", "L", "LA", "F")
    if sixteen_bits:            # Pillow would cut them off at 255
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


def _in_parallel(read, paths):
    """read(path) for every path, in order; threads, because Pillow lets others run while it unpacks."""
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


def pillow():
    """The package that reads image files; InputError when it is missing."""
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError:
        raise InputError("image files are read by Pillow, which is missing: pip install pillow") from None
    return PIL


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0][:100]
