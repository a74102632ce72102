"""Numbers, names and lines of text as people read them."""

from __future__ import annotations

import re
import textwrap

from upernet.errors import printable

SPACE = "\N{NO-BREAK SPACE}"
LEAST = 0.01
"""Smaller shares are "under 1 %"."""


def percent(share: float) -> str:
    """Return a fraction as "12 %"; "under 1 %" or "over 99 %" where rounding would say that it is all or nothing.

    Example:
        >>> percent(0.124), percent(0.002), percent(0.998), percent(1)
        ('12 %', 'under 1 %', 'over 99 %', '100 %')
    """
    if share < LEAST:
        return "under 1 %"
    rounded = f"{100 * share:.0f}"
    return "over 99 %" if rounded == "100" and share < 1 else f"{rounded} %"


def quantity(number: int, noun: str) -> str:
    """Return a number with a noun that takes an s in the plural.

    Example:
        >>> quantity(1, "photo"), quantity(1200, "photo")
        ('1 photo', '1,200 photos')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def readable(name: str) -> str:
    """Return a class name as it is written in a sentence."""
    return printable(name.replace("_", " "))


def words(text: str) -> list[str]:
    """Return the words of a text; "12 %" is one.

    Example:
        >>> words("sky (12 %); road")
        ['sky', '(12 %);', 'road']
    """
    return re.findall(r"\S+(?: %\S*)?", text)


def wrapped(text: str, width: int, indent: str = "") -> str:
    """Wrap each line of a text to `width` columns, with an indent that further lines keep.

    No number is torn from its "%". Words that are longer than a line stay whole.

    Example:
        >>> print(wrapped("The photo shows sky (12 %).", 20, "  "))
          The photo shows
          sky (12 %).
    """
    lines = [
        textwrap.fill(
            re.sub(r"(under|over) ([\d.]+ %)|(\d) %", _unbreakable, line),
            max(width, len(indent) + 1),
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        ).replace(SPACE, " ")
        for line in text.splitlines()
    ]
    return "\n".join(lines)


def _unbreakable(match: re.Match[str]) -> str:
    return match[0].replace(" ", SPACE)
