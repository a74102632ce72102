"""Legends of label maps: swatches, names and shares of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import ImageDraw, ImageFont

from upernet.inference.colors import FAINT_INK, FRAME, HATCH_GRAY, INK, PAPER, UNSURE_GRAY, Color
from upernet.inference.fonts import shortened, sized_font
from upernet.inference.label_map import UNSURE, UNSURE_NAME, LabelMap
from upernet.inference.wording import percent, readable


@dataclass(frozen=True)
class LegendEntry:
    """A line of a legend: a swatch, a name and a share."""

    name: str
    share: str
    color: Color | None
    """None: the hatched swatch of "unsure"."""
    bare: bool = False
    """The background class: an empty swatch."""


def legend_entries(label_map: LabelMap, most: int | None = None) -> list[LegendEntry]:
    """Return the classes by area (from the `most`-th on as one entry), then the background class, then unsure."""
    counts = label_map.counts()
    total = sum(counts.values())
    labels = [label for label in counts if label > 0 or (label == 0 and not label_map.background)]
    shown = labels if most is None or len(labels) <= most else labels[: most - 1]
    entries = [
        LegendEntry(readable(label_map.names[label]), short_percent(counts[label] / total), label_map.colors[label])
        for label in shown
    ]
    if others := labels[len(shown) :]:
        together = sum(counts[label] for label in others) / total
        entries.append(LegendEntry(f"{len(others)} more", short_percent(together), PAPER, bare=True))
    if label_map.background and 0 in counts:
        name = f"no listed {label_map.level}"
        entries.append(LegendEntry(name, short_percent(counts[0] / total), PAPER, bare=True))
    if UNSURE in counts:
        entries.append(LegendEntry(UNSURE_NAME, short_percent(counts[UNSURE] / total), None))
    return entries


class Legend:
    """A legend: the swatch, name and share of each entry, in as many columns as fit.

    Args:
        entries: The entries, in the order in which they are drawn, down the columns.
        text: Height of the letters in pixels.
        rows: Largest number of entries in a column, for a legend without `width`.
        width: Width in pixels to fill with columns. Default: as narrow as possible.
    """

    def __init__(self, entries: Sequence[LegendEntry], text: int, rows: int = 1, width: int | None = None):
        self.entries, self.text = entries, text
        self.font = sized_font(text, [entry.name for entry in entries])
        self.line = round(1.6 * text)
        names = max((self.font.getlength(entry.name) for entry in entries), default=0)
        shares = max((self.font.getlength(entry.share) for entry in entries), default=0)
        self.column = round(1.6 * text + names + text + shares)
        self.gap = round(1.8 * text)
        if width is not None:
            columns = max(1, min((width + self.gap) // (self.column + self.gap), len(entries)))
            rows = -(-len(entries) // columns)
            spread = (width - (columns - 1) * self.gap) // columns
            self.column = min(spread, round(1.35 * self.column)) if columns > 1 else min(self.column, width)
        self.rows = min(rows, len(entries))
        columns = -(-len(entries) // self.rows) if entries else 0
        self.size = (columns * (self.column + self.gap) - self.gap if entries else 0, self.rows * self.line)

    def draw(self, draw: ImageDraw.ImageDraw, at: tuple[int, int]) -> None:
        """Draw with the upper left corner at `at` (x, y)."""
        for index, entry in enumerate(self.entries):
            left = at[0] + index // self.rows * (self.column + self.gap)
            middle = at[1] + index % self.rows * self.line + self.line // 2
            draw_entry(draw, entry, (left, middle), self.font, self.text, self.column)


def draw_entry(
    draw: ImageDraw.ImageDraw,
    entry: LegendEntry,
    at: tuple[int, int],
    font: ImageFont.FreeTypeFont,
    text: int,
    width: int,
) -> None:
    """Draw an entry in a line of `width` pixels, whose left end is in the middle of its height at `at` (x, y).

    Args:
        draw: What is drawn on.
        entry: The entry.
        at: Place of the entry.
        font: Font of the name and the share.
        text: Height of the letters in pixels, which is also that of the swatch.
        width: Width of the line in pixels; names that do not fit are shortened.
    """
    left, middle = at
    box = (left, middle - text // 2, left + text, middle - text // 2 + text)
    if entry.color is None:
        draw.rectangle(box, UNSURE_GRAY)
        for offset in range(text // 3, 2 * text, max(4, text // 3)):
            start, end = min(offset, text), max(0, offset - text)
            draw.line((box[0] + end, box[1] + start, box[0] + start, box[1] + end), HATCH_GRAY)
    draw.rectangle(box, None if entry.color is None else entry.color, FRAME)
    share_width = font.getlength(entry.share)
    name = shortened(entry.name, font, width - 2.2 * text - share_width)
    ink = FAINT_INK if entry.bare or entry.color is None else INK
    draw.text((left + 1.6 * text, middle), name, ink, font, anchor="lm")
    draw.text((left + width - share_width, middle), entry.share, FAINT_INK, font, anchor="lm")


def short_percent(share: float) -> str:
    """Return a fraction as "12 %", "< 1 %" or "> 99 %"."""
    return percent(share).replace("under", "<").replace("over", ">")
