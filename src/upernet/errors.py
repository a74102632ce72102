"""The one exception type that users meet, and suggestions in its messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UpernetError(Exception):
    """Something the user can fix: one sentence that says what is wrong and what to do.

    The command line prints it without a traceback and exits with status 2.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'NAME'?)"`` with the most similar of `known`; "" if none is similar."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
