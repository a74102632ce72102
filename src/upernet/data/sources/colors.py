"""Colors of masks, and the values that stand for them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from upernet.errors import UpernetError
from upernet.recipe import MaskValueSpec
from upernet.taxonomy import Level

UNLISTED = 1 << 24
"""Added to the code of a color (0xrrggbb) that is not listed: the value is then beyond those of all masks."""


@dataclass(frozen=True)
class MaskColors:
    """The colors of a source's masks. The value of a color is its position.

    Attributes:
        codes: Ascending int32 codes 0xrrggbb of the colors.
        names: Value -> source class.
        unknown: Values of colors that mean unknown.
    """

    codes: np.ndarray
    names: dict[int, str]
    unknown: Sequence[int]

    def values_of(self, rgb: np.ndarray) -> np.ndarray:
        """Return the int32 H x W values of uint8 H x W x 3; a color that is not listed is `UNLISTED` + its code."""
        codes = color_codes(rgb)
        position = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
        return np.where(self.codes[position] == codes, position, codes + UNLISTED).astype(np.int32)

    def name_of(self, value: int) -> str:
        """Return the color of a value as `#rrggbb`."""
        return f"#{value - UNLISTED if value >= UNLISTED else self.codes[value]:06x}"


def color_codes(rgb: np.ndarray) -> np.ndarray:
    """Return int32 codes 0xrrggbb, H x W, of uint8 H x W x 3."""
    red, green, blue = np.moveaxis(rgb.astype(np.int32), -1, 0)
    return (red << 16) | (green << 8) | blue


def read_colors(where: str, spec: MaskValueSpec, level: Level) -> MaskColors | None:
    """Return the colors that the spec lists; None: its masks hold class numbers.

    Raises:
        UpernetError: A key is not a color, a color is listed twice, or two classes of the taxonomy have the same color.
    """
    if spec.colors is None:
        return None
    found: dict[int, str | None] = {}
    if spec.colors == "taxonomy":
        for name, (red, green, blue) in zip(level.names, level.colors, strict=True):
            code = red << 16 | green << 8 | blue
            if code in found:
                raise UpernetError(
                    f"{where}.colors: {found[code]!r} and {name!r} of the taxonomy have the same color #{code:06x}; "
                    "change one, or list the colors here."
                )
            found[code] = name
    else:
        for key, name in spec.colors.items():
            code = _code(f"{where}.colors.{key}", key)
            if code in found:
                raise UpernetError(f"{where}.colors.{key}: the color is listed twice; keep one of the keys.")
            found[code] = name
    if not found:
        raise UpernetError(f"{where}.colors: lists no color; list those of the masks, or leave the key out.")
    codes = sorted(found)
    names = {value: name for value, code in enumerate(codes) if (name := found[code]) is not None}
    unknown = [value for value, code in enumerate(codes) if found[code] is None]
    return MaskColors(np.array(codes, np.int32), names, unknown)


def _code(where: str, key: str) -> int:
    if re.fullmatch(r"#[0-9a-fA-F]{6}", key):
        return int(key[1:], 16)
    numbers = [int(part) for part in re.findall(r"\d{1,9}", key)]
    if not re.fullmatch(r"\s*\d{1,3}([\s,]+\d{1,3}){2}\s*", key) or max(numbers) > 255:
        raise UpernetError(f'{where}: is not a color; write it as "#rrggbb" or "r,g,b" (0 to 255), in quotes.')
    return numbers[0] << 16 | numbers[1] << 8 | numbers[2]
