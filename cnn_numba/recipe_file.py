"""Recipes in files: JSON, as a run folder has it, or TOML written by hand."""
from __future__ import annotations

import json
import os
import tomllib
from typing import Any

from cnn_numba.errors import InputError, naming, shortened
from cnn_numba.files.atomic import write
from cnn_numba.files.opening import open_regular
from cnn_numba.files.strict_json import loads
from cnn_numba.kinds import nearest
from cnn_numba.recipe import FIELDS, Recipe

__all__ = ["read_fields", "write_recipe"]

LARGEST = 1 << 20           # bytes


def read_fields(path: str | os.PathLike) -> dict[str, Any]:
    """{field of `Recipe`: value} that a file gives; what it leaves out has the default.

    A name may have hyphens, as the flag has.  A value is of the field's kind, or the text that the flag takes, such as
    "3x32x32"; null, in JSON only, means the default.  A file whose name ends in .toml is TOML, any other JSON.

    Raises InputError, naming the file, when it cannot be read, has an unknown name, or a value that cannot be used.
    """
    try:
        with open_regular(path) as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    with naming(str(path)):
        if len(content) > LARGEST:
            raise InputError(f"the file has more than {LARGEST:,} bytes, which no recipe needs")
        values = _toml(content) if os.fspath(path).lower().endswith(".toml") else loads(content)
        if not isinstance(values, dict):
            raise InputError("expected an object with the names of settings as its keys")
        read = {}
        for name, value in values.items():
            field = name.replace("-", "_")
            if field not in FIELDS:
                similar = nearest(name, FIELDS)
                raise InputError(f"unknown setting {shortened(name, 40)!r}"
                                 + (f": did you mean {similar}?" if similar else ""))
            if field in read:
                raise InputError(f"{field} occurs twice")
            read[field] = _value(field, value)
        return read


def write_recipe(path: str | os.PathLike, recipe: Recipe) -> None:
    """Write all fields of a recipe as JSON, for `read_fields`; InputError when the file cannot be written."""
    write(path, json.dumps(recipe.to_json(), indent=1).encode() + b"\n")


def _toml(content: bytes) -> Any:
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InputError("is not text in UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"is not TOML: {error}") from None
    except RecursionError:
        raise InputError("has brackets nested too deeply") from None


def _value(field: str, value: Any) -> Any:
    """The checked value of a field; a text is read as a flag's is where the kind is not one of texts."""
    if value is None:
        return FIELDS[field].default
    kind = FIELDS[field].metadata["kind"]
    with naming(field):
        try:
            return kind.check(value)
        except InputError:
            if not isinstance(value, str):
                raise
            return kind.read(value)
