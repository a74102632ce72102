"""Copy-paste augmentation: objects of one photo in front of another one (Ghiasi et al., CVPR 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torchvision import tv_tensors  # pyright: ignore[reportMissingTypeStubs]

from upernet.data.candidates import FIRST_CODE, Candidates
from upernet.data.sample import Sample
from upernet.data.sources import Source
from upernet.data.transforms import augment, uniform
from upernet.errors import UpernetError
from upernet.recipe import Augmentation
from upernet.recipe.augmentation import PasteSpec
from upernet.taxonomy import IGNORE

OBJECT = "object"
"""The level whose labels say what is cut out."""


class Mixer:
    """Augments the samples of one source, and mixes them with photos of others as its augmentation says.

    The result has the levels of the source. What the other photo does not label is unknown.

    Args:
        source: The source.
        others: Sources by name; those that `source.spec.augmentation` names must be there.

    Raises:
        UpernetError: A source that objects are cut out of does not label objects.
    """

    def __init__(self, source: Source, others: Mapping[str, Source]) -> None:
        self.source = source
        self.spec = source.spec.augmentation
        self.others = {name: others[name] for name in self.spec.partners}
        paste = self.spec.paste
        for name in paste.sources if paste else ():
            _check_objects(others[name], f"sources.{source.name}.augmentation.paste.sources")
        if self.spec.paste_onto:
            _check_objects(source, f"sources.{source.name}.augmentation.paste_onto")
        tables: dict[str, list[Candidates]] = {level: [own] for level, own in source.candidates.items()}
        self._offsets: dict[tuple[str, str], int] = {}
        for name, other in self.others.items():
            for level in set(other.candidates) & set(source.levels):
                known = tables.setdefault(level, [])
                self._offsets[name, level] = sum(map(len, known))
                known.append(other.candidates[level])
        self.candidates = {level: Candidates.joined(known) for level, known in tables.items()}

    def __call__(self, index: int, generator: torch.Generator) -> Sample:
        """Return the augmented sample `index` of the source, mixed with other photos."""
        sample = augment(self.source[index], self.spec, generator)
        if (spec := self.spec.paste_onto) and (drawn := self._draw(spec, generator)):
            sample = self._overlay(sample, drawn[1], drawn[0], in_front=False)
        if (spec := self.spec.paste) and (drawn := self._draw(spec, generator)):
            sample = self._overlay(sample, drawn[1], drawn[0], in_front=True)
        return replace(sample, candidates=self.candidates)

    def _draw(self, spec: PasteSpec, generator: torch.Generator) -> tuple[str, Sample] | None:
        """Return another photo, augmented to the size of the crops, and the name of its source; or None."""
        chance, which, photo = uniform(3, generator)
        if chance >= spec.probability:
            return None
        name = spec.sources[int(which * len(spec.sources))]
        other = self.others[name]
        update = {"crop": self.spec.crop, "scale": spec.scale or other.spec.augmentation.scale}
        augmentation: Augmentation = other.spec.augmentation.model_copy(update=update)
        return name, augment(other[int(photo * len(other))], augmentation, generator)

    def _overlay(self, sample: Sample, other: Sample, name: str, in_front: bool) -> Sample:
        """Return `sample` with the objects of `other` in front of it or, if not `in_front`, the other way round."""
        own_shown = other.maps[OBJECT] < 0 if in_front else sample.maps[OBJECT] >= 0
        maps: dict[str, tv_tensors.Mask] = {}
        for level, labels in sample.maps.items():
            beside = self._labels_of(other, name, level, like=labels)
            maps[level] = tv_tensors.Mask(torch.where(own_shown, labels, beside))
        return replace(sample, image=tv_tensors.Image(torch.where(own_shown, sample.image, other.image)), maps=maps)

    def _labels_of(self, other: Sample, name: str, level: str, like: Tensor) -> Tensor:
        """Return the labels of another photo, with the numbers that its candidate sets have here."""
        if level not in other.maps:
            return torch.full_like(like, IGNORE)
        labels, offset = other.maps[level], self._offsets.get((name, level), 0)
        return torch.where(labels <= FIRST_CODE, labels - offset, labels)


def _check_objects(source: Source, where: str) -> None:
    if not any(OBJECT in annotation.maps for annotation in source.annotations.values()):
        raise UpernetError(
            f"{where}: source {source.name} does not label the pixels of objects, so nothing can be cut out of its "
            "photos; name another source."
        )
