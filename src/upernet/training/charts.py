"""Line charts, drawn with Pillow, so that training needs no plotting library."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from upernet.inference.colors import FAINT_INK, FRAME, INK, PAPER, Color
from upernet.inference.fonts import shortened, sized_font

COLORS: tuple[Color, ...] = (
    (31, 119, 180),
    (214, 96, 20),
    (44, 140, 60),
    (197, 44, 60),
    (128, 90, 180),
    (130, 86, 70),
    (210, 100, 170),
    (100, 105, 112),
)
"""Colors of the lines; they repeat after the last."""
SIZE = (860, 300)
"""Width and height of a chart in pixels."""
MARGIN = (70, 44, 210, 40)
"""Room to the left, above, to the right (for the legend) and below the plot, in pixels."""
PADDING = 10
"""Room for marks that reach over the border of the plot, in pixels."""
OVERSAMPLING = 2
"""Lines are drawn this much larger and then reduced, which smooths them."""
Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A line of a chart: its name in the legend, and its points, ordered by x."""

    name: str
    points: Sequence[Point]
    dots: bool = False
    """Whether each point is marked."""


def draw_chart(
    title: str, lines: Sequence[Line], *, log_x: bool = False, last_x: float | None = None, marked: Point | None = None
) -> Image.Image:
    """Draw lines over a common x-axis, with a legend on the right.

    Args:
        title: Heading.
        lines: The lines; those without points are left out.
        log_x: Whether the x-axis is logarithmic; otherwise, it counts from 0.
        last_x: Where a counting x-axis ends; None: at the last point.
        marked: Point with a ring around it.
    """
    lines = [line for line in lines if line.points]
    canvas = Image.new("RGB", SIZE, PAPER)
    draw = ImageDraw.Draw(canvas)
    left, top, right, bottom = MARGIN
    width, height = SIZE[0] - left - right, SIZE[1] - top - bottom
    draw.text((left, 10), title, INK, sized_font(17))
    if not lines:
        draw.text((left, top + 20), "Nothing has been measured yet.", FAINT_INK, sized_font(14))
        return canvas
    place: Callable[[float], float] = math.log10 if log_x else float
    xs = [place(x) for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    x_low, x_high = (min(xs), max(xs)) if log_x else (0.0, last_x or max(xs))
    x_high = max(x_high, x_low + 1e-9)
    ticks = _ticks(min(ys), max(ys))
    y_low, y_high = ticks[0], ticks[-1]

    def at(x: float, y: float) -> Point:
        return (width * (place(x) - x_low) / (x_high - x_low), height * (1 - (y - y_low) / (y_high - y_low)))

    small = sized_font(13, [line.name for line in lines])
    for tick in ticks:
        _, y = at(lines[0].points[0][0], tick)
        draw.line((left, top + y, left + width, top + y), FRAME)
        draw.text((left - 8, top + y), _number(tick), FAINT_INK, small, anchor="rm")
    x_ticks = _decades(x_low, x_high) if log_x else _ticks(x_low, x_high, inside=True, whole=True)
    for tick in x_ticks:
        x, _ = at(tick, y_low)
        draw.line((left + x, top + height, left + x, top + height + 5), FRAME)
        draw.text((left + x, top + height + 9), _number(tick), FAINT_INK, small, anchor="mt")
    plot = _plot(lines, at, (width, height), marked)
    canvas.paste(plot.convert("RGB"), (left - PADDING, top - PADDING), plot.getchannel("A"))
    for number, line in enumerate(lines):
        y = top + 8 + 20 * number
        color = COLORS[number % len(COLORS)]
        draw.line((left + width + 16, y, left + width + 36, y), color, 3)
        name = shortened(line.name, small, right - 52)
        draw.text((left + width + 42, y), name, INK, small, anchor="lm")
    return canvas


def stack(charts: Sequence[Image.Image]) -> Image.Image:
    """Put charts below each other."""
    sheet = Image.new("RGB", (max(chart.width for chart in charts), sum(chart.height for chart in charts)), PAPER)
    top = 0
    for chart in charts:
        sheet.paste(chart, (0, top))
        top += chart.height
    return sheet


def smoothed(points: Sequence[Point], weight: float) -> list[Point]:
    """Return the points with exponentially smoothed y; `weight`, in 0..1, is that of the earlier points."""
    result: list[Point] = []
    total, known = 0.0, 0.0
    for x, y in points:
        total, known = weight * total + (1 - weight) * y, weight * known + (1 - weight)
        result.append((x, total / known))
    return result


def thinned(points: Sequence[Point], most: int = 1000) -> list[Point]:
    """Return at most about `most` of the points, the last one among them."""
    step = max(1, math.ceil(len(points) / most))
    return [*points[::step], *([points[-1]] if points and (len(points) - 1) % step else [])]


def _plot(
    lines: Sequence[Line], at: Callable[[float, float], Point], size: tuple[int, int], marked: Point | None
) -> Image.Image:
    """Draw the lines alone, on a transparent ground."""
    factor = OVERSAMPLING
    full = (size[0] + 2 * PADDING, size[1] + 2 * PADDING)
    plot = Image.new("RGBA", (factor * full[0], factor * full[1]), (255, 255, 255, 0))
    draw = ImageDraw.Draw(plot)
    for number, line in enumerate(lines):
        color = COLORS[number % len(COLORS)]
        points = [(factor * (x + PADDING), factor * (y + PADDING)) for x, y in (at(*point) for point in line.points)]
        if len(points) > 1:
            draw.line(points, color, 2 * factor, joint="curve")
        if line.dots or len(points) == 1:
            for x, y in points:
                _circle(draw, x, y, 3 * factor, fill=color)
    if marked is not None:
        x, y = at(*marked)
        _circle(draw, factor * (x + PADDING), factor * (y + PADDING), 7 * factor, outline=INK, width=2 * factor)
    return plot.reduce(factor)


def _circle(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, **style: object) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), **style)  # pyright: ignore[reportArgumentType]


def _ticks(low: float, high: float, inside: bool = False, whole: bool = False) -> list[float]:
    """Return 3 to 7 round numbers that enclose `low` to `high`, or lie inside."""
    span = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 5))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 6)
    step = max(step, 1.0) if whole else step
    first, last = math.floor(low / step), math.ceil(high / step)
    if first == last:
        first, last = first - 1, last + 1
    ticks = [number * step for number in range(first, last + 1)]
    return [tick for tick in ticks if low <= tick <= high] if inside else ticks


def _decades(low: float, high: float) -> list[float]:
    return [10.0**power for power in range(math.ceil(low), math.floor(high) + 1)]


def _number(value: float) -> str:
    if value == 0 or 1e-4 <= abs(value) < 1e7:
        return f"{value:,.5f}".rstrip("0").rstrip(".") if value != int(value) else f"{int(value):,}"
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
