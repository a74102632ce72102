"""The native format: one safetensors file with weights, architecture, taxonomy and a card.

The metadata of the header has one key, `upernet`: JSON with `format`, `model` (a ModelSpec), `taxonomy` and `card`.
Nothing in the file is code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from torch import Tensor

from upernet.checkpoints.card import ModelCard, check_card
from upernet.checkpoints.formats import NATIVE, NamedWeights
from upernet.checkpoints.header import card_in
from upernet.checkpoints.identify import ModelInfo
from upernet.checkpoints.zoo import zoo_entry
from upernet.errors import UpernetError
from upernet.files import write_safetensors
from upernet.models import AUXILIARY, UPerNet
from upernet.recipe import ModelSpec
from upernet.settings import check_settings
from upernet.taxonomy import Taxonomy

FORMAT = 1
"""Version of the format."""


def save_checkpoint(
    path: str | Path,
    model: UPerNet,
    card: ModelCard | Mapping[str, object],
    half: bool = False,
    auxiliary: bool = False,
) -> None:
    """Write the weights of `model` and `card` to `path`.

    Args:
        path: the file, usually with the suffix .safetensors.
        model: the model; its parameters may be on any device.
        card: the card, or its keys.
        half: store matrices and convolutions as float16; norms and biases stay float32.
        auxiliary: include the auxiliary head, which only training needs.

    Raises:
        UpernetError: the card is not valid, or the file cannot be written; an earlier file at `path` then stays.
    """
    tensors: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        if auxiliary or not is_auxiliary(key):
            value = value.detach().cpu().contiguous()
            tensors[key] = value.half() if half and value.is_floating_point() and value.ndim > 1 else value
    content = {
        "format": FORMAT,
        "model": model.spec.model_dump(mode="json"),
        "taxonomy": model.taxonomy.to_dict(),
        "card": check_card(card).to_dict(),
    }
    write_safetensors(path, tensors, {NATIVE: json.dumps(content)})


def read_info(file: NamedWeights) -> ModelInfo:
    """Return what a native file says of its model.

    Raises:
        UpernetError: the description is not valid, or was written by a later version.
    """
    try:
        content = json.loads(str(file.metadata[NATIVE]))
        if content["format"] != FORMAT:
            raise UpernetError("a format that this version does not know: upgrade upernet")
        spec = check_settings(content["model"], ModelSpec, "model")
        taxonomy = Taxonomy.from_dict(content["taxonomy"])
        card = cast(dict[str, object], dict(content.get("card") or {}))
    except (KeyError, TypeError, ValueError, RecursionError, UpernetError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise UpernetError(f"{file.path}: its description of the model is not valid ({reason}).") from error
    return ModelInfo("its own description", spec, taxonomy, check_card(card, f"{file.path}: its card is "))


def research_only_checkpoint(reference: str | os.PathLike[str], path: Path) -> bool:
    """Return whether the weights in the file `path`, which `reference` stands for, are for research use only.

    `zoo.yaml` says so of published weights, and the card of a native file of others; files of other programs say
    nothing of their terms.
    """
    entry = zoo_entry(os.fspath(reference))
    if entry is not None:
        return entry.research_only
    card = card_in(path)
    return card is not None and card.research_only


def is_auxiliary(key: str) -> bool:
    """Return whether `key` names a tensor of the auxiliary head."""
    return key.startswith(f"{AUXILIARY}.")
