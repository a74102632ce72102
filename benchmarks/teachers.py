"""Label maps by models for photos that have none: what two choices of `benchmarks.ablations` learn from.

    python -m benchmarks.teachers --data DIR [--iterations 300] [--photos 250]

Writes masks of the objects of `everyday` below DIR/teachers, for some photos of each source of people, faces, cars,
places and materials:

self     by the bundled model `everyday`
single   by four short-trained models that each know one source (rooms, outdoors, VOC, streets): the class of whichever
         model is most confident

Pixels with less than `CONFIDENCE` are unknown. Masks that exist are kept, so that an interrupted command goes on.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.ablations import short_recipe
from upernet.checkpoints import load_checkpoint
from upernet.data.sources import FolderSource, open_source
from upernet.evaluation.loop import chosen_photos
from upernet.files import atomic_path, write_text
from upernet.inference import Parser, load
from upernet.recipe import Recipe
from upernet.training import train

RECIPE = "everyday"
SINGLE = ("nyu40", "msrc", "voc_seg", "camvid")
PHOTOS = ("clothing_parts", "celeba_face_parts", "car_parts", "scene", "scene15", "scene14", "material", "material_fmd")
CONFIDENCE = 0.8
SHORT_SIDE = 256
UNKNOWN = 0
"""Value of a mask; the classes are numbered from 1."""


def teach(source: str, data: Path, iterations: int) -> Parser:
    """Return a model that is trained on the photos of one source alone."""
    recipe = short_recipe(RECIPE, {}, iterations)
    training = recipe.training
    assert training is not None
    stages = tuple(stage.model_copy(update={"sources": {source: 1.0}, "augmentation": {}}) for stage in training.stages)
    spec = recipe.sources[source]
    alone = spec.model_copy(update={"augmentation": spec.augmentation.model_copy(update={"paste": None})})
    changes = {"sources": {source: alone}, "training": training.model_copy(update={"stages": stages})}
    with tempfile.TemporaryDirectory() as folder:
        path = train(recipe.model_copy(update=changes), data, folder, quiet=True, loggers=(), log=lambda line: None)
        model, card = load_checkpoint(path)
    return Parser(model, card, short_side=SHORT_SIDE)


def mask(photo: Image.Image, teachers: Sequence[Parser]) -> npt.NDArray[np.uint8]:
    """Return uint8 H x W: 1 + class of the most confident teacher, or `UNKNOWN`."""
    maps = [teacher(photo, ["object"])["object"] for teacher in teachers]
    confidences = np.stack([found.confidence for found in maps])
    labels = np.stack([found.labels for found in maps])
    best = confidences.argmax(0)[None]
    chosen = np.take_along_axis(labels, best, 0)[0].astype(np.uint8) + 1
    return np.where(np.take_along_axis(confidences, best, 0)[0] >= CONFIDENCE, chosen, UNKNOWN).astype(np.uint8)


def write_masks(recipe: Recipe, data: Path, out: Path, teachers: Sequence[Parser], photos: int) -> None:
    """Write the masks of at most `photos` training photos of each of `PHOTOS`, and labels.txt."""
    taxonomy = recipe.load_taxonomy()
    names = ["unknown", *taxonomy.level("object").names]
    write_text(out / "labels.txt", "".join(f"{value}\t{name}\n" for value, name in enumerate(names)))
    for source in PHOTOS:
        opened = open_source(source, recipe.sources[source], taxonomy, data, "train")
        assert isinstance(opened, FolderSource)
        known = []
        for index in chosen_photos(len(opened), photos):
            photo = opened.photos[index]
            inside = photo.path.relative_to(opened.folders[0]).parts
            path = out.joinpath(source, *(part for part in inside if part != "images")).with_suffix(".png")
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                values = mask(Image.open(photo.path).convert("RGB"), teachers)
                known.append(float((values != UNKNOWN).mean()))
                with atomic_path(path) as temporary:
                    Image.fromarray(values).save(temporary, "PNG")
        if known:
            print(f"{out.name}, {source}: {len(known)} masks, {np.mean(known):.0%} of the pixels known", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--iterations", type=int, default=300, help="length of the training of a single-source model")
    parser.add_argument("--photos", type=int, default=250, help="photos of each source that get masks")
    arguments = parser.parse_args()
    data: Path = arguments.data
    recipe = short_recipe(RECIPE, {}, 1)
    (data / "teachers").mkdir(exist_ok=True)
    write_masks(recipe, data, data / "teachers" / "self", [load(RECIPE, short_side=SHORT_SIDE)], arguments.photos)
    teachers = [teach(source, data, arguments.iterations) for source in SINGLE]
    write_masks(recipe, data, data / "teachers" / "single", teachers, arguments.photos)


if __name__ == "__main__":
    main()
