"""Colors that all drawings share."""

from __future__ import annotations

Color = tuple[int, int, int]

PAPER: Color = (255, 255, 255)
INK: Color = (28, 30, 34)
FAINT_INK: Color = (98, 103, 112)
FRAME: Color = (188, 192, 199)
BAR: Color = (58, 110, 190)
FAINT_BAR: Color = (226, 229, 234)
UNSURE_GRAY: Color = (62, 65, 71)
HATCH_GRAY: Color = (116, 120, 128)
