"""Drawing of label maps over their photos: with region names and a legend, or plain."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from upernet.errors import UpernetError
from upernet.inference.colors import INK, PAPER, UNSURE_GRAY
from upernet.inference.fonts import sized_font
from upernet.inference.label_map import UNSURE, LabelMap
from upernet.inference.legend import Legend, legend_entries
from upernet.inference.region_names import draw_region_names

OVERLAY_SIDES = (480, 1024)
"""Smallest and largest long side of the photo in an overlay, in pixels."""


def overlay(photo: Image.Image, label_map: LabelMap) -> Image.Image:
    """Draw the labels over the photo, with the names of regions, and a legend of all classes with their shares.

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
    canvas.paste(painted(photo, label_map, size, text), (margin, margin))
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


def painted(photo: Image.Image, label_map: LabelMap, size: tuple[int, int], names: float = 0) -> Image.Image:
    """Draw the photo at `size` (width, height), with the colors of the classes and the borders between labels.

    Args:
        photo: The photo.
        label_map: The labels.
        size: Width and height of the drawing in pixels.
        names: Height of the letters of the names of regions, in pixels; 0: no names.
    """
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
    picture = Image.fromarray(result)
    if names:
        draw_region_names(picture, labels, label_map, names)
    return picture


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
