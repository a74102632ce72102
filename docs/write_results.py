"""Update the generated parts of the documents: tables from the files in docs/results/, and the import graph.

    python docs/write_results.py            # update the tables
    python docs/write_results.py --check    # exit with status 1 if a table is out of date; the tests run this

Generated parts stand between `<!-- results: NAME -->` and `<!-- end of results -->`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import benchmark_tables
import discover_tables
import import_graph
import model_cards
import recipe_reference
from model_cards import metrics

from upernet.checkpoints import shipped_checkpoint
from upernet.evaluation import EvaluationResult
from upernet.evaluation.benchmark import benchmark_rows, metric_lines
from upernet.evaluation.report import readable_metric
from upernet.recipe import load_recipe
from upernet.taxonomy import LEVELS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "models").glob("*.md")),
]
TABLE = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end of results -->)", re.DOTALL)


def read(name: str) -> Any:
    """Read the file `name`.json in docs/results/."""
    return json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def highlights(docs: str) -> list[str]:
    """Return three numbers that say what the package is worth, as a table.

    Args:
        docs: Path of docs/ from the page, with a slash at its end.
    """
    speed = read("benchmarks/models")["rows"]["T at 512"]
    official, fast = (benchmark_tables.duration(speed["seconds"][way]["median"]) for way in ("official", "fast"))
    same = speed["agreement"]["fast"]["argmax_agreement"]
    levels = load_recipe("everyday").load_taxonomy().levels
    classes = sum(level.num_classes - level.background for level in levels.values())
    weights = shipped_checkpoint("everyday")
    assert weights is not None
    minutes, miou, photos = own_masks_numbers()
    heads = (
        f"{classes} classes in {weights.stat().st_size / 1e6:.1f} MB",
        f"{speed['ratio']['fast']:.1f} times as fast",
        f"{minutes:.0f} minutes of training",
    )
    texts = (
        f"The bundled model labels {', '.join(levels)} ([card]({docs}models/everyday.md)).",
        f"InternImage-T at 512 x 512 takes {fast} on two CPU threads, and {official} in the official way; "
        f"{100 * same:.1f} % of the pixels get the same class ([measured]({docs}performance.md)).",
        f"On {photos} masks of street scenes, two CPU cores reach a mIoU of {miou:.2f} on photos held back "
        f"([how]({docs}own_masks.md#what-to-expect)).",
    )
    return [f"| {' | '.join(heads)} |", "| --- | --- | --- |", f"| {' | '.join(texts)} |"]


def summary() -> list[str]:
    """Return a table of both shipped models with a row per level."""
    lines = ["| model | level | scored on (test photos) | result |", "| --- | --- | --- | --- |"]
    for name in ("everyday", "camvid"):
        result = read(name)
        lines += [
            f"| `{name}` | {level} | {scored_photos(name, level)} | {metrics(result[level])} |"
            for level in LEVELS
            if level in result
        ]
    return lines


def scored_photos(name: str, level: str, metric: str | None = None) -> str:
    """Return the sources whose photos count in the scores of a model: `scene (160), scene15 (149)`."""
    result, sources = read(name), load_recipe(name).sources
    photos = [
        f"{source} ({result['photos'][source]})"
        for source, levels in result["sources"].items()
        if level in levels and sources[source].scored and metric in (None, *levels[level])
    ]
    return ", ".join(photos)


def upp_benchmark() -> list[str]:
    """Return the metrics of the paper on Unified Perceptual Parsing for `everyday`, on its own classes and photos."""
    recipe = load_recipe("everyday")
    levels = recipe.load_taxonomy().levels
    rows = benchmark_rows({recipe.name: EvaluationResult.from_dict(read(recipe.name))}, recipe)
    lines = [f"| | `{recipe.name}` | classes | test photos |", "| --- | ---: | ---: | --- |"]
    for level, metric, scores in metric_lines(rows):
        classes = levels[level].num_classes - levels[level].background
        cells = readable_metric(f"{level}.{metric}"), *scores, classes, scored_photos(recipe.name, level, metric)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def camvid_choices() -> list[str]:
    """Return what CamVid's photos say of the recipe `camvid`: how it was chosen, and what a mirrored pass adds."""
    chosen, other, mirrored = (
        f"{read(name)['object']['miou']:.3f}" for name in ("camvid_val", "camvid_from_everyday_val", "camvid_flip")
    )
    where = "[`{0}.json`](../results/{0}.json)"
    return [
        "All choices were made on `val`, with models that `train` alone had trained: enlarging the photos 1.5 times, "
        "milder class weights in the second stage, and starting from ImageNet weights, which gave mIoU "
        f"{chosen} ({where.format('camvid_val')}), not from those of `everyday`, which gave {other} "
        f"({where.format('camvid_from_everyday_val')}). Then, the bundled weights were trained on both splits, for "
        "twice as long. `test` was evaluated after the first stage of the first model, and after each whole training.",
        "",
        f"With a mirrored pass (`upernet evaluate camvid --flip`), mIoU on `test` is {mirrored} "
        f"({where.format('camvid_flip')}).",
    ]


def texture_pixels() -> list[str]:
    """Return a table of the results of `python -m benchmarks.texture_pixels`."""
    titles = "head", "mIoU of collages", "top-1 of whole photos", "shown on plain photos", "parameters"
    lines = [f"| {' | '.join(titles)} |", "| --- | --- | --- | --- | --- |"]
    for head, values in read("texture_pixels").items():
        scores = f"{values['miou']:.3f} | {values['top1']:.3f} | {values['shown_on_plain_photos']:.1%}"
        lines.append(f"| {head} | {scores} | {values['parameters']:,} |")
    return lines


def own_masks_log() -> list[dict[str, Any]]:
    """Return the iterations of training with the recipe of `upernet init` for the frames of CamVid."""
    lines = (ROOT / "docs" / "results" / "own_masks.log.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if "seconds" in record]


def own_masks_numbers() -> tuple[float, float, int]:
    """Return minutes, mIoU and number of training photos of the training with the recipe of `upernet init`."""
    minutes = sum(record["seconds"] for record in own_masks_log()) / 60
    held_back = sum(read("own_masks")["photos"].values())
    annotated = read("everyday.card")["photos"]["camvid"]["train"]
    return minutes, read("own_masks")["object"]["miou"], annotated - held_back


def own_masks() -> list[str]:
    """Return the result of fifteen minutes of training with the recipe of `upernet init` for the frames of CamVid."""
    log = own_masks_log()
    minutes = sum(record["seconds"] for record in log) / 60
    scores, photos = read("own_masks")["object"], sum(read("own_masks")["photos"].values())
    classes = [
        f"{name} {values['iou']:.2f}" for name, values in scores["per_class"].items() if values["iou"] is not None
    ]
    return [
        f"{len(log)} iterations took {minutes:.0f} minutes on two cores, without validation. On the {photos} photos "
        f"chosen for validation by `upernet init`: {metrics(scores)}.",
        "",
        f"IoU per class: {', '.join(classes)}.",
    ]


def ade20k(backbone: str = "internimage") -> list[str]:
    """Return a table of the published models, from `upernet models --json > docs/results/models.json`."""
    lines = ["| recipe | crop | mIoU single / multi scale | parameters | multiply-adds |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    rows = [row for row in read("models") if row["name"].startswith(f"upernet_{backbone}_")]
    for row in sorted(rows, key=lambda row: row["params"]):
        crop = next(part for part in row["name"].split("_") if part.isdecimal())
        height, width = row["macs_at"]
        lines.append(
            f"| `{row['name']}` | {crop} | {row['miou_single_scale']} / {row['miou_multi_scale']} "
            f"| {row['params'] / 1e6:.1f} M | {row['macs'] / 1e9:.0f} G at {height}x{width} |"
        )
    return lines


def internimage_t_camvid(width: int = 30) -> list[str]:
    """Return the loss of the short training run of the recipe of this name, averaged over `width` iterations each."""
    log = (ROOT / "docs" / "results" / "internimage_t_camvid.log.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [json.loads(line)["loss"] for line in log]
    means = [sum(losses[i : i + width]) / width for i in range(0, len(losses), width)]
    return [f"Mean loss of each {width} of {len(losses)} iterations: {', '.join(f'{mean:.2f}' for mean in means)}."]


def update(text: str) -> str:
    """Return the text of a document with its tables updated."""

    def table(match: re.Match[str]) -> str:
        pages = {
            "highlights": lambda: highlights(""),
            "highlights_readme": lambda: highlights("docs/"),
            "summary": summary,
            "upp_benchmark": upp_benchmark,
            "texture_pixels": texture_pixels,
            "camvid_choices": camvid_choices,
            "ade20k": ade20k,
            "ade20k_flash": lambda: ade20k("flash_internimage"),
            "own_masks": own_masks,
            "internimage_t_camvid": internimage_t_camvid,
            "all_models": model_cards.all_models,
            "import_graph": import_graph.graph_lines,
            "recipe_reference": recipe_reference.reference_lines,
            **benchmark_tables.TABLES,
            **discover_tables.TABLES,
        }
        lines = pages[match[2]]() if match[2] in pages else model_cards.part(match[2])
        return "\n".join([match[1].rstrip("\n"), "", *lines, "", match[3]])

    return TABLE.sub(table, text)


def main() -> int:
    """Update the documents, or check them; return the exit status."""
    stale = [page for page in PAGES if update(page.read_text(encoding="utf-8")) != page.read_text(encoding="utf-8")]
    if "--check" in sys.argv[1:]:
        for page in stale:
            print(f"{page.relative_to(ROOT)}: tables differ from docs/results; run `python docs/write_results.py`")
        return bool(stale)
    for page in stale:
        page.write_text(update(page.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
