"""Candidate labels: what a pixel may be if its class is not known exactly.

In partial-label learning, an example comes with a set of candidate labels, one of which is right. In a label map, a
set is coded by a number below `IGNORE`, in training only. In scoring, the first label of a set stands for all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from upernet.taxonomy import IGNORE

FIRST_CODE = IGNORE - 1
"""Value in a label map that stands for the first set; those of the next ones follow downwards."""


class CandidateSets:
    """The candidate sets that one source uses for one level."""

    def __init__(self) -> None:
        self.sets: list[tuple[frozenset[int], float]] = []
        self._firsts: list[int] = []
        self.complement: int | None = None
        """The value that stands for "none of the classes that the source maps to", if it is used."""

    def code(self, labels: Collection[int], weight: float = 1.0) -> int:
        """Return the value in a label map for "one of `labels`", whose loss has the factor `weight`."""
        entry = frozenset(labels), weight
        if entry not in self.sets:
            self.sets.append(entry)
            self._firsts.append(next(iter(labels), IGNORE))
        return FIRST_CODE - self.sets.index(entry)

    def labels(self, code: int) -> frozenset[int]:
        """Return the labels that a value below `IGNORE` stands for."""
        return self.sets[FIRST_CODE - code][0]

    def first(self, code: int) -> int:
        """Return the first of the labels that a value below `IGNORE` stands for; `IGNORE` for "none of these"."""
        return IGNORE if code == self.complement else self._firsts[FIRST_CODE - code]

    def table(self, num_classes: int) -> Candidates:
        """Return the sets as tensors, for a level with `num_classes` classes."""
        members = torch.zeros(len(self.sets), num_classes, dtype=torch.bool)
        for row, (labels, _) in enumerate(self.sets):
            members[row, list(labels)] = True
        return Candidates(members, torch.tensor([weight for _, weight in self.sets]))


@dataclass(frozen=True)
class Candidates:
    """The candidate sets of a level: a label map has the value `FIRST_CODE - s` where set `s` is meant."""

    members: Tensor
    """bool S x K: whether class k belongs to set s."""
    weights: Tensor
    """float32 S: factor of the loss of a pixel."""

    @classmethod
    def joined(cls, tables: Sequence[Candidates]) -> Candidates:
        """Return one table with the sets of several, one after another."""
        return cls(torch.cat([table.members for table in tables]), torch.cat([table.weights for table in tables]))

    def __len__(self) -> int:
        return len(self.weights)

    def to(self, device: torch.device | str) -> Candidates:
        """Return the table with its tensors on `device`."""
        return Candidates(self.members.to(device), self.weights.to(device))
