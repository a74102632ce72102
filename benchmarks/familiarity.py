"""Scores that tell unusual pictures from photos, side by side.

    python -m benchmarks.familiarity --data DIR [--recipe NAME] [--model NAME] [--json OUT]

Each score is fitted to training photos of the recipe's sources. Its threshold raises a false alarm on 2 % of the photos
that are held back, all sources weighing the same. The table shows the false alarms on test photos and the share of
pictures found that are no photos (`benchmarks/unfamiliar.py`). Needs scikit-image.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.unfamiliar import PHOTOS, sample, unfamiliar_pictures
from upernet.checkpoints import find_checkpoint, load_checkpoint
from upernet.data.sources import open_source
from upernet.evaluation.familiarity import fit
from upernet.evaluation.loop import chosen_photos
from upernet.files import write_text
from upernet.inference.parse import UNFAMILIAR
from upernet.inference.resizing import image_view
from upernet.inference.tiling import network_image
from upernet.models import UPerNet
from upernet.models.familiarity import photo_statistics
from upernet.recipe import FolderSpec, Recipe, Split, load_recipe
from upernet.taxonomy import load_taxonomy

LIMITS: dict[Split, int] = {"train": 150, "held_back": 150, "test": 100}
"""Largest number of photos per source and split."""
NEIGHBORS = 5

Features = dict[str, Tensor]
"""What the scores read of several photos: name -> n x D."""
Score = Callable[[Features], Tensor]
"""The larger, the less familiar: n."""


@torch.inference_mode()
def read(model: UPerNet, pictures: Iterable[Image.Image]) -> Features:
    """Compute what the scores read."""
    rows: list[Features] = []
    for picture in pictures:
        image = network_image(np.asarray(image_view(picture)), "cpu")
        normalized = model.preprocess(image)[None]
        features = model.backbone(normalized)
        row = {"statistics": photo_statistics(features), "C4": features[2], "C5": features[3]}
        row |= {name: row[name].mean((2, 3)) for name in ("C4", "C5")}
        rows.append(row | ({"scene": model(normalized, ["scene"])["scene"]} if "scene" in model.heads else {}))
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]} if rows else {}


def gaussians(train: Sequence[Features], name: str) -> Score:
    """Return the Mahalanobis distance to the nearest source, with one covariance (arXiv 1807.03888)."""
    values = [found[name].double() for found in train]
    centers = torch.stack([found.mean(0) for found in values])
    scatter = torch.stack([(found - found.mean(0)).T.cov(correction=0) for found in values]).mean(0)
    scatter += 0.05 * scatter.diagonal().mean() * torch.eye(len(scatter))
    inverse = torch.linalg.inv(scatter)

    def score(features: Features) -> Tensor:
        deviations = features[name].double()[:, None] - centers
        return torch.einsum("nsc,cd,nsd->ns", deviations, inverse, deviations).amin(1)

    return score


def neighbors(train: Sequence[Features], name: str) -> Score:
    """Return the distance to the fifth nearest training photo, of normalized features (arXiv 2204.06507)."""
    bank = torch.nn.functional.normalize(torch.cat([found[name] for found in train]))

    def score(features: Features) -> Tensor:
        distances = torch.cdist(torch.nn.functional.normalize(features[name]), bank)
        return distances.kthvalue(NEIGHBORS, dim=1).values

    return score


def scores(train: Sequence[Features], held_back: Sequence[Features]) -> dict[str, Score]:
    """Return the scores by name; the last one is that of `upernet.models.familiarity`."""
    fitted = fit([found["statistics"] for found in train], [found["statistics"] for found in held_back])
    found: dict[str, Score] = {}
    if "scene" in train[0]:
        found["largest softmax probability of the scene"] = lambda features: -features["scene"].softmax(1).amax(1)
        found["energy of the scene"] = lambda features: -features["scene"].logsumexp(1)
    for name in ("C5", "C4"):
        found[f"Mahalanobis, mean {name}"] = gaussians(train, name)
        found[f"5 nearest neighbors, mean {name}"] = neighbors(train, name)
    found["Mahalanobis, mean and deviation of C2 and C3"] = gaussians(train, "statistics")
    found["Gaussian per source, log mean and deviation of C2 and C3"] = lambda f: fitted.distance(f["statistics"])
    return found


def compare(
    train: dict[str, Features], held_back: dict[str, Features], test: dict[str, Features], others: dict[str, Features]
) -> dict[str, object]:
    """Return score -> threshold's false alarms per source of test photos, and detections per kind of picture."""
    results: dict[str, object] = {}
    for name, score in scores([*train.values()], [*held_back.values()]).items():
        values = [score(found) for found in held_back.values()]
        weights = torch.cat([torch.full_like(found, 1 / len(found)) for found in values])
        order = torch.cat(values).argsort(descending=True)
        largest = int(torch.searchsorted(weights[order].cumsum(0) / len(values), UNFAMILIAR))
        threshold = torch.cat(values)[order[largest]]
        alarms = {source: _mean(score(found) > threshold) for source, found in test.items()}
        detected = {kind: _mean(score(found) > threshold) for kind, found in others.items()}
        kinds = [share for kind, share in detected.items() if kind != "photo"]
        alarm, found = sum(alarms.values()) / len(alarms), sum(kinds) / len(kinds)
        results[name] = {
            "false_alarms": round(alarm, 4),
            "detected": round(found, 4),
            "false_alarms_per_source": alarms,
            "detected_per_kind": detected,
        }
        print(f"{name:<58} {alarm:>6.1%} {found:>6.1%}", flush=True)
    return results


def photos(model: UPerNet, recipe: Recipe, data: Path, split: Split, names: Sequence[str]) -> dict[str, Features]:
    """Read photos of a split, per source."""
    found: dict[str, Features] = {}
    for name in names:
        spec = recipe.sources[name]
        if split in spec.split_names:
            source = open_source(name, spec, load_taxonomy(recipe.taxonomy), data, split, recipe.sources)
            chosen = chosen_photos(len(source.photos), LIMITS[split])
            if features := read(model, (source.read_photo(source.photos[index]) for index in chosen)):
                found[name] = features
    return found


def _mean(values: Tensor) -> float:
    return round(float(values.double().mean()), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recipe", default="everyday", help="its `calibration.familiar` sources, else all with photos")
    parser.add_argument("--model", help="weights, if they are not those of the recipe")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe(arguments.recipe)
    model, _ = load_checkpoint(find_checkpoint(arguments.model or arguments.recipe))
    every = [name for name, spec in recipe.sources.items() if isinstance(spec, FolderSpec)]
    names = [name for name in recipe.calibration.familiar or every if "train" in recipe.sources[name].split_names]
    train, held_back, test = (
        photos(model, recipe, arguments.data, split, names) for split in ("train", "held_back", "test")
    )
    pictures: dict[str, list[Image.Image]] = {}
    for kind, _, picture in unfamiliar_pictures():
        pictures.setdefault(kind, []).append(picture)
    pictures["photo"] = [sample(name) for name in PHOTOS]
    others = {kind: read(model, found) for kind, found in pictures.items()}
    print(f"{'score':<58} {'alarms':>6} {'found':>6}")
    results = compare(train, held_back, test, others)
    if arguments.json:
        write_text(arguments.json, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
