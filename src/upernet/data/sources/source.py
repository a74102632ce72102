"""The bases of all kinds of sources: samples; folders and splits, listing, annotated and implied levels."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors  # pyright: ignore[reportMissingTypeStubs]

from upernet.data.candidates import Candidates, CandidateSets
from upernet.data.images import read_image
from upernet.data.sample import Sample
from upernet.data.sources.annotation import LevelAnnotation, LevelMasks, Photo
from upernet.data.sources.links import files_below, refuse_links
from upernet.data.sources.lists import select_listed
from upernet.data.sources.pseudo import PseudoLabels
from upernet.errors import UpernetError
from upernet.recipe import AnnotationSpec, FolderSpec, SourceSpec
from upernet.taxonomy import Level, Taxonomy
from upernet.taxonomy.levels import LEVEL_KINDS


class SourceMissing(UpernetError):  # noqa: N818 (the name is public)
    """A source's folder or split is missing; programs may go on without it, if they say so."""


class Source(ABC):
    """A sequence of samples: one split of a data source.

    Attributes:
        name: Key under `sources` of the recipe.
        spec: Settings of the source.
        taxonomy: The taxonomy of the labels.
        data_dir: The data directory.
        split: The split.
        annotations: Level -> how the files of the source annotate it.
        levels: Levels of its samples: the annotated ones, then the implied ones.
        implied: Levels whose labels follow from those of another level, or are the same for all photos.
        photos: The listed photos; `source[i]` reads `photos[i]`. Empty if the source makes its photos.
        candidates: Level -> candidate sets that its label maps refer to.
    """

    annotations: Mapping[str, LevelAnnotation]
    levels: tuple[str, ...]
    implied: frozenset[str]
    photos: Sequence[Photo]
    candidates: dict[str, Candidates]

    def __init__(self, name: str, spec: SourceSpec, taxonomy: Taxonomy, data_dir: Path, split: str) -> None:
        self.name = name
        self.spec = spec
        self.taxonomy = taxonomy
        self.data_dir = data_dir
        self.split = split

    @property
    def annotated_levels(self) -> tuple[str, ...]:
        """The levels whose labels are not implied."""
        return tuple(level for level in self.levels if level not in self.implied)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Read or make photo `index` and its annotations.

        Raises:
            UpernetError: The photo or an annotation cannot be used; the message names the file.
        """

    def read_photo(self, photo: Photo) -> Image.Image:
        """Decode the photo alone. Raises the errors of `read_image`."""
        return read_image(photo.path)

    def scored_labels(self) -> dict[str, frozenset[int]]:
        """Return the labels that masks of the source can have, by level; none of the levels that have all labels."""
        return {}

    def merged_labels(self) -> dict[str, np.ndarray]:
        """Return what a prediction of each label counts as in scoring, by level; see `LevelMasks.merged`."""
        return {}

    def pseudo_label_problems(self, photo: Photo, size: tuple[int, int]) -> list[str]:
        """Say what is wrong with each mask of pseudo-labels of `photo`; nothing, if the source has none."""
        return []

    def problems(self) -> list[str]:
        """Return what is wrong with the files as far as their names show, each with the fix."""
        return []

    def empty_folders(self) -> list[Path]:
        """Return the folders that should hold photos and do not."""
        return []


class FolderSource(Source):
    """A source with photos in folders, sorted by file name.

    A kind of source says how its photos are listed (`_list`) and how each level is annotated (`_annotation`).

    Attributes:
        folders: The folders of the split: `path` below the data directory, once per folder name of the split.
        split_names: Folder name of the split in each of `folders`.
        pseudo: Level -> its pseudo-labels; none outside of training.
    """

    spec: FolderSpec
    layout = "put photos there"
    """The files that the source expects, for errors."""

    def __init__(self, name: str, spec: FolderSpec, taxonomy: Taxonomy, data_dir: Path, split: str) -> None:
        super().__init__(name, spec, taxonomy, data_dir, split)
        self.split_names, self.folders = self._find_folders()
        self.annotations = {
            level: self._annotation(self._where(level), taxonomy.level(level), annotation)
            for level, annotation in spec.annotated.items()
        }
        self.levels = (*self.annotations, *self._implied_levels())
        self.implied = frozenset(self.levels) - frozenset(self.annotations)
        self.pseudo = self._open_pseudo_labels() if split == "train" else {}
        self.levels = tuple(dict.fromkeys((*self.levels, *self.pseudo)))
        self._check_owners()
        if split != "train":
            for annotation in self._masks():
                annotation.use_for_scoring()
        photos = [photo for photo in self._list() if self._in_split(photo.path)]
        self._unlisted: list[str] = []
        if split in spec.lists:
            photos, self._unlisted = select_listed(Path(spec.lists[split]), photos, self.folders)
        self.photos = photos
        for pseudo in self.pseudo.values():
            pseudo.find(photos, self._photo_folders())
        self.candidates = self._candidate_tables()
        if not spec.follow_links:
            files = (file for photo in photos for file in (photo.path, *photo.masks.values()) if file is not None)
            refuse_links(f"sources.{name}", files, self._roots)

    @property
    def annotated_levels(self) -> tuple[str, ...]:
        """The levels that files of the source annotate."""
        return tuple(self.annotations)

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> Sample:
        """Read photo `index` and its annotations.

        Raises:
            UpernetError: The photo or an annotation cannot be used; the message names the file.
        """
        photo = self.photos[index]
        image = self.read_photo(photo)
        maps: dict[str, np.ndarray] = {}
        labels: dict[str, int] = {}
        for annotation in self.annotations.values():
            own_maps, own_labels = annotation.annotate(photo, image.size)
            maps |= own_maps
            labels |= own_labels
        if self.split == "train":
            for level, pseudo in self.pseudo.items():
                maps[level] = pseudo.fill(maps.get(level), photo, image.size)
        inside = photo.path.is_relative_to(self.data_dir)  # not where the recipe gives an absolute path
        return Sample(
            # A view of H x W x 3: torchvision resizes this memory order fastest.
            image=tv_tensors.Image(torch.as_tensor(np.array(image)).permute(2, 0, 1)),
            maps={level: tv_tensors.Mask(torch.as_tensor(value)) for level, value in maps.items()},
            labels=labels,
            implied=self.implied,
            candidates=self.candidates,
            key=(photo.path.relative_to(self.data_dir) if inside else photo.path).as_posix(),
        )

    @abstractmethod
    def _annotation(self, where: str, level: Level, spec: AnnotationSpec) -> LevelAnnotation:
        """Return how the source annotates `level`; `where` is the key of the recipe that describes it."""

    @abstractmethod
    def _list(self) -> Sequence[Photo]:
        """Return all photos of `folders`, sorted, whatever the split."""

    def _open_pseudo_labels(self) -> dict[str, PseudoLabels]:
        opened: dict[str, PseudoLabels] = {}
        for level, spec in self.spec.pseudo_labels.items():
            sets = self._candidate_sets().get(level, CandidateSets())
            where = f"sources.{self.name}.pseudo_labels.{level}"
            opened[level] = PseudoLabels(where, self.taxonomy.level(level), spec, self.data_dir, self.split_names, sets)
        return opened

    def _candidate_sets(self) -> dict[str, CandidateSets]:
        """Return the candidate sets of each level that files annotate or that follows from it."""
        found = (annotation.candidates for annotation in self.annotations.values())
        return {level: sets for candidates in found for level, sets in candidates.items()}

    def _candidate_tables(self) -> dict[str, Candidates]:
        """Return the candidate sets of each level that has any, as tensors; none outside of training."""
        if self.split != "train":
            return {}
        sets = self._candidate_sets() | {level: pseudo.candidates for level, pseudo in self.pseudo.items()}
        return {level: own.table(self.taxonomy.level(level).num_classes) for level, own in sets.items() if own.sets}

    def _masks(self) -> list[LevelMasks]:
        return [annotation for annotation in self.annotations.values() if isinstance(annotation, LevelMasks)]

    def pseudo_label_problems(self, photo: Photo, size: tuple[int, int]) -> list[str]:
        """Say what is wrong with each mask of pseudo-labels of `photo`, whose width and height are `size`."""
        found: list[str] = []
        for pseudo in self.pseudo.values():
            try:
                pseudo.fill(None, photo, size)
            except UpernetError as error:
                found.append(str(error))
        return found

    def scored_labels(self) -> dict[str, frozenset[int]]:
        """Return the labels that masks of the source can have, by level; none of the levels without masks."""
        found: dict[str, frozenset[int]] = {}
        for annotation in self._masks():
            for level, table in annotation.tables.items():
                found[level] = frozenset(np.unique(table[table >= 0]).tolist())
        return found

    def merged_labels(self) -> dict[str, np.ndarray]:
        """Return what a prediction of each label counts as in scoring, by level; see `LevelMasks.merged`."""
        return {annotation.level.name: annotation.merged for annotation in self._masks()}

    def _photo_folders(self) -> list[Path]:
        """Return the folder of the photos in each of `folders`."""
        return self.folders

    def problems(self) -> list[str]:
        """Return what is wrong with the files as far as their names show, each with the fix."""
        if self._unlisted:
            return self._unlisted
        if not self.photos:
            places = " and ".join(str(folder) for folder in self.folders)
            if self._holds_back:
                share = f"sources.{self.name}.held_back"
                return [f"{places}: none of its photos fall into split {self.split}; change {share} or add photos."]
            return [f"{places}: no photos of source {self.name} in this folder; {self.layout}."]
        return []

    def _where(self, level: str) -> str:
        place = f"sources.{self.name}"
        return place if self.spec.level else f"{place}.annotations.{level}"

    def _implied_levels(self) -> Iterable[str]:
        by: dict[str, str] = {}
        for level, annotation in self.annotations.items():
            for implied in annotation.spec.implies:
                where = f"{annotation.where}.implies.{implied}"
                if implied in self.annotations:
                    raise UpernetError(f"{where}: the source annotates level {implied} itself; remove it.")
                if implied in by:
                    raise UpernetError(f"{where}: level {by[implied]} implies {implied}, too; keep one of the two.")
                by[implied] = level
        return by

    def _check_owners(self) -> None:
        """Check that parts come with maps of the objects that own them."""
        maps = {level for annotation in self.annotations.values() for level in annotation.maps}
        for level, annotation in self.annotations.items():
            owner = LEVEL_KINDS[level].owned_by
            if isinstance(annotation, LevelMasks) and owner is not None and owner not in maps:
                raise UpernetError(
                    f"{annotation.where}.implies: {level}s need the {owner} they belong to; annotate level {owner}, "
                    f'too, or imply it, for instance implies: {{{owner}: {{"*": person}}}}.'
                )

    @property
    def _holds_back(self) -> bool:
        """Whether the folder of `train` is divided between `train` and `held_back`."""
        return self.spec.held_back > 0 and "held_back" not in self.spec.splits and self.split in ("train", "held_back")

    def _find_folders(self) -> tuple[list[str], list[Path]]:
        splits: dict[str, str] = {**self.spec.splits}
        folder_name = splits.get("train" if self._holds_back else self.split)
        if folder_name is None:
            raise SourceMissing(
                f"source {self.name} has no split {self.split}; name its folder under sources.{self.name}.splits "
                f"(there: {', '.join(splits) or 'none'})."
            )
        names = [part.strip() for part in folder_name.split("+")]
        folders = [self.data_dir / self.spec.path.replace("{split}", name) for name in names]
        for folder in folders:
            if not os.path.isdir(folder):
                raise SourceMissing(
                    f"{folder}: no such folder, so source {self.name} has no {self.split} photos; "
                    "put the data set there or give another data directory."
                )
        return names, folders

    @property
    def _roots(self) -> list[Path]:
        """Folders that photos and masks must be in once symbolic links are resolved, unless the spec allows others."""
        return [self.data_dir, self.data_dir / self.spec.path.partition("{split}")[0]]

    def _files_below(self, folder: Path) -> Iterator[Path]:
        """Yield the files in a folder at any depth, without hidden ones."""
        return files_below(folder, None if self.spec.follow_links else self._roots)

    def _in_split(self, path: Path) -> bool:
        if not self._holds_back:
            return True
        digest = blake2b(path.stem.encode(errors="surrogateescape"), digest_size=8).digest()
        held_back = int.from_bytes(digest, "big") < self.spec.held_back * 2**64
        return held_back == (self.split == "held_back")
