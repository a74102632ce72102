"""The one exception type that users meet, suggestions in its messages, and what makes any text safe to print."""

from __future__ import annotations

import difflib
import re
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


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'NAME'?)"`` with the most similar of `known`; "" if none is similar."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def printable(text: object) -> str:
    r"""Return text on one line that no terminal takes for a command: control characters are escaped as in Python.

    Names of files and classes come from anywhere; a name must not color the terminal, or pass for another line.

    Example:
        >>> printable("\x1b[31mred\n.jpg")
        '\\x1b[31mred\\n.jpg'
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), str(text))


def printable_lines(text: object) -> str:
    """Return text as `printable` does, but keep the line ends before indented lines: the details of a long error."""
    return "\n  ".join(printable(part) for part in str(text).split("\n  "))
