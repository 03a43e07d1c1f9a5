"""The one exception that bad input raises."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message is the sentence that says what came and what was expected."""
