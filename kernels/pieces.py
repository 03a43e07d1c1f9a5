"""Items that are pieces of an image block, for when there are fewer blocks than workers."""
from numba import njit

from .compiled import HELPER


@njit(**HELPER)
def piece(item, pieces, size):
    """n, first, end: the item is the range first, ..., end - 1 of an axis of `size`, one of the `pieces` of block n."""
    n, k = item // pieces, item % pieces
    return n, size * k // pieces, size * (k + 1) // pieces
