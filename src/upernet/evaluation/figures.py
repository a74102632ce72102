"""Figures of an evaluation: confusion matrices and reliability diagrams."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from upernet.evaluation.confusion import ConfusionMatrix
from upernet.evaluation.results import ReliabilityBin
from upernet.files import write_text
from upernet.inference.colors import FAINT_INK, FRAME, INK, PAPER, Color
from upernet.inference.fonts import shortened, sized_font
from upernet.inference.label_map import UNSURE_NAME
from upernet.inference.wording import readable

RIGHT: Color = (8, 81, 156)
"""Color of a confusion matrix's diagonal at 100 %."""
WRONG: Color = (203, 64, 12)
"""Color of confusions at 100 %, and of wrong pixels in a comparison."""
EMPTY: Color = (238, 239, 241)
"""Color of the row of a class that does not occur."""
CELL_SIDES = (16, 52)
"""Smallest and largest side of a cell of a confusion matrix in pixels."""
GRID_SIDE = 1200
"""Side in pixels that the grid of a confusion matrix grows to before its cells shrink."""
LEAST_CELL_WITH_NUMBER = 30
"""Side of the smallest cell that has room for a percentage."""
LONGEST_NAME = 190
"""Longest class name beside a confusion matrix, in pixels."""
GAMMA = 0.6
"""Exponent that makes small shares visible."""
TITLE = "Confusion matrix"
SUBTITLE = "Rows: the true class (100 % each). Columns: what was predicted."


def draw_confusion(matrix: ConfusionMatrix, names: Sequence[str], unit: str = "pixels") -> Image.Image:
    """Draw a confusion matrix: one row per true class, whose cells add up to 100 %, one column per predicted class.

    The diagonal is blue and confusions are orange, so that the eye finds the mistakes. Classes that neither occur nor
    are predicted are left out. A column "unsure" holds pixels without a prediction, if there are any. Percentages are
    written where they fit.

    Args:
        matrix: The counts.
        names: One name per class.
        unit: What was counted; the heading of the column with the counts.
    """
    classes = _occurring(matrix)
    counts = matrix.counts.numpy()
    columns = [*classes, matrix.num_classes] if counts[:, -1].any() else classes
    labels = [readable(names[c]) for c in classes]
    tops = [*labels, UNSURE_NAME][: len(columns)]
    shares = _row_shares(counts)[np.ix_(classes, columns)]
    smallest, largest = CELL_SIDES
    cell = min(largest, max(smallest, GRID_SIDE // max(1, len(columns))))
    text = min(16, max(12, cell // 2))
    font, heading, small = sized_font(text, tops), sized_font(20), sized_font(14)
    tops, labels = ([shortened(name, font, LONGEST_NAME) for name in those] for those in (tops, labels))
    left, top = (round(max((font.getlength(name) for name in those), default=0)) for those in (labels, tops))
    margin = 24
    x, y = margin + left + 12, margin + 64 + top + 12
    totals = [f"{int(count):,}" for count in matrix.support[classes]]
    right = round(max(font.getlength(total) for total in [unit, *totals])) + 24
    grid = (cell * len(columns), cell * len(classes))
    notes = _notes(matrix, shares)
    width = max(x + grid[0] + right, *(margin + round(small.getlength(line)) for line in (SUBTITLE, *notes))) + margin
    canvas = Image.new("RGB", (width, y + grid[1] + 40 + 22 * len(notes) + margin), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((margin, margin), TITLE, INK, heading)
    draw.text((margin, margin + 30), SUBTITLE, FAINT_INK, small)
    canvas.paste(_cells(shares, cell), (x, y))
    for row, name in enumerate(labels):
        middle = y + row * cell + cell // 2
        draw.text((x - 8, middle), name, INK, font, anchor="rm")
        draw.text((x + grid[0] + right - 8, middle), totals[row], FAINT_INK, font, anchor="rm")
    draw.text((x + grid[0] + right - 8, y - 10), unit, FAINT_INK, font, anchor="rs")
    for column, name in enumerate(tops):
        _draw_upwards(canvas, name, (x + column * cell + cell // 2, y - 8), font)
    if cell >= LEAST_CELL_WITH_NUMBER:
        _write_percentages(draw, shares, (x, y), cell)
    for line, note in enumerate(notes):
        draw.text((margin, y + grid[1] + 24 + 22 * line), note, FAINT_INK, small)
    return canvas


def write_confusion_csv(path: str | Path, matrix: ConfusionMatrix, names: Sequence[str]) -> None:
    """Write the counts as CSV: one row per true class, one column per predicted class.

    The last column, "unsure", counts pixels without a prediction; it is left out if there are none.

    Raises:
        UpernetError: The file cannot be written.
    """
    counts = matrix.counts
    columns = matrix.num_classes + bool(counts[:, -1].any())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true class", *[*names, UNSURE_NAME][:columns]])
    writer.writerows([name, *map(int, counts[c, :columns])] for c, name in enumerate(names))
    write_text(path, text.getvalue())


def draw_reliability(bins: Sequence[ReliabilityBin], ece: float) -> Image.Image:
    """Draw a reliability diagram: the accuracy of the predictions in each bin of confidence.

    Bars that end at the diagonal are calibrated. Bars below it are overconfident: their predictions are less often
    right than their probability says. The lower strip shows how many predictions each bin holds.

    Args:
        bins: The bins from low to high confidence.
        ece: Expected calibration error in 0..1.
    """
    side, strip, left, top, margin = 360, 60, 64, 84, 24
    font, small = sized_font(14), sized_font(12)
    canvas = Image.new("RGB", (left + side + margin + 20, top + side + 40 + strip + 60), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((margin, margin), "Calibration", INK, sized_font(20))
    draw.text((margin, margin + 30), f"Expected calibration error: {short_percent(ece)}", FAINT_INK, font)
    most = max(1, *(bin_.count for bin_ in bins))
    for number, bin_ in enumerate(bins):
        x = [left + round(side * edge / len(bins)) for edge in (number, number + 1)]
        height = round(strip * bin_.count / most)
        base = top + side + 40 + strip
        draw.rectangle((x[0] + 1, base - height, x[1] - 1, base), FAINT_INK)
        if bin_.accuracy is not None and bin_.confidence is not None:
            bar, due = (top + side - round(side * value) for value in (bin_.accuracy, bin_.confidence))
            draw.rectangle((x[0] + 1, bar, x[1] - 1, top + side), RIGHT)
            if bar != due:
                draw.rectangle((x[0] + 1, min(bar, due), x[1] - 1, max(bar, due)), None, WRONG, 2)
    draw.line((left, top + side, left + side, top), FAINT_INK, 2)
    draw.rectangle((left, top, left + side, top + side), None, FRAME)
    for step in range(6):
        label, offset = f"{20 * step}", round(side * step / 5)
        draw.text((left + offset, top + side + 6), label, FAINT_INK, small, anchor="ma")
        draw.text((left - 8, top + side - offset), label, FAINT_INK, small, anchor="rm")
    _draw_upwards(canvas, "right, %", (18, top + side // 2 + 24), font)
    caption = "confidence, % (gray: share of the predictions)"
    draw.text((left + side // 2, top + side + strip + 48), caption, INK, font, anchor="ma")
    return canvas


def _occurring(matrix: ConfusionMatrix) -> list[int]:
    occurs = (matrix.support + matrix.predicted) > 0
    return [c for c in range(matrix.num_classes) if occurs[c]]


def _row_shares(counts: np.ndarray) -> NDArray[np.float64]:
    """Return each row divided by its sum, float64; nan in rows of zeros."""
    with np.errstate(invalid="ignore"):
        return counts / counts.sum(1, keepdims=True).astype(np.float64)


def _notes(matrix: ConfusionMatrix, shares: NDArray[np.float64]) -> list[str]:
    notes = ["Blue: right. Orange: confused."]
    if np.isnan(shares).any():
        notes.append("Gray row: the class is predicted but does not occur.")
    if left_out := matrix.num_classes - len(shares):
        verb = "class neither occurs nor is" if left_out == 1 else "classes neither occur nor are"
        notes.append(f"{left_out} more {verb} predicted.")
    return notes


def _cells(shares: NDArray[np.float64], cell: int) -> Image.Image:
    """Draw the cells: the more of a row's pixels a cell holds, the darker it is."""
    depth = np.nan_to_num(shares)[..., None] ** GAMMA
    strongest = np.where(np.eye(*shares.shape, dtype=bool)[..., None], RIGHT, WRONG)
    mixed = (1 - depth) * 255 + depth * strongest
    colors: NDArray[np.float64] = np.where(np.isnan(shares)[..., None], EMPTY, mixed)
    pixels = np.rint(colors).astype(np.uint8).repeat(cell, axis=0).repeat(cell, axis=1)
    pixels[::cell], pixels[:, ::cell] = FRAME, FRAME
    if pixels.size:
        pixels[-1], pixels[:, -1] = FRAME, FRAME
    return Image.fromarray(pixels)


def _write_percentages(draw: ImageDraw.ImageDraw, shares: NDArray[np.float64], at: tuple[int, int], cell: int) -> None:
    font = sized_font(max(11, cell // 4))
    for row, column in np.argwhere(shares >= 0.005).tolist():  # smaller ones round to 0
        share = float(shares[row, column])
        ink = PAPER if share**GAMMA > 0.55 else INK
        center = (at[0] + column * cell + cell // 2, at[1] + row * cell + cell // 2)
        draw.text(center, f"{100 * share:.0f}", ink, font, anchor="mm")


def _draw_upwards(canvas: Image.Image, label: str, at: tuple[int, int], font: ImageFont.FreeTypeFont) -> None:
    """Write `label` from bottom to top, with its beginning at `at` (x of the middle, y)."""
    strip = Image.new("L", (round(font.getlength(label)) + 2, round(1.5 * font.size)))
    ImageDraw.Draw(strip).text((0, strip.height // 2), label, 255, font, anchor="lm")
    strip = strip.rotate(90, expand=True)
    canvas.paste(INK, (at[0] - strip.width // 2, at[1] - strip.height), strip)


def short_percent(share: float) -> str:
    """Return a share as a percentage, with a decimal below 10 %."""
    return f"{100 * share:.1f} %" if 0 < share < 0.1 else f"{100 * share:.0f} %"
