"""Descriptions of a parse in English sentences, as a person would say them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from upernet.inference.label_map import UNSURE, LabelMap
from upernet.inference.nouns import CARRIED, SELF_EVIDENT, TRIVIAL_PARTS, WORN, head, noun, place
from upernet.inference.things import Thing, find_things
from upernet.inference.wording import percent
from upernet.taxonomy import LEVEL_KINDS, PartGroup

MAIN, MOST_MAIN = 0.08, 4
"""Share of the photo from which on an object is one of the main ones, and how many of them are named."""
MINOR, MOST_MINOR = 0.01, 4
"""Share of the photo from which on another object is mentioned, and how many of them are."""
DOUBTFUL = 0.6
"""Mean confidence below which nothing is said of an object's parts, material and texture, or of the last two."""
LEAST_OWNER = 0.02
"""Share of the photo from which on something is said of an object's parts, material and texture."""
LEAST_PART, MOST_PARTS = 0.015, 6
"""Share of the object from which on a part is named, and how many of them are."""
CLEAR_PARTS = 0.4
"""Share of the object with a certain part from which on parts are named."""
PREVAILING = 0.5
"""Share of an object from which on it is of a material or has a texture."""
DETAILS = ("material", "texture")
"""Levels that are said of the objects, where most of the photo is known to be objects."""
MOST_DETAILS = 3
"""Largest number of objects that get a line of their own."""
LEAST_ALONE, MOST_ALONE = 0.05, 4
"""Share of the photo from which on a material or texture is named without an object, and how many of them are."""
AMOUNTS = ((0.9, "Almost all"), (0.65, "Most"), (0.4, "About half"), (0.2, "About a quarter"))
"""Unsure share of the photo from which on it is called so."""


def describe(
    rankings: Mapping[str, Sequence[tuple[str, float]]],
    sure: Collection[str],
    maps: Mapping[str, LabelMap],
    part_groups: Sequence[PartGroup] = (),
) -> str:
    """Describe a parse, one line per subject.

    The lines are: each image label; the objects, large ones first; what some of them consist of. Lists are short, and
    what is doubtful or small is left out; `Parse.to_dict` has all shares.

    Args:
        rankings: level -> all classes with their probability, most probable first.
        sure: The levels of `rankings` whose first label is probable enough.
        maps: level -> label map.
        part_groups: The objects that own parts.
    """
    lines = [_image_label(level, ranking, level in sure) for level, ranking in rankings.items()]
    known = 0.0
    if "object" in maps:
        things = find_things(maps["object"], _named(maps["object"], MINOR, MOST_MAIN + MOST_MINOR))
        known = sum(thing.share for thing in things)
        lines.append(_objects(things, maps["object"]))
        details = (_details(thing, maps, part_groups) for thing in things if _is_clear(thing))
        lines += [detail for detail in details if detail][:MOST_DETAILS]
    for level, label_map in maps.items():
        said = level in DETAILS and known >= PREVAILING
        if level != "object" and LEVEL_KINDS[level].owned_by not in maps and not said:
            names = [noun(label_map.names[label]) for label in _named(label_map, LEAST_ALONE, MOST_ALONE)]
            if names:
                lines.append(f"{level.capitalize()}s: {_joined(names)}.")
            elif "object" not in maps or level not in DETAILS:
                lines.append(f"No {level} is certain.")
    return "\n".join(lines)


def caution(is_familiar: bool | None) -> list[str]:
    """Return a line for a photo that is unlike the training photos, or nothing."""
    return ["This photo is unlike the training photos, so expect mistakes."] if is_familiar is False else []


def _image_label(level: str, ranking: Sequence[tuple[str, float]], is_sure: bool) -> str:
    said = place if level == "scene" else noun
    if not is_sure:
        # Without their probabilities: a label is unsure because photos like this one often get it wrongly.
        guesses = " or ".join(said(name) for name, _ in ranking[:2])
        return f"The {level} is unclear: perhaps {guesses}."
    name, probability = ranking[0]
    return f"{_capital(said(name))} ({percent(probability)})."


def _named(label_map: LabelMap, least: float, most: int, where: np.ndarray | None = None) -> list[int]:
    """Return the labels with a share from `least` on, by area, at most `most`; no background, no unsure pixels."""
    counts = label_map.counts(where)
    enough = least * sum(counts.values())
    return [label for label, count in counts.items() if label >= int(label_map.background) and count >= enough][:most]


def _objects(things: Sequence[Thing], label_map: LabelMap) -> str:
    main = [thing for thing in things if thing.share >= MAIN][:MOST_MAIN]
    minor = [thing for thing in things if thing not in main][:MOST_MINOR]
    unsure = label_map.counts().get(UNSURE, 0) / label_map.labels.size
    amount = next((name for least, name in AMOUNTS if unsure >= least), None)
    rest = "" if amount is None else f" {amount} of the photo is unclear."
    if not things:
        return f"Nothing in it is certain.{rest if unsure < AMOUNTS[0][0] else ''}"
    clauses = [f"mostly {_joined([str(thing) for thing in main])}"] if main else []
    places: dict[str, list[str]] = {}
    for thing in minor:
        places.setdefault(thing.position or ("also" if main else ""), []).append(str(thing))
    clauses += [f"{where} {_joined(names)}".strip() for where, names in sorted(places.items(), key=_order)]
    return f"{_capital('; '.join(clauses))}.{rest}"


def _order(clause: tuple[str, list[str]]) -> int:
    return ("", "also", "on the left", "in the middle", "on the right").index(clause[0])


def _is_clear(thing: Thing) -> bool:
    return thing.share >= LEAST_OWNER and thing.confidence >= DOUBTFUL


def _details(thing: Thing, maps: Mapping[str, LabelMap], part_groups: Sequence[PartGroup]) -> str:
    """Return sentences about the parts, the material and the texture of an object; empty if none is certain."""
    where = maps["object"].labels == thing.label
    sentences: list[str] = []
    if "part" in maps and any(group.owner == thing.label for group in part_groups):
        sentences += _parts(thing, maps["part"], where)
    verb = "are" if thing.is_plural else "is"
    if head(thing.name) in SELF_EVIDENT:
        return " ".join(sentences)
    name = _prevailing(maps.get("material"), where)
    if name and name != head(thing.name) and name not in SELF_EVIDENT:
        sentences.append(f"The {thing.subject} {verb} of {name}.")
    if name := _prevailing(maps.get("texture"), where):
        sentences.append(f"The {thing.subject} {'look' if thing.is_plural else 'looks'} {name}.")
    return " ".join(sentences)


def _parts(thing: Thing, label_map: LabelMap, where: np.ndarray) -> list[str]:
    counts = label_map.counts(where)
    certain = sum(counts.values()) - counts.get(UNSURE, 0)
    if certain < CLEAR_PARTS * sum(counts.values()):
        return []
    parts = find_things(label_map, _named(label_map, LEAST_PART, MOST_PARTS, where), where)
    worn = [str(part) for part in parts if part.name in WORN]
    carried = [str(part) for part in parts if part.name in CARRIED]
    others = [part for part in parts if part.name not in WORN | CARRIED]
    ending = "" if thing.is_plural else "s"
    does = [f"wear{ending} {_joined(worn)}"] if worn else []
    does += [f"carr{'y' if thing.is_plural else 'ies'} {_joined(carried)}"] if carried else []
    sentences = [f"The {thing.subject} {' and '.join(does)}."] if does else []
    if does and all(part.name in TRIVIAL_PARTS for part in others):
        return sentences
    if others:
        sentences.append(f"Visible parts of the {thing.subject}: {_joined([part.subject for part in others])}.")
    return sentences


def _prevailing(label_map: LabelMap | None, where: np.ndarray) -> str | None:
    """Return the name of the label on most of the pixels; None if there is none, or it is doubtful."""
    named = [] if label_map is None else _named(label_map, PREVAILING, 1, where)
    if label_map is None or not named:
        return None
    certain = label_map.confidence[where & (label_map.labels == named[0])].mean() >= DOUBTFUL
    return noun(label_map.names[named[0]]) if certain else None


def _joined(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
