"""The one exception that bad input raises, and the checks that several modules make."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message is the sentence that says what came and what was expected."""


def whole_number(owner, name, value, least=1):
    """The value as an int; InputError unless it is a whole number (not a bool) of at least `least`."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
        raise InputError(f"{owner}: {name} must be a whole number of at least {least}, got {value!r}")
    return value.__index__()


def truth_value(owner, name, value):
    """The value; InputError unless it is True or False."""
    if not isinstance(value, bool):
        raise InputError(f"{owner}: {name} must be True or False, got {value!r}")
    return value


def shortened(sentence, longest=300):
    """The sentence without the end of what a file made it quote."""
    return sentence if len(sentence) <= longest else f"{sentence[:longest]}..."
