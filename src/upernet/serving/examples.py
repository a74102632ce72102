"""The example photos of the page."""

from __future__ import annotations

from functools import cache
from pathlib import Path

NAMES = ("street", "living_room", "cat", "coffee", "mountain", "car", "astronaut", "brick_wall")
INSTALLED = Path(__file__).with_name("examples")
IN_CHECKOUT = Path(__file__).parents[3] / "examples"


@cache
def example_photos() -> dict[str, Path]:
    """Return name -> file of the photos in `examples/`, which the wheel contains; empty where they are missing."""
    folder = INSTALLED if INSTALLED.is_dir() else IN_CHECKOUT
    return {path.name: path for name in NAMES if (path := folder / f"{name}.jpg").is_file()}
