"""Terms of weights: which allow research or non-commercial use only, and the switch that refuses those.

The terms are recorded, never guessed from a name: in the card of a native file, in `zoo.yaml`, and by timm for its
weights. docs/licenses.md says which weights count as research-only, and why.
"""

from __future__ import annotations

import os
import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from upernet.errors import UpernetError, printable

SWITCH = "UPERNET_NO_RESEARCH_WEIGHTS"
"""Environment variable that refuses weights for research or non-commercial use only."""
RESTRICTED = re.compile(r"\bnc\b|non-?commercial|\bresearch\b|\bamlr\b|\bseer\b", re.IGNORECASE)
"""What the licenses in timm's list that allow research or non-commercial use only have in their names: Creative Commons
NC, FAIR's and SEER's, and Apple's license for machine learning research (AMLR)."""


BUNDLED = "LicenseRef-upernet-weights"
"""The license of the bundled weights, whose text must go with them."""
BUNDLED_TEXT = "LICENSE-WEIGHTS"
"""Name of the file with that text."""


def text_of_bundled_terms() -> str:
    """Return the text of the license of the bundled weights: that of the installed package, or of the source tree.

    Raises:
        UpernetError: It is missing.
    """
    try:
        installed = distribution("upernet").read_text(f"licenses/{BUNDLED_TEXT}")
    except PackageNotFoundError:
        installed = None
    beside = Path(__file__).parents[3] / BUNDLED_TEXT
    if installed is None and not beside.is_file():
        raise UpernetError(f"{BUNDLED_TEXT}, the terms of these weights, is missing; install upernet again.")
    return installed if installed is not None else beside.read_text(encoding="utf-8")


def is_on(variable: str) -> bool:
    """Return whether an environment variable is set to something other than 0, false, no or off."""
    return os.environ.get(variable, "").lower() not in ("", "0", "false", "no", "off")


def restricts_use(license: str | None) -> bool:
    """Return whether the name of a license says that it allows research or non-commercial use only."""
    return RESTRICTED.search(license or "") is not None


def refuse_research_weights(what: object, research_only: bool) -> None:
    """Refuse weights for research or non-commercial use only, if `UPERNET_NO_RESEARCH_WEIGHTS` is on.

    Args:
        what: The weights, as the error names them.
        research_only: Whether their terms allow research or non-commercial use only.

    Raises:
        UpernetError: They do, and the variable is on.
    """
    if research_only and is_on(SWITCH):
        raise UpernetError(
            f"{printable(what)}: these weights are for research and non-commercial use only, which {SWITCH} refuses; "
            "choose other weights, or unset the variable."
        )
