"""Settings that say under which terms data may be used."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from upernet.settings import Settings

TermsText = Annotated[str, Field(max_length=1000)]


class TermsSpec(Settings):
    """Whose data a source holds, and under which terms; model cards show them."""

    name: TermsText = ""
    """Name of the data set, with its publication."""
    license: TermsText = ""
    """Its terms: an SPDX license expression, or words."""
    research_only: bool = False
    """Whether the terms allow research or non-commercial use only. Weights that are trained on the source are then
    marked in their card, and UPERNET_NO_RESEARCH_WEIGHTS=1 refuses to load them."""
    shareable: bool = False
    """Whether the terms allow to pass the photos on: a model card shows photos of such sources only."""
