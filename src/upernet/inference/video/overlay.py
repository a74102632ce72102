"""Frames of overlay videos: the frame with the colors of the classes, beside a legend in which nothing jumps.

A class gets a line of the legend when it appears, and keeps it: a class that is out of sight is drawn faintly, and
gives its line away only if another class needs it. Shares are averaged over time, so that they can be read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from PIL import Image, ImageDraw

from upernet.inference.colors import FAINT_INK, INK, PAPER
from upernet.inference.fonts import shortened, sized_font
from upernet.inference.label_map import UNSURE, UNSURE_NAME, LabelMap
from upernet.inference.legend import LegendEntry, draw_entry, short_percent
from upernet.inference.parse import Parse
from upernet.inference.render import painted
from upernet.inference.wording import readable

SIDES = (640, 1280)
"""Smallest and largest long side of the frame in an overlay, in pixels."""
APPEARS = 0.002
"""Share of the frame from which on a class gets a line."""
GONE = 0.0005
"""Averaged share below which a class is out of sight."""
SECONDS = 0.7
"""Time constant of the averages."""
WIDEST_NAME = 14
"""Largest room for names, in heights of the letters."""
FEWEST_LINES = 6
"""Number of classes for which a legend has room, however flat the frame is."""


class Lines:
    """Which class stands in which line of a legend, and the averaged shares of all.

    Args:
        count: Number of lines.
        placed: Labels that have a place anyway, and need no line.
        labels: Labels that keep a line from the beginning.
    """

    def __init__(self, count: int, placed: Iterable[int] = (), labels: Sequence[int] = ()):
        self.labels: list[int | None] = [*labels, *[None] * (count - len(labels))]
        """The label in each line; None: the line is empty."""
        self.shares: dict[int, float] = {}
        """Averaged share of each label that has been seen."""
        self._placed = frozenset(placed)
        self._seen: dict[int, float] = dict.fromkeys(labels, -math.inf)
        self._time: float | None = None

    def update(self, shares: Mapping[int, float], time: float) -> None:
        """Take the shares of the next frame into account.

        Args:
            shares: label -> share of the frame.
            time: Seconds since the beginning of the video.
        """
        weight = 1.0 if self._time is None else averaging_weight(time - self._time)
        self._time = time
        for label in shares.keys() | self.shares.keys():
            before = self.shares.get(label, 0.0)
            self.shares[label] = before + weight * (shares.get(label, 0.0) - before)
        shown = [label for label, share in shares.items() if share >= APPEARS and label not in self._placed]
        self._seen |= dict.fromkeys(shown, time)
        for label in sorted(shown, key=lambda label: (-shares[label], label)):
            if label not in self.labels:
                self._place(label, time)

    def _place(self, label: int, time: float) -> None:
        """Put a label into the first empty line, or into that of the label that was seen longest ago."""
        if None in self.labels:
            self.labels[self.labels.index(None)] = label
            return
        shown = [other for other in self.labels if other is not None]
        oldest = min(shown, key=lambda other: self._seen[other], default=None)
        if oldest is not None and self._seen[oldest] < time:
            self.labels[self.labels.index(oldest)] = label


class OverlayPainter:
    """Paints the overlays of one level of one video, frame by frame.

    Args:
        first: The label map of the first frame, which settles the layout.
    """

    def __init__(self, first: LabelMap):
        height, width = first.labels.shape
        factor = min(max(max(width, height), SIDES[0]), SIDES[1]) / max(width, height)
        self._frame = max(1, round(width * factor)), max(1, round(height * factor))
        self._text = text = max(14, round(max(self._frame) / 62))
        self._names = [readable(name) for name in first.names]
        self._font = sized_font(text, self._names)
        self._colors, background = first.colors, int(first.background)
        self._last = {UNSURE: LegendEntry(UNSURE_NAME, "", None)}
        """The entries below the classes."""
        if background:
            self._last = {0: LegendEntry(f"no listed {first.level}", "", PAPER, bare=True), **self._last}
        names = [*self._names, *(entry.name for entry in self._last.values())]
        room = min(max(self._font.getlength(name) for name in names), WIDEST_NAME * text)
        self._column = round(2.6 * text + room + self._font.getlength("> 99 %"))
        self._margin, self._line = round(1.2 * text), round(1.6 * text)
        self._top = self._margin + 4 * text
        classes, fixed = len(self._names) - background, len(self._last) + 1
        least = self._top + (min(classes, FEWEST_LINES) + fixed) * self._line + self._margin
        height = max(self._frame[1], least)
        count = min(classes, (height - self._top - self._margin) // self._line - fixed)
        every = range(background, len(self._names)) if classes <= count else ()
        self._lines = Lines(count, self._last, every)
        self._ranking: dict[str, dict[str, float]] = {}
        self._time: float | None = None
        width = self._frame[0] + self._column + 2 * self._margin
        self.size = width + width % 2, height + height % 2
        """Width and height of the overlays in pixels, both even, as H.264 needs them."""

    def paint(self, parse: Parse, level: str, time: float) -> Image.Image:
        """Return the overlay of the next frame.

        Args:
            parse: The parse of the frame.
            level: The level.
            time: Seconds since the beginning of the video.
        """
        label_map = parse.label_map(level)
        total = label_map.labels.size
        self._lines.update({label: count / total for label, count in label_map.counts().items()}, time)
        canvas = Image.new("RGB", self.size, PAPER)
        canvas.paste(painted(parse.photo, label_map, self._frame), (0, (self.size[1] - self._frame[1]) // 2))
        draw = ImageDraw.Draw(canvas)
        left, right = self._frame[0] + self._margin, self._frame[0] + self._margin + self._column
        draw.text((left, self._margin), level.capitalize(), INK, sized_font(1.25 * self._text))
        for place, label in enumerate(self._lines.labels):
            if label is not None:
                self._draw(draw, self._class_entry(label), label, left, self._top + place * self._line)
        bottom = self.size[1] - self._margin - (len(self._last) + 1) * self._line
        for place, (label, entry) in enumerate(self._last.items()):
            self._draw(draw, entry, label, left, bottom + place * self._line)
        clock = (right, self.size[1] - self._margin - self._line // 2)
        draw.text(clock, clock_time(time), FAINT_INK, self._font, anchor="rm")
        if image_label := self._image_label(parse, time):
            font = sized_font(self._text, [image_label])
            shown = shortened(image_label, font, self._column)
            draw.text((left, self._margin + 2 * self._text), shown, FAINT_INK, font)
        return canvas

    def _draw(self, draw: ImageDraw.ImageDraw, entry: LegendEntry, label: int, left: int, top: int) -> None:
        share = self._lines.shares.get(label, 0.0)
        shown = replace(entry, share=short_percent(share) if share >= GONE else "")
        draw_entry(draw, shown, (left, top + self._line // 2), self._font, self._text, self._column)

    def _class_entry(self, label: int) -> LegendEntry:
        """Return the entry of a class, which is faint while the class is out of sight."""
        name, (red, green, blue) = self._names[label], self._colors[label]
        if self._lines.shares.get(label, 0.0) >= GONE:
            return LegendEntry(name, "", (red, green, blue))
        faint = tuple((color + 3 * paper) // 4 for color, paper in zip((red, green, blue), PAPER, strict=True))
        return LegendEntry(name, "", (faint[0], faint[1], faint[2]), bare=True)

    def _image_label(self, parse: Parse, time: float) -> str:
        """Return the labels of the whole frame by their averaged probabilities, "" where they are unsure."""
        weight = 1.0 if self._time is None else averaging_weight(time - self._time)
        self._time = time
        found: list[str] = []
        for level, ranking in parse.rankings.items():
            averages = self._ranking.setdefault(level, dict(ranking))
            for name, probability in ranking:
                averages[name] += weight * (probability - averages[name])
            name = max(averages, key=averages.__getitem__)
            if averages[name] >= parse.threshold(level, name):
                found.append(f"{level.capitalize()}: {readable(name)}")
        return ", ".join(found)


def averaging_weight(seconds: float) -> float:
    """Return the weight of a new value in an exponential average, some seconds after the last one."""
    return 1 - math.exp(-max(0.0, seconds) / SECONDS)


def clock_time(seconds: float) -> str:
    """Return a time as "1:02.5" or "1:00:02.5".

    Example:
        >>> clock_time(62.54), clock_time(3602.5)
        ('1:02.5', '1:00:02.5')
    """
    tenths = math.floor(10 * seconds + 1e-6)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    whole = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{whole}:{rest // 10:02}.{rest % 10}"
