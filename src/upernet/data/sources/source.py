"""What all sources share: folders and splits, the listing, and the implied labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors

from upernet.data.images import read_image
from upernet.data.sample import Sample
from upernet.data.sources.mapping import implied_label, implied_labels, read_label_names
from upernet.errors import UpernetError
from upernet.recipe import SourceSpec
from upernet.taxonomy import Taxonomy


class SourceMissing(UpernetError):
    """The source's folder, or the split, is not there: programs may go on without it, if they say so."""


@dataclass(frozen=True)
class Photo:
    """A listed photo, with the mask that belongs to it or the class folder that it lies in."""

    path: Path
    mask: Path | None = None
    label: int | None = None


class Source(ABC):
    """A sequence of samples of one split of a data source, sorted by file name.

    Attributes:
        name: the key under `sources` of the recipe.
        spec: its settings.
        levels: the levels that its samples annotate, the source's own level first.
        weak: those of them that are implied.
        photos: what was listed; `source[i]` reads `photos[i]`.
    """

    def __init__(self, name: str, spec: SourceSpec, taxonomy: Taxonomy, data_dir: Path, split: str) -> None:
        self.name = name
        self.spec = spec
        self.taxonomy = taxonomy
        self.data_dir = data_dir
        self.split = split
        self.level = taxonomy.level(spec.level)
        self.folders = self._find_folders()
        self.label_names = self._read_label_names()
        if spec.level in spec.implies:
            raise UpernetError(f"sources.{name}.implies: {spec.level} is the source's own level; take it out.")
        self.image_labels = {
            level: implied_label(f"sources.{name}.implies.{level}", taxonomy.level(level), implied)
            for level, implied in spec.implies.items()
            if isinstance(implied, str)
        }
        self.implied = {
            level: implied_labels(f"sources.{name}.implies.{level}", self.level, taxonomy.level(level), implied)
            for level, implied in spec.implies.items()
            if not isinstance(implied, str)
        }
        self.weak = frozenset(spec.implies)
        self.levels = (spec.level, *spec.implies)
        self.photos = [photo for photo in self._list() if self._in_split(photo.path)]

    def __len__(self) -> int:
        return len(self.photos)

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Read photo `index`. Raises UpernetError, naming the file, when it or its annotation is not usable."""

    @abstractmethod
    def _list(self) -> Sequence[Photo]:
        """All photos of `folders`, sorted, whatever the split."""

    def problems(self) -> list[str]:
        """What is wrong with the files as far as their names tell, each with the fix."""
        if not self.photos:
            places = " and ".join(str(folder) for folder in self.folders)
            if self._holds_back:
                share = f"sources.{self.name}.held_back"
                return [f"{places}: none of its photos fall into split {self.split}; change {share} or add photos."]
            return [f"{places}: no photos of source {self.name} in there; {self.layout}."]
        return []

    def empty_folders(self) -> list[Path]:
        """Folders that should hold photos and do not."""
        return []

    layout = "put photos there"
    """The folders that the source expects, said in errors."""

    @property
    def _holds_back(self) -> bool:
        """Whether the folder of `train` is divided between `train` and `held_back`."""
        return self.spec.held_back > 0 and "held_back" not in self.spec.splits and self.split in ("train", "held_back")

    def _find_folders(self) -> list[Path]:
        folder_name = self.spec.splits.get("train" if self._holds_back else self.split)  # type: ignore[call-overload]
        if folder_name is None:
            raise SourceMissing(
                f"source {self.name} has no split {self.split}; name its folder under sources.{self.name}.splits "
                f"(there: {', '.join(self.spec.splits) or 'none'})."
            )
        folders = [self.data_dir / self.spec.path.replace("{split}", part.strip()) for part in folder_name.split("+")]
        for folder in folders:
            if not folder.is_dir():
                raise SourceMissing(
                    f"{folder}: no such folder, so source {self.name} has no {self.split} photos; "
                    "put the data set there or give another data directory."
                )
        return folders

    def _read_label_names(self) -> dict[int, str]:
        """Names of the source's classes by their numbers, empty if it has none."""
        return read_label_names(self.folders)

    def _in_split(self, path: Path) -> bool:
        if not self._holds_back:
            return True
        digest = blake2b(path.stem.encode(), digest_size=8).digest()
        held_back = int.from_bytes(digest, "big") < self.spec.held_back * 2**64
        return held_back == (self.split == "held_back")

    def _sample(self, photo: Photo, maps: dict[str, np.ndarray], labels: dict[str, int], image: Image.Image) -> Sample:
        inside = photo.path.is_relative_to(self.data_dir)  # not where the recipe gives an absolute path
        return Sample(
            # A view of H x W x 3: torchvision resizes this memory order fastest.
            image=tv_tensors.Image(torch.from_numpy(np.array(image)).permute(2, 0, 1)),
            maps={level: tv_tensors.Mask(torch.from_numpy(value)) for level, value in maps.items()},
            labels={**labels, **self.image_labels},
            weak=self.weak,
            key=(photo.path.relative_to(self.data_dir) if inside else photo.path).as_posix(),
        )

    def read_photo(self, photo: Photo) -> Image.Image:
        """Decode the photo alone. Raises as `read_image`."""
        return read_image(photo.path)
