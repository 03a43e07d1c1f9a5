"""The names that people give to the parts of a data set, and to the arrays of images and labels in them."""

import re
from collections.abc import Iterable, Iterator

from cnn_numba.errors import InputError

PARTS = "train", "validation", "test"
PART_OF = {name: part for part, names in zip(PARTS, (
    ("train", "training", "trn"), ("validation", "valid", "val", "validate", "dev", "eval", "evaluation"),
    ("test", "testing", "tst", "t10k")), strict=True) for name in names}
ROLE_OF = {name: role for role, names in (
    ("images", ("x", "image", "images", "img", "imgs", "data", "features", "inputs", "pixels", "samples", "pictures")),
    ("labels", ("y", "label", "labels", "target", "targets", "class", "classes", "lbl"))) for name in names}


def _any(names: Iterable[str]) -> str:
    return "|".join(sorted(names, key=len, reverse=True))


ROLE = re.compile(f"(?P<front>{_any(PART_OF)})?(?P<role>{_any(ROLE_OF)})(?P<back>{_any(PART_OF)})?(?P<number>[0-9]*)")
POSITIONS = {"arr_0": ("", "images"), "arr_1": ("", "labels")}         # what np.savez calls arrays without a name


def part_of(name: str) -> str | None:
    """The part that a folder of this name holds; None for any other name."""
    return PART_OF.get(name.lower())


def part_in(name: str) -> str | None:
    """The part that is a word of a file's name, as in "mnist_train.csv"; None without one, or with several."""
    words = re.split("[^a-z0-9]+", re.sub("([a-z])([A-Z])", r"\1_\2", name).lower())
    found = {PART_OF[word] for word in words if word in PART_OF}
    return found.pop() if len(found) == 1 else None


def role_of(name: str) -> tuple[str, str] | None:
    """(part or "", "images" or "labels") of an array called so, as in x_train, trainX or test_labels, else None."""
    if name in POSITIONS:
        return POSITIONS[name]
    found = ROLE.fullmatch(re.sub("[^a-z0-9]", "", name.lower()))
    if not found or found["number"] or (found["front"] and found["back"]):
        return None
    part = found["front"] or found["back"]
    return PART_OF[part] if part else "", ROLE_OF[found["role"]]


def pairs(names: Iterable[str], where: str) -> Iterator[tuple[str, str | None, str | None]]:
    """(part or "", name of its images or None, name of its labels or None) for the names of arrays.

    Names without such a meaning are ignored.  Raises InputError when two names mean the same.
    """
    found: dict[tuple[str, str], str] = {}
    for name in names:
        role = role_of(name)
        if role is None:
            continue
        if role in found:
            raise InputError(f"{where} holds both {found[role]} and {name}, which can be the {role[1]} "
                             f"of {f'the {role[0]} part' if role[0] else 'all images'}: keep one of them")
        found[role] = name
    for part in ("", *PARTS):
        if (part, "images") in found or (part, "labels") in found:
            yield part, found.get((part, "images")), found.get((part, "labels"))
