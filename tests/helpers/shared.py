"""The facts and photos beside the checkout, which a user's clone does not have."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[3] / "shared"
REFERENCE = SHARED / "reference"
DATA = SHARED / "data"

needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs ../shared/reference beside the checkout")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data beside the checkout")
