"""Settings: pydantic models that are read from YAML or JSON, with errors that name the file, line and key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator
from pydantic_core import ErrorDetails

from upernet.errors import UpernetError, did_you_mean, nearest_name, plain, shorten
from upernet.yaml_document import line_of, parse_yaml, read_yaml

SHOWN_FAULTS = 10
"""How many faults of a file an error lists."""


Whole = Annotated[int, Field(strict=True)]
"""A whole number; neither text nor 1.0 nor `yes`, which pydantic would take for one."""
Number = Annotated[float, Field(strict=True)]
"""A finite number; neither text nor `yes`."""
Name = Annotated[str, Field(max_length=200)]
"""A name that errors and results show."""


class Settings(BaseModel):
    """Base of all models that are read from YAML: unknown keys are errors, numbers finite, and values frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def unknown_key(cls) -> str:
        """Say that the model does not have a key."""
        return "unknown key"

    @model_validator(mode="before")
    @classmethod
    def _note_the_model(cls, values: Any, info: ValidationInfo) -> Any:
        """Remember for `check_settings` which model a mapping is validated by: its fields explain an unknown key."""
        if info.context is not None and isinstance(values, dict):
            info.context[id(cast(Any, values))] = cls
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
        UpernetError: The file is missing, is not YAML, repeats a key, is too large, or does not fit the model. Each
            line of the message is a fault and starts with ``file:line: key:``.
    """
    root, values = read_yaml(Path(path))
    return check_settings(values, model, str(path), root)


def parse_settings(text: str, model: type[SettingsType], source: str) -> SettingsType:
    """Read YAML `text` into `model`, with `source` as the file name in errors. Raises the errors of `read_settings`."""
    root, values = parse_yaml(text, source)
    return check_settings(values, model, source, root)


def check_settings(values: Any, model: type[SettingsType], source: str, root: yaml.Node | None = None) -> SettingsType:
    """Fit `values`, as YAML or JSON gave them, into `model`.

    Raises:
        UpernetError: They do not fit. Each line of the message is a fault and starts with ``source:line: key:``, the
            line taken from `root`, the YAML that `values` came from (without `root`: ``source: key:``).
    """
    owners: dict[int, type[Settings]] = {}
    try:
        return model.model_validate(values, context=owners)
    except ValidationError as error:
        faults = _faults(error.errors(include_url=False), values, owners)
    if root is not None:
        faults.sort(key=lambda fault: (fault.missing, line_of(root, fault.location)))
    lines = [
        f"{source}{f':{line_of(root, fault.location)}' if root else ''}: {fault.key}: {fault.message}."
        for fault in faults[:SHOWN_FAULTS]
    ]
    more = [f"{source}: there are {len(faults) - SHOWN_FAULTS} more faults."] if len(faults) > SHOWN_FAULTS else []
    raise UpernetError("\n  ".join(lines + more))  # as `errors.printable_lines` wants it


@dataclass
class _Fault:
    """A fault of the values."""

    location: tuple[Any, ...]
    """Keys and list positions."""
    message: str
    missing: bool = False
    meant: str | None = None
    """The key that an unknown key was probably meant to be."""

    @property
    def key(self) -> str:
        return ".".join(
            plain(str(part)) if isinstance(part, str | int) else shorten(part) for part in self.location
        ) or ("(top level)")


def _faults(errors: list[ErrorDetails], values: Any, owners: Mapping[int, type[Settings]]) -> list[_Fault]:
    """Return one fault per place: not a key that is missing because it is misspelled, and of a union the closest."""
    by_place: dict[tuple[Any, ...], _Fault] = {}
    for fault in (_explain(error, values, owners) for error in errors):
        other = by_place.setdefault(fault.location, fault)
        if other is not fault and fault.message not in other.message:
            other.message += f", or {fault.message}"
    outer = {place[:length] for place in by_place for length in range(len(place))}
    meant = {(*fault.location[:-1], fault.meant) for fault in by_place.values() if fault.meant}
    found = [
        fault for place, fault in by_place.items() if place not in outer and not (fault.missing and place in meant)
    ]
    return sorted(found, key=lambda fault: fault.missing)


_MESSAGES = {
    "missing": "this key is required, and missing",
    "tuple_type": "expected a list",
    "list_type": "expected a list",
    "dict_type": "expected a mapping of keys to values",
    "model_type": "expected a mapping of keys to values",
    "model_attributes_type": "expected a mapping of keys to values",
    "invalid_key": "a key must be text; put it into quotes",
}
"""Type of a pydantic error -> message for users of YAML files, where the message of pydantic is about Python."""


def _explain(error: ErrorDetails, values: Any, owners: Mapping[int, type[Settings]]) -> _Fault:
    """Return the fault that a pydantic error tells of."""
    kind, context = error["type"], error.get("ctx", {})
    cause = context.get("error")
    missing = kind == "missing"
    steps = list(error["loc"][:-1] if missing else error["loc"])
    location: list[Any] = []
    parent: Any = values
    for step in (*steps, *(cause.location if isinstance(cause, SettingsError) else ())):
        # Locations of pydantic also have names of union members and the like, which are not steps in `values`.
        if (isinstance(values, dict) and step in values) or _is_position(step, values):
            location.append(step)
            parent, values = values, values[step]
    if missing:
        return _Fault((*location, error["loc"][-1]), _MESSAGES[kind], missing=True)
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return _explain_tag(error, location)
    if kind == "extra_forbidden":
        return _explain_unknown_key(tuple(location), owners.get(id(parent)))
    if error["loc"][-1:] == ("[key]",):
        kind = "invalid_key"
    return _Fault(tuple(location), _MESSAGES.get(kind) or re.sub(r"^(Value error, |\w+ (?=should))", "", error["msg"]))


def _explain_unknown_key(location: tuple[Any, ...], owner: type[Settings] | None) -> _Fault:
    meant = nearest_name(str(location[-1]), owner.model_fields) if owner and location else None
    fix = f" (did you mean {meant!r}?)" if meant else "; correct its spelling or remove it"
    return _Fault(location, (owner or Settings).unknown_key() + fix, meant=meant)


def _explain_tag(error: ErrorDetails, location: list[Any]) -> _Fault:
    """Explain a missing or unknown value of the key that selects a member of a union, such as `kind`."""
    context = error.get("ctx", {})
    location = [*location, context["discriminator"].strip("'")]
    if error["type"] == "union_tag_not_found":
        return _Fault(tuple(location), _MESSAGES["missing"], missing=True)
    known = re.findall("'([^']+)'", context["expected_tags"])
    return _Fault(tuple(location), f"expected one of {', '.join(known)}{did_you_mean(context['tag'], known)}")


def _is_position(step: Any, values: Any) -> bool:
    return isinstance(values, (list, tuple)) and isinstance(step, int) and step < len(values)
