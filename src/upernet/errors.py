"""The one exception type that users meet, and how its messages show values, suggest names and stay printable."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable

_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0 and C1 control characters: line ends, terminal escapes, ...
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that reorder text
    "\u2028\u2029\ufeff\ud800-\udfff]"  # further line ends, the byte order mark, bytes that are no UTF-8
)


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


def plain(text: str, limit: int = 60) -> str:
    """Return `text` as it is if it is short and printable, else its shortened `repr`."""
    return text if len(text) <= limit and text.isprintable() else shorten(text, limit)


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


def printable(text: object) -> str:
    r"""Return text on one line that no terminal takes for a command: control characters are escaped as in Python.

    Names of files and classes come from anywhere; a name must not color the terminal, or pass for another line.

    Example:
        >>> printable("\x1b[31mred\n.jpg")
        '\\x1b[31mred\\n.jpg'
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), str(text))


def cell_text(text: object) -> str:
    """Return printable text for a cell of a CSV file: an apostrophe precedes what a spreadsheet takes for a formula.

    Example:
        >>> cell_text("=HYPERLINK(0)"), cell_text("-"), cell_text("sky")
        ("'=HYPERLINK(0)", '-', 'sky')
    """
    shown = printable(text)
    return f"'{shown}" if shown[:1] in ("=", "+", "-", "@") and len(shown) > 1 else shown


def printable_lines(text: object) -> str:
    """Return text as `printable` does, but keep the line ends before indented lines: the details of a long error."""
    return "\n  ".join(printable(part) for part in str(text).split("\n  "))
