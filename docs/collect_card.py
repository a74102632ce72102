"""Collect what a model card shows and only the data can tell, in docs/results/NAME.card.json and docs/images/models/.

::

    upernet evaluate NAME --data DIR --out evaluation/NAME
    python docs/collect_card.py NAME --data DIR --evaluation evaluation/NAME

It counts the photos of each source and split, and takes the worst photos of each level from the evaluation. The photo
itself is shown if the terms of its source allow to pass it on (`terms.shareable` of the recipe); else it is named.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from model_cards import PICTURES, RESULTS, SPLITS
from PIL import Image

from upernet.data.sources import SourceMissing, open_source
from upernet.evaluation.examples import photo_accuracy, worst_photos
from upernet.evaluation.folder import WORST, counts_of, read_evaluation
from upernet.evaluation.photo_counts import LevelCounts
from upernet.files import atomic_path, write_text
from upernet.inference.wording import percent, readable
from upernet.recipe import FolderSpec, Recipe, load_recipe
from upernet.taxonomy import load_taxonomy

SHOWN = 3
"""Number of photos per level."""
WIDTH = 1000
"""Largest width of a picture in pixels."""
QUALITY = 75


def count_photos(recipe: Recipe, data: Path) -> dict[str, dict[str, int]]:
    """Return source -> split -> number of photos."""
    taxonomy = load_taxonomy(recipe.taxonomy)
    found: dict[str, dict[str, int]] = {}
    for name, spec in recipe.sources.items():
        for split in SPLITS:
            try:
                source = open_source(name, spec, taxonomy, data, split, recipe.sources)
            except SourceMissing:
                continue
            found.setdefault(name, {})[split] = len(source)
    return found


def collect_worst(name: str, recipe: Recipe, evaluation: Path) -> list[dict[str, Any]]:
    """Return the worst photos of each level, and copy the pictures that may be shown, reduced."""
    counts = counts_of(read_evaluation(evaluation))
    for old in (PICTURES / name).glob("*.jpg"):
        old.unlink()
    found: list[dict[str, Any]] = []
    for level in counts.levels:
        worst = worst_photos(counts, level, WORST)
        accuracy = photo_accuracy(level, worst) if worst else []
        folder = evaluation / f"worst-{level.title.replace(' (image labels)', '-labels')}"
        for number, (index, share) in enumerate(zip(worst[:SHOWN], accuracy, strict=False), 1):
            photo = counts.photos[index]
            spec = recipe.sources[photo.source]
            picture = None
            if isinstance(spec, FolderSpec) and spec.terms.shareable:
                picture = f"{folder.name}-{number}.jpg"
                save_reduced(folder / f"{number:02d}.jpg", PICTURES / name / picture)
            what = (
                _confusion(level, index) if level.kind == "labels" else f"{percent(float(share))} of the pixels right"
            )
            found.append({"level": level.title, "photo": photo.key, "accuracy": what, "picture": picture})
    return found


def save_reduced(source: Path, target: Path) -> None:
    """Save a picture as a small JPEG."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as picture, atomic_path(target) as temporary:
        picture.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
        picture.convert("RGB").save(temporary, "JPEG", quality=QUALITY, optimize=True)


def _confusion(level: LevelCounts, photo: int) -> str:
    true, predicted, _ = level.totals([photo])[:, 0]
    return f"{readable(level.names[int(true.argmax())])}, predicted as {readable(level.names[int(predicted.argmax())])}"


def main() -> None:
    """Collect the files of one card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True)
    options = parser.parse_args()
    recipe = load_recipe(options.name)
    content = {
        "photos": count_photos(recipe, options.data),
        "worst": collect_worst(options.name, recipe, options.evaluation),
    }
    write_text(RESULTS / f"{options.name}.card.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
