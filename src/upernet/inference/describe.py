"""A parse in English sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from upernet.inference.level_map import UNSURE, LevelMap
from upernet.taxonomy import PartGroup

LEAST = 0.01
"""Smaller shares are summed up in "and 3 more"."""
LEAST_OWNER = 0.001
"""Smaller objects get no line about their parts."""
MOST = 8
"""Names in a list; the others are summed up."""


def describe(
    scene: Sequence[tuple[str, float]] | None,
    scene_is_sure: bool,
    maps: Mapping[str, LevelMap],
    part_groups: Sequence[PartGroup] = (),
) -> str:
    """What a parse shows, one line per subject: the scene; the objects by area; each object that owns parts, with its
    parts, materials and textures; the materials and textures of the whole photo.

    Percentages are shares of pixels in the label maps, rounded: of the photo, or of the object that the line is about.
    """
    lines = [_scene(scene, scene_is_sure)] if scene else []
    if "object" in maps:
        objects = maps["object"]
        lines.append(_sentence("The photo shows", "The objects are unsure", objects, "object"))
        owners = {group.owner for group in part_groups}
        least = LEAST_OWNER * objects.labels.size
        lines += [
            _owner(label, maps) for label, count in objects.counts().items() if label in owners and count >= least
        ]
    elif "part" in maps:
        lines.append(_sentence("Parts in the photo:", "The parts are unsure", maps["part"], "part"))
    for level in ("material", "texture"):
        if level in maps:
            lines.append(_sentence(f"{level.capitalize()}s:", f"The {level}s are unsure", maps[level], level))
    return "\n".join(lines)


def percent(share: float) -> str:
    """A fraction as "12 %"; below 1 %, "under 1 %"."""
    return "under 1 %" if share < LEAST else f"{100 * share:.0f} %"


def readable(name: str) -> str:
    """A class name as it is written in a sentence."""
    return name.replace("_", " ")


def _scene(scene: Sequence[tuple[str, float]], is_sure: bool) -> str:
    if not is_sure:
        guesses = " or ".join(f"{readable(name)} ({percent(probability)})" for name, probability in scene[:2])
        return f"Unsure scene: perhaps {guesses}."
    name, probability = scene[0]
    article = "An" if name[:1].lower() in "aeiou" else "A"
    return f"{article} {readable(name)} scene ({percent(probability)})."


def _owner(label: int, maps: Mapping[str, LevelMap]) -> str:
    objects = maps["object"]
    where = objects.labels == label
    name, share = readable(objects.names[label]), percent(float(where.mean()))
    sentences = []
    if "part" in maps:
        start = f"The {name} ({share} of the photo)"
        sentences.append(_sentence(f"{start} has", f"{start} has no certain parts", maps["part"], "part", where))
    of_it = "Its" if sentences else f"The {name}'s ({share} of the photo)"
    for level in ("material", "texture"):
        if level in maps:
            sentence = _sentence(f"{of_it} {level}s:", f"{of_it} {level}s are unsure", maps[level], level, where)
            sentences.append(sentence)
    return " ".join(sentences)


def _sentence(start: str, unsure: str, level_map: LevelMap, level: str, where: np.ndarray | None = None) -> str:
    """`start`, the names with their shares, and what is not named; just `unsure` where no pixel has a certain label."""
    counts = level_map.counts(where)
    total = sum(counts.values())
    rest = []
    if level_map.background and 0 in counts:
        rest.append(f"{percent(counts.pop(0) / total)} is no listed {level}")
    if UNSURE in counts:
        missing = counts.pop(UNSURE)
        if missing == total:
            return f"{unsure}."
        rest.append(f"{percent(missing / total)} is unsure")
    if not counts:
        return f"{start} nothing that is listed{_rest(rest)}."
    named = [label for label, count in counts.items() if count / total >= LEAST][:MOST]
    others = [label for label in counts if label not in named]
    if not named or len(others) == 1:
        named, others = named + others[:1], others[1:]
    words = [f"{readable(level_map.names[label])} ({percent(counts[label] / total)})" for label in named]
    if others:
        together = percent(sum(counts[label] for label in others) / total)
        words.append(f"{len(others)} more ({together} together)")
    return f"{start} {_joined(words)}{_rest(rest)}."


def _joined(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _rest(rest: Sequence[str]) -> str:
    return f"; {' and '.join(rest)}" if rest else ""
