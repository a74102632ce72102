"""Tables of docs/discover.md, from the relations that `upernet discover` wrote."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path

from upernet.discovery.relations import LITTLE_KNOWN
from upernet.inference.wording import percent

RELATIONS = Path(__file__).parent / "results" / "discover_relations.csv"
MOST_ROWS = 16
MOST_RELATIONS = 3
Rows = list[dict[str, str]]


def read_classes(pair: str) -> dict[str, Rows]:
    """Return the relations of each class of the first level of a pair, those in most photos first."""
    with open(RELATIONS, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["pair"] == pair]
    photos = {row["a"]: int(row["photos_a"]) for row in rows}
    names = sorted(photos, key=lambda name: (-photos[name], name))
    return {name: [row for row in rows if row["a"] == name] for name in names}


def is_little_known(rows: Rows) -> bool:
    """Return whether the other level is known in less than half of the area of a class."""
    return float(rows[0]["known_share"]) < LITTLE_KNOWN


def table(pair: str) -> list[str]:
    """Return a table of the classes of which at least half is known, with what covers most of each."""
    first, second = pair.split("-")
    lines = [f"| {first} | photos | known | {second}s |", "| --- | --- | --- | --- |"]
    known = {name: rows for name, rows in read_classes(pair).items() if not is_little_known(rows)}
    for name, rows in list(known.items())[:MOST_ROWS]:
        found = [_cell(row) for row in rows if float(row["area_share"]) >= 0.01]
        share = percent(float(rows[0]["known_share"]))
        lines.append(f"| {name} | {rows[0]['photos_a']} | {share} | {'; '.join(found[:MOST_RELATIONS])} |")
    return lines


def little_known() -> list[str]:
    """Return a table of the classes of which the material is known in less than half of their area."""
    lines = ["| level | classes, and the share of their area whose material is known |", "| --- | --- |"]
    for level in ("scene", "object", "part"):
        found = {name: rows for name, rows in read_classes(f"{level}-material").items() if is_little_known(rows)}
        shares = [f"{name} {percent(float(rows[0]['known_share']))}" for name, rows in found.items()]
        lines.append(f"| {level} | {', '.join(shares)} |")
    return lines


def _cell(row: dict[str, str]) -> str:
    share, lift, low, high = (float(row[f"area_{key}"]) for key in ("share", "lift", "lift_low", "lift_high"))
    return f"{row['b']} {percent(share)} ({lift:.1f}x, {low:.1f} to {high:.1f})"


TABLES: dict[str, Callable[[], list[str]]] = {
    "discover_places": partial(table, "scene-object"),
    "discover_scenes": partial(table, "scene-material"),
    "discover_objects": partial(table, "object-material"),
    "discover_parts": partial(table, "part-material"),
    "discover_little_known": little_known,
}
