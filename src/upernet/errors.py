"""The one exception type that users meet, and how its messages show values and suggest names."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable


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


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the one of the `known` names that was probably meant: it looks alike, or has these initials (`lr`)."""
    names = list(known)
    near = difflib.get_close_matches(name[:100], names, n=1)
    initials = [other for other in names if "_" in other and "".join(part[:1] for part in other.split("_")) == name]
    return next(iter(near + initials), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'NAME'?)"`` with the most similar of `known`; "" if none is similar."""
    near = nearest_name(name, known)
    return f" (did you mean {near!r}?)" if near else ""
