"""Pictures of what a model gets right and wrong: photos beside truth and prediction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from upernet.evaluation.figures import RIGHT, WRONG, short_percent
from upernet.inference import LabelMap
from upernet.inference.colors import INK, PAPER, UNSURE_GRAY
from upernet.inference.fonts import shortened, sized_font
from upernet.inference.legend import Legend, LegendEntry
from upernet.inference.render import fitted, hatching, painted
from upernet.inference.wording import readable
from upernet.taxonomy import IGNORE, LEVEL_KINDS, Level

PANEL_BOX = (520, 520)
"""Largest width and height of a panel of a comparison."""
LEAST_PANEL = 200
"""Smallest width of a panel of a comparison, which its heading needs."""
LABEL_BOX = (320, 240)
"""Largest width and height of a photo with an image label."""
MOST_CANDIDATES = 3
"""Number of labels below such a photo."""


def draw_comparison(photo: Image.Image, truth: np.ndarray, prediction: np.ndarray, level: Level) -> Image.Image:
    """Draw a photo, its true labels, the predicted labels, and where they differ, side by side.

    In the fourth panel, wrong pixels are orange, right ones show the photo in gray, and pixels that do not count (their
    truth is unknown) are hatched. The legend lists the classes that occur, by area, with their IoU in this photo.

    Args:
        photo: The photo, of any size; it is scaled to the panels, and so are the label maps.
        truth: True labels, int H x W; -1: unknown.
        prediction: Predicted labels, int H x W; -1: unsure.
        level: The level, whose names and colors are used.
    """
    counted = counted_pixels(truth, level)
    wrong = counted & (truth != prediction)
    share = float(wrong.sum() / counted.sum()) if counted.any() else 0.0
    size = fitted(photo.size, PANEL_BOX)
    width, gap, margin, text = max(size[0], LEAST_PANEL), 16, 20, 16
    panels = {
        "Photo": photo.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0),
        "Truth": painted(photo, _as_label_map(truth, level), size),
        "Prediction": painted(photo, _as_label_map(prediction, level), size),
        f"Wrong: {short_percent(share)}": _differences(photo, wrong, counted, size),
    }
    full = len(panels) * (width + gap) - gap
    legend = _compact_legend(_iou_entries(truth, prediction, counted, level), text, full)
    top = margin + round(1.8 * text)
    canvas = Image.new("RGB", (full + 2 * margin, top + size[1] + text + legend.size[1] + margin), PAPER)
    draw = ImageDraw.Draw(canvas)
    for index, (heading, panel) in enumerate(panels.items()):
        left = margin + index * (width + gap)
        draw.text((left, margin - 4), heading, INK, sized_font(1.15 * text))
        canvas.paste(panel, (left, top))
    legend.draw(draw, (margin, top + size[1] + text))
    return canvas


def draw_label(photo: Image.Image, truth: int, probabilities: np.ndarray, names: Sequence[str]) -> Image.Image:
    """Draw a photo with its true label below, and the most probable labels with their probabilities.

    Args:
        photo: The photo, of any size.
        truth: True label.
        probabilities: One per class, in 0..1.
        names: One name per class.
    """
    size, text, margin = fitted(photo.size, LABEL_BOX), 16, 12
    width = max(size[0], LEAST_PANEL)
    font, line = sized_font(text, names), round(1.5 * text)
    ranked = [int(label) for label in np.argsort(-probabilities, kind="stable")[:MOST_CANDIDATES]]
    canvas = Image.new("RGB", (width + 2 * margin, size[1] + (len(ranked) + 1) * line + 3 * margin), PAPER)
    canvas.paste(photo.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0), (margin, margin))
    draw = ImageDraw.Draw(canvas)
    rows = [(f"true: {readable(names[truth])}", "", INK)]
    rows += [(readable(names[c]), short_percent(probabilities[c]), RIGHT if c == truth else WRONG) for c in ranked]
    top = size[1] + 2 * margin
    for name, share, ink in rows:
        room = width - font.getlength(share) - text
        draw.text((margin, top), shortened(name, font, room), ink, font)
        draw.text((margin + width, top), share, ink, font, anchor="ra")
        top += line
    return canvas


def counted_pixels(truth: np.ndarray, level: Level) -> NDArray[np.bool_]:
    """Return the pixels whose truth counts in scores, bool H x W: it is known, and not an unknown background.

    "No part" counts, because a part that is predicted there is wrong.
    """
    scored = truth != IGNORE
    return scored & (truth != 0) if level.unknown_background and LEVEL_KINDS[level.name].owned_by is None else scored


def _as_label_map(labels: np.ndarray, level: Level) -> LabelMap:
    sure: NDArray[np.float32] = np.ones(labels.shape, np.float32)
    return LabelMap(level.name, labels, sure, level.names, level.colors, level.background)


def _differences(photo: Image.Image, wrong: np.ndarray, counted: np.ndarray, size: tuple[int, int]) -> Image.Image:
    gray = np.asarray(photo.convert("L").resize(size, Image.Resampling.LANCZOS), np.float32)[..., None]
    wrong, counted = (
        np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))[..., None] for mask in (wrong, counted)
    )
    result = np.where(wrong, 0.85 * np.asarray(WRONG) + 0.15 * gray, 110 + 0.5 * gray)
    hatched = 0.2 * gray + UNSURE_GRAY + 50 * hatching(size)[..., None]
    return Image.fromarray(np.where(counted, result, hatched).clip(0, 255).astype(np.uint8))


def _iou_entries(truth: np.ndarray, prediction: np.ndarray, counted: np.ndarray, level: Level) -> list[LegendEntry]:
    """Return the classes that occur in truth or prediction, by area, each with its IoU in this photo."""
    first = 1 if level.background else 0
    areas: list[tuple[int, float, int]] = []
    for label in range(first, level.num_classes):
        true, predicted = counted & (truth == label), counted & (prediction == label)
        if area := int((true | predicted).sum()):
            areas.append((area, float((true & predicted).sum() / area), label))
    entries = [
        LegendEntry(f"{readable(level.names[label])}: IoU {short_percent(iou)}", "", level.colors[label])
        for _, iou, label in sorted(areas, reverse=True)
    ]
    if not counted.all():
        entries.append(LegendEntry("does not count", "", None))
    return [*entries, LegendEntry("wrong", "", WRONG)]


def _compact_legend(entries: Sequence[LegendEntry], text: int, width: int) -> Legend:
    """Return a legend of few rows whose columns are no wider than they need to be, at most `width` pixels wide."""
    for rows in range(1, len(entries) + 1):
        legend = Legend(entries, text, rows)
        if legend.size[0] <= width:
            return legend
    return Legend(entries, text, width=width)
