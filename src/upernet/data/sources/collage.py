"""Collages: photos with patches of texture photos, for a label map of textures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import tv_tensors  # pyright: ignore[reportMissingTypeStubs]

from upernet.data.candidates import FIRST_CODE
from upernet.data.sample import Sample
from upernet.data.sources.annotation import LevelLabels
from upernet.data.sources.source import Source
from upernet.errors import UpernetError
from upernet.recipe import CollageSpec
from upernet.taxonomy import IGNORE, LEVEL_KINDS, Taxonomy

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int16]

NONE = 0
"""Label of pixels that show none of the classes."""
REGIONS = 0.5
"""Share of the patches that fill a region of the background's own label map, where one has the right size."""
PERSPECTIVE = 0.4
"""Share of the patches that are seen in perspective."""
SHADING = 0.5
"""Share of the patches that take over the light and shadow of the photo."""
GAIN = (0.6, 1.3)
"""Range of the factor of the brightness of a patch."""


class Collage(Source):
    """Samples with a label map of one level, made from the photos of other sources.

    Photo `i` is a pure function of the seed, the split and `i`, and of the photos of the other sources.

    Args:
        name: Key under `sources` of the recipe.
        spec: Settings of the source.
        taxonomy: The taxonomy of the labels.
        data_dir: The data directory.
        split: The split.
        parts: The same split of the sources that `spec` names.

    Raises:
        UpernetError: The level or the source of the textures does not fit.
    """

    spec: CollageSpec

    def __init__(
        self,
        name: str,
        spec: CollageSpec,
        taxonomy: Taxonomy,
        data_dir: Path,
        split: str,
        parts: Mapping[str, Source],
    ) -> None:
        super().__init__(name, spec, taxonomy, data_dir, split)
        level = taxonomy.level(spec.level)
        kind = LEVEL_KINDS[level.name]
        if not kind.dense or kind.owned_by:
            raise UpernetError(f"sources.{name}.level: patches cannot show {level.name}s; name another dense level.")
        if not level.background:
            raise UpernetError(
                f"sources.{name}.level: level {level.name} has no label for the pixels around the patches; give it a "
                "`background` in the taxonomy."
            )
        self.annotations, self.levels, self.implied = {}, (level.name,), frozenset()
        self.photos, self.candidates = (), {}
        self._textures = parts[spec.textures]
        self._backgrounds = [(parts[other], _MEANINGS[meaning]) for other, meaning in spec.surroundings.items()]
        if not isinstance(self._textures.annotations.get(level.name), LevelLabels):
            raise UpernetError(
                f"sources.{name}.textures: {spec.textures} has no image labels of level {level.name}; name a source "
                "whose photos show one texture each."
            )
        self._unknown = _labels_of(spec.unknown, taxonomy, f"sources.{name}.unknown")
        self._by_class: dict[int, list[int]] = {}
        for index, photo in enumerate(self._textures.photos):
            if (label := photo.labels[level.name]) not in (IGNORE, NONE):
                self._by_class.setdefault(label, []).append(index)

    def __len__(self) -> int:
        return self.spec.photos[self.split]  # pyright: ignore[reportArgumentType] (it was checked when it was opened)

    def __getitem__(self, index: int) -> Sample:
        """Make photo `index`; see `Source`."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        random = np.random.default_rng(_seed(f"{self.spec.seed}/{self.split}/{index}"))
        sample, labels = self._background(random)
        image = sample.image.as_subclass(Tensor).float()
        height, width = image.shape[-2:]
        low, high = self.spec.patches
        for _ in range(low + int(random.random() * (high - low + 1))):
            shape = self._shape(sample, random)
            patch, beneath = self._patch((height, width), random)
            image = _pasted(image, patch, shape, random)
            labels = np.where(shape, beneath, labels)
        return Sample(
            image=tv_tensors.Image(image.add(0.5).to(torch.uint8)),
            maps={self.spec.level: tv_tensors.Mask(torch.as_tensor(labels))},
            key=f"{self.name}/{self.split}/{index}",
        )

    def _background(self, random: np.random.Generator) -> tuple[Sample, Labels]:
        """Draw a background photo, and return it and the labels of its pixels."""
        source, label = self._backgrounds[int(random.random() * len(self._backgrounds))]
        sample = source[int(random.random() * len(source))]
        labels = np.full(sample.image.shape[-2:], label, np.int16)
        for level, unknown in self._unknown.items():
            if level in sample.maps:
                labels[_shows(sample, level, unknown)] = IGNORE
        return sample, labels

    def _patch(self, size: tuple[int, int], random: np.random.Generator) -> tuple[Tensor, Labels]:
        """Draw a patch that fills a photo of `size` (height, width): float32 3 x H x W, and its labels."""
        if random.random() < self.spec.decoys:
            sample, labels = self._background(random)
        else:
            label = sorted(self._by_class)[int(random.random() * len(self._by_class))]
            photos = self._by_class[label]
            sample = self._textures[photos[int(random.random() * len(photos))]]
            labels = np.full(sample.image.shape[-2:], label, np.int16)
        low, high = self.spec.scale
        return _warped(sample.image.as_subclass(Tensor), labels, size, low * (high / low) ** random.random(), random)

    def _shape(self, sample: Sample, random: np.random.Generator) -> Mask:
        """Draw the shape of a patch: a region of a label map of the photo, a blob, or a quadrangle."""
        low, high = self.spec.area
        if sample.maps and random.random() < REGIONS:
            maps = [value.numpy() for value in sample.maps.values()]
            labels = maps[int(random.random() * len(maps))]
            values, counts = np.unique(labels, return_counts=True)
            fitting = values[(values != IGNORE) & (counts >= low * labels.size) & (counts <= high * labels.size)]
            if len(fitting):
                return labels == fitting[int(random.random() * len(fitting))]
        height, width = sample.image.shape[-2:]
        return random_shape(height, width, low + (high - low) * random.random(), random)


def random_shape(height: int, width: int, share: float, random: np.random.Generator) -> Mask:
    """Return a blob with smooth borders or a quadrangle, which covers `share` of the pixels: bool H x W."""
    center, angle, ratio = 0.15 + 0.7 * random.random(2), math.pi * random.random(), 2 ** (2 * random.random() - 1)
    down = (np.arange(height, dtype=np.float32)[:, None] + 0.5 - center[0] * height) / math.sqrt(height * width)
    right = (np.arange(width, dtype=np.float32) + 0.5 - center[1] * width) / math.sqrt(height * width)
    along = ratio * (math.cos(angle) * right + math.sin(angle) * down)
    across = (math.cos(angle) * down - math.sin(angle) * right) / ratio
    if random.random() < 0.5:
        noise = torch.as_tensor(random.standard_normal((1, 1, 5, 5)), dtype=torch.float32)
        waves = F.interpolate(noise, (height, width), mode="bicubic", align_corners=True)[0, 0].numpy()
        distance = np.hypot(along, across) + 0.12 * waves
    else:
        slants = 1 + 0.6 * (random.random(2) - 0.5)[:, None, None] * np.stack([across, along])
        distance = np.maximum(np.abs(along * slants[0]), np.abs(across * slants[1]))
    inside = np.partition(distance, int(share * (distance.size - 1)), axis=None)[int(share * (distance.size - 1))]
    return distance <= inside


def _warped(
    photo: Tensor, labels: Labels, size: tuple[int, int], scale: float, random: np.random.Generator
) -> tuple[Tensor, Labels]:
    """Resize a photo, turn it, perhaps tilt it, and continue it by its mirror images: float32 3 x H x W, and labels.

    Args:
        photo: uint8 3 x h x w.
        labels: h x w.
        size: H and W.
        scale: Factor of the size of the photo.
        random: The source of randomness.
    """
    rows, columns = (max(8, round(side * scale)) for side in photo.shape[-2:])
    resized = F.interpolate(photo[None].float(), (rows, columns), mode="bilinear", antialias=True)
    angle, direction, shift = 2 * math.pi * random.random(), 2 * math.pi * random.random(), random.random(2)
    tilt = random.random() / max(size) if random.random() < PERSPECTIVE else 0.0
    down, right = (torch.arange(side, dtype=torch.float32) + 0.5 - side / 2 for side in size)
    depth = 1 + tilt * (math.sin(direction) * down[:, None] + math.cos(direction) * right)
    x = (math.cos(angle) * right - math.sin(angle) * down[:, None]) / depth + float(shift[1]) * columns
    y = (math.sin(angle) * right + math.cos(angle) * down[:, None]) / depth + float(shift[0]) * rows
    grid = torch.stack([2 * x / columns - 1, 2 * y / rows - 1], dim=-1)
    warped = F.grid_sample(resized, grid[None], padding_mode="reflection", align_corners=False)[0].clamp(0, 255)
    found = torch.as_tensor(labels, dtype=torch.float32)[None, None]
    found = F.grid_sample(found, grid[None], mode="nearest", padding_mode="reflection", align_corners=False)[0, 0]
    return warped, found.round().to(torch.int16).numpy()


def _pasted(image: Tensor, patch: Tensor, shape: Mask, random: np.random.Generator) -> Tensor:
    """Paste a patch into a photo, with feathered edges: all float32 3 x H x W, in 0..255."""
    low, high = GAIN
    mask = torch.as_tensor(shape, dtype=torch.float32)[None]
    patch = patch * (low + (high - low) * random.random())
    if random.random() < SHADING:
        light = F.adaptive_avg_pool2d(image.mean(dim=0, keepdim=True), 6)
        light = F.interpolate(light[None], image.shape[-2:], mode="bilinear")[0] + 16
        patch = patch * (light / light[mask > 0].mean()).clamp(0.5, 1.5)
    alpha = F.avg_pool2d(mask, 3, stride=1, padding=1, count_include_pad=False)
    return torch.lerp(image, patch.clamp(0, 255), alpha)


def _labels_of(names: Sequence[str], taxonomy: Taxonomy, where: str) -> dict[str, list[int]]:
    """Return the labels of the named classes at each level that has any.

    Raises:
        UpernetError: No level has a class of that name.
    """
    found: dict[str, list[int]] = {}
    for name in names:
        levels = [level for level in taxonomy.levels.values() if name in level.names]
        if not levels:
            raise UpernetError(f"{where}: no level of the taxonomy has a class {name!r}; correct it.")
        for level in levels:
            found.setdefault(level.name, []).append(level.index(name))
    return found


def _shows(sample: Sample, level: str, labels: Sequence[int]) -> Mask:
    """Return the pixels that have one of `labels`, or may have it as one of several: bool H x W."""
    found = sample.maps[level].numpy()
    wanted = [*labels]
    if level in sample.candidates:
        members = sample.candidates[level].members[:, list(labels)].any(dim=1)
        wanted += [FIRST_CODE - number for number, is_member in enumerate(members) if is_member]
    return np.isin(found, wanted)


def _seed(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


_MEANINGS = {"none": NONE, "unknown": IGNORE}

SOURCE = Collage
