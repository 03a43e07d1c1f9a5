"""Random augmentation of training images."""
import math
from dataclasses import dataclass, fields

import numpy as np

from cnn_numba.errors import InputError, number, truth_value, whole_number

__all__ = ["Augment"]


@dataclass(frozen=True)
class Augment:
    """Random changes of images, new in each epoch: flip, then rotate and scale about the centre, then shift.

    Parameters
    ----------
    shift : int
        Largest shift in whole pixels, up or down, and left or right.
    rotate : float
        Largest rotation in degrees, either way.
    scale : float, below 1
        Images are scaled by a factor from 1 - scale to 1 + scale.
    flip : bool
        Mirror half of the images left to right, as `torchvision.transforms.RandomHorizontalFlip`.

    All are uniform, and derive from the seed, the epoch and the index of the image in the data set.  Nothing wraps
    around: pixels from beyond an edge have the value 0.  Rotated and scaled images are interpolated between
    four pixels; otherwise pixels are copied.

    Raises InputError (a ValueError) when an argument is out of range.
    """

    shift: int = 0
    rotate: float = 0.0
    scale: float = 0.0
    flip: bool = False

    def __post_init__(self):
        whole_number("Augment", "shift", self.shift, 0)
        number("Augment", "rotate", self.rotate, 0, 180)
        number("Augment", "scale", self.scale, 0, 0.99)
        truth_value("Augment", "flip", self.flip)

    @classmethod
    def parse(cls, text):
        """The Augment that a text such as "shift=2,rotate=10,scale=0.1,flip" describes; "none" changes nothing.

        Raises InputError when a name is unknown or occurs twice, or a value is not a number or out of range.
        """
        options, names = {}, [field.name for field in fields(cls)]
        for part in text.split(",") if text != "none" else ():
            name, equals, value = (word.strip() for word in part.partition("="))
            if name not in names:
                raise InputError(f"augment: {name!r} is not one of {', '.join(names)}")
            if name in options:
                raise InputError(f"augment: {name} occurs twice in {text!r}")
            if name == "flip" and equals:
                raise InputError(f"augment: flip takes no value, got {part.strip()!r}")
            try:
                options[name] = True if name == "flip" else int(value) if name == "shift" else float(value)
            except ValueError:
                kind = "a whole number" if name == "shift" else "a number"
                raise InputError(f"augment: {name} must be {kind}, as in {name}={10 if name == 'rotate' else 2}, "
                                 f"got {part.strip()!r}") from None
        return cls(**options)

    def __str__(self):
        """The text that `parse` reads."""
        given = {field.name: float(getattr(self, field.name)) for field in fields(self) if getattr(self, field.name)}
        return ",".join(name if name == "flip" else f"{name}={value}".removesuffix(".0")
                        for name, value in given.items()) or "none"

    def __bool__(self):
        """Whether it changes images."""
        return str(self) != "none"

    def calls(self, blocks, x, images, order, batch, draw, mean, scale, lanes, numbers=None):
        """The kernel calls instead of `kernels.batch.gather`; draw is int64 (seed, epoch).

        numbers : what the random changes of the images derive from, where it is not `order`, their places in `images`

        Raises InputError when a shift could move an image out of its frame.
        """
        # Imported here, because it needs Numba and recipes do not.
        from cnn_numba.kernels import augment as kernels
        from cnn_numba.kernels.lanes import LANES
        from cnn_numba.kernels.program import Call

        _, _, H, W = images.shape
        if self.shift >= min(H, W):
            raise InputError(f"Augment: shift={self.shift} moves images of {H}x{W} pixels out of sight, expected at "
                             f"most {min(H, W) - 1}")
        moves = np.zeros((blocks, LANES, 6), np.float32)
        ranges = np.array([self.shift, math.radians(self.rotate), self.scale, 0.5 * self.flip])
        transforms = Call(kernels.transforms, blocks, out=moves, order=order if numbers is None else numbers,
                          batch=batch, draw=draw, ranges=ranges, rows=H, columns=W)
        gather = dict(x=x, images=images, order=order, batch=batch, mean=mean, scale=scale, lanes=lanes, moves=moves)
        if self.rotate or self.scale:
            padded = np.zeros((blocks, H + 3, W + 3), np.float32)
            return [transforms, Call(kernels.gather_warped, blocks, padded=padded, **gather)]
        return [transforms, Call(kernels.gather_shifted, blocks, **gather)]
