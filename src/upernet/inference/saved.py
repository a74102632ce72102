"""Reading of saved parses: what `Parse.save` wrote, without the photo and without a model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from upernet.data.images import read_mask
from upernet.errors import UpernetError, shorten
from upernet.files import read_limited
from upernet.inference.label_map import UNSURE
from upernet.inference.parse import Parse
from upernet.inference.saving import RESULT_FILE
from upernet.inference.web import is_address
from upernet.taxonomy import LEVEL_KINDS

MOST_BYTES = 2**26
"""Bytes of the largest parse.json that is read; one of Broden's classes has a thousandth of them."""
BACKGROUND_NAMES = ("-", "none", "background")
"""Names that a first class has where it means "none of the others"; for files of versions that did not say so."""
Side = Annotated[int, Field(strict=True, ge=1)]


@dataclass(frozen=True, eq=False)
class ClassMap:
    """The labels of one dense level of a photo."""

    labels: np.ndarray
    """Integers H x W: indices into `names`, -1 where unsure."""
    names: tuple[str, ...]
    background: bool
    """Whether label 0 means "none of the listed classes"."""


@dataclass(frozen=True, eq=False)
class ParsedPhoto:
    """What a parse says about a photo, without pixels of the photo and without confidences."""

    photo: str | None
    """Path or address of the photo; None if it is unknown."""
    folder: Path | None
    """The folder of the saved parse; None if it was not saved."""
    model: str
    size: tuple[int, int]
    """Width and height in pixels."""
    image_labels: Mapping[str, str | None]
    """Level with one label per photo -> the name of the class; None where unsure."""
    maps: Mapping[str, ClassMap]
    """Dense level -> its labels."""


def parsed_photo(parse: Parse) -> ParsedPhoto:
    """Return what a parse in memory says about its photo."""
    return ParsedPhoto(
        parse.path,
        parse.folder,
        parse.model,
        parse.photo.size,
        {level: ranking[0][0] if parse.is_sure(level) else None for level, ranking in parse.rankings.items()},
        {level: ClassMap(found.labels, found.names, found.background) for level, found in parse.maps.items()},
    )


def find_saved(folder: Path) -> Iterator[Path]:
    """Yield the folders of the saved parses in `folder`, itself and below, sorted by name, without hidden ones.

    Raises:
        UpernetError: There is no such folder, or one cannot be read.
    """
    if not folder.is_dir():
        raise UpernetError(f"{folder}: no such folder; give the --out folder of `upernet parse`.")

    def refuse(error: OSError) -> None:
        raise UpernetError(f"{error.filename}: the folder cannot be read ({error.strerror}); change its permissions.")

    for parent, folders, files in os.walk(folder, onerror=refuse):
        if RESULT_FILE in files:
            yield Path(parent)
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def read_saved(folder: Path) -> ParsedPhoto:
    """Read a saved parse: its parse.json and its label PNGs.

    Raises:
        UpernetError: A file is missing, damaged or too large, or the files do not fit together.
    """
    place = folder / RESULT_FILE
    content = read_result(folder)
    about = _check(place, content, _About)
    labels: dict[str, str | None] = {}
    maps: dict[str, ClassMap] = {}
    for level, kind in LEVEL_KINDS.items():
        if level not in content:
            continue
        if kind.dense:
            maps[level] = _read_map(folder, level, _check(place, content[level], _DenseLevel), about)
        else:
            labels[level] = _check(place, content[level], _ImageLevel).name
    if not labels and not maps:
        raise UpernetError(f"{place}: there is no level in it; parse the photo again.")
    photo = about.path
    if photo is not None and not is_address(photo):
        photo = os.path.normpath(os.path.join(os.path.realpath(folder), photo))
    return ParsedPhoto(photo, folder, about.model, (about.width, about.height), labels, maps)


class _About(BaseModel):
    path: str | None
    model: str
    width: Side
    height: Side


class _ImageLevel(BaseModel):
    name: str | None


class _DenseLevel(BaseModel):
    unsure: Annotated[int, Field(strict=True)]
    background: bool | None = None
    names: Annotated[tuple[str, ...], Field(min_length=1)]


def read_result(folder: Path) -> dict[str, Any]:
    """Return the content of the parse.json of a saved parse. Raises UpernetError if it cannot be read."""
    place = folder / RESULT_FILE
    try:
        content: Any = json.loads(read_limited(place, MOST_BYTES))
    except FileNotFoundError:
        raise UpernetError(f"{place}: no such file; give the folder of a saved parse.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UpernetError(f"{place}: cannot be read ({shorten(str(error))}); parse the photo again.") from None
    if not isinstance(content, dict):
        raise UpernetError(f"{place}: is not what `upernet parse` writes; parse the photo again.")
    return cast("dict[str, Any]", content)


def _check(place: Path, content: object, model: type[Any]) -> Any:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"])) or "a level"
        raise UpernetError(
            f"{place}: {key} is missing or wrong, so it is not what `upernet parse` writes; parse the photo again."
        ) from None


def _read_map(folder: Path, level: str, about: _DenseLevel, photo: _About) -> ClassMap:
    file = folder / f"{level}.png"
    if not file.exists():
        raise UpernetError(f"{file}: no such file; save the label maps too: upernet parse --save labels.")
    values = read_mask(file)
    height, width = values.shape
    if (width, height) != (photo.width, photo.height):
        raise UpernetError(
            f"{file}: has {width} x {height} pixels, and {RESULT_FILE} says {photo.width} x {photo.height}; "
            "parse the photo again."
        )
    labels = np.where(values == about.unsure, UNSURE, values.astype(np.int32))
    if int(labels.max()) >= len(about.names):
        raise UpernetError(
            f"{file}: has the value {int(labels.max())}, and {RESULT_FILE} names {len(about.names)} classes; "
            "parse the photo again."
        )
    known = about.background
    background = about.names[0] in BACKGROUND_NAMES or bool(LEVEL_KINDS[level].owned_by) if known is None else known
    return ClassMap(labels, about.names, background)
