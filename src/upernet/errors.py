"""The one exception type that users meet, and how its messages show values."""

from __future__ import annotations

import reprlib


class UpernetError(Exception):
    """Something the user can fix: one sentence that says what is wrong and what to do.

    The command line prints it without a traceback and exits with status 2.
    """


def shorten(value: object, limit: int = 60) -> str:
    """Return the `repr` of a value of the user for an error message, cut to about `limit` characters.

    The time is short for every value: nested lists, whose full `repr` can be larger than the memory, are not followed.
    """
    shown = reprlib.Repr()
    shown.maxlevel = 2
    shown.maxlist = shown.maxtuple = shown.maxset = shown.maxdict = 4
    shown.maxstring = shown.maxother = shown.maxlong = limit
    try:
        text = shown.repr(value)
    except ValueError:  # a whole number of thousands of digits
        return "a number of too many digits"
    return text if len(text) <= 2 * limit else f"{text[: 2 * limit]}..."
