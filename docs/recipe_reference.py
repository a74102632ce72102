"""The recipe reference: a table per section of a recipe, from the schema and the docstrings of `upernet.recipe`."""

from __future__ import annotations

import ast
import inspect
import json
import math
import re
from typing import Any, get_args

from upernet import recipe
from upernet.recipe import Recipe

HEADINGS = {
    "Recipe": "The recipe",
    "ModelSpec": "`model`",
    "ImageHeadSpec": "`model.image_head`",
    "TextureSpec": "`model.texture`",
    "SourceSpec": "`sources.NAME`: keys of every source",
    "FolderSpec": "`sources.NAME`: keys of every source but a `collage`",
    "AnnotationSpec": "`sources.NAME.annotations.LEVEL`: keys of every level",
}
"""Class -> heading of its section, for the sections that come first."""
LATER_HEADINGS = {
    "Augmentation": "`augmentation` of a source or a stage",
    "TermsSpec": "`terms` of a source",
    "PasteSpec": "`paste` and `paste_onto` of an augmentation",
    "PseudoLabelSpec": "`sources.NAME.pseudo_labels.LEVEL`",
    "Resize": "`test_resize` of a source",
    "PublishedTesting": "`published_testing`",
    "LossSpec": "`loss` of the recipe or a stage",
    "TrainingSpec": "`training`",
    "StageSpec": "`training.stages`, a list",
    "OptimizerSpec": "`by_optimizer` of a stage",
    "ValidationSpec": "`training.validation`",
    "CalibrationSpec": "`calibration`",
}
"""Class -> heading of its section, for the sections after those of the kinds of sources."""
KEYS = {"train": "split", "sgd": "optimizer"}
"""First of the keys that a mapping can have -> what they are, if they are no levels."""
SHARED = (recipe.SourceSpec, recipe.FolderSpec, recipe.AnnotationSpec)
"""Classes whose keys a section does not repeat."""
NOT_WRITTEN = {("Recipe", "name")}
"""Fields that a file does not set."""


def reference_lines() -> list[str]:
    """Return the sections, each with a table of its keys."""
    schema = Recipe.model_json_schema(mode="validation")
    definitions: dict[str, Any] = {"Recipe": schema, **schema["$defs"]}
    for shared in SHARED:
        definitions[shared.__name__] = shared.model_json_schema(mode="validation")
    kinds = [name for name in definitions if issubclass(getattr(recipe, name, int), SHARED) and name not in HEADINGS]
    lines: list[str] = []
    for name in (*HEADINGS, *kinds, *LATER_HEADINGS):
        if name not in definitions:
            raise KeyError(f"docs/recipe_reference.py: upernet.recipe has no section {name}")
        lines += ["", f"## {_heading(name)}", "", _summary(name), "", *_table(name, definitions[name])]
    missing = {name for name, value in definitions.items() if "properties" in value} - {
        *HEADINGS,
        *kinds,
        *LATER_HEADINGS,
    }
    if missing:
        raise KeyError(f"docs/recipe_reference.py: no heading for {', '.join(sorted(missing))}")
    return lines[1:]


def _heading(name: str) -> str:
    """Return the heading of the section of a class."""
    known = HEADINGS | LATER_HEADINGS
    if name in known:
        return known[name]
    cls = getattr(recipe, name)
    if issubclass(cls, recipe.SourceSpec):
        (kind,) = get_args(cls.model_fields["kind"].annotation)
        return f"`sources.NAME` of kind `{kind}`"
    return f"`sources.NAME.annotations.LEVEL`: {_first_words(name)}"


def _first_words(name: str) -> str:
    summary = _summary(name).rstrip(".")
    return summary[:1].lower() + summary[1:]


def _table(name: str, definition: dict[str, Any]) -> list[str]:
    """Return the table of the keys of a class, without those that it shares with other sections."""
    meanings, required = _meanings(name), definition.get("required", ())
    shared = {key for base in SHARED if base.__name__ != name and issubclass(getattr(recipe, name), base)
              for key in base.model_fields}  # fmt: skip
    lines = ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    for key, value in definition["properties"].items():
        if key not in shared and (name, key) not in NOT_WRITTEN:
            default = "required" if key in required else _default(value)
            if key not in meanings:
                raise KeyError(f"upernet.recipe: {name}.{key} has no docstring")
            lines.append(f"| `{key}` | {_type(value)} | {default} | {meanings[key]} |")
    return lines


def _default(value: dict[str, Any]) -> str:
    default = value.get("default")
    if isinstance(default, dict) and "$ref" in value:
        return "all defaults"
    text = json.dumps(default, ensure_ascii=False).replace('"', "")
    return "none" if default in ({}, []) else f"`{text}`"


def _in_yaml(text: str) -> str:
    """Return a docstring on one line, with the YAML spelling of Python's constants."""
    for python, yaml in (("None", "`null`"), ("True", "`true`"), ("False", "`false`"), ("|", "\\|")):
        text = text.replace(python, yaml)
    return re.sub(r"\s+", " ", text)


def _summary(name: str) -> str:
    paragraphs = inspect.cleandoc(getattr(recipe, name).__doc__ or "").split("\n\n")
    return _in_yaml(paragraphs[0])


def _meanings(name: str) -> dict[str, str]:
    """Return field -> the string below it, also of fields of base classes."""
    found: dict[str, str] = {}
    for base in reversed(getattr(recipe, name).__mro__):
        if base.__module__.startswith(f"{recipe.__name__}."):
            (node,) = ast.parse(inspect.getsource(base)).body
            assert isinstance(node, ast.ClassDef)
            for field, below in zip(node.body, node.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                    text = ast.literal_eval(below.value)
                    found[ast.unparse(field.target)] = _in_yaml(text)
    return found


def _type(value: dict[str, Any]) -> str:
    """Describe the values that a JSON schema accepts, in words."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        anchor = re.sub(r"[^\w -]", "", _heading(name).lower()).replace(" ", "-")
        return f"[section](#{anchor})"
    if "anyOf" in value or "oneOf" in value:
        options = dict.fromkeys(_type(option) for option in value.get("anyOf") or value["oneOf"])
        return " or ".join(options)
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{option}`" for option in value["enum"])
    kind = value.get("type")
    if kind == "array":
        if "prefixItems" in value:
            return f"list of {len(value['prefixItems'])}: {_type(value['prefixItems'][0])}"
        return f"list: {_type(value.get('items', {}))}"
    if kind == "object":
        keys, values = value.get("propertyNames", {}), value.get("additionalProperties", {})
        listed: list[str] = keys.get("enum", [])
        what = KEYS.get(listed[0], "level") if listed else "name"
        return f"{what} -> {_type(values)}" if isinstance(values, dict) and values else "mapping"
    words = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
    limits = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {value[key]:g}" for key, sign in limits.items() if abs(value.get(key, math.inf)) < 1e6]
    return " ".join([words.get(str(kind), "any value"), " and ".join(bounds)]).strip()
