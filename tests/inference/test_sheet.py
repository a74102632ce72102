"""Tests of upernet.inference.sheet: contact sheets of photos of any shape, with any number of levels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from upernet.inference import LabelMap
from upernet.inference.sheet import LEAST_SHOWN, contact_sheet, panel_size

COLORS = ((200, 0, 0), (0, 0, 200))


def label_map(size: tuple[int, int], share: float = 1.0, level: str = "object") -> LabelMap:
    """Return a map whose first pixels, a share of all, are labeled, and the others unsure."""
    labels = np.full(size[0] * size[1], -1, np.int16)
    labels[: round(share * len(labels))] = 1
    shape = size[1], size[0]
    return LabelMap(level, labels.reshape(shape), np.ones(shape, np.float32), ("sky", "person"), COLORS, False)


def sheet(size: tuple[int, int], levels: int, share: float = 1.0) -> Image.Image:
    maps = [label_map(size, share)] * levels
    rankings = {"scene": [("street", 0.7), ("garden", 0.3)]}
    photo = Image.new("RGB", size, "gray")
    return contact_sheet(photo, maps, "A street (70 %)", "Mostly sky.\nMore.", rankings, "a.jpg")


@pytest.mark.parametrize("levels", range(6))
@pytest.mark.parametrize("size", [(300, 200), (200, 300)])
def test_sheets_grow_with_the_number_of_levels_and_leave_little_empty(size: tuple[int, int], levels: int) -> None:
    drawn = sheet(size, levels)
    width, height = panel_size(size)
    assert drawn.width * drawn.height >= (levels + 1) * width * height
    assert drawn.width * drawn.height <= (levels + 4) * max(width, 340) * (height + 170)
    pixels = np.asarray(drawn)
    assert (pixels[:, -30:] == 255).all() and (pixels[-30:] == 255).all()  # margins stay free


def test_levels_without_a_certain_label_get_no_panel() -> None:
    size = (300, 200)
    none, silent, shown = sheet(size, 0), sheet(size, 2, LEAST_SHOWN / 2), sheet(size, 2, 2 * LEAST_SHOWN)
    assert silent.width == none.width and silent.height < none.height + 60
    assert shown.height > 1.5 * none.height


@pytest.mark.parametrize("size", [(1, 1), (500, 3), (3, 500), (4000, 100), (100, 4000)])
def test_photos_of_any_shape_fit(size: tuple[int, int]) -> None:
    assert max(panel_size(size)) <= 800 and min(panel_size(size)) >= 1
    drawn = sheet(size, 2)
    assert 400 < drawn.width < 3000 and 200 < drawn.height < 3000
