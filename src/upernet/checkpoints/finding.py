"""Finding a checkpoint: the one place that turns what a user writes into a file.

`parse --model`, `train --init`, `evaluate --checkpoint`, `convert` and `bench` take the same references, and so do
`upernet.load` and `upernet.load_model(checkpoint=...)`:

* the name of a model whose weights are inside the package or published (those are downloaded at first use);
* a file;
* a folder: of a training run, of transformers, or with one checkpoint in it;
* `hf://OWNER/NAME` or `hf://OWNER/NAME/FILE`: a repository on the Hugging Face Hub; `@REVISION` may follow.

`parse --model` and `upernet.load` also take files that `upernet export` wrote, which are no checkpoints.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from upernet.checkpoints.formats.halves import encoder_in
from upernet.checkpoints.zoo import SUFFIXES, zoo_entry
from upernet.errors import UpernetError, did_you_mean, shorten
from upernet.files import refuse_special_file
from upernet.models import list_models
from upernet.recipe import Recipe, load_recipe

SHIPPED = Path(__file__).parent / "shipped"
HUB = "hf://"
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
"""OWNER/NAME: what may name a repository on the Hub."""


def find_checkpoint(reference: str | os.PathLike[str], backbones: bool = False) -> Path:
    """Return the file that `reference` stands for, downloaded if need be.

    Args:
        reference: name of a model, file, folder, or `hf://OWNER/NAME[/FILE][@REVISION]`; a name wins over a file of
            that name.
        backbones: also accept the name of a backbone whose ImageNet weights are published.

    Raises:
        UpernetError: there is no such checkpoint, a folder has none or several, or a download fails.
    """
    text = os.fspath(reference)
    if text in list_models():
        path = published_checkpoint(text)
        if path is None:
            raise missing_weights(text)
        return path
    if text.startswith(HUB):
        return _fetch_from_hub(text)
    refuse_special_file(text)
    if os.path.isdir(text):
        return checkpoint_in(Path(text))
    if os.path.isfile(text):
        return Path(text)
    if zoo_entry(text) is not None:
        if backbones:
            return _fetch_published(text)
        raise UpernetError(
            f"{text}: a backbone, which has no classes; set `backbone_weights: zoo` in a recipe to train a model from "
            "it."
        )
    if text and (Path(text).suffix or Path(text).parent != Path()):
        raise UpernetError(f"{text}: no such checkpoint file.")
    known = ", ".join(list_models())
    raise UpernetError(
        f"unknown model {shorten(text, 80)}{did_you_mean(text[:80], list_models())}: give one of {known}, a checkpoint "
        "file, a folder or hf://OWNER/NAME."
    )


def find_pretrained(reference: str | os.PathLike[str], revision: str | None = None, **options: Any) -> Path:
    """Return the file that `reference` stands for, which may also be OWNER/NAME, a repository on the Hub.

    Args:
        reference: as `find_checkpoint` takes it, or OWNER/NAME. A model or file of that name wins over the repository.
        revision: branch, tag or commit of the repository.
        options: the fields of `HubOptions`.

    Raises:
        UpernetError: as `find_checkpoint` raises it, or there are two revisions.
    """
    text = os.fspath(reference)
    if REPOSITORY.fullmatch(text) and not os.path.exists(text) and not text.endswith(SUFFIXES):
        text = HUB + text
    if not text.startswith(HUB):
        return find_checkpoint(text)
    if revision is not None:
        if "@" in text:
            raise UpernetError(f"{text}: has a revision already; leave out revision={revision!r}.")
        text = f"{text}@{revision}"
    return _fetch_from_hub(text, options)


def check_reference(reference: str | os.PathLike[str], backbones: bool = False) -> None:
    """Raise the error that `find_checkpoint` would, as far as it shows without a download."""
    text = os.fspath(reference)
    is_published = zoo_entry(text) is not None and (backbones or text in list_models())
    if not text.startswith(HUB) and not is_published:
        find_checkpoint(text, backbones)


def recipe_of(reference: str | os.PathLike[str]) -> Recipe | None:
    """Return the recipe that `reference` implies: that of a model by name; None for everything else.

    Published files of other programs do not describe their network in full; the recipe of their name does.
    """
    text = os.fspath(reference)
    return load_recipe(text) if text in list_models() else None


def checkpoint_in(folder: Path) -> Path:
    """Return the checkpoint in a folder: of a training run, of transformers, or the only one there.

    Raises:
        UpernetError: there is none, or there are several.
    """
    try:
        for name in ("model.safetensors", "pytorch_model.bin"):
            if (folder / name).is_file():
                return folder / name
        files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    except OSError as error:
        raise UpernetError(f"{folder}: cannot be read ({error.strerror}); give the checkpoint file itself.") from error
    if encoder := encoder_in(folder, files):
        return encoder
    if len(files) == 1:
        return files[0]
    names = ", ".join(file.name for file in files) or "none"
    raise UpernetError(f"{folder}: a folder must hold one checkpoint (found: {names}); give the file itself.")


def shipped_checkpoint(name: str) -> Path | None:
    """Return the weights of model `name` inside the package, or None if they are not shipped."""
    path = SHIPPED / f"{name}.safetensors"
    return path if path.is_file() else None


def published_checkpoint(name: str) -> Path | None:
    """Return the weights of model `name`: inside the package, or the zoo's, downloaded at first use; None: neither.

    Raises:
        UpernetError: the download fails.
    """
    return shipped_checkpoint(name) or (_fetch_published(name) if zoo_entry(name) is not None else None)


def missing_weights(name: str) -> UpernetError:
    """Return the error that nobody has published weights of model `name`."""
    return UpernetError(
        f"{name} has no bundled or published weights; give a checkpoint file, or train the model with "
        f"`upernet train {name}`."
    )


def _fetch_published(name: str) -> Path:
    from upernet.checkpoints.fetching import fetch  # imported here because the Hub's client is slow to import

    return fetch(name)


def _fetch_from_hub(reference: str, options: Mapping[str, Any] | None = None) -> Path:
    place, at, revision = reference.removeprefix(HUB).partition("@")
    owner, _, rest = place.partition("/")
    name, _, file = rest.strip("/").partition("/")
    if not owner or not name or (at and not revision) or revision.endswith(SUFFIXES):
        raise UpernetError(
            f"{reference}: write hf://OWNER/NAME or hf://OWNER/NAME/FILE, optionally followed by @REVISION."
        )
    from upernet.checkpoints.hub import HubOptions, fetch_hub

    return fetch_hub(f"{owner}/{name}", file or None, revision or None, HubOptions(**(options or {})))
