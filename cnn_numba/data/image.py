"""Image files, read with Pillow: their real range of pixels, transparency, palettes, colours and sizes."""

import ctypes
import itertools
import logging
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from cnn_numba.data.reading import (
    Arrays,
    Progress,
    Say,
    StrPath,
    first_line,
    no_progress,
    say_nothing,
    shape_text,
)
from cnn_numba.errors import InputError
from cnn_numba.files.opening import open_regular

# Pillow's names of image formats, and their endings.  Pillow tries no others: EPS would start a program.
IMAGE_FORMATS = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "BMP": (".bmp",), "GIF": (".gif",),
                 "WEBP": (".webp",), "PPM": (".pgm", ".ppm", ".pnm"), "TIFF": (".tif", ".tiff")}
ENDINGS = tuple(itertools.chain(*IMAGE_FORMATS.values()))
LARGEST_FILE = 1 << 28      # bytes
MOST_PIXELS = 1 << 26       # of an image: as many as a camera of 67 megapixels takes, and 1.5 GB to convert them
PIXELS = 1 << 22            # pixels that every file may promise;
PIXELS_PER_BYTE = 2000      # a larger image may have this many for each byte of its file: a PNG of one colour has 1000
SAMPLE = 20                 # images that stand for all of them, which are in random order
TASK = 64                   # files that a thread reads in a row
UNIT, DEPTHS = 1, (8, 12, 16)           # bits: floats from 0 to 1, and what cameras and scanners write
FAINT = 4                   # a drawing is on a dark ground when white leaves less than a quarter of its contrast


class BrokenImages(InputError):
    """Image files that cannot be read.

    images : the images that can be read
    whole : bool (files,), which files these are
    sentences : one for each of the others
    """

    def __init__(self, sentences: list[str], images: np.ndarray, whole: np.ndarray):
        self.sentences, self.images, self.whole = sentences, images, whole
        count = f"{len(sentences)} of {len(whole)} image files are broken: " if len(sentences) > 1 else ""
        super().__init__(f"{count}{self.listing}: --skip-broken leaves {'them' if count else 'it'} out")

    @property
    def listing(self) -> str:
        shown, length = list[str](), 0
        for sentence in self.sentences:
            length += len(sentence)
            if shown and length > 700:
                return f"{'; '.join(shown)}; and {len(self.sentences) - len(shown)} more"
            shown.append(sentence)
        return "; ".join(shown)


class ReadImage(NamedTuple):
    """An image as it is read.

    pixels : uint8 (C, H, W)
    bits : depth of pixels that are not bytes, else 0
    converted : what had to be changed: "size", "colour", both or nothing
    """

    pixels: np.ndarray
    bits: int
    converted: tuple[str, ...]


def read_file(path: StrPath) -> bytes:
    """The bytes of an image file; InputError when it cannot be read or is too large for one."""
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > LARGEST_FILE:
                raise InputError(f"{path} is too large for an image, expected at most {LARGEST_FILE >> 20} MB")
            return file.read()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None


def read_images(paths: list[str], name: str, size: tuple[int, int] | None = None, like: tuple[int, ...] | None = None,
                progress: Progress = no_progress, report: Say = say_nothing,
                read: Callable[[str], bytes] = read_file) -> np.ndarray:
    """Read image files, in parallel.

    Images with pixels of more than 8 bits are scaled by the largest number in all of them.

    Parameters
    ----------
    paths : paths of the files
    name : what `progress` calls them
    size : (rows, columns) to which all are resized; by default they must have one size
    like : (C, H, W) that all get; by default 3 channels when any image has colours, else 1
    progress, report : see `Format`
    read : gives the bytes of a file by its path

    Returns
    -------
    uint8 array (N, C, H, W)

    Raises
    ------
    InputError : Pillow is missing, or an image has another size.
    BrokenImages : files are not images.
    """
    pillow()
    channels, target = (like[0], like[1:]) if like else (None, size)
    images, first = np.empty((0, 0, 0, 0), np.uint8), ""
    whole, bits, sentences, converted = np.zeros(len(paths), bool), np.zeros(len(paths), int), [], 0
    with warnings.catch_warnings(action="ignore"), progress(name, len(paths)) as advance:
        for k, image in enumerate(_in_parallel(lambda path: _attempt(path, read, channels, target), paths)):
            advance(1)
            if isinstance(image, InputError):
                sentences.append(str(image))
                continue
            pixels = image.pixels
            if not first:
                first, images = paths[k], np.empty((len(paths), *pixels.shape), np.uint8)
            rows, columns = images.shape[2:]
            if pixels.shape[1:] != (rows, columns):
                raise InputError(f"{paths[k]} has {pixels.shape[1]} x {pixels.shape[2]} pixels, but {first} has "
                                 f"{rows} x {columns}: give the image size (--image-size)")
            if pixels.shape[0] > images.shape[1]:
                images = np.repeat(images, 3, axis=1)
            images[k], whole[k], bits[k] = pixels, True, image.bits
            converted += bool(image.converted) and like is not None
        for k in map(int, np.flatnonzero((bits > 0) & (bits < bits.max(initial=0)))):
            images[k] = decode_image(read(paths[k]), paths[k], channels, target, int(bits.max())).pixels
    if converted:
        report(f"{name}: {converted} of {len(paths)} images were brought to {shape_text(images.shape[1:])}")
    if sentences:
        raise BrokenImages(sentences, images[whole] if first else images, whole)
    return images


def keep_images(paths: list[str], where: Path, labels: np.ndarray, keep: Callable[[Callable[[], Arrays]], Arrays],
                size: tuple[int, int] | None, like: tuple[int, ...] | None, skip_broken: bool | None,
                progress: Progress, report: Say, read: Callable[[str], bytes] = read_file,
                what: str = "image files") -> Arrays:
    """The images of `read_images` and their labels, or those that `keep` has from an earlier run.

    where : the folder or file that holds the images
    keep : `keep` of `Format`, for a state and options
    skip_broken : whether broken images are left out, and not refused as long as others are there
    what : what the images are called where some are left out
    """
    name, now = where.name, []

    def read_now() -> Arrays:
        now.append(True)
        return read_images(paths, name, size, like, progress, report, read), labels
    try:
        arrays = keep(read_now)
    except BrokenImages as broken:
        if not skip_broken or not len(broken.images):
            raise
        report(f"{where}: left out {len(broken.sentences)} broken {what} of {len(paths)}: {broken.listing}")
        return broken.images, labels[broken.whole]
    if like is not None and not now:                # an earlier run said it, about images that few look at again
        sample = [decode_image(read(path), path, like[0], like[1:]) for path in paths[:SAMPLE]]
        if any(image.converted for image in sample):
            report(f"{name}: images were brought to {shape_text(like)}")
    return arrays


def read_image(path: StrPath, channels: int | None = None, size: tuple[int, ...] | None = None) -> np.ndarray:
    """Read one image file as uint8 (C, H, W), upright by its Exif data.

    Transparent images are put on white, or on black when white would hide the drawing.  Pixels of more than 8 bits are
    scaled by the range that they use: 0 to 1, 255, 4095 or 65535.

    Parameters
    ----------
    path : path of the file
    channels : 1 or 3; by default 3 when the image has colours, else 1
    size : (rows, columns) to which it is resized; by default it keeps its size

    Raises
    ------
    InputError : Pillow is missing, or the file is not an image that it can read.
    """
    return open_image(path, channels, size).pixels


def _attempt(path: str, read: Callable[[str], bytes], channels: int | None,
             size: tuple[int, ...] | None) -> ReadImage | InputError:
    try:
        return decode_image(read(path), path, channels, size)
    except InputError as error:
        return error


def open_image(path: StrPath, channels: int | None, size: tuple[int, ...] | None, bits: int = 0) -> ReadImage:
    """Read one image file, as `read_image`; bits : least depth of pixels that are not bytes."""
    return decode_image(read_file(path), path, channels, size, bits)


def decode_image(content: bytes, path: StrPath, channels: int | None, size: tuple[int, ...] | None,
                 bits: int = 0) -> ReadImage:
    """The image in the bytes of a file, as `open_image`; `path` is its name in messages."""
    PIL = pillow()
    try:
        with PIL.Image.open(BytesIO(content), formats=tuple(IMAGE_FORMATS)) as image:
            width, height = image.size
            if width * height <= min(MOST_PIXELS, max(PIXELS, PIXELS_PER_BYTE * len(content))):
                return _pixels(PIL, image, channels, size, bits)
    # Pillow's decoders raise anything for a bad file: SyntaxError, struct.error, IndexError, MemoryError, ...
    except Exception as error:
        reason = "unknown format" if isinstance(error, PIL.UnidentifiedImageError) else first_line(error)
        raise InputError(f"{path} cannot be read as an image ({reason})") from None
    raise InputError(f"{path} promises {width} x {height} pixels in {len(content)} bytes")


def _pixels(PIL: ModuleType, image: Any, channels: int | None, size: tuple[int, ...] | None, bits: int) -> ReadImage:
    if "exif" in image.info:
        image = PIL.ImageOps.exif_transpose(image)
    wide, palette = image.mode in ("I", "F") or image.mode.startswith("I;"), image.mode == "P"
    colours = not wide and image.mode not in ("1", "L", "LA")
    if wide:                    # Pillow would clip them at 255
        pixels, bits = _in_bytes(np.asarray(image), bits)
        image = PIL.Image.fromarray(pixels)
    else:
        bits = 0
    if image.has_transparency_data:
        image = _on_ground(PIL, image.convert("RGBA"))
    if palette:
        image = image.convert("RGB")
    if palette or colours and image.mode == "RGB" and channels == 1:
        red, green, blue = np.moveaxis(np.asarray(image), 2, 0)
        colours = not (np.array_equal(red, green) and np.array_equal(green, blue))
    mode = "RGB" if (channels or (3 if colours else 1)) == 3 else "L"
    converted: tuple[str, ...] = ("colour",) if channels and colours != (channels == 3) else ()
    if image.mode != mode:
        image = image.convert(mode)
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), PIL.Image.Resampling.BILINEAR)
        converted += ("size",)
    pixels = np.array(image)
    pixels = pixels[None] if mode == "L" else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return ReadImage(pixels, bits, converted)


def _in_bytes(values: np.ndarray, least: int) -> tuple[np.ndarray, int]:
    """Numbers as uint8, and the bits that they use, at least `least`; ValueError for numbers that are no pixels."""
    low, high, floats = values.min(), values.max(), values.dtype.kind == "f"
    if not 0 <= low <= high < 2**32:
        raise ValueError(f"it holds numbers from {low:g} to {high:g}, expected pixels from 0")
    if floats and high > 2**16 - 1:
        raise ValueError(f"it holds numbers from {low:g} to {high:g}, expected 0 to 1, 255, 4095 or 65535")
    bits = next((bits for bits in DEPTHS if high < 2**bits), int(high).bit_length())
    bits = max(UNIT if floats and high <= 1 else bits, least)
    if bits == UNIT:
        return np.rint(values * 255).astype(np.uint8), bits
    if floats:
        return np.floor(values / 2 ** (bits - 8) + 0.5 * (bits == 8)).clip(0, 255).astype(np.uint8), bits
    return (values.astype(np.int64) >> (bits - 8)).astype(np.uint8), bits


def _on_ground(PIL: ModuleType, image: Any) -> Any:
    """A transparent image on white, or on black when white hides the drawing."""
    def on(colour: str) -> Any:
        return PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, colour), image).convert("RGB")

    def contrast(flat: Any) -> int:
        low, high = flat.convert("L").getextrema()
        return high - low
    white, black = on("white"), on("black")
    return black if FAINT * contrast(white) < contrast(black) else white


def _in_parallel(read: Callable[[str], Any], paths: list[str]) -> Iterator[Any]:
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
    _silence(PIL)
    return PIL


@cache
def _silence(PIL: ModuleType) -> None:
    """Keep what Pillow logs, and what its libtiff prints, off the terminal, where it came before our sentence."""
    log = logging.getLogger("PIL")
    if not log.handlers:                    # without one, Python prints what is logged
        log.addHandler(logging.NullHandler())
    with suppress(OSError, AttributeError):                 # libtiff is built in, and cannot be reached, or is missing
        library = ctypes.CDLL(PIL.Image.core.__file__)
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)
