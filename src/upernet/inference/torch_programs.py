"""What a `torch.export` file may contain to be loaded: a graph of torch's tensor operators and its tensors.

`torch.export.load` unpickles some members of the archive, and evaluates expressions and names in others as Python.
`refuse_code` therefore accepts only what `upernet.export` writes.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from upernet.errors import UpernetError, shorten

MEMBERS = re.compile(
    r"[^/]+/(data/weights/weight_\d+|data/constants/tensor_\d+|data/(weights|constants)/model_\w+_config\.json"
    r"|models/model\.json|data/sample_inputs/model\.pt|extra/upernet|archive_format|archive_version|byteorder"
    r"|\.data/version|\.data/serialization_id)"
)
TARGET = re.compile(
    r"torch\.ops\.aten\.(?!from_file\b)\w+\.\w+|torch\.sym_(max|min|int|float|not|ite|sqrt)|math\.(ceil|floor|trunc)"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|neg|pow|getitem|eq|ne|lt|le|gt|ge|and_|or_)"
)
NAME = re.compile(r"\w*")
EXPRESSION = re.compile(
    r"(?:\b(?:Symbol|Integer|Rational|Float|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|IntTrueDiv"
    r"|FloatTrueDiv|ToFloat|TruncToInt|CeilToInt|FloorToInt|Abs|Eq|Ne|Lt|Le|Gt|Ge|Equality|Unequality|StrictLessThan"
    r"|LessThan|StrictGreaterThan|GreaterThan|And|Or|Not|Piecewise|Where|true|false|True|False|positive|integer"
    r"|nonnegative|real|precision|[suz]\d+)\b|'[suz]\d+'|\d+(?:\.\d+)?(?:e[-+]?\d+)?|'\d[\d.e+-]*'|[-+*/%(),=<> ])*"
)
PATTERNS = {"target": TARGET, "name": NAME, "as_name": NAME, "expr_str": EXPRESSION}
"""Key in the JSON of the graph -> what its text must look like."""
ENCRYPTED = 1
"""Flag of an encrypted member; torch writes its members as they are, neither encrypted nor compressed."""
SPECS = {"builtins.tuple", "builtins.list", "builtins.dict", None}
"""Types in the description of the arguments and the results."""


def refuse_code(path: Path) -> None:
    """Refuse a `torch.export` file that could do anything else than compute tensors.

    Raises:
        UpernetError: It is not such a file, or contains something that `upernet.export` does not write.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            problem = next(_problems(archive), None)
    except Exception as error:  # zipfile, zlib and json raise many types for damaged files
        reason = shorten(str(error) or type(error).__name__, 120).strip("'\"").rstrip(".")
        raise UpernetError(f"{path}: not a readable torch.export file ({reason}); export the model again.") from error
    if problem is not None:
        raise UpernetError(f"{path}: holds {problem}, which may run code; load only files that `upernet export` wrote.")


def _problems(archive: zipfile.ZipFile) -> Iterator[str]:
    for member in archive.infolist():
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & ENCRYPTED:
            raise zipfile.BadZipFile(f"{shorten(member.filename)} is compressed or encrypted")
        if not MEMBERS.fullmatch(member.filename):
            yield f"a member {shorten(member.filename)}"
        elif member.filename.endswith("/data/sample_inputs/model.pt") and member.file_size:
            yield "pickled inputs"
        elif member.filename.endswith("_config.json"):
            config = json.loads(archive.read(member))["config"]
            if any(entry["use_pickle"] is not False for entry in config.values()):
                yield "pickled tensors"
        elif member.filename.endswith("/models/model.json"):
            program = json.loads(archive.read(member))
            if program.get("guards_code"):
                yield "Python expressions"
            yield from _unusual_texts(program)


def _unusual_texts(value: Any) -> Iterator[str]:
    """Yield the texts in the JSON of a graph that torch would evaluate and that look unusual."""
    if isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _unusual_texts(item)
    elif isinstance(value, dict):
        for key, item in cast("dict[str, Any]", value).items():
            if key in PATTERNS and isinstance(item, str):
                if not PATTERNS[key].fullmatch(item):
                    yield f"a {key} {shorten(item)}"
            elif key in ("in_spec", "out_spec") and isinstance(item, str):
                if not set(_types(json.loads(item))) <= SPECS:
                    yield "arguments of an unusual type"
            else:
                yield from _unusual_texts(item)


def _types(spec: Any) -> Iterator[Any]:
    if isinstance(spec, list):
        for item in cast("list[Any]", spec):
            yield from _types(item)
    elif isinstance(spec, dict):
        known = cast("dict[str, Any]", spec)
        yield known.get("type")
        yield from _types(known.get("children_spec"))
