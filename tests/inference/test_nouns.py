"""Tests of upernet.inference.nouns: articles, plurals and places."""

from __future__ import annotations

import pytest

from upernet.inference.nouns import is_mass, noun, place, plural, with_article
from upernet.taxonomy import load_taxonomy


@pytest.mark.parametrize(
    ("name", "one", "many"),
    [
        ("car", "a car", "cars"),
        ("aeroplane", "an aeroplane", "aeroplanes"),
        ("umbrella", "an umbrella", "umbrellas"),
        ("unicycle", "a unicycle", "unicycles"),
        ("hourglass shelf", "an hourglass shelf", "hourglass shelves"),
        ("bus", "a bus", "buses"),
        ("box", "a box", "boxes"),
        ("person", "a person", "people"),
        ("night stand", "a night stand", "night stands"),
        ("bookshelf", "a bookshelf", "bookshelves"),
        ("musical instrument", "a musical instrument", "musical instruments"),
        ("body", "a body", "bodies"),
        ("toy", "a toy", "toys"),
        ("grass", "grass", "grass"),
        ("stone wall", "stone wall", "stone wall"),
        ("blinds", "blinds", "blinds"),
        ("trousers", "trousers", "trousers"),
        ("sheep", "a sheep", "sheep"),
    ],
)
def test_articles_and_plurals(name: str, one: str, many: str) -> None:
    assert (with_article(name), plural(name)) == (one, many)


def test_nouns_are_readable() -> None:
    assert [noun(name) for name in ("traffic_light", "Sky", "TV", "SignSymbol")] == [
        "traffic light",
        "sky",
        "TV",
        "SignSymbol",
    ]


@pytest.mark.parametrize(
    ("scene", "words"),
    [
        ("living room", "a living room"),
        ("ice skating", "ice skating"),
        ("tall building", "a tall building"),
        ("underwater", "under water"),
        ("industrial", "an industrial place"),
        ("sky", "the sky"),
        ("field", "a field"),
        ("football field", "a football field"),
        ("art_gallery", "an art gallery"),
    ],
)
def test_scenes_are_places(scene: str, words: str) -> None:
    assert place(scene) == words


def test_stuff_of_the_bundled_taxonomy_is_not_counted() -> None:
    names = load_taxonomy("everyday").levels["object"].names
    counted = {name for name in names if not is_mass(name)}
    assert not counted & {"wall", "floor", "ceiling", "sky", "grass", "water", "road", "pavement", "ground", "paper"}
    assert {"car", "person", "tree"} <= counted
