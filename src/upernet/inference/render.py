"""Drawing of label maps: overlays with a legend, and contact sheets of all levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from upernet.errors import UpernetError
from upernet.inference.fonts import shortened, sized_font
from upernet.inference.label_map import UNSURE, UNSURE_NAME, LabelMap
from upernet.inference.wording import percent, readable, words

Color = tuple[int, int, int]

PAPER: Color = (255, 255, 255)
INK: Color = (28, 30, 34)
FAINT_INK: Color = (98, 103, 112)
FRAME: Color = (188, 192, 199)
UNSURE_GRAY: Color = (62, 65, 71)
HATCH_GRAY: Color = (116, 120, 128)

OVERLAY_SIDES = (480, 1024)
"""Smallest and largest long side of the photo in an overlay, in pixels."""
PANEL_BOX = (520, 520)
"""Largest width and height of the photo in the contact sheet."""
MOST_IN_PANEL = 15
"""Number of entries in a legend of the contact sheet."""
LEAST_COLUMN = 340
"""Smallest width of a column of the contact sheet; legends and sentences need it."""


def overlay(photo: Image.Image, label_map: LabelMap) -> Image.Image:
    """Draw the labels over the photo, with a legend of all classes and their shares of the photo on the right.

    The long side of the photo is scaled into `OVERLAY_SIDES`. Unsure pixels are dark and hatched; pixels of the
    background class show the bare photo.

    Example:
        >>> photo = Image.new("RGB", (640, 480), "gray")
        >>> labels = np.zeros((480, 640), np.int16)
        >>> confidence = np.ones((480, 640), np.float32)
        >>> overlay(photo, LabelMap("object", labels, confidence, ("sky",), ((90, 160, 255),), False)).size
        (752, 528)
    """
    size = overlay_size(photo)
    text = max(15, round(max(size) / 60))
    margin = round(1.6 * text)
    legend = Legend(legend_entries(label_map), text, rows=max(8, int(size[1] // (1.6 * text)) - 2))
    title = sized_font(1.25 * text)
    width = margin + size[0] + margin + max(legend.size[0], round(title.getlength(label_map.level))) + margin
    height = margin + max(size[1], 2 * text + legend.size[1]) + margin
    canvas = Image.new("RGB", (width, height), PAPER)
    canvas.paste(painted(photo, label_map, size), (margin, margin))
    draw = ImageDraw.Draw(canvas)
    left = 2 * margin + size[0]
    draw.text((left, margin - text // 4), label_map.level.capitalize(), INK, title)
    legend.draw(draw, (left, margin + 2 * text))
    return canvas


def blended(photo: Image.Image, label_map: LabelMap, alpha: float) -> Image.Image:
    """Blend the photo with the colors of the classes, in the photo's own size.

    Pixels that are unsure or of the background class show the bare photo.

    Args:
        photo: The photo as an RGB image of the size of the label map.
        label_map: The labels.
        alpha: Weight of the colors, from 0 to 1.

    Raises:
        UpernetError: `alpha` is outside of 0..1.
    """
    check_alpha(alpha)
    pixels, labels = np.asarray(photo), label_map.labels
    colors = np.asarray([*label_map.colors, (0, 0, 0)], np.float32)  # label -1 takes the last row
    tints = np.take(np.rint(255 * alpha * colors).astype(np.uint16), labels, axis=0)
    tints += pixels * np.uint16(round(255 * (1 - alpha)))
    shown = labels > 0 if label_map.background else labels != UNSURE
    return Image.fromarray(np.where(shown[..., None], (tints // 255).astype(np.uint8), pixels))


def check_alpha(alpha: float | None) -> None:
    """Raise UpernetError for a weight of colors that is not in 0..1 (None is allowed)."""
    if alpha is not None and not 0 <= alpha <= 1:
        raise UpernetError(f"alpha {alpha}: give a number from 0 (the photo alone) to 1 (the colors alone).")


def overlay_size(photo: Image.Image) -> tuple[int, int]:
    """Return width and height of the photo in an overlay."""
    return _within(photo.size, *OVERLAY_SIDES)


def contact_sheet(photo: Image.Image, maps: Sequence[LabelMap], title: str, sentences: str) -> Image.Image:
    """Draw the photo with its title and sentences on the left, and one panel with a legend per level on the right.

    Text and panels have the same size for every photo, small or large.
    """
    size = fitted(photo.size, PANEL_BOX)
    column = max(size[0], LEAST_COLUMN)
    gap, margin, text = 36, 40, 17
    photo = reduced(photo, size)
    first = _photo_column(photo, size, column, title, sentences, text)
    panels = [_panel(photo, label_map, size, column, text) for label_map in maps]
    across = 2 if len(panels) > 2 else len(panels)
    rows = [panels[i : i + across] for i in range(0, len(panels), across or 1)]
    row_heights = [max(panel.height for panel in row) for row in rows]
    height = max(first.height, sum(row_heights) + gap * max(0, len(rows) - 1))
    sheet = Image.new("RGB", (2 * margin + column + across * (column + gap), 2 * margin + height), PAPER)
    sheet.paste(first, (margin, margin))
    top = margin
    for row, row_height in zip(rows, row_heights, strict=True):
        for position, panel in enumerate(row):
            sheet.paste(panel, (margin + (position + 1) * (column + gap), top))
        top += row_height + gap
    return sheet


def painted(photo: Image.Image, label_map: LabelMap, size: tuple[int, int]) -> Image.Image:
    """Draw the photo at `size` (width, height), with the colors of the classes and the borders between labels."""
    picture = np.asarray(reduced(photo, size))
    labels = _nearest(label_map.labels, size)
    gray = np.asarray(reduced(photo, size).convert("L"))
    palette = np.asarray([*label_map.colors, UNSURE_GRAY], np.float32)  # label -1 takes the last row
    tints = (0.66 * palette).astype(np.uint8)
    # The photo has less contrast below the tints, so that colors look as in the legend. No sum exceeds 255.
    shades = (0.34 * (50 + 0.75 * np.arange(256))).astype(np.uint8)
    result = np.take(tints, labels, axis=0) + np.take(shades, gray)[..., None]
    if label_map.background:
        np.copyto(result, picture // 2 + gray[..., None] // 2, where=(labels == 0)[..., None])
    unsure = labels == UNSURE
    if unsure.any():
        lines = (25 + 55 * hatching(size)).astype(np.uint8)
        np.copyto(result, picture // 3 + lines[..., None], where=unsure[..., None])
    np.copyto(result, result // 4 + 191, where=_borders(labels)[..., None])
    return Image.fromarray(result)


def reduced(photo: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the photo at `size` (width, height)."""
    return photo if photo.size == size else photo.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _nearest(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize labels H x W to `size` (width, height), by taking the pixel below each center."""
    rows, columns = (
        ((np.arange(new) + 0.5) * (old / new)).astype(np.intp)
        for new, old in zip(size[::-1], labels.shape, strict=True)
    )
    return labels[rows[:, None], columns]


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
        LegendEntry(readable(label_map.names[label]), _short_percent(counts[label] / total), label_map.colors[label])
        for label in shown
    ]
    if others := labels[len(shown) :]:
        together = sum(counts[label] for label in others) / total
        entries.append(LegendEntry(f"{len(others)} more", _short_percent(together), PAPER, bare=True))
    if label_map.background and 0 in counts:
        name = f"no listed {label_map.level}"
        entries.append(LegendEntry(name, _short_percent(counts[0] / total), PAPER, bare=True))
    if UNSURE in counts:
        entries.append(LegendEntry(UNSURE_NAME, _short_percent(counts[UNSURE] / total), None))
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
        swatch = self.text
        for index, entry in enumerate(self.entries):
            left = at[0] + index // self.rows * (self.column + self.gap)
            top = at[1] + index % self.rows * self.line
            middle = top + self.line // 2
            box = (left, middle - swatch // 2, left + swatch, middle - swatch // 2 + swatch)
            if entry.color is None:
                draw.rectangle(box, UNSURE_GRAY)
                for offset in range(swatch // 3, 2 * swatch, max(4, swatch // 3)):
                    start, end = min(offset, swatch), max(0, offset - swatch)
                    draw.line((box[0] + end, box[1] + start, box[0] + start, box[1] + end), HATCH_GRAY)
            draw.rectangle(box, None if entry.color is None else entry.color, FRAME)
            share_width = self.font.getlength(entry.share)
            room = self.column - 1.6 * self.text - 0.6 * self.text - share_width
            name = shortened(entry.name, self.font, room)
            ink = FAINT_INK if entry.bare or entry.color is None else INK
            draw.text((left + 1.6 * self.text, middle), name, ink, self.font, anchor="lm")
            draw.text((left + self.column - share_width, middle), entry.share, FAINT_INK, self.font, anchor="lm")


def _photo_column(
    photo: Image.Image, size: tuple[int, int], width: int, title: str, sentences: str, text: int
) -> Image.Image:
    heading, body = sized_font(1.45 * text, [title]), sized_font(text, [sentences])
    title_lines = _wrapped(title, heading, width)
    body_lines = [line for paragraph in sentences.splitlines() for line in [*_wrapped(paragraph, body, width), ""]]
    title_height, body_height = round(2 * text * len(title_lines)), round(1.5 * text * len(body_lines))
    column = Image.new("RGB", (width, size[1] + text + title_height + text // 2 + body_height), PAPER)
    column.paste(reduced(photo, size), (0, 0))
    draw = ImageDraw.Draw(column)
    top = size[1] + text
    for line in title_lines:
        draw.text((0, top), line, INK, heading)
        top += 2 * text
    top += text // 2
    for line in body_lines:
        draw.text((0, top), line, INK, body)
        top += round((1.5 if line else 0.6) * text)
    return column.crop((0, 0, width, top))


def _panel(photo: Image.Image, label_map: LabelMap, size: tuple[int, int], width: int, text: int) -> Image.Image:
    legend = Legend(legend_entries(label_map, MOST_IN_PANEL), text, width=width)
    panel = Image.new("RGB", (width, size[1] + text + 2 * text + legend.size[1]), PAPER)
    panel.paste(painted(photo, label_map, size), (0, 0))
    draw = ImageDraw.Draw(panel)
    draw.text((0, size[1] + text), label_map.level.capitalize(), INK, sized_font(1.25 * text))
    legend.draw(draw, (0, size[1] + 3 * text))
    return panel


def _within(size: tuple[int, int], least: int, most: int) -> tuple[int, int]:
    """Scale `size` so that its long side is between `least` and `most`."""
    factor = min(max(max(size), least), most) / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def fitted(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """Scale `size` so that it fills `box` in one direction."""
    factor = min(box[0] / size[0], box[1] / size[1])
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _borders(labels: np.ndarray) -> np.ndarray:
    """Return the mask of pixels whose right or lower neighbor has another label."""
    borders = np.zeros(labels.shape, bool)
    borders[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    borders[:-1] |= labels[:-1] != labels[1:]
    return borders


def hatching(size: tuple[int, int]) -> np.ndarray:
    """Return 1 on diagonal lines and 0 between them, float32 H x W."""
    period = max(8, max(size) // 60)
    across, down = np.arange(size[0]), np.arange(size[1])[:, None]
    return ((across + down) % period < max(1, period // 6)).astype(np.float32)


def _short_percent(share: float) -> str:
    return percent(share).replace("under", "<").replace("over", ">")


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Wrap `text` into lines of at most `width` pixels, at spaces, but not between a number and its "%"."""
    lines = [""]
    for word in words(text):
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
