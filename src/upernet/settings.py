"""YAML files validated by pydantic models, with errors that name the file, line and key."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails

from upernet.errors import UpernetError


class Settings(BaseModel):
    """Base of all models that are read from YAML: unknown keys are errors, and values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def unknown_key(cls) -> str:
        """Say that the model does not have a key."""
        return "unknown key"

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        """Refuse unknown keys before anything else: a misspelled key is often the reason why another one is missing."""
        if isinstance(values, dict):
            for key in cast("dict[Any, Any]", values):
                if key not in cls.model_fields:
                    near = difflib.get_close_matches(str(key), cls.model_fields, n=1)
                    fix = f" (did you mean {near[0]!r}?)" if near else "; correct its spelling or remove it"
                    raise SettingsError(cls.unknown_key() + fix, key)
        return values


class SettingsError(ValueError):
    """An error that a validator raises: a fault at `location` (keys, list positions) below the validated model."""

    def __init__(self, message: str, *location: str | int) -> None:
        super().__init__(message)
        self.location = location


SettingsType = TypeVar("SettingsType", bound=BaseModel)


def read_settings(path: str | Path, model: type[SettingsType]) -> SettingsType:
    """Read the YAML file `path` into `model`.

    Raises:
        UpernetError: The file is missing, is not YAML, repeats a key, or does not fit the model; the message
            starts with ``file:line: key:``.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UpernetError(f"{path}: no such file; give the path of a YAML file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UpernetError(f"{path}: cannot be read as text ({error}).") from error
    return parse_settings(text, model, str(path))


def parse_settings(text: str, model: type[SettingsType], source: str) -> SettingsType:
    """Read YAML `text` into `model`, with `source` as the file name in errors. Raises the errors of `read_settings`."""
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise UpernetError(f"{source}:1: expected a mapping of keys to values.")
        _refuse_repeated_keys(root, source)  # first: construction writes merged keys (<<) into the nodes
        values = loader.construct_document(root)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UpernetError(f"{source}:{line}: not valid YAML: {problem}.") from None
    except (ValueError, RecursionError) as error:  # a date such as 2020-13-45; a thousand open brackets
        raise UpernetError(f"{source}:1: not valid YAML: {error}.") from None
    return check_settings(values, model, source, root)


def check_settings(values: Any, model: type[SettingsType], source: str, root: yaml.Node | None = None) -> SettingsType:
    """Fit `values`, as YAML or JSON gave them, into `model`.

    Raises:
        UpernetError: They do not fit; the message starts with ``source:line: key:``, the line taken from `root`, the
            YAML that `values` came from (without `root`: ``source: key:``).
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        location, message = _explain(first, values)
        key = ".".join(str(part) for part in location) or "(top level)"
        place = f"{source}:{line_of(root, location)}" if root else source
        others = error.error_count() - 1
        more = f" (and {others} more)" if others else ""
        raise UpernetError(f"{place}: {key}: {message}{more}.") from None


def line_of(root: yaml.Node, location: list[Any] | tuple[Any, ...]) -> int:
    """Return the line, from 1, of the deepest node of `root` on the way to `location` (keys and list positions)."""
    node, line = root, root.start_mark.line + 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if str(key.value) == str(part)]
            if not found:
                break
            key, node = found[-1]  # behind keys that were merged in, which it overrides
            line = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


_MESSAGES = {
    "missing": "this key is required, and missing",
    "extra_forbidden": "unknown key; correct its spelling or remove it",
    "tuple_type": "expected a list",
    "list_type": "expected a list",
    "dict_type": "expected a mapping of keys to values",
    "model_type": "expected a mapping of keys to values",
    "model_attributes_type": "expected a mapping of keys to values",
}
"""Type of a pydantic error -> message for users of YAML files, where the message of pydantic is about Python."""


def _explain(error: ErrorDetails, values: Any) -> tuple[list[Any], str]:
    """Return the keys and list positions that lead to the error in `values`, and its message."""
    cause = error.get("ctx", {}).get("error")
    missing = error["type"] == "missing"
    steps = list(error["loc"][:-1] if missing else error["loc"])
    location: list[Any] = []
    for step in (*steps, *(cause.location if isinstance(cause, SettingsError) else ())):
        # Locations of pydantic also have names of union members and the like, which are not steps in `values`.
        if (isinstance(values, dict) and step in values) or _is_position(step, values):
            location.append(step)
            values = values[step]
    if missing:
        location.append(error["loc"][-1])
    if error["type"] in ("union_tag_not_found", "union_tag_invalid"):
        return _explain_tag(error, location)
    return location, _MESSAGES.get(error["type"]) or error["msg"].removeprefix("Value error, ")


def _explain_tag(error: ErrorDetails, location: list[Any]) -> tuple[list[Any], str]:
    """Explain a missing or unknown value of the key that selects a member of a union, such as `kind`."""
    context = error.get("ctx", {})
    location = [*location, context["discriminator"].strip("'")]
    if error["type"] == "union_tag_not_found":
        return location, _MESSAGES["missing"]
    known = re.findall("'([^']+)'", context["expected_tags"])
    near = difflib.get_close_matches(context["tag"], known, n=1)
    suggestion = f" (did you mean {near[0]!r}?)" if near else ""
    return location, f"expected one of {', '.join(known)}{suggestion}"


def _is_position(step: Any, values: Any) -> bool:
    return isinstance(values, (list, tuple)) and isinstance(step, int) and step < len(values)


def _refuse_repeated_keys(root: yaml.Node, source: str) -> None:
    waiting, visited = [root], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in visited:  # an alias: the same node in several places, or inside itself
            continue
        visited.add(id(node))
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                waiting.append(value)
                if not isinstance(key, yaml.ScalarNode):
                    continue
                if key.value in seen:
                    raise UpernetError(f"{source}:{key.start_mark.line + 1}: {key.value}: the key appears twice.")
                seen.add(key.value)
        elif isinstance(node, yaml.SequenceNode):
            waiting.extend(node.value)
