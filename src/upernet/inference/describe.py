"""Descriptions of a parse in English sentences."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from upernet.inference.label_map import UNSURE, LabelMap
from upernet.inference.wording import LEAST, percent, readable
from upernet.taxonomy import LEVEL_KINDS, PartGroup

LEAST_OWNER = 0.001
"""Objects with a smaller share get no line about their parts."""
MOST = 8
"""Longest list of names; the others are summed up."""


def describe(
    rankings: Mapping[str, Sequence[tuple[str, float]]],
    sure: Collection[str],
    maps: Mapping[str, LabelMap],
    part_groups: Sequence[PartGroup] = (),
) -> str:
    """Describe a parse, one line per subject.

    The lines are: each image label; the objects by area; each object that owns parts, with its parts and the labels of
    the other levels; the other levels for the whole photo. Percentages are rounded shares of pixels: of the photo, or
    of the object that the line is about.

    Args:
        rankings: level -> all classes with their probability, most probable first.
        sure: The levels of `rankings` whose first label is probable enough.
        maps: level -> label map.
        part_groups: The objects that own parts.
    """
    lines = [_image_label(level, ranking, level in sure) for level, ranking in rankings.items()]
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
    for level in _properties(maps):
        lines.append(_sentence(f"{level.capitalize()}s:", f"The {level}s are unsure", maps[level], level))
    return "\n".join(lines)


def caution(is_familiar: bool | None) -> list[str]:
    """Return a line for a photo that is unlike the training photos, or nothing."""
    return ["This photo is unlike the training photos, so expect mistakes."] if is_familiar is False else []


def _image_label(level: str, ranking: Sequence[tuple[str, float]], is_sure: bool) -> str:
    if not is_sure:
        guesses = " or ".join(f"{readable(name)} ({percent(probability)})" for name, probability in ranking[:2])
        return f"Unsure {level}: perhaps {guesses}."
    name, probability = ranking[0]
    article = "An" if name[:1].lower() in "aeiou" else "A"
    return f"{article} {readable(name)} {level} ({percent(probability)})."


def _properties(maps: Mapping[str, LabelMap]) -> list[str]:
    """Return the levels that say something about objects and the whole photo alike, such as materials."""
    return [level for level in maps if level != "object" and LEVEL_KINDS[level].owned_by is None]


def _owner(label: int, maps: Mapping[str, LabelMap]) -> str:
    objects = maps["object"]
    where = objects.labels == label
    name, share = readable(objects.names[label]), percent(float(where.mean()))
    sentences: list[str] = []
    if "part" in maps:
        start = f"The {name} ({share} of the photo)"
        sentences.append(_sentence(f"{start} has", f"{start} has no certain parts", maps["part"], "part", where))
    of_it = "Its" if sentences else f"The {name}'s ({share} of the photo)"
    for level in _properties(maps):
        sentence = _sentence(f"{of_it} {level}s:", f"{of_it} {level}s are unsure", maps[level], level, where)
        sentences.append(sentence)
    return " ".join(sentences)


def _sentence(start: str, unsure: str, label_map: LabelMap, level: str, where: np.ndarray | None = None) -> str:
    """Return a sentence with the names and their shares after `start`, or just `unsure` if every pixel is unsure."""
    counts = label_map.counts(where)
    total = sum(counts.values())
    rest: list[str] = []
    if label_map.background and 0 in counts:
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
    words = [f"{readable(label_map.names[label])} ({percent(counts[label] / total)})" for label in named]
    if others:
        together = percent(sum(counts[label] for label in others) / total)
        words.append(f"{len(others)} more ({together} together)")
    return f"{start} {_joined(words)}{_rest(rest)}."


def _joined(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _rest(rest: Sequence[str]) -> str:
    return f"; {' and '.join(rest)}" if rest else ""
