"""Tables of docs/discover.md, from the relations that `upernet discover` wrote."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from upernet.inference.wording import percent

RELATIONS = Path(__file__).parent / "results" / "discover_relations.csv"
MOST_ROWS = 12
MOST_RELATIONS = 3


def table(pair: str) -> list[str]:
    """Return a table of the classes in most photos of a pair of levels, with what covers most of each."""
    with open(RELATIONS, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["pair"] == pair]
    photos = {row["a"]: int(row["photos_a"]) for row in rows}
    first, second = pair.split("-")
    lines = [f"| {first} | photos | {second}s |", "| --- | --- | --- |"]
    for name in sorted(photos, key=lambda name: (-photos[name], name))[:MOST_ROWS]:
        found = [_cell(row) for row in rows if row["a"] == name and float(row["area_share"]) >= 0.01]
        lines.append(f"| {name} | {photos[name]} | {'; '.join(found[:MOST_RELATIONS])} |")
    return lines


def _cell(row: dict[str, str]) -> str:
    share, lift, low, high = (float(row[f"area_{key}"]) for key in ("share", "lift", "lift_low", "lift_high"))
    return f"{row['b']} {percent(share)} ({lift:.1f}x, {low:.1f} to {high:.1f})"


TABLES: dict[str, Callable[[], list[str]]] = {
    "discover_scenes": lambda: table("scene-material"),
    "discover_parts": lambda: table("part-material"),
}
