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
BOX = (96, 26)
"""Width and height of a room in the picture."""
FLOOR = 62
"""Height of a floor in the picture."""
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


def rooms_above_leaves() -> dict[str, set[str]]:
    """Return the import graph without the leaves."""
    graph = import_graph()
    return {room: graph[room] - LEAVES for room in graph if room not in LEAVES and room != "__main__"}


def graph_svg() -> str:
    """Return the graph as a picture in the colors of the page around it, floor by floor; an arrow means "imports"."""
    rooms = rooms_above_leaves()
    rows = list(reversed(floors(rooms)))
    width, height = 640, FLOOR * len(rows)
    center = {
        room: (width * (column + 0.5) / len(row), FLOOR * (number + 0.5))
        for number, row in enumerate(rows)
        for column, room in enumerate(row)
    }
    lines = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Which room imports which" font-size="13" '
        'text-anchor="middle" fill="currentColor" stroke="currentColor">',
        '<marker id="imports" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 8 4 0 8z" stroke="none"/></marker>',
    ]
    for room, others in without_implied(rooms).items():
        for other in sorted(others):
            (x, y), (to_x, to_y) = center[room], center[other]
            top, bottom = y + BOX[1] / 2, to_y - BOX[1] / 2
            bend = (bottom - top) / 2
            path = f"M{x:.0f} {top:.0f}C{x:.0f} {top + bend:.0f} {to_x:.0f} {bottom - bend:.0f} {to_x:.0f} {bottom:.0f}"
            lines.append(f'<path d="{path}" fill="none" opacity="0.5" marker-end="url(#imports)"/>')
    for room, (x, y) in center.items():
        corner = f'x="{x - BOX[0] / 2:.0f}" y="{y - BOX[1] / 2:.0f}"'
        lines.append(
            f'<rect {corner} width="{BOX[0]}" height="{BOX[1]}" rx="5" style="fill: var(--md-default-bg-color)"/>'
        )
        lines.append(f'<text x="{x:.0f}" y="{y + 4:.0f}" stroke="none">{room}</text>')
    return "\n".join([*lines, "</svg>"])


def graph_lines() -> list[str]:
    """Return the graph as Mermaid code, which forges draw; the site shows `graph_svg` in its place."""
    rooms = rooms_above_leaves()
    lines = ["```mermaid", "graph TD"]
    for floor in reversed(floors(rooms)):
        for room in floor:
            lines += [f"    {room} --> {other}" for other in sorted(without_implied(rooms)[room])]
    lines += ["```", "", f"Leaves, which any room may import: {', '.join(f'`{leaf}`' for leaf in sorted(LEAVES))}."]
    return lines


if __name__ == "__main__":
    print("\n".join(graph_lines()))
