"""A sample (one annotated photo) and a batch of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torchvision import tv_tensors  # pyright: ignore[reportMissingTypeStubs]

from upernet.data.candidates import Candidates


@dataclass(frozen=True)
class Sample:
    """One photo with any number of annotated levels. Labels follow the taxonomy; `IGNORE` (-1) is unknown."""

    image: tv_tensors.Image
    """uint8 3 x H x W, RGB."""
    maps: dict[str, tv_tensors.Mask] = field(default_factory=dict[str, tv_tensors.Mask])
    """Level -> int16 H x W; `part` holds global part labels. In training, values below `IGNORE` are candidate sets."""
    labels: dict[str, int] = field(default_factory=dict[str, int])
    """Level -> label of the whole photo."""
    implied: frozenset[str] = frozenset()
    """Levels whose labels are implied by the source or by another level."""
    key: str = ""
    """Path of the photo, below the data directory if it is there."""
    candidates: dict[str, Candidates] = field(default_factory=dict[str, Candidates])
    """Level -> the candidate sets that its map may refer to."""


@dataclass(frozen=True)
class Batch:
    """Photos of one source and of one size, with the same annotated levels."""

    images: Tensor
    """uint8 N x 3 x H x W."""
    maps: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Level -> int64 N x H x W; -1 is unknown, values below are candidate sets."""
    labels: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Level -> int64 N; -1 is unknown."""
    implied: frozenset[str] = frozenset()
    """Levels whose labels are implied."""
    source: str = ""
    """Name of the source."""
    keys: tuple[str, ...] = ()
    candidates: dict[str, Candidates] = field(default_factory=dict[str, Candidates])
    """Level -> the candidate sets that its maps may refer to."""

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with all its tensors on `device`."""
        return replace(
            self,
            images=self.images.to(device),
            maps={level: value.to(device) for level, value in self.maps.items()},
            labels={level: value.to(device) for level, value in self.labels.items()},
            candidates={level: value.to(device) for level, value in self.candidates.items()},
        )

    def widened(self) -> Batch:
        """Return the batch with int64 maps, which loss functions need."""
        return replace(self, maps={level: value.long() for level, value in self.maps.items()})


def stack(samples: Sequence[Sample], source: str) -> Batch:
    """Stack samples of one source into a batch.

    Its maps are still int16: a quarter of the bytes that travel between processes.

    Raises:
        ValueError: The samples differ in size or in annotated levels.
    """
    first = samples[0]
    for sample in samples:
        if sample.image.shape != first.image.shape:
            raise ValueError(
                f"{sample.key}: size {tuple(sample.image.shape)}, but {first.key} {tuple(first.image.shape)}"
            )
        if sample.maps.keys() != first.maps.keys() or sample.labels.keys() != first.labels.keys():
            raise ValueError(f"{sample.key} and {first.key} annotate different levels")
    return Batch(
        images=torch.stack([sample.image.as_subclass(Tensor) for sample in samples]),
        maps={
            level: torch.stack([sample.maps[level].as_subclass(Tensor) for sample in samples]) for level in first.maps
        },
        labels={level: torch.tensor([sample.labels[level] for sample in samples]) for level in first.labels},
        implied=frozenset[str]().union(*(sample.implied for sample in samples)),
        candidates=first.candidates,
        source=source,
        keys=tuple(sample.key for sample in samples),
    )
