"""The zoo: published weights as data (`zoo.yaml`), for whole models and for backbones."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import Field, RootModel, field_validator

from upernet.errors import UpernetError
from upernet.recipe import Size
from upernet.settings import Settings, read_settings

ZOO = Path(__file__).with_name("zoo.yaml")


class Published(Settings):
    """What the authors of a segmentation network published of it."""

    crop: Size
    """Height and width of the crops it was trained on, in pixels."""
    miou_single_scale: float
    """Mean IoU in percent, one pass per photo."""
    miou_multi_scale: float
    """Mean IoU in percent, averaged over six sizes and their mirror images."""
    params: int
    """Parameters, the auxiliary head's included."""
    macs: int
    """Multiply-adds of one image, without the auxiliary head..."""
    macs_at: Size
    """...of this height and width in pixels."""


class ZooEntry(Settings):
    """One file with weights."""

    name: str = ""
    """Of a model (then it is the recipe's) or of a backbone; set from the key."""
    url: str
    """http, https or file."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """As published; None: that of the first download holds from then on."""
    bytes: int | None = Field(default=None, ge=1)
    """Size as published."""
    licence: str
    published: Published | None = None
    """None for backbones."""

    @field_validator("url")
    @classmethod
    def _names_a_file(cls, url: str) -> str:
        if urlsplit(url).scheme not in ("http", "https", "file"):
            raise ValueError("must begin with https://, http:// or file://")
        if not re.fullmatch(r"\w[\w.-]*", _last_part(url)):
            raise ValueError("must end with the name of a file, of letters, digits, dots, - and _")
        return url

    @property
    def file(self) -> str:
        """Name of the file."""
        return _last_part(self.url)


class _Zoo(RootModel[dict[str, ZooEntry]]):
    pass


def list_zoo() -> list[str]:
    """Names that `zoo_entry` knows: models, then backbones."""
    return list(_entries())


def zoo_entry(name: str) -> ZooEntry | None:
    """What the zoo has for the model or backbone `name`; None: nothing."""
    return _entries().get(name)


def known_entry(name: str) -> ZooEntry:
    """As `zoo_entry`.

    Raises:
        UpernetError: the zoo does not have `name`.
    """
    entry = zoo_entry(name)
    if entry is None:
        raise UpernetError(f"{name}: not in the zoo; it has {', '.join(list_zoo())}.")
    return entry


@cache
def _entries() -> dict[str, ZooEntry]:
    entries = read_settings(ZOO, _Zoo).root
    return {name: entry.model_copy(update={"name": name}) for name, entry in entries.items()}


def _last_part(url: str) -> str:
    return unquote(urlsplit(url).path).rpartition("/")[2]
