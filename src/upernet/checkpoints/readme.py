"""The README.md of a saved model: the facts, scores and terms of its card, and how to use it.

The Hugging Face Hub shows this page, and reads license and scores from the YAML at its start.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from upernet.checkpoints.card import METRICS, ModelCard
from upernet.checkpoints.terms import BUNDLED, BUNDLED_TEXT
from upernet.models import UPerNet
from upernet.recipe import ModelSpec
from upernet.taxonomy import LEVEL_KINDS, Taxonomy

GENERATED = "<!-- Written by upernet. Delete this line, and your changes stay when the model is saved again. -->"
"""Marks a page that may be written again."""
NOT_STATED = "not stated"
LICENSES = frozenset(
    {
        "apache-2.0",
        "mit",
        "bsd-2-clause",
        "bsd-3-clause",
        "isc",
        "mpl-2.0",
        "gpl-2.0",
        "gpl-3.0",
        "lgpl-3.0",
        "agpl-3.0",
        "unlicense",
        "cc0-1.0",
        "cc-by-2.0",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc-by-nc-2.0",
        "cc-by-nc-3.0",
        "cc-by-nc-4.0",
        "cc-by-nd-4.0",
        "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-3.0",
        "cc-by-nc-sa-4.0",
        "openrail",
    }
)
"""Licenses that the Hub knows by these names, which are SPDX's in lower case; any other is `other` there."""


def readme(model: UPerNet, card: ModelCard, file_bytes: int, repository: str | None = None) -> str:
    """Return the text of README.md.

    Args:
        model: The model.
        card: Its card.
        file_bytes: Size of its file.
        repository: OWNER/NAME on the Hub; None: the model is in a folder.
    """
    place = f"hf://{repository}" if repository else "path/to/this/folder"
    lines = [
        "---",
        _metadata(model, card, repository),
        "---",
        GENERATED,
        "",
        f"# {_cell(card.name) or 'UPerNet'}",
        "",
        *([_cell(card.description), ""] if card.description else []),
        "This is a network of [Unified Perceptual Parsing](https://arxiv.org/abs/1807.10221) for the Python package "
        f"`upernet`. It gives {_levels(model.taxonomy)}.",
        "",
        *table(["", ""], facts(model.spec, model.taxonomy, card, _parameters(model), file_bytes), left=2),
        "",
        "## Use",
        "",
        "```sh",
        "pip install upernet",
        f"upernet parse photo.jpg --model {place}",
        "```",
        "",
        "```python",
        "import upernet",
        "",
        f'parser = upernet.load("{place}")',
        'parse = parser("photo.jpg")',
        'parse.sheet().save("sheet.jpg")',
        "",
        f'model = upernet.UPerNet.from_pretrained("{repository or place}")  # the network alone, as an nn.Module',
        "```",
        "",
        *_scores(card),
        *_terms(card),
        "## Classes",
        "",
        *_classes(model.taxonomy),
    ]
    return "\n".join(lines)


def facts(
    spec: ModelSpec, taxonomy: Taxonomy, card: ModelCard, parameters: int, file_bytes: int
) -> list[tuple[str, str]]:
    """Return what a model is, and under which terms its weights are: rows of a name and a value."""
    classes = ", ".join(f"{level.num_classes - level.background} of {level.name}" for level in taxonomy.levels.values())
    rows = [
        ("license of the weights", _cell(card.license) or NOT_STATED),
        ("use", "research and non-commercial use only" if card.research_only else "not restricted"),
        ("classes", classes),
        ("network", f"UPerNet with {spec.backbone}, {spec.decoder_channels} channels"),
        ("size", f"{parameters / 1e6:.1f} M parameters, {file_bytes / 1e6:.1f} MB"),
    ]
    if card.short_side is not None:
        rows.append(("larger photos", f"are parsed at a short side of {card.short_side} pixels"))
    return rows


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Return the lines of a Markdown table; the columns after the first `left` ones are aligned to the right."""
    rules = ["---"] * left + ["---:"] * (len(header) - left)
    return [f"| {' | '.join(cells)} |" for cells in (header, rules, *rows)]


def metrics(values: Mapping[str, float | None]) -> str:
    """Return the metrics of one level in words: `mIoU 0.500, pixel accuracy 0.900`."""
    known = {METRICS[key]: values.get(key) for key in METRICS}
    return ", ".join(f"{name} {value:.3f}" for name, value in known.items() if value is not None)


def _metadata(model: UPerNet, card: ModelCard, repository: str | None) -> str:
    from huggingface_hub import EvalResult, ModelCardData  # imported here because the Hub's client is slow to import

    scores = [
        EvalResult(
            task_type="image-segmentation" if LEVEL_KINDS[level].dense else "image-classification",
            task_name=level,
            dataset_type="custom",
            dataset_name=card.scored_on or NOT_STATED,
            metric_type="mean_iou" if "miou" in metric else "accuracy",
            metric_name=f"{METRICS[metric]} of {level}",
            metric_value=round(value, 4),
        )
        for level, values in card.scores.items()
        for metric, value in values.items()
        if level in LEVEL_KINDS and metric in METRICS
    ]
    data = ModelCardData(
        library_name="upernet",
        pipeline_tag="image-segmentation",
        tags=["upernet", "semantic-segmentation", model.spec.backbone, *model.taxonomy.levels],
        model_name=card.name or (repository or "UPerNet").rpartition("/")[2],
        eval_results=scores or None,
        **cast("dict[str, Any]", _license(card)),
    )
    return str(data)


def _license(card: ModelCard) -> dict[str, str]:
    """Return the keys of the Hub for the license of the weights; none if it is not known."""
    if card.license.lower() in LICENSES:
        return {"license": card.license.lower()}
    if not card.license and not card.research_only:
        return {}
    name = re.sub(r"[^a-z0-9.]+", "-", card.license.lower()).strip("-") or "research-only"
    link = {"license_link": BUNDLED_TEXT} if BUNDLED in card.license else {}
    return {"license": "other", "license_name": name[:80], **link}


def _scores(card: ModelCard) -> list[str]:
    rows = [(level, metrics(values)) for level, values in card.scores.items() if metrics(values)]
    if not rows:
        return []
    about = f"Measured on {_cell(card.scored_on)}." if card.scored_on else ""
    return ["## Scores", "", *table(["level", "result"], rows, left=2), "", *([about, ""] if about else [])]


def _terms(card: ModelCard) -> list[str]:
    lines: list[str] = []
    if card.research_only:
        lines.append(
            "These weights are for **research and non-commercial use only**. With `UPERNET_NO_RESEARCH_WEIGHTS=1`, "
            "upernet refuses to load them."
        )
    if BUNDLED in card.license:
        lines.append(f"The full terms are in [{BUNDLED_TEXT}]({BUNDLED_TEXT}), which must go with the weights.")
    lines.append("The file holds weights and a description of the network, as safetensors; loading it runs no code.")
    return ["## Terms and safety", "", *lines, ""]


def _levels(taxonomy: Taxonomy) -> str:
    """Return which levels have a label per pixel, and which one per photo."""
    groups = {"pixel": [name for name in taxonomy.levels if LEVEL_KINDS[name].dense]}
    groups["photo"] = [name for name in taxonomy.levels if name not in groups["pixel"]]
    return " and ".join(f"one label per {what} for {', '.join(names)}" for what, names in groups.items() if names)


def _classes(taxonomy: Taxonomy) -> Iterator[str]:
    for level in taxonomy.levels.values():
        names = level.names[1:] if level.background else level.names
        yield from (f"**{level.name}** ({len(names)}): {_cell(', '.join(names))}", "")


def _parameters(model: UPerNet) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _cell(text: str) -> str:
    """Return `text` in one line that neither ends a cell of a table nor begins a tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
