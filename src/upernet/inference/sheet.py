"""Contact sheets: a photo, one panel for each level that says something, and a cell of words and probabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from upernet.inference.colors import BAR, FAINT_BAR, FAINT_INK, INK, PAPER
from upernet.inference.fonts import shortened, sized_font
from upernet.inference.label_map import UNSURE, LabelMap
from upernet.inference.legend import Legend, legend_entries, short_percent
from upernet.inference.render import painted, reduced
from upernet.inference.wording import readable, words

PICTURE_AREA = 216_000
"""Number of pixels of the photo in a panel, whatever its shape."""
LONGEST_SIDE = 800
"""Largest width and height of the photo in a panel."""
LEAST_COLUMN = 340
"""Smallest width of a panel, which legends and sentences need."""
LEAST_SHOWN = 0.02
"""Share of the photo with a label from which on a level gets a panel."""
MOST_IN_PANEL = 12
"""Number of entries in the legend of a panel."""
MOST_BARS = 5
"""Number of candidates of an image label that are drawn as bars."""
GAP, MARGIN, TEXT = 32, 36, 17
ASPECT = 1.5
"""Width of a sheet divided by its height that layouts come close to."""


class Cell(NamedTuple):
    """A part of the sheet, and its place."""

    picture: Image.Image
    x: int
    y: int


def contact_sheet(
    photo: Image.Image,
    maps: Sequence[LabelMap],
    title: str,
    sentences: str,
    rankings: Mapping[str, Sequence[tuple[str, float]]] | None = None,
    name: str = "Photo",
) -> Image.Image:
    """Draw a photo, what each level says about it, and a description, in the layout that leaves the least paper empty.

    Levels without a label on `LEAST_SHOWN` of the photo get no panel; a line of the description names them. Letters and
    panels have the same size for every photo, small or large.

    Args:
        photo: The photo.
        maps: The label maps.
        title: The most important sentence.
        sentences: Further paragraphs, one a line.
        rankings: level -> all classes with their probability, most probable first; they are drawn as bars.
        name: Heading of the photo.
    """
    size = panel_size(photo.size)
    photo = reduced(photo, size)
    width = max(size[0], LEAST_COLUMN)
    shown = [label_map for label_map in maps if _says_something(label_map)]
    silent = [label_map.level for label_map in maps if not _says_something(label_map)]
    pictures = [_with_heading(photo, name, width)]
    pictures += [_with_heading(painted(photo, drawn, size, 15), drawn.level, width, drawn) for drawn in shown]
    story = _story(width, title, sentences, silent)
    bars = _bars(width, rankings) if rankings else None
    layouts = [_laid_out(pictures, story, bars, width, across) for across in range(1, len(pictures) + 1)]
    cells = min(layouts, key=_cost)
    right, bottom = _extent(cells)
    sheet = Image.new("RGB", (right + 2 * MARGIN, bottom + 2 * MARGIN), PAPER)
    for cell in cells:
        sheet.paste(cell.picture, (MARGIN + cell.x, MARGIN + cell.y))
    return sheet


def panel_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return width and height of a photo of `size` in a panel."""
    factor = min(math.sqrt(PICTURE_AREA / (size[0] * size[1])), LONGEST_SIDE / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _says_something(label_map: LabelMap) -> bool:
    counts = label_map.counts()
    nothing = counts.get(UNSURE, 0) + (counts.get(0, 0) if label_map.background else 0)
    return sum(counts.values()) - nothing >= LEAST_SHOWN * label_map.labels.size


def _laid_out(
    pictures: Sequence[Image.Image], story: Image.Image, bars: Image.Image | None, width: int, across: int
) -> list[Cell]:
    """Return the cells with `across` pictures in a row, and the words in an empty place, or in a column of their own.

    The bars are in the next empty place, or below the words: in a column of their own, at the height of the second row.
    """
    cells: list[Cell] = []
    column = width + GAP
    top = second = bottom = 0
    for first in range(0, len(pictures), across):
        top = bottom + (GAP if first else 0)
        second = top if first == across else second
        row = pictures[first : first + across]
        cells += [Cell(picture, place * column, top) for place, picture in enumerate(row)]
        bottom = top + max(picture.height for picture in row)
    free = len(pictures) % across
    left, start = (free or across) * column, top if free else 0
    cells.append(Cell(story, left, start))
    if bars is not None and 0 < free < across - 1:
        cells.append(Cell(bars, left + column, start))
    elif bars is not None:
        below = start + story.height + GAP
        cells.append(Cell(bars, left, below if free else max(below, second)))
    return cells


def _extent(cells: Sequence[Cell]) -> tuple[int, int]:
    right = max(cell.x + cell.picture.width for cell in cells)
    return right, max(cell.y + cell.picture.height for cell in cells)


def _cost(cells: Sequence[Cell]) -> float:
    """Return how much paper a layout leaves empty, and how far from `ASPECT` it is."""
    right, bottom = _extent(cells)
    used = sum(cell.picture.width * cell.picture.height for cell in cells)
    return 1 - used / (right * bottom) + 0.4 * abs(math.log(right / bottom / ASPECT))


def _with_heading(picture: Image.Image, heading: str, width: int, label_map: LabelMap | None = None) -> Image.Image:
    """Return a picture below its heading, with the legend of its label map below."""
    legend = Legend(legend_entries(label_map, MOST_IN_PANEL) if label_map else [], TEXT, width=width)
    top = 2 * TEXT
    below = legend.size[1] + TEXT // 2 if legend.entries else 0
    cell = Image.new("RGB", (width, top + picture.height + below), PAPER)
    cell.paste(picture, (0, top))
    draw = ImageDraw.Draw(cell)
    if label_map is not None:
        heading = heading.capitalize()
    font = sized_font(1.15 * TEXT, [heading])
    draw.text((0, TEXT - 5), shortened(heading, font, width), INK, font, anchor="lm")
    legend.draw(draw, (0, top + picture.height + TEXT // 2))
    return cell


def _story(width: int, title: str, sentences: str, silent: Sequence[str]) -> Image.Image:
    """Return the description, and a line about levels without a panel."""
    paragraphs = sentences.splitlines()
    if silent:
        paragraphs.append(f"Nothing to show: {', '.join(silent)}.")
    heading, body = sized_font(1.45 * TEXT, [title]), sized_font(TEXT, paragraphs)
    title_lines = _wrapped(title, heading, width)
    lines = [_wrapped(paragraph, body, width) for paragraph in paragraphs]
    line, space = round(1.5 * TEXT), round(0.6 * TEXT)
    height = 2 * TEXT * len(title_lines) + space + sum(line * len(paragraph) + space for paragraph in lines)
    cell = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(cell)
    top = 0
    for text in title_lines:
        draw.text((0, top + TEXT - 5), text, INK, heading, anchor="lm")
        top += 2 * TEXT
    top += space
    for paragraph in lines:
        for text in paragraph:
            draw.text((0, top), text, INK, body)
            top += line
        top += space
    return cell


def _bars(width: int, rankings: Mapping[str, Sequence[tuple[str, float]]]) -> Image.Image:
    """Return the most probable candidates of each image label, with a bar each."""
    line = round(1.5 * TEXT)
    heights = [2 * TEXT + line * min(len(ranking), MOST_BARS) + GAP for ranking in rankings.values()]
    cell = Image.new("RGB", (width, sum(heights) - GAP), PAPER)
    draw = ImageDraw.Draw(cell)
    top = 0
    for (level, ranking), height in zip(rankings.items(), heights, strict=True):
        heading = f"{level.capitalize()}, most probable first"
        draw.text((0, top + TEXT - 5), heading, INK, sized_font(1.15 * TEXT), anchor="lm")
        _draw_bars(draw, ranking[:MOST_BARS], top + 2 * TEXT, width, line)
        top += height
    return cell


def _draw_bars(
    draw: ImageDraw.ImageDraw, ranking: Sequence[tuple[str, float]], top: int, width: int, line: int
) -> None:
    names = [readable(name) for name, _ in ranking]
    font = sized_font(TEXT, names)
    room = min(max(font.getlength(name) for name in names), 0.45 * width)
    left, right = room + TEXT, width - 3.4 * TEXT
    for position, (name, (_, probability)) in enumerate(zip(names, ranking, strict=True)):
        middle = top + position * line + line // 2
        draw.text((0, middle), shortened(name, font, room), INK, font, anchor="lm")
        half = TEXT // 3
        draw.rectangle((left, middle - half, right, middle + half), FAINT_BAR)
        end = left + (right - left) * min(max(probability, 0), 1)
        if end >= left + 1:
            draw.rectangle((left, middle - half, end, middle + half), BAR)
        draw.text((width, middle), short_percent(probability), FAINT_INK, font, anchor="rm")


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
