"""YAML files of people, read with limits: a small file must not grow in memory, and every fault names its line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

try:
    from yaml import CSafeLoader as SafeLoader  # in C
except ImportError:  # PyYAML without libyaml
    from yaml import SafeLoader

from upernet.errors import UpernetError, plain, shorten
from upernet.files import read_limited

MAX_BYTES = 4 * 2**20
"""Bytes of the largest file; the taxonomy of all 21,841 classes of ImageNet has a quarter of them."""
MAX_VALUES = 250_000
"""How many keys and values a file may have, counting what aliases repeat as often as they repeat it."""
MAX_DEPTH = 50
"""How deep lists and mappings may be nested."""

_KINDS: dict[type[yaml.Node], tuple[str, ...]] = {
    yaml.ScalarNode: ("null", "bool", "int", "float", "str", "timestamp"),
    yaml.SequenceNode: ("seq",),
    yaml.MappingNode: ("map",),
}
"""Tags of YAML that settings can have. Others make sets, whose order is lost, bytes or objects."""
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def read_yaml(path: Path) -> tuple[yaml.MappingNode, dict[Any, Any]]:
    """Return the root node of a YAML file, which knows the lines, and its values. Raises UpernetError."""
    try:
        text = read_limited(path, MAX_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        raise UpernetError(f"{path}: no such file; give the path of a YAML file.") from None
    except (OSError, ValueError) as error:
        raise UpernetError(f"{path}: cannot be read as text ({error}).") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> tuple[yaml.MappingNode, dict[Any, Any]]:
    """Return the root node of YAML `text`, which knows the lines, and its values.

    Raises:
        UpernetError: It is not YAML, not a mapping, too large or nested too deeply, repeats a key, or has a tag or a
            character that settings cannot have; the message starts with ``source:line:``.
    """
    root, values = _load(text, source)
    if not isinstance(root, yaml.MappingNode):
        raise UpernetError(f"{source}:1: expected a mapping of keys to values.")
    return root, values


def parse_value(text: str, source: str) -> Any:
    """Return a value that is written in YAML, alone; None for empty text. Raises the errors of `parse_yaml`."""
    return _load(text, source)[1]


def _load(text: str, source: str) -> tuple[yaml.Node | None, Any]:
    if len(text) > MAX_BYTES:
        raise UpernetError(f"{source}: has more than {MAX_BYTES:,} bytes, which is too much for such a file.")
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None, None
        _check_size(root)  # before construction, which follows aliases
        _refuse_repeated_keys(root, source)  # first: construction writes merged keys (<<) into the nodes
        return root, loader.construct_document(root)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = min(mark.line, text.count("\n")) + 1 if mark else 1  # libyaml puts the end on a line of its own
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UpernetError(f"{source}:{line}: not valid YAML: {problem}.") from None
    except RecursionError:  # a thousand open brackets
        raise UpernetError(f"{source}:1: not valid YAML: it is nested too deeply.") from None


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


class _Loader(SafeLoader):  # pyright: ignore[reportGeneralTypeIssues] (either class)
    """PyYAML's loader, whose errors all name a line."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return the value of a node; raise a YAMLError for every fault."""
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if kind not in _KINDS[type(node)]:
            raise _problem(f"the tag {shorten(kind)} has no meaning in settings; remove it", node)
        try:
            return super().construct_object(node, deep)  # pyright: ignore[reportUnknownMemberType]
        except yaml.YAMLError:
            raise
        except Exception as error:  # PyYAML's own conversions raise many types: !!bool x, !!int "", 2020-13-45
            value = shorten(getattr(node, "value", None))
            raise _problem(f"{value} is not a value of the type {kind}", node) from error


_Loader.add_implicit_resolver(  # pyright: ignore[reportUnknownMemberType]
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
"""1e-4 is a number as in YAML 1.2; PyYAML asks for 1.0e-4."""


def _problem(text: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)


def _check_size(root: yaml.Node) -> None:
    """Check how large and deep the values will be, and that texts have no control characters. Raises YAMLError."""
    sizes: dict[int, tuple[int, int] | None] = {}

    def measure(node: yaml.Node) -> tuple[int, int]:
        """Return the number of values and the depth. An alias comes after its node, so recursion stays shallow."""
        if id(node) in sizes:
            known = sizes[id(node)]
            if known is None:
                raise _problem("a list or mapping contains itself; remove the alias", node)
            return known
        sizes[id(node)] = None
        count, depth = 1, 0
        if isinstance(node, yaml.ScalarNode) and _UNPRINTABLE.search(node.value):
            raise _problem(f"{shorten(node.value)} has a control character; remove it", node)
        inner = [item for pair in node.value for item in pair] if isinstance(node, yaml.MappingNode) else node.value
        for item in inner if isinstance(node, yaml.CollectionNode) else ():
            items, levels = measure(item)
            count, depth = count + items, max(depth, levels + 1)
            if count > MAX_VALUES:
                raise _problem(f"it has more than {MAX_VALUES:,} values, with those that aliases repeat", node)
            if depth > MAX_DEPTH:
                raise _problem(f"it is nested more than {MAX_DEPTH} levels deep", node)
        sizes[id(node)] = count, depth
        return count, depth

    measure(root)


def _refuse_repeated_keys(root: yaml.Node, source: str) -> None:
    waiting, visited = [root], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in visited:  # an alias: the same node in several places
            continue
        visited.add(id(node))
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                waiting.append(value)
                if not isinstance(key, yaml.ScalarNode):
                    continue
                if key.value in seen:
                    line = key.start_mark.line + 1
                    raise UpernetError(f"{source}:{line}: {plain(key.value)}: the key appears twice.")
                seen.add(key.value)
        elif isinstance(node, yaml.SequenceNode):
            waiting.extend(node.value)
