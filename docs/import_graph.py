"""Draw the import graph of the rooms of `src/upernet` (its modules and sub-packages) for docs/architecture.md.

`write_results.py` writes it into the page; `tests/test_package.py` checks that the imports point one way.
"""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

LEAVES = frozenset(
    {
        "devices",
        "distributed",
        "errors",
        "files",
        "overrides",
        "recipe",
        "rle",
        "settings",
        "taxonomy",
        "version",
        "yaml_document",
    }
)
"""Rooms that any other may import; they import only each other."""
PACKAGE = Path(__file__).resolve().parents[1] / "src" / "upernet"


def room_of(path: Path) -> str:
    """Return the room that a source file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Return the rooms that a source file imports anywhere in it; the package `upernet` itself counts as `__init__`."""
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = ("upernet", *path.relative_to(PACKAGE).parts[:-1])
                parents = package[: len(package) - node.level + 1]
                base = ".".join((*parents, *([node.module] if node.module else [])))
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "upernet" else [base]
        for name in names:
            top, *rest = name.split(".")
            if top == "upernet":
                is_room = bool(rest) and any((PACKAGE / f"{rest[0]}{end}").exists() for end in ("", ".py"))
                rooms.add(rest[0] if is_room else "__init__")
    return rooms - {room_of(path)}


def import_graph() -> dict[str, set[str]]:
    """Return `{room: rooms that it imports}`, without the package's own `__init__.py`."""
    graph: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path != PACKAGE / "__init__.py":
            graph.setdefault(room_of(path), set()).update(imported_rooms(path) - {"__init__"})
    return graph


def floors(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the rooms floor by floor: a room stands directly above the highest room that it imports.

    Raises:
        graphlib.CycleError: imports run in a circle.
    """
    floor: dict[str, int] = {}
    for room in TopologicalSorter(graph).static_order():
        floor[room] = 1 + max((floor[other] for other in graph.get(room, ())), default=-1)
    return [sorted(room for room in floor if floor[room] == number) for number in range(max(floor.values()) + 1)]


def without_implied(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the graph without the arrows that follow from others (its transitive reduction)."""
    reached: dict[str, set[str]] = {}
    for room in TopologicalSorter(graph).static_order():
        direct = graph.get(room, set())
        reached[room] = direct.union(*(reached[other] for other in direct))
    return {
        room: {other for other in direct if not any(other in reached[between] for between in direct - {other})}
        for room, direct in graph.items()
    }


def graph_lines() -> list[str]:
    """Return the graph as Mermaid code, which GitHub and most documentation tools draw; an arrow means "imports"."""
    graph = import_graph()
    rooms = {room: graph[room] - LEAVES for room in graph if room not in LEAVES and room != "__main__"}
    lines = ["```mermaid", "graph TD"]
    for floor in reversed(floors(rooms)):
        for room in floor:
            lines += [f"    {room} --> {other}" for other in sorted(without_implied(rooms)[room])]
    lines += ["```", "", f"Leaves, which any room may import: {', '.join(f'`{leaf}`' for leaf in sorted(LEAVES))}."]
    return lines


if __name__ == "__main__":
    print("\n".join(graph_lines()))
