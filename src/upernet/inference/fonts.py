"""The letters of all drawings, in every script for which this machine has a font."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import cache

from PIL import Image, ImageDraw, ImageFont

SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "Arial.ttf",
    "Arial Unicode.ttf",
    "segoeui.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "Hiragino Sans GB.ttc",
    "AppleSDGothicNeo.ttc",
    "msyh.ttc",
    "meiryo.ttc",
    "malgun.ttf",
)
"""Fonts of Linux, macOS and Windows with more letters than the font of Pillow, which has those of ASCII only."""
NO_CHARACTER = "\uffff"
"""Every font draws its sign for a missing letter instead."""


def sized_font(height: float, texts: Iterable[str] = ()) -> ImageFont.FreeTypeFont:
    """Return a font with letters of about `height` pixels.

    Args:
        height: Height in pixels.
        texts: Texts to be written. If Pillow's font lacks letters of theirs, it is replaced by the font of this machine
            that lacks the fewest.
    """
    letters = frozenset[str]().union(*(frozenset(text) for text in texts))
    return _font(_best_name("".join(sorted(letter for letter in letters if not letter.isascii()))), round(height))


def shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Return `text`, with its end replaced by "..." if it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text.rstrip()}..."


@cache
def _best_name(letters: str) -> str | None:
    """Return the name of the font that has the most of `letters`; None: Pillow's."""
    best, fewest = None, _missing(None, letters)
    for name in SYSTEM_FONTS:
        if not fewest:
            break
        try:
            missing = _missing(name, letters)
        except OSError:  # this machine does not have it
            continue
        if missing < fewest:
            best, fewest = name, missing
    return best


def _missing(name: str | None, letters: str) -> int:
    """Return how many of `letters` a font lacks."""
    font = _font(name, 16)
    sign = _drawn(font, NO_CHARACTER)
    visible = (letter for letter in letters if not unicodedata.category(letter).startswith(("M", "Z", "C")))
    return sum(_drawn(font, letter) == sign for letter in visible)


def _drawn(font: ImageFont.FreeTypeFont, letter: str) -> bytes:
    canvas = Image.new("L", (32, 32))
    ImageDraw.Draw(canvas).text((4, 4), letter, 255, font)
    return canvas.tobytes()


@cache
def _font(name: str | None, height: int) -> ImageFont.FreeTypeFont:
    if name is not None:
        return ImageFont.truetype(name, height)
    font = ImageFont.load_default(size=height)
    assert isinstance(font, ImageFont.FreeTypeFont)  # Pillow's wheels have FreeType; `size` asks for it
    return font
