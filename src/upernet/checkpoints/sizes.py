"""The sizes of the models: parameters and multiply-adds.

Those of the bundled models are in sizes.json, because it takes seconds to build and count all networks. It is written
by docs/write_sizes.py, and the tests count again.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from upernet.checkpoints.pretrained import create_model
from upernet.checkpoints.zoo import zoo_entry
from upernet.models.complexity import count

SIZES = Path(__file__).with_name("sizes.json")
COUNTED_AT = (512, 2048)
"""Height and width of the image for the multiply-adds of models without a published size."""


class ModelSize(NamedTuple):
    """The size of a model, and its work on one image."""

    params: int
    """Parameters, including those of the auxiliary head."""
    macs: int
    """Multiply-adds for one image, as `upernet.models.complexity.count` counts them."""
    macs_at: tuple[int, int]
    """Height and width of that image in pixels."""


def model_size(name: str) -> ModelSize:
    """Return the size of a model by name; a model that is not bundled is built without memory and counted."""
    stored = _stored().get(name)
    return counted_size(name) if stored is None else ModelSize(stored["params"], stored["macs"], _counted_at(name))


def counted_size(name: str) -> ModelSize:
    """Return the size of a model by name, counted now."""
    with torch.device("meta"):  # shapes only: nothing is computed
        model = create_model(name)
    at = _counted_at(name)
    return ModelSize(*count(model, *at), at)


def _counted_at(name: str) -> tuple[int, int]:
    entry = zoo_entry(name)
    return entry.published.macs_at if entry is not None and entry.published is not None else COUNTED_AT


@cache
def _stored() -> dict[str, dict[str, int]]:
    return json.loads(SIZES.read_text(encoding="utf-8"))
