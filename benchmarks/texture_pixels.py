"""Texture heads side by side: how well they find textures inside of photos, and how silent they are elsewhere.

    python -m benchmarks.texture_pixels RECIPE --data DIR [--model NAME] [--json OUT]

The features of a frozen backbone are computed once, for augmented collages and whole texture photos of the recipe.
Each head is trained on them, and scored on held-back photos: mIoU of the collages (all textures, and "none" competes),
top-1 of the texture photos, and the share of the pixels of plain photos that show a texture.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upernet.checkpoints import find_checkpoint, load_checkpoint
from upernet.data.sources import Source, open_source
from upernet.data.transforms import augment, resize
from upernet.evaluation.metrics import LabelScore, PixelScore
from upernet.files import write_text
from upernet.models import UPerNet
from upernet.models.backbones import feature_info
from upernet.models.heads import TextureHead
from upernet.recipe import CollageSpec, Recipe, Resize, TextureSpec, load_recipe
from upernet.taxonomy import IGNORE, Level, load_taxonomy

COLLAGES, WHOLE = 3000, 1500
"""Number of augmented collages and texture photos that heads are trained on."""
PLAIN = 30
"""Number of plain photos per source."""
BATCH, RATE, SMOOTHING = 16, 2e-3, 0.05
SHORT_SIDE = 160
"""Short side of the texture photos that are scored."""
_COMMON = TextureSpec(features=("C2", "C3", "C4"), channels=96, depth=1, stride=8)
HEADS = {
    "C2-C4, 2 convolutions": _COMMON.model_copy(update={"depth": 2}),
    "C2-C5, 2 convolutions": _COMMON.model_copy(update={"depth": 2, "features": ("C2", "C3", "C4", "C5")}),
    "C2-C4, 4 convolutions": _COMMON.model_copy(update={"depth": 4, "channels": 128}),
    "C2-C4, 1 convolution, windows 5 and 9": _COMMON.model_copy(update={"windows": (5, 9)}),
    "C2-C4, 1 convolution, windows 7 and 15": _COMMON.model_copy(update={"windows": (7, 15)}),
    "C2-C4, 2 convolutions, windows 5 and 9": _COMMON.model_copy(update={"depth": 2, "windows": (5, 9)}),
}


class Head(nn.Module):
    """A texture head that takes its features from C2..C5 in float16."""

    def __init__(self, channels: list[int], spec: TextureSpec, num_logits: int):
        super().__init__()
        self.count = len(spec.features)
        self.head = TextureHead(channels[: self.count], spec, num_logits)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return the logits."""
        return self.head([feature.float() for feature in maps[: self.count]])


class Features(NamedTuple):
    """Features C2..C5 of photos in float16, and labels: int8 N x h x w at the stride of C2, or N."""

    maps: list[Tensor]
    labels: Tensor


@torch.inference_mode()
def backbone_features(model: UPerNet, images: Tensor) -> list[Tensor]:
    """Return C2..C5 of uint8 photos."""
    pixels = model.preprocess(images).contiguous(memory_format=torch.channels_last)
    return [feature.contiguous().half() for feature in model.backbone(pixels)]


def training_features(model: UPerNet, source: Source, level: str, count: int) -> Features:
    """Return the features of `count` augmented photos."""
    maps: list[list[Tensor]] = []
    labels: list[Tensor] = []
    for first in range(0, count, BATCH):
        samples = [
            augment(source[index % len(source)], source.spec.augmentation, torch.Generator().manual_seed(index))
            for index in range(first, min(first + BATCH, count))
        ]
        maps.append(backbone_features(model, torch.stack([sample.image.as_subclass(Tensor) for sample in samples])))
        for sample in samples:
            label = sample.maps[level][2::4, 2::4] if level in sample.maps else torch.tensor(sample.labels[level])
            labels.append(label.as_subclass(Tensor).to(torch.int8))
    return Features([torch.cat(parts) for parts in zip(*maps, strict=True)], torch.stack(labels))


def train_head(head: Head, collages: Features, whole: Features, iterations: int, share: float) -> None:
    """Train a head on collages (`share` of the batches) and whole texture photos."""
    random = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(head.parameters(), RATE, weight_decay=0.01)
    head.train()
    for iteration in range(iterations):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - iteration / iterations) ** 0.9 * min(1.0, (iteration + 1) / 30)
        features = collages if random.random() < share else whole
        chosen = torch.as_tensor(random.integers(0, len(features.labels), BATCH))
        logits = head([feature[chosen] for feature in features.maps])
        labels = features.labels[chosen].long()
        if labels.ndim == 1:
            labels = labels[:, None, None].expand(-1, *logits.shape[-2:])
        loss = F.cross_entropy(logits, labels, ignore_index=IGNORE, label_smoothing=SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()


class Scored(NamedTuple):
    """Features of held-back photos and what is known about them."""

    collages: list[tuple[list[Tensor], Tensor]]
    whole: list[tuple[list[Tensor], int]]
    plain: dict[str, list[list[Tensor]]]


@torch.inference_mode()
def score(head: Head, level: Level, photos: Scored) -> dict[str, float]:
    """Return the scores of a head."""

    def logits(features: list[Tensor], size: tuple[int, int]) -> Tensor:
        return F.interpolate(head.eval()(features), size, mode="bilinear")[0]

    pixels, labels = PixelScore(level), LabelScore(level)
    for features, truth in photos.collages:
        pixels.update(logits(features, (truth.shape[0], truth.shape[1])).argmax(0), truth)
    for features, label in photos.whole:
        shares = head.eval()(features).softmax(1).mean((2, 3))[0]
        labels.update(shares, label, probabilities=True)
    found, named = pixels.result(), labels.result()
    assert found is not None and named is not None
    shown = {
        name: float(np.mean([(head(maps).argmax(1) > 0).float().mean().item() for maps in photos]))
        for name, photos in photos.plain.items()
    }
    return {
        "miou": found.miou or 0.0,
        "top1": named.top1 or 0.0,
        "shown_on_plain_photos": float(np.mean(list(shown.values()))),
        **{f"shown_on_{name}": value for name, value in shown.items()},
    }


def held_back(model: UPerNet, recipe: Recipe, data: Path, collage: CollageSpec) -> Scored:
    """Return the features of the held-back photos."""
    taxonomy = load_taxonomy(recipe.taxonomy)

    def opened(name: str) -> Source:
        return open_source(name, recipe.sources[name], taxonomy, data, "held_back", recipe.sources)

    def features(image: Tensor) -> list[Tensor]:
        return backbone_features(model, image[None])

    (name,) = (name for name, spec in recipe.sources.items() if spec is collage)
    mixed, whole = opened(name), opened(collage.textures)
    collages = [
        (features(x.image), x.maps[collage.level].as_subclass(Tensor))
        for x in map(mixed.__getitem__, range(len(mixed)))
    ]
    labeled = [resize(whole[index], Resize(short_side=SHORT_SIDE)) for index in range(len(whole))]
    plain: dict[str, list[list[Tensor]]] = {}
    for other in collage.surroundings:
        photos = opened(other)
        plain[other] = [features(photos[i * len(photos) // PLAIN].image) for i in range(min(PLAIN, len(photos)))]
    return Scored(collages, [(features(x.image), x.labels[collage.level]) for x in labeled], plain)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="everyday", help="the model whose backbone is used")
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe)
    model, _ = load_checkpoint(find_checkpoint(arguments.model))
    model.eval()
    name, collage = next((name, spec) for name, spec in recipe.sources.items() if isinstance(spec, CollageSpec))
    level = load_taxonomy(recipe.taxonomy).level(collage.level)
    parts: list[Features] = []
    for source, count in ((name, COLLAGES), (collage.textures, WHOLE)):
        opened = open_source(
            source, recipe.sources[source], load_taxonomy(recipe.taxonomy), arguments.data, "train", recipe.sources
        )
        parts.append(training_features(model, opened, level.name, count))
    photos = held_back(model, recipe, arguments.data, collage)
    channels: list[int] = feature_info(model.backbone).channels()
    results: dict[str, dict[str, float]] = {}
    print(f"{'head':<42} {'mIoU':>6} {'top-1':>6} {'plain':>6} {'parameters':>11} {'s':>5}")
    for title, spec in HEADS.items():
        torch.manual_seed(0)
        head = Head(channels, spec, level.num_classes)
        start = time.perf_counter()
        train_head(head, parts[0], parts[1], arguments.iterations, share=0.6)
        seconds = time.perf_counter() - start
        found = score(head, level, photos)
        found["parameters"] = sum(parameter.numel() for parameter in head.parameters())
        results[title] = found
        plain = found["shown_on_plain_photos"]
        print(
            f"{title:<42} {found['miou']:>6.3f} {found['top1']:>6.3f} {plain:>6.3f} {found['parameters']:>11,} "
            f"{seconds:>5.0f}",
            flush=True,
        )
        if arguments.json:
            write_text(arguments.json, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
