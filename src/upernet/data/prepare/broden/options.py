"""What the user gives and chooses."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from upernet.data.prepare.broden.ade20k import Ade20k
from upernet.data.prepare.broden.assignment import PUBLISHED
from upernet.data.prepare.broden.counting import Counting
from upernet.data.prepare.broden.dtd import Dtd
from upernet.data.prepare.broden.opensurfaces import OpenSurfaces
from upernet.data.prepare.broden.pascal import Pascal
from upernet.data.prepare.broden.sources import FlawKind, Reader
from upernet.errors import UpernetError

Refusal = Literal[FlawKind, "all"]


@dataclass(frozen=True)
class Folders:
    """Folders of the data sets, as their archives unpack; None: not there."""

    ade20k: Path | None = None
    pascal_context: Path | None = None
    pascal_part: Path | None = None
    voc2010: Path | None = None
    """Photos of the two before; None: looked for in and beside their folders."""
    opensurfaces: Path | None = None
    dtd: Path | None = None


@dataclass(frozen=True)
class Options:
    """The choices of `prepare_broden`. The defaults give the published result."""

    short_side: int = 512
    """Short side in pixels to which larger photos of ADE20K and OpenSurfaces are reduced; 0: none is."""
    lists: Path | None = None
    """Folder with the released lists of records, which say the split of each photo; None: ADE20K's own split, and a
    tenth of the photos of the other data sets to validate on."""
    refuse: frozenset[Refusal] = frozenset()
    """Kinds of flaws that stop the run; others are counted, listed and left out."""
    workers: int = 1
    """Processes that convert photos."""
    labels: str | Path = PUBLISHED
    """`published`, `counted` (by `counting`), or a file in the form of published.yaml."""
    taxonomy: str | Path = "broden"
    """The taxonomy that the file of `labels` assigns to."""
    counting: Counting = field(default_factory=Counting)
    """Which classes there are, if they are counted."""


def open_readers(folders: Folders, options: Options) -> list[Reader]:
    """Return the readers of the data sets that are given.

    Raises:
        UpernetError: None is.
    """
    readers: list[Reader] = []
    if folders.ade20k:
        readers.append(Ade20k(folders.ade20k))
    if folders.pascal_context or folders.pascal_part:
        readers.append(Pascal(folders.pascal_context, folders.pascal_part, folders.voc2010, options.counting.collapse))
    if folders.opensurfaces:
        readers.append(OpenSurfaces(folders.opensurfaces))
    if folders.dtd:
        readers.append(Dtd(folders.dtd))
    if not readers:
        raise UpernetError(
            "no data set is given; give at least one of --ade20k, --pascal-context, --pascal-part, --opensurfaces and "
            "--dtd (upernet data prepare broden --help says where each is to be had)."
        )
    return readers
