"""English grammar of class names: articles, plurals, and what is counted.

The tables cover the names of the bundled taxonomies and their like; any other name counts as a regular, countable noun.
"""

from __future__ import annotations

import re

from upernet.inference.wording import readable


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MASS = _words(
    """
    wall floor ceiling sky grass water ground road pavement sidewalk earth soil sand snow ice sea river lake land
    vegetation foliage food paper legwear outerwear jewelry hair skin furniture traffic countertop
    asphalt brick cardboard carpet ceramic concrete fabric glass leather metal plastic stone tile wood
    """
)
"""What is not counted: these names take no article and no other ending."""
COLLECTIVE = _words("building tree plant flower mountain hill rock book house palm bush vehicle")
"""Things that touch each other in photos, so that one region may be several: a wide region is named in the plural."""
PLURALS = {
    "person": "people",
    "sheep": "sheep",
    "aircraft": "aircraft",
    "bookshelf": "bookshelves",
    "shelf": "shelves",
    "leaf": "leaves",
    "knife": "knives",
    "foot": "feet",
    "man": "men",
    "woman": "women",
    "child": "children",
    "mouse": "mice",
}
WORN = _words(
    """
    glasses hat top outerwear dress skirt trousers shorts legwear shoes jewelry coat jacket shirt scarf tie
    boots helmet sweater
    """
)
"""Parts that a person wears."""
CARRIED = frozenset(("bag",))
"""Parts that a person carries."""
TRIVIAL_PARTS = frozenset(("hair", "skin", "neck", "accessory", "torso", "arm", "leg", "hand"))
"""Parts that go without saying in a person whose clothes are named."""
SELF_EVIDENT = _words(
    """
    sky water grass tree plant flower vegetation foliage ground mountain food person pedestrian bicyclist cat
    dog horse cow sheep bird elephant animal
    """
)
"""Objects of whose material and texture nothing is said; as materials, nothing else is said to be of them."""
PLURAL_VERBS = _words("clothes blinds headphones stairs glasses trousers shorts shoes boots")
"""Names that are plurals."""
WHOLE_SCENES = {
    "sky": "the sky",
    "underwater": "under water",
    "industrial": "an industrial place",
    "indoor": "indoors",
    "outdoor": "outdoors",
}
"""Scenes that are no place with an article."""
SILENT_H = ("hour", "honest", "heir")
CONSONANT_SOUND = ("uni", "use", "uti", "eu", "one")


def noun(name: str) -> str:
    """Return a class name as a noun: readable, and in small letters if only the first one is a capital.

    Example:
        >>> noun("traffic_light"), noun("Sky"), noun("TV")
        ('traffic light', 'sky', 'TV')
    """
    text = readable(name)
    return text.lower() if re.fullmatch(r"[A-Z][a-z]+( [a-z]+)*", text) else text


def is_mass(name: str) -> bool:
    """Return whether a noun is not counted: "wall", "grass", "stone wall"."""
    return head(name) in MASS


def is_plural(name: str) -> bool:
    """Return whether a noun takes the plural form of a verb, such as "trousers"."""
    return head(name) in PLURAL_VERBS


def with_article(name: str) -> str:
    """Return a noun with "a" or "an", or without if it takes none.

    Example:
        >>> with_article("umbrella"), with_article("unicycle"), with_article("grass")
        ('an umbrella', 'a unicycle', 'grass')
    """
    if is_mass(name) or is_plural(name):
        return name
    start = name.lower()
    vowel = (start[:1] in tuple("aeiou") and not start.startswith(CONSONANT_SOUND)) or start.startswith(SILENT_H)
    return f"{'an' if vowel else 'a'} {name}"


def plural(name: str) -> str:
    """Return the plural of a countable noun, or a noun that is not counted as it is.

    Example:
        >>> plural("dog"), plural("box"), plural("person"), plural("bookshelf"), plural("grass")
        ('dogs', 'boxes', 'people', 'bookshelves', 'grass')
    """
    last = head(name)
    if is_mass(name) or is_plural(name):
        return name
    before = name[: len(name) - len(last)]
    if last in PLURALS:
        return before + PLURALS[last]
    if re.search(r"(s|x|z|ch|sh)$", last):
        return f"{name}es"
    return f"{name[:-1]}ies" if re.search(r"[^aeiou]y$", last) else f"{name}s"


def place(name: str) -> str:
    """Return a scene as a place.

    Example:
        >>> place("living_room"), place("art gallery"), place("ice skating"), place("underwater")
        ('a living room', 'an art gallery', 'ice skating', 'under water')
    """
    text = noun(name)
    if text in WHOLE_SCENES:
        return WHOLE_SCENES[text]
    return (
        text if text.endswith("ing") and head(text) not in ("building", "clearing", "crossing") else with_article(text)
    )


def head(name: str) -> str:
    """Return the last word of a name, which decides its grammar, in small letters."""
    return name.rpartition(" ")[2].lower()
