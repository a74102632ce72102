"""What guided boundaries and merged islands are worth: scores on held-back photos of `everyday`, and their time.

    python -m benchmarks.boundaries --data DIR [--photos N] [--json OUT]

Objects are scored on `camvid` (val), parts on the held-back photos of `clothing_parts`, as a parse reads them: at the
model's parse size, every class competing. `near` is the accuracy of the pixels up to 3 pixels from a true boundary.
Islands are counted, and scored, both with all labels and with unsure ones hidden.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from upernet.data.sample import Sample
from upernet.data.sources import open_source
from upernet.decoding import LabelsAndConfidence, label_maps
from upernet.evaluation.boundary import BoundaryCounts, boundary
from upernet.evaluation.confusion import ConfusionMatrix
from upernet.files import write_text
from upernet.inference import Parser, load
from upernet.inference.components import connected_runs
from upernet.inference.edges import follow_edges
from upernet.inference.islands import merge_islands
from upernet.inference.label_map import UNSURE
from upernet.inference.resizing import reduced
from upernet.inference.tiling import dense_logits
from upernet.recipe import load_recipe
from upernet.taxonomy import IGNORE, LEVEL_KINDS

SOURCES = {"camvid": ("object",), "clothing_parts": ("object", "part")}
"""Sources and the levels that are decoded; the last one is scored."""
ISLANDS = (0.0, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3)
"""Shares of the photo up to which regions are merged."""
SPECK = 2e-4
"""Share of the photo up to which a region counts in `islands_per_photo`."""
NEAR = 3
"""Distance in pixels from a true boundary up to which `near` counts."""
REPEATS = 5

Maps = dict[str, LabelsAndConfidence]


class Scores:
    """Scores of one way to make label maps, added up photo by photo."""

    def __init__(self, num_classes: int):
        self.confusion, self.boundaries = ConfusionMatrix(num_classes), BoundaryCounts(num_classes)
        self.near = torch.zeros(2, dtype=torch.int64)
        self.shown = torch.zeros(3, dtype=torch.int64)
        self.islands = self.photos = 0

    def update(self, labels: np.ndarray, truth: torch.Tensor) -> None:
        """Add a photo."""
        predicted, counted = torch.from_numpy(labels).long(), truth != IGNORE
        right, sure = (predicted == truth) & counted, (predicted != UNSURE) & counted
        near = boundary(truth, counted, NEAR) & counted
        self.confusion.update(predicted, truth)
        self.boundaries.update(predicted, truth, counted)
        self.near += torch.stack([right[near].sum(), near.sum()])
        self.shown += torch.stack([right.sum(), sure.sum(), counted.sum()])
        areas = np.unique(connected_runs(labels).component_map, return_counts=True)[1]
        self.islands += int((areas <= SPECK * labels.size).sum())
        self.photos += 1

    def result(self) -> dict[str, float]:
        """Return the scores; the means run over the classes that occur in the truth."""
        present = torch.nonzero(self.confusion.support)[:, 0].tolist()
        right, sure, counted = self.shown.tolist()
        return {
            "mIoU": round(self.confusion.mean_iou(present), 4),
            "boundary_mIoU": round(float(self.boundaries.iou()[present].nanmean()), 4),
            "near": round(float(self.near[0] / self.near[1]), 4),
            "shown": round(sure / counted, 4),
            "precision": round(right / sure, 4),
            "islands_per_photo": round(self.islands / self.photos, 2),
        }


def hide_unsure(parser: Parser, maps: Maps) -> None:
    """Set labels below the threshold of their level to -1, and the parts of unsure objects."""
    for level, (labels, confidence) in maps.items():
        labels[confidence < parser.thresholds.get(level, 0)] = UNSURE
        if owner := LEVEL_KINDS[level].owned_by:
            labels[maps[owner][0] == UNSURE] = UNSURE


def score_source(parser: Parser, name: str, data: Path, most: int | None) -> dict[str, dict[str, float]]:
    """Return the scores of each variant on a source."""
    taxonomy, levels = parser.model.taxonomy, SOURCES[name]
    source = open_source(name, load_recipe("everyday").sources[name], taxonomy, data, "held_back")
    variants = ["bilinear", "guided", *(f"islands up to {share:g}" for share in ISLANDS)]
    scores = {variant: Scores(taxonomy.levels[levels[-1]].num_classes) for variant in variants}
    for index in range(min(len(source), most or len(source))):
        for variant, maps in _variants(parser, source[index], levels).items():
            truth = source[index].maps[levels[-1]].as_subclass(torch.Tensor).long()
            scores[variant].update(maps[levels[-1]][0], truth)
    return {variant: score.result() for variant, score in scores.items()}


def _variants(parser: Parser, sample: Sample, levels: tuple[str, ...]) -> dict[str, Maps]:
    photo = Image.fromarray(np.ascontiguousarray(sample.image.numpy().transpose(1, 2, 0)))
    groups, view = parser.model.taxonomy.part_groups, _view(parser, photo)
    sizes = (view.height, view.width), (photo.height, photo.width)
    logits = dense_logits(parser.model, np.asarray(view), levels)
    found = {"bilinear": label_maps(logits, *sizes, groups)}
    found["guided"] = _copy(found["bilinear"])
    follow_edges(found["guided"], logits, photo, view, groups)
    for share in ISLANDS:
        maps = _copy(found["guided"])
        hide_unsure(parser, maps)
        merge_islands(maps, logits, sizes[0], groups, share)
        found[f"islands up to {share:g}"] = maps
    return found


def _copy(maps: Maps) -> Maps:
    return {level: (labels.copy(), confidence.copy()) for level, (labels, confidence) in maps.items()}


def measure_time(parser: Parser, path: Path) -> dict[str, float]:
    """Return the processor time in ms of a parse of a photo, and that of the two steps in it."""
    with Image.open(path) as file:
        photo = file.convert("RGB")
    levels = tuple(level for level in parser.levels if LEVEL_KINDS[level].dense)
    groups, view = parser.model.taxonomy.part_groups, _view(parser, photo)
    sizes = (view.height, view.width), (photo.height, photo.width)
    logits = dense_logits(parser.model, np.asarray(view), levels)
    maps = label_maps(logits, *sizes, groups)

    def guide() -> None:
        follow_edges(_copy(maps), logits, photo, view, groups)

    def merge() -> None:
        hidden = _copy(maps)
        hide_unsure(parser, hidden)
        merge_islands(hidden, logits, sizes[0], groups)

    return {
        "parse": _milliseconds(lambda: parser(photo)),
        "guided": _milliseconds(guide),
        "islands": _milliseconds(merge),
    }


def _view(parser: Parser, photo: Image.Image) -> Image.Image:
    """Return the photo as it goes through the network."""
    return photo if parser.short_side is None else reduced(photo, parser.short_side)


def _milliseconds(call: Callable[[], object]) -> float:
    call()
    times: list[float] = []
    for _ in range(REPEATS):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return round(1000 * min(times), 1)


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--photos", type=int, help="largest number of photos per source")
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    parser = load("everyday")
    times = {path.stem: measure_time(parser, path) for path in sorted(Path("examples").glob("*.jpg"))}
    results: dict[str, object] = {"model": "everyday", "threads": 1, "milliseconds": times}
    print(json.dumps(results, indent=2), flush=True)
    for name in SOURCES:
        results[name] = scores = score_source(parser, name, given.data, given.photos)
        print(f"\n{name:<22}" + "".join(f"{key:>18}" for key in scores["bilinear"]))
        for variant, values in scores.items():
            print(f"{variant:<22}" + "".join(f"{value:>18.4f}" for value in values.values()), flush=True)
    if given.json:
        write_text(given.json, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
