"""The files of a proposal: the recipe, the taxonomy and the lists of the splits, with comments for people."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from upernet.errors import UpernetError
from upernet.files import write_text
from upernet.scaffold.classes import plain_name
from upernet.scaffold.defaults import class_weights, sided_classes
from upernet.scaffold.naming import BACKGROUND
from upernet.scaffold.proposal import Proposal
from upernet.taxonomy.levels import LEVEL_KINDS

LISTED_SPLITS = ("train", "val", "test")


def recipe_files(proposal: Proposal, out: Path) -> dict[Path, str]:
    """Return the files to write, and their texts; the recipe `out` is the last.

    Raises:
        UpernetError: `out` is not the name of a YAML file.
    """
    if out.suffix not in (".yaml", ".yml"):
        raise UpernetError(f"{out}: a recipe ends with .yaml; give another --out.")
    taxonomy = out.with_name(f"{out.stem}-classes.yaml")
    files: dict[Path, str] = {}
    for split in proposal.lists:
        entries = "".join(f"{photo.entry}\n" for photo in proposal.splits[split])
        files[_list_file(out, split)] = f"# photos of the split {split}, one per line\n{entries}"
    files[taxonomy] = _taxonomy(proposal)
    files[out] = _recipe(proposal, out, taxonomy)
    return files


def write_recipe(proposal: Proposal, out: Path, force: bool = False) -> list[Path]:
    """Write the files of a proposal, the recipe last, and return their paths.

    Raises:
        UpernetError: A file exists and `force` is not set, or a file cannot be written.
    """
    files = recipe_files(proposal, out)
    refuse_existing(files, force)
    for path, text in files.items():
        write_text(path, text)
    return list(files)


def refuse_existing(files: Iterable[Path], force: bool) -> None:
    """Refuse to overwrite files unless `force` is set."""
    for path in files:
        if path.exists() and not force:
            raise UpernetError(f"{path}: exists already; give another --out, or --force to overwrite it.")


def _list_file(out: Path, split: str) -> Path:
    return out.with_name(f"{out.stem}-{split}.txt")


def _taxonomy(proposal: Proposal) -> str:
    lines = [
        "# The classes that the model tells apart, by level. You can change names and colors; use the same names in",
        f"# the recipe. The comments show how frequent each class is in {plain(proposal.root.resolve().name)}.",
        f"description: {_inline(f'The classes of {proposal.root.resolve().name}.')}",
        "levels:",
    ]
    for level, found in proposal.found.levels.items():
        names = [entry.name for entry in found.plan.classes]
        background = ["    background: background"] if level == "part" and BACKGROUND in names else []
        lines += [f"  {level}:", *background, "    classes:"]
        unit = "pixels" if LEVEL_KINDS[level].dense and any(entry.keys for entry in found.plan.classes) else "photos"
        for entry in found.plan.classes:
            if level == "part" and entry.name == BACKGROUND:
                continue
            item: dict[str, str] = {"name": entry.name}
            if entry.color is not None:
                item["color"] = "#{:02x}{:02x}{:02x}".format(*entry.color)
            text = _inline(item if len(item) > 1 else entry.name)
            amount = f"{100 * found.plan.shares[entry.name]:.1f} %" if unit == "pixels" else f"{entry.photos} photos"
            lines.append(f"      - {text}  # {amount}")
        if found.parts_of:
            lines.append("    of:  # object: the parts that lie on it in the masks")
            lines += [f"      {_inline(owner)}: {_inline(list(parts))}" for owner, parts in found.parts_of.items()]
    return "\n".join(lines) + "\n"


def _recipe(proposal: Proposal, out: Path, taxonomy: Path) -> str:
    defaults = proposal.defaults
    source = plain_name(proposal.root.resolve().name)
    lines = [
        "# A first recipe, written by `upernet init`. Every key is explained in docs/recipe_reference.md.",
        f"#   upernet data check {out.name}     look for mistakes in the data",
        f"#   upernet train {out.name}          train; the same command resumes",
        *([f"#   upernet evaluate runs/{out.stem} --split {split}"] if (split := scored_split(proposal)) else []),
        f"description: {_inline(f'{_levels(proposal)} of {proposal.root.resolve().name}.')}",
        f"taxonomy: {_inline(taxonomy.name)}",
        "# relative to this file; --data DIR overrides it",
        f"data: {_inline(_data(proposal.root, out))}",
        "model:",
        f"  backbone: {defaults.backbone}",
    ]
    lines += ["  # ImageNet weights, if they are available", "  backbone_weights: auto"]
    lines += ["  decoder_channels: 96", "  auxiliary_channels: 64"]
    if defaults.short_side:
        lines.append("# larger photos are reduced to this short side, here and below")
        lines.append(f"parse_short_side: {max(32, defaults.short_side)}")
    lines += ["sources:", f"  {source}:", *_indented(_source(proposal, out), 4)]
    lines += ["loss:", "  # the loss uses every second pixel, which makes it faster", "  stride: 2"]
    lines += _class_weights(proposal)
    lines += _training(proposal, source)
    return "\n".join(lines) + "\n"


def scored_split(proposal: Proposal) -> str | None:
    """Return the split to score the model on: the one that no choice depends on, if there is one."""
    return next((split for split in ("test", "val") if split in proposal.splits), None)


def _levels(proposal: Proposal) -> str:
    words = [f"{level}s" for level in proposal.found.levels]
    return " and ".join(words).capitalize()


def _data(root: Path, out: Path) -> str:
    """Return the folder of the data relative to the recipe if it is below it or next to it, else absolute."""
    absolute = os.path.abspath(root)
    try:
        relative = os.path.relpath(absolute, os.path.abspath(out.parent))
    except ValueError:  # another drive
        return absolute
    return absolute if relative.startswith(os.path.join("..", "..")) else Path(relative).as_posix()


def _source(proposal: Proposal, out: Path) -> list[str]:
    found, defaults = proposal.found, proposal.defaults
    lines = [f"# {plain(found.described)}", *(f"{key}: {_inline(value)}" for key, value in found.settings.items())]
    if proposal.follow_links:
        lines.append("follow_links: true")
    if proposal.words:
        lines.append(f"splits: {_inline(dict(proposal.words))}")
    elif not proposal.lists:
        lines.append(f"splits: {_inline({split: split for split in proposal.splits})}")
    if proposal.lists:
        lines += [f"# {plain(proposal.split_how)}", "lists:"]
        lines += [f"  {split}: {_inline(_list_file(out, split).name)}" for split in proposal.lists]
    several = len(found.levels) > 1
    if several:
        lines.append("annotations:")
    for level, own in found.levels.items():
        lines.append(f"  {level}:" if several else f"level: {level}")
        lines += _indented(_annotation(own.settings), 4 if several else 0)
    lines += [f"batch_size: {defaults.batch_size}", "augmentation:"]
    if defaults.short_side:
        lines.append(f"  short_side: {defaults.short_side}")
    lines += ["  scale: [0.6, 1.7]", f"  crop: {_inline(list(defaults.crop))}  # height, width"]
    if sided := sided_classes(entry.name for own in found.levels.values() for entry in own.plan.classes):
        lines += [plain(f"  # flipping a photo would exchange {sided[0]} and {sided[1]}"), "  flip: false"]
    if defaults.short_side:
        lines.append(f"test_resize: {_inline({'short_side': defaults.short_side})}")
    return lines


def _annotation(settings: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for key, value in settings.items():
        comment = {
            "classes": "class of the data: class of the taxonomy; null: unknown",
            "colors": "color of the masks: class; null: unknown",
            "ignore": "values that mean unknown",
        }.get(key)
        if isinstance(value, dict) and value:
            lines.append(f"{key}:  # {comment}")
            lines += [f"  {_inline(own)}: {_inline(target)}" for own, target in value.items()]
        else:
            lines.append(f"{key}: {_inline(value)}" + (f"  # {comment}" if comment else ""))
    return lines


def _class_weights(proposal: Proposal) -> list[str]:
    weights = {
        level: class_weights(found.plan.shares) for level, found in proposal.found.levels.items() if level != "part"
    }
    weights = {level: factors for level, factors in weights.items() if factors}
    if not weights:
        return []
    lines = ["  # rare classes count more: 1 / sqrt(share), mean 1 over pixels", "  class_weights:"]
    for level, factors in weights.items():
        lines.append(f"    {level}:")
        lines += [f"      {_inline(name)}: {factor}" for name, factor in factors.items()]
    return lines


def _training(proposal: Proposal, source: str) -> list[str]:
    defaults = proposal.defaults
    lines = [
        "training:",
        "  ema_decay: 0.998",
        *(_validation(defaults.iterations) if "val" in proposal.splits else []),
        "  stages:",
        f"    - name: {' and '.join(proposal.found.levels)}",
        f"      # {len(proposal.splits['train'])} photos, each of which is used about "
        f"{max(1, round(defaults.iterations * defaults.batch_size / len(proposal.splits['train'])))} times",
        f"      iterations: {defaults.iterations}",
        f"      sources: [{source}]",
        "      learning_rate: 1.0e-3",
        "      weight_decay: 0.01",
        f"      warmup_iterations: {min(30, defaults.iterations // 10)}",
    ]
    if defaults.pretrained:
        lines += [
            "      # the pretrained backbone has a lower learning rate and fixed batch norm statistics",
            "      backbone_learning_rate_factor: 0.4",
            "      freeze_norm: backbone",
        ]
    return lines


def _validation(iterations: int) -> list[str]:
    return [
        "  # number of iterations between validations; the best model is kept",
        f"  validation: {{every: {max(20, iterations // 10)}}}",
    ]


def _inline(value: Any) -> str:
    """Return a value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _indented(lines: list[str], by: int) -> list[str]:
    return [" " * by + line for line in lines]


def plain(text: str) -> str:
    """Return text for a comment: on one line, and without control characters."""
    return "".join(character if character.isprintable() else "?" for character in text)
