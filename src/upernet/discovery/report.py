"""The report of a discovery: one page of HTML with graphs, tables and example crops, which needs no network."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path
from typing import Any

from upernet.discovery.crops import cut_crops
from upernet.discovery.relations import COLUMNS, LITTLE_KNOWN, Discovery
from upernet.errors import printable
from upernet.files import write_text
from upernet.inference.wording import quantity

ASSETS = Path(__file__).parent / "assets"
MOST_PICTURED = 100
"""Number of relations of a pair of levels, those with the most photos, that have pictures: a picture takes 6 kB."""


def write_report(discovery: Discovery, file: Path) -> None:
    """Write the report to `file`."""
    page = (ASSETS / "page.html").read_text(encoding="utf-8")
    parts = {
        "STYLE": (ASSETS / "style.css").read_text(encoding="utf-8"),
        "SCRIPT": (ASSETS / "script.js").read_text(encoding="utf-8"),
        "SUMMARY": html.escape(_summary(discovery)),
        "DATA": _script_data(_data(discovery)),
    }
    for name, content in parts.items():
        page = page.replace(f"<!--{name}-->", content)
    write_text(file, page)


def _summary(discovery: Discovery) -> str:
    sentences = [
        f"{quantity(len(discovery.relations), 'relation')} in {quantity(discovery.counted, 'photo')}, "
        f"each in at least {discovery.settings['min_support']:,} of them."
    ]
    if left_out := len(discovery.failures):
        were = "was" if left_out == 1 else "were"
        sentences.append(f"{quantity(left_out, 'parse')} could not be counted, and {were} left out.")
    if discovery.note:
        sentences.append(printable(discovery.note))
    return " ".join(sentences)


def _data(discovery: Discovery) -> dict[str, Any]:
    """Return what the script shows: for each pair, its relations as rows of values, and their pictures."""
    pictured: dict[tuple[str, str, str], Any] = {}
    for pair in discovery.pairs:
        ranked = sorted(discovery.of(pair), key=lambda found: -found.support)[:MOST_PICTURED]
        keys = [(found.pair, found.a, found.b) for found in ranked]
        pictured |= {key: discovery.examples.get(key, ()) for key in keys}
    crops = cut_crops(pictured)
    pairs: list[dict[str, Any]] = []
    for pair in discovery.pairs:
        relations = [
            {
                "values": [printable(value) if isinstance(value, str) else value for value in found.to_dict().values()],
                "crops": [
                    {"name": printable(name), "jpeg": base64.b64encode(content).decode("ascii")}
                    for name, content in crops.get((pair, found.a, found.b), [])
                ],
            }
            for found in discovery.of(pair)
        ]
        pairs.append({"pair": pair, "photos": discovery.photos[pair], "relations": relations})
    return {
        "columns": COLUMNS,
        "minSupport": discovery.settings["min_support"],
        "littleKnown": LITTLE_KNOWN,
        "pairs": pairs,
    }


def _script_data(value: Any) -> str:
    """Return JSON that no HTML parser takes for the end of the script or for a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
