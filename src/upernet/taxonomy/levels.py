"""The levels of perception (arXiv 1807.10221, sections 2 and 3.2), and everything that other modules know of them.

A new level is a new row of `LEVEL_KINDS`; docs/extending.md lists the other steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

Reads = Literal["backbone", "ppm", "p2", "fused"]
"""Feature map that a head takes: features of the backbone with their gradient stopped (`ModelSpec.texture`), the output
of the pyramid pooling module (PPM), P2 of the feature pyramid, or the fused map."""


@dataclass(frozen=True)
class LevelKind:
    """How one level of perception is annotated, computed and trained."""

    name: str
    dense: bool
    """Whether the level has one label per pixel; otherwise, it has one label per image."""
    reads: Reads
    """The feature map that the level's head takes. A dense level needs a map at stride 4: any but `ppm`."""
    owned_by: str | None
    """The level whose classes own the classes of this one, as objects own parts."""
    loss_weight: float
    """Default weight of the level's loss (section 4.1)."""

    def __post_init__(self) -> None:
        if self.dense and self.reads == "ppm":
            raise ValueError(f"level {self.name}: a dense level needs a map at stride 4, and `ppm` has stride 32")


LEVEL_KINDS: dict[str, LevelKind] = {
    kind.name: kind
    for kind in (
        LevelKind("scene", dense=False, reads="ppm", owned_by=None, loss_weight=0.25),
        LevelKind("object", dense=True, reads="fused", owned_by=None, loss_weight=1.0),
        LevelKind("part", dense=True, reads="fused", owned_by="object", loss_weight=0.5),
        LevelKind("material", dense=True, reads="p2", owned_by=None, loss_weight=1.0),
        LevelKind("texture", dense=True, reads="backbone", owned_by=None, loss_weight=1.0),
    )
}
"""Every level, in the order in which taxonomies, logits and results list them. At most one level has an owner, because
a taxonomy has one list of part groups."""

LEVELS: tuple[str, ...] = tuple(LEVEL_KINDS)

if TYPE_CHECKING:
    LevelName = str
else:
    LevelName = Literal[LEVELS]  # a recipe that names another level gets an error that lists these
