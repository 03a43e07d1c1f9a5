"""Untrusted JSON: read within limits, or refused in a sentence."""
import json
import math
from collections import Counter
from typing import Any

from cnn_numba.errors import InputError, shortened

MOST_DIGITS = 18            # of an integer


def loads(content: bytes | str) -> Any:
    """The value of a JSON text.

    Raises InputError for text that is not JSON or not UTF-8, for NaN and infinity, numbers too large, keys that occur
    twice, and brackets nested too deeply.
    """
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        return json.loads(text, object_pairs_hook=_object, parse_int=_whole, parse_float=_real,
                          parse_constant=_constant)
    except UnicodeDecodeError:
        raise InputError("is not text in UTF-8") from None
    except json.JSONDecodeError as error:
        raise InputError(f"line {error.lineno}, column {error.colno} is not JSON: {error.msg}") from None
    except RecursionError:
        raise InputError("has brackets nested too deeply") from None


def _object(pairs):
    value = dict(pairs)
    if len(value) < len(pairs):
        (twice, _), = Counter(name for name, _ in pairs).most_common(1)
        raise InputError(f"the key {shortened(twice, 40)!r} occurs twice in the same object")
    return value


def _whole(digits):
    if len(digits) > MOST_DIGITS:
        raise InputError(f"the number {digits[:MOST_DIGITS]}... has more than {MOST_DIGITS} digits")
    return int(digits)


def _real(digits):
    value = float(digits)
    if math.isinf(value):
        raise InputError(f"the number {shortened(digits, 40)} is too large")
    return value


def _constant(name):
    raise InputError(f"{name} is not a number in JSON")
