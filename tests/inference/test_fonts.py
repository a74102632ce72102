"""Tests of upernet.inference.fonts: letters beyond ASCII, and texts that are too long."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from upernet.inference import LabelMap
from upernet.inference.fonts import shortened, sized_font
from upernet.inference.render import overlay
from upernet.inference.sheet import contact_sheet


def has_dejavu() -> bool:
    try:
        ImageFont.truetype("DejaVuSans.ttf", 16)
    except OSError:
        return False
    return True


def drawn(font: ImageFont.FreeTypeFont, letter: str) -> bytes:
    canvas = Image.new("L", (32, 32))
    ImageDraw.Draw(canvas).text((4, 4), letter, 255, font)
    return canvas.tobytes()


needs_dejavu = pytest.mark.skipif(not has_dejavu(), reason="DejaVu Sans is not installed")


def test_ascii_is_written_in_the_font_of_pillow() -> None:
    assert sized_font(16, ["sky", "dining_table"]).getname() == sized_font(16).getname()


@needs_dejavu
@pytest.mark.parametrize("text", ["Küche", "Straße", "łóżko", "дорога", "δρόμος"])
def test_letters_that_the_font_of_pillow_lacks_come_from_a_font_of_the_machine(text: str) -> None:
    font = sized_font(16, ["sky", text])
    assert all(drawn(font, letter) != drawn(font, "\uffff") for letter in text)


def test_letters_that_no_font_has_are_no_error() -> None:
    assert sized_font(16, ["\U00012000"]).getlength("\U00012000") > 0


@needs_dejavu
def test_drawings_tell_names_with_accents_apart() -> None:
    photo = Image.new("RGB", (120, 90))
    labels, confidence = np.zeros((90, 120), np.int16), np.ones((90, 120), np.float32)

    def pictures(name: str) -> list[bytes]:
        level = LabelMap("object", labels, confidence, (name,), ((90, 160, 255),), False)
        return [overlay(photo, level).tobytes(), contact_sheet(photo, [], f"{name}.jpg", "").tobytes()]

    assert all(one != other for one, other in zip(pictures("für"), pictures("fár"), strict=True))


@given(st.text(max_size=40), st.floats(10, 400))
def test_shortened_text_fits(text: str, width: float) -> None:
    font = sized_font(14)
    short = shortened(text, font, width)
    assert short == text or font.getlength(short) <= max(width, font.getlength("..."))
