"""One thing that is wrong, and its remedy."""

from __future__ import annotations

from typing import Any, NamedTuple

Facts = dict[str, Any]
"""What one part of the examination found, as JSON types."""


class Finding(NamedTuple):
    """A problem, with the command or the step that mends it."""

    problem: str
    fix: str
    broken: bool = True
    """Whether commands fail because of it; otherwise, something is slower or larger than it has to be."""
