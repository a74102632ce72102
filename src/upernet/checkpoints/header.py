"""The card of a model in the header of a file of weights, which can be read without the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open

from upernet.checkpoints.card import ModelCard, check_card
from upernet.checkpoints.formats import NATIVE

CARD = "upernet_card"
"""Key of the card in the header of a file that upernet writes in the format of another program."""


def card_in(path: str | Path) -> ModelCard | None:
    """Return the card that upernet has put into the header of a file, the only part that is read; None: there is none.

    Raises:
        UpernetError: the card is not valid.
    """
    try:
        with cast(Any, safe_open)(path, framework="pt") as file:
            metadata = cast("dict[str, object]", file.metadata() or {})
    except (SafetensorError, OSError):
        return None
    return card_of_header(metadata, path)


def card_of_header(metadata: Mapping[str, object], path: str | Path) -> ModelCard | None:
    """Return the card in the metadata of a file, native or written for another program; None: there is none.

    Raises:
        UpernetError: the card is not valid.
    """
    try:
        if CARD in metadata:
            card: object = json.loads(str(metadata[CARD]))
        else:
            card = json.loads(str(metadata[NATIVE])).get("card") or {}
        values = dict(cast("dict[str, object]", card))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return None
    return check_card(values, f"{path}: its card is ")
