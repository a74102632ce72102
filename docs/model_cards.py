"""The generated parts of docs/models/NAME.md: facts, data, scores, mappings of classes, failures and commands.

The pages of models that others published are generated as a whole (`published`), from the recipe and `zoo.yaml`.

`write_results.py` writes them between `<!-- results: PART_NAME -->` and `<!-- end of results -->`. They are made from
the recipe of the model, the card in its checkpoint, and these files in docs/results/: `NAME.json` (scores),
`NAME.log.jsonl` (log of the run), `NAME.card.json` (`python docs/collect_card.py`), and `ablations.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from upernet.checkpoints import shipped_checkpoint, zoo_entry
from upernet.checkpoints.card import METRICS
from upernet.checkpoints.header import card_in
from upernet.checkpoints.readme import facts as facts_of_card
from upernet.checkpoints.readme import metrics, table
from upernet.checkpoints.zoo import known_entry
from upernet.recipe import Recipe, SourceSpec, TermsSpec, load_recipe
from upernet.taxonomy import LEVELS, Taxonomy, load_taxonomy

RESULTS = Path(__file__).parent / "results"
PICTURES = Path(__file__).parent / "images" / "models"
CLASS_COLUMNS = {"iou": "IoU", "accuracy": "recall", "pixels": "pixels", "top1": "top-1", "photos": "photos"}
"""Metric of a class -> heading of its column."""
LICENSES = "[licenses](../licenses.md)"
SPLITS = {"train": "training photos", "held_back": "held back", "test": "test photos"}
Lines = list[str]


def read(name: str) -> Any:
    """Read a file in docs/results/; None if there is none."""
    path = RESULTS / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def facts(name: str) -> Lines:
    """Return what the model is, and under which terms its weights are."""
    recipe, path = load_recipe(name), shipped_checkpoint(name)
    card = card_in(path) if path else None
    assert path is not None and card is not None, f"{name} is not shipped"
    model = next(row for row in read("models.json") if row["name"] == name)
    rows = dict(facts_of_card(recipe.model, load_taxonomy(recipe.taxonomy), card, model["params"], path.stat().st_size))
    rows["license of the weights"] += ": [LICENSE-WEIGHTS](../../LICENSE-WEIGHTS)"
    rows["use"] += f" ({LICENSES})"
    height, width = model["macs_at"]
    rows["cost"] = f"{model['macs'] / 1e9:.0f} G multiply-adds for {height}x{width} pixels"
    return table(["", ""], list(rows.items()), left=2)


def data(name: str) -> Lines:
    """Return a table of the sources: data set, terms, levels, and number of photos per split."""
    recipe, photos = load_recipe(name), (read(f"{name}.card.json") or {}).get("photos", {})
    rows: list[list[str]] = []
    for source, spec in recipe.sources.items():
        terms: TermsSpec | None = getattr(spec, "terms", None)
        trained = source in recipe.training_data or any(source in s.sources for s in _stages(recipe))
        counts = [str(photos.get(source, {}).get(split) or "-") for split in SPLITS]
        about = [terms.name, terms.license] if terms else ["made of the photos of other sources", "theirs"]
        rows.append([f"`{source}`", *about, ", ".join(_levels(spec)), *(counts if trained else ["-", "-", counts[2]])])
    return table(["source", "data set", "terms", "annotates", *SPLITS.values()], rows, left=4)


def scores(name: str) -> Lines:
    """Return the scores of each source, with implied labels in rows of their own, and those of each class."""
    result = read(f"{name}.json")
    log = (RESULTS / f"{name}.log.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [record for record in map(json.loads, log) if "seconds" in record]
    minutes = sum(record["seconds"] for record in steps) / 60
    lines = [f"The log has {len(steps)} iterations, which took {minutes:.0f} minutes.", ""]
    rows = [
        [f"{source} ({result['photos'][source]} photos)", level, kind, metrics(values)]
        for kind, groups in (("annotated", result["sources"]), ("implied", result["weak"]))
        for source, levels in groups.items()
        for level, values in levels.items()
    ]
    lines += table(["source", "level", "labels", "result"], rows, left=4)
    for level in LEVELS:
        if level in result:
            lines += ["", f"Classes of **{level}**: {metrics(result[level])}", "", *class_table(result[level])]
    return lines


def class_table(values: Mapping[str, Any]) -> Lines:
    """Return a table with the scores of each class that the test photos show, and a line with the others."""
    per_class: dict[str, dict[str, Any]] = values["per_class"]
    shown = {label: row for label, row in per_class.items() if _is_scored(row)}
    columns = [key for key in CLASS_COLUMNS if any(row.get(key) is not None for row in shown.values())]
    rows = [[label, *(_cell(row.get(key)) for key in columns)] for label, row in shown.items()]
    lines = table(["class", *(CLASS_COLUMNS[key] for key in columns)], rows)
    if missing := [label for label in per_class if label not in shown]:
        lines += ["", f"Not in the test photos: {', '.join(missing)}."]
    return lines


def classes(name: str) -> Lines:
    """Return which classes of each source were merged, which are one of several, and which were left out."""
    lines: Lines = []
    for source, spec in load_recipe(name).sources.items():
        for level, annotation in getattr(spec, "annotated", {}).items():
            groups: dict[str, list[str]] = {}
            for theirs, ours in annotation.classes.items():
                if ours is None:
                    groups.setdefault("left out", []).append(theirs)
                elif isinstance(ours, tuple):
                    groups.setdefault(f"one of {', '.join(ours)}", []).append(theirs)
                elif theirs.casefold().replace("_", " ") != ours:
                    groups.setdefault(ours, []).append(theirs)
            if groups:
                parts = [f"*{ours}*: {', '.join(theirs)}" for ours, theirs in groups.items()]
                lines.append(f"* `{source}`, {level}: {'; '.join(parts).replace('_', ' ')}.")
    return lines or ["All classes of the sources have their own name in the taxonomy."]


def ablations(name: str) -> Lines:
    """Return a table of the short runs that settled the choices of the recipe: a row per run, a column per score."""
    runs: list[dict[str, Any]] = read("ablations.json") or []
    return ablation_table(runs) if runs else [f"No ablations of `{name}` have been recorded."]


def ablation_table(runs: Sequence[Mapping[str, Any]]) -> Lines:
    """Return the table of some runs: mean scores of all sources and of those of each level; the best are bold."""
    scores = [_level_means(run["scores"]) for run in runs]
    names = list(scores[0])
    best = {name: max(score[name] for score in scores) for name in names}
    rows: list[list[str]] = []
    for run, score in zip(runs, scores, strict=True):
        cells = [f"**{score[name]:.3f}**" if score[name] == best[name] else f"{score[name]:.3f}" for name in names]
        rows.append([run["name"], run["why"], str(run["iterations"]), f"{run['seconds'] / 60:.0f}", *cells])
    return table(["run", "question", "iterations", "minutes", *names], rows, left=2)


def _level_means(scores: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of `SOURCE.LEVEL.METRIC` -> score over all sources, and over the sources of each level."""
    levels: dict[str, list[float]] = {}
    for name, score in scores.items():
        if name != "mean":
            _, level, metric = name.split(".")
            levels.setdefault(f"{level} {METRICS[metric]}", []).append(score)
    return {"all": scores["mean"]} | {name: sum(values) / len(values) for name, values in levels.items()}


def failures(name: str) -> Lines:
    """Return the worst test photos of each level: pictures where the terms allow it, else names."""
    worst: list[dict[str, Any]] = (read(f"{name}.card.json") or {}).get("worst", [])
    lines: Lines = []
    for level in dict.fromkeys(photo["level"] for photo in worst):
        photos = [photo for photo in worst if photo["level"] == level]
        lines += ["", f"**{level}**", ""]
        for photo in photos:
            lines.append(f"* `{photo['photo']}`: {photo['accuracy']}")
            if photo["picture"]:
                lines += ["", f"  ![{photo['photo']}](../images/models/{name}/{photo['picture']})", ""]
    return lines[1:] or ["None have been recorded."]


def commands(name: str) -> Lines:
    """Return the commands that train, score and document the model."""
    recipe = load_recipe(name)
    start = recipe.training.initialize_from if recipe.training else None
    first = [f"# first: the same for {start}, whose weights this model starts from"] if start else []
    return [
        "```sh",
        *first,
        f"upernet train {name} --data DIR --out runs/{name} --half",
        f"python docs/ship_model.py {name} runs/{name} --data DIR",
        f"upernet evaluate {name} --data DIR --json docs/results/{name}.json --out evaluation/{name}",
        f"python docs/collect_card.py {name} --data DIR --evaluation evaluation/{name}",
        f"python docs/ship_model.py {name}",
        "upernet models --json docs/results/models.json",
        "python docs/write_results.py",
        "make gallery",
        "```",
    ]


def published(name: str) -> Lines:
    """Return the page of a model that others published: facts, scores, commands and classes."""
    recipe, entry = load_recipe(name), known_entry(name)
    taxonomy = load_taxonomy(recipe.taxonomy)
    model = next(row for row in read("models.json") if row["name"] == name)
    classes = {level: names for level, names in _classes(taxonomy).items() if level in model["levels"]}
    height, width = model["macs_at"]
    rows = [
        ("license of the weights", entry.license),
        ("use", f"{'research and non-commercial use only' if entry.research_only else 'not restricted'} ({LICENSES})"),
        ("classes", ", ".join(f"{len(names)} of {level}" for level, names in classes.items())),
        ("network", f"UPerNet with {recipe.model.backbone}, {recipe.model.decoder_channels} channels"),
        ("size", f"{model['params'] / 1e6:.1f} M parameters, auxiliary head included"),
        ("cost", f"{model['macs'] / 1e9:.0f} G multiply-adds for {height}x{width} pixels"),
    ]
    if recipe.parse_short_side is not None:
        rows.append(("larger photos", f"are parsed at a short side of {recipe.parse_short_side} pixels"))
    if entry.published:
        crop, single, multi = entry.published.crop, model["miou_single_scale"], model["miou_multi_scale"]
        rows.append(("trained on", f"crops of {crop[0]}x{crop[1]} pixels"))
        rows.append(("published score", f"mIoU {single} with one scale, {multi} with six scales and mirror images"))
    for part in entry.files:
        hashed = f", SHA-256 `{part.sha256}`" if part.sha256 else ", without a published hash"
        rows.append(("file", f"[{part.file}]({part.url}){hashed}"))
    lines = [recipe.description, "", *table(["", ""], rows, left=2), "", "## Use it", "", "```sh"]
    lines += [
        f"upernet download {name}    # once; verified, and resumed after an interruption",
        f"upernet parse photo.jpg --model {name}",
        f"upernet bench {name} --explain    # the speed here; needs no download",
    ]
    if recipe.training is not None:
        lines.append(f"upernet evaluate {name} --data DIR")
        lines.append(f"upernet train {name} --data DIR --out run/")
    lines += ["```", "", "```python", "import upernet", "", f'parser = upernet.load("{name}")', "```", ""]
    lines += ["## Classes", ""]
    for level, names in classes.items():
        lines += [f"**{level}** ({len(names)}): {', '.join(names)}.".replace("_", " "), ""]
    return lines[:-1]


def all_models() -> Lines:
    """Return a table of all models with weights: bundled ones, and those that others published."""
    rows: list[list[str]] = []
    for model in sorted(read("models.json"), key=lambda row: (not row["shipped"], row["params"])):
        name = model["name"]
        if not model["shipped"] and zoo_entry(name) is None:
            continue
        score = "-" if model["miou_single_scale"] is None else f"{model['miou_single_scale']}"
        weights = "bundled" if model["shipped"] else "published"
        rows.append(
            [f"[{name}]({name}.md)", ", ".join(model["levels"]), weights, score, f"{model['params'] / 1e6:.1f} M"]
        )
    return table(["model", "levels", "weights", "mIoU on ADE20K", "parameters"], rows, left=3)


PARTS = {
    "facts": facts,
    "data": data,
    "scores": scores,
    "classes": classes,
    "ablations": ablations,
    "failures": failures,
    "commands": commands,
}
"""Part of the card of a bundled model -> function that returns its lines for a model."""


def part(block: str) -> Lines:
    """Return the lines of a block `PART_NAME`."""
    kind, _, name = block.partition("_")
    return published(name) if kind == "published" else PARTS[kind](name)


def _classes(taxonomy: Taxonomy) -> dict[str, list[str]]:
    return {name: list(level.names[level.background :]) for name, level in taxonomy.levels.items()}


def _stages(recipe: Recipe) -> Sequence[Any]:
    return recipe.training.stages if recipe.training else ()


def _levels(spec: SourceSpec) -> list[str]:
    return [*getattr(spec, "annotated", {getattr(spec, "level", ""): None})]


def _is_scored(row: Mapping[str, Any]) -> bool:
    return row.get("iou") is not None or row.get("top1") is not None


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"
