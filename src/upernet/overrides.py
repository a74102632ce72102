"""Settings on the command line: `--set training.stages.0.learning_rate=0.001` changes a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from upernet.errors import UpernetError, plain
from upernet.recipe import Recipe, without_other_levels
from upernet.settings import check_settings
from upernet.yaml_document import parse_value


def override(recipe: Recipe, assignments: Sequence[str]) -> Recipe:
    """Return a recipe with other settings, checked as those of a file.

    Args:
        recipe: The recipe.
        assignments: `KEY=VALUE`: the keys and list positions (from 0) that lead to a setting, joined by dots, and its
            value in YAML. Relative paths start in the current folder.

    Raises:
        UpernetError: An assignment has another form, or its key or value does not fit the schema.
    """
    if not assignments:
        return recipe
    values: dict[str, Any] = recipe.model_dump(mode="json", exclude_defaults=True)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        shown = plain(assignment, 200)
        if not equals or not key:
            raise UpernetError(f"--set {shown}: write KEY=VALUE, such as training.stages.0.iterations=500.")
        _assign(values, key.split("."), parse_value(text, f"--set {shown}"), shown)
    return without_other_levels(check_settings(values, Recipe, f"--set {plain(' '.join(assignments), 200)}"))


def _assign(values: dict[str, Any], keys: list[str], value: Any, assignment: str) -> None:
    """Set the value that `keys` lead to; mappings on the way are created."""
    place: Any = values
    for number, key in enumerate(keys):
        is_last = number == len(keys) - 1
        where = ".".join(keys[:number]) or "the recipe"
        if isinstance(place, list):
            if not key.isdecimal() or len(key) > 9 or int(key) >= len(place):
                raise UpernetError(f"--set {assignment}: {where} is a list of {len(place)}; give a position from 0.")
            if is_last:
                place[int(key)] = value
            place = place[int(key)]
        elif isinstance(place, dict):
            if is_last:
                place[key] = value
            elif place.get(key) is None:
                place[key] = {}
            place = place[key]
        else:
            raise UpernetError(f"--set {assignment}: {where} is a value, which holds no other settings.")
