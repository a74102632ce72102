"""The zoo: published weights of models and backbones, as data (`zoo.yaml`), and where they are kept."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import Field, RootModel, field_validator, model_validator

from upernet.errors import UpernetError
from upernet.recipe import Size
from upernet.settings import Settings, read_settings

ZOO = Path(__file__).with_name("zoo.yaml")
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
"""Suffixes of checkpoints in folders and repositories; a file that is named by itself may have any."""


class Published(Settings):
    """Published facts about a segmentation network."""

    crop: Size
    """Height and width of the training crops in pixels."""
    miou_single_scale: float
    """Mean IoU in percent, one pass per photo."""
    miou_multi_scale: float
    """Mean IoU in percent, averaged over six sizes and their mirror images."""
    params: int | None = None
    """Number of parameters, including the auxiliary head. None: not published."""
    macs: int | None = None
    """Multiply-adds for one image of the size `macs_at`, without the auxiliary head. None: not published."""
    macs_at: Size
    """Height and width in pixels of the image that multiply-adds are counted for."""


class ZooFile(Settings):
    """A published file."""

    url: str
    """http, https or file."""
    mirrors: tuple[str, ...] = ()
    """Addresses of the same file, tried in turn when `url` fails."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Published hash. None: later downloads must agree with the first one."""
    bytes: int | None = Field(default=None, ge=1)
    """Published size."""

    @field_validator("url")
    @classmethod
    def _names_a_file(cls, url: str) -> str:
        if urlsplit(url).scheme not in ("http", "https", "file"):
            raise ValueError("must begin with https://, http:// or file://")
        if not re.fullmatch(r"\w[\w.-]*", _last_part(url)):
            raise ValueError("must end with the name of a file, of letters, digits, dots, - and _")
        return url

    @model_validator(mode="after")
    def _mirrors_have_the_same_file(self) -> ZooFile:
        for mirror in self.mirrors:
            if self._names_a_file(mirror) and _last_part(mirror) != _last_part(self.url):
                raise ValueError(f"mirror {mirror} must end with {_last_part(self.url)}")
        return self


class ClassifierFile(ZooFile):
    """The published file of a backbone that classifies photos into the 1000 classes of ImageNet-1k."""

    image_size: int = Field(ge=32)
    """Side in pixels of the square photos that its score was measured on."""


class ZooEntry(ZooFile):
    """Published weights: a file, or a file of the encoder and one of the decoder."""

    name: str = ""
    """Name of the model, which is also the name of its recipe, or of the backbone; set from the key."""
    decoder: ZooFile | None = None
    """The file of the decoder, if it is not in the same file as the encoder."""
    classifier: ClassifierFile | None = None
    """The file of the network as a classifier, which may be the same file."""
    license: str
    """Terms, in words."""
    research_only: bool = False
    """Whether the terms allow research or non-commercial use only."""
    published: Published | None = None
    """None for backbones, and for models whose scores are not listed here."""

    @property
    def file(self) -> str:
        """Path of the file below the folder for downloads; one of two files is in a folder of the model's name."""
        name = _last_part(self.url)
        return name if self.decoder is None else f"{self.name}/{name}"

    @property
    def files(self) -> tuple[ZooEntry, ...]:
        """One entry per file, which names it as its `file`."""
        if self.decoder is None:
            return (self,)
        return self, self.model_copy(update=dict(self.decoder))

    def as_classifier(self) -> ZooEntry:
        """Return the entry of the file that classifies photos.

        Raises:
            UpernetError: None is published.
        """
        if self.classifier is None:
            raise UpernetError(f"{self.name}: no classifier is published; give a file.")
        return self.model_copy(update=self.classifier.model_dump(exclude={"image_size"}))


class _Zoo(RootModel[dict[str, ZooEntry]]):
    pass


def list_zoo() -> list[str]:
    """Return the names of all entries: models, then backbones."""
    return list(_entries())


def zoo_entry(name: str) -> ZooEntry | None:
    """Return the entry of the model or backbone `name`, or None."""
    return _entries().get(name)


def known_entry(name: str) -> ZooEntry:
    """Return the entry of the model or backbone `name`.

    Raises:
        UpernetError: The zoo does not have `name`.
    """
    entry = zoo_entry(name)
    if entry is None:
        raise UpernetError(f"{name}: not in the zoo; it has {', '.join(list_zoo())}.")
    return entry


def is_downloaded(entry: ZooEntry) -> bool:
    """Return whether the files of `entry` are on this computer; they may not be verified yet."""
    return all((checkpoints_folder() / part.file).is_file() for part in entry.files)


def checkpoints_folder() -> Path:
    """Return the folder for the zoo's files; it need not exist.

    Raises:
        UpernetError: The user has no home folder, and `UPERNET_HOME` is not set.
    """
    if home := os.environ.get("UPERNET_HOME"):
        return Path(home) / "checkpoints"
    from platformdirs import user_cache_path  # imported here because bundled models start without it

    cache = user_cache_path("upernet", appauthor=False, opinion=False)
    if not cache.is_absolute():
        raise UpernetError("UPERNET_HOME: set it to a folder for downloads; this user has no home folder.")
    return cache / "checkpoints"


@cache
def _entries() -> dict[str, ZooEntry]:
    entries = read_settings(ZOO, _Zoo).root
    return {name: entry.model_copy(update={"name": name}) for name, entry in entries.items()}


def _last_part(url: str) -> str:
    return unquote(urlsplit(url).path).rpartition("/")[2]
