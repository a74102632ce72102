"""timm's ImageNet weights, fetched from the Hugging Face Hub.

timm's own download tries for 47 seconds where there is no network. Here a missing network is noticed at once.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import timm
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from upernet.checkpoints.http import answers
from upernet.checkpoints.hub import HUB_ERRORS, USUAL_FILES, explain, hf_hub_download, is_offline
from upernet.checkpoints.terms import restricts_use
from upernet.errors import UpernetError


def has_restricted_terms(name: str) -> bool:
    """Return whether timm says that its weights of the model `name` are for research or non-commercial use only."""
    config = timm.get_pretrained_cfg(name)
    return config is not None and restricts_use(config.license)


def fetch_timm_weights(name: str) -> Path:
    """Return the file with timm's weights of the model `name`, from the Hub's cache or downloaded into it.

    Raises:
        UpernetError: timm publishes no weights of `name`, downloads are off, or the Hub cannot be reached.
    """
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        raise UpernetError(f"backbone {name}: timm has no weights of it; set backbone_weights to a file or null.")
    repository = str(config.hf_hub_id)
    for file in USUAL_FILES:
        with suppress(LocalEntryNotFoundError, EntryNotFoundError):
            return Path(hf_hub_download(repository, file, local_files_only=True))
    if is_offline() or constants.HF_HUB_OFFLINE:
        raise UpernetError(
            f"hf://{repository}: not downloaded yet, and downloads are off (UPERNET_OFFLINE or HF_HUB_OFFLINE)."
        )
    if not answers(constants.ENDPOINT):
        raise UpernetError(f"hf://{repository}: the Hub cannot be reached; check the connection and HF_ENDPOINT.")
    try:
        for file in USUAL_FILES[:-1]:
            with suppress(EntryNotFoundError):
                return Path(hf_hub_download(repository, file))
        return Path(hf_hub_download(repository, USUAL_FILES[-1]))
    except HUB_ERRORS as error:
        raise UpernetError(f"hf://{repository}: {explain(error)}.") from None
