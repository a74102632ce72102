"""Tests of upernet.taxonomy.schema: every error in a taxonomy file names the file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from upernet.errors import UpernetError
from upernet.taxonomy import load_taxonomy

OBJECTS = "levels:\n  object:\n    classes: [person, car]\n"
PARTS = OBJECTS + "  part:\n    classes:\n      - hair\n      - wheel\n    of:\n"

MISTAKES = {
    "no levels": ("description: x\n", 1, "levels", "required"),
    "levels empty": ("description: x\nlevels: {}\n", 2, "levels", "no level"),
    "unknown level": (OBJECTS + "  objects: {classes: [a]}\n", 4, "levels.objects", "unknown level 'objects'"),
    "unknown key": ("levels:\n  scene:\n    classes: [a]\n    names: [b]\n", 4, "levels.scene.names", "unknown key"),
    "level without content": ("levels:\n  scene:\n", 2, "levels.scene", "empty"),
    "level without classes": ("levels:\n  scene:\n    background: x\n", 2, "levels.scene.classes", "required"),
    "classes empty": ("levels:\n  scene:\n    classes: []\n", 3, "levels.scene.classes", "empty"),
    "classes null": ("levels:\n  scene:\n    classes:\n", 3, "levels.scene.classes", "empty"),
    "classes no list": ("levels:\n  scene:\n    classes: a\n", 3, "levels.scene.classes", "expected a list"),
    "class twice": (
        "levels:\n  scene:\n    classes:\n    - a\n    - b\n    - {name: a}\n",
        6,
        "levels.scene.classes.2",
        "listed twice",
    ),
    "class like the background": (
        "levels:\n  object:\n    background: '-'\n    classes:\n    - a\n    - '-'\n",
        6,
        "levels.object.classes.1",
        "background",
    ),
    "known background without a name": (
        "levels:\n  texture:\n    known_background: true\n    classes: [a]\n",
        3,
        "levels.texture.known_background",
        "no background",
    ),
    "known background of parts": (
        PARTS + "      car: [wheel]\n      person: [hair]\n    known_background: true\n",
        11,
        "levels.part.known_background",
        "always known",
    ),
    "class of another type": ("levels:\n  scene:\n    classes:\n    - a\n    - no\n", 5, "levels.scene.classes.1", "False"),  # noqa: E501
    "name of another type": ("levels:\n  scene:\n    classes:\n    - {name: 3}\n", 4, "levels.scene.classes.0.name", "string"),  # noqa: E501
    "empty name": ("levels:\n  scene:\n    classes:\n    - ''\n", 4, "levels.scene.classes.0", "empty"),
    "color by name": (
        "levels:\n  scene:\n    classes:\n    - name: a\n      color: red\n",
        5,
        "levels.scene.classes.0.color",
        "'red' is not a color",
    ),
    "color without quotes": (
        "levels:\n  scene:\n    classes:\n    - name: a\n      color: #ff0000\n",
        5,
        "levels.scene.classes.0.color",
        "in quotes",
    ),
    "short color": (
        "levels:\n  scene:\n    background: {name: x, color: '#fff'}\n    classes: [a]\n",
        3,
        "levels.scene.background.color",
        "'#fff' is not a color",
    ),
    "part without object level": (
        "levels:\n  scene: {classes: [a]}\n  part:\n    classes: [b]\n    of: {c: [b]}\n",
        3,
        "levels.part",
        "no level `object`",
    ),
    "part of an unknown object": (PARTS + "      person: [hair]\n      dog: [wheel]\n", 10, "levels.part.of.dog", "'dog'"),  # noqa: E501
    "unknown part": (
        PARTS + "      person:\n      - hair\n      - nose\n      car: [wheel]\n",
        11,
        "levels.part.of.person.1",
        "'nose' is not listed",
    ),
    "background as a part": (PARTS + "      person: ['-']\n", 9, "levels.part.of.person.0", "'-' is not listed"),
    "part named twice": (
        PARTS + "      car: [wheel]\n      person:\n      - hair\n      - hair\n",
        12,
        "levels.part.of.person.1",
        "named twice",
    ),
    "object without parts": (PARTS + "      car: []\n", 9, "levels.part.of.car", "no parts"),
    "part that no object has": (PARTS + "      person: [hair]\n", 7, "levels.part.classes.1", "no object has part 'wheel'"),  # noqa: E501
    "part without object that has one": (
        PARTS + "      person: [hair]\n      car: [wheel]\n    without_object: [hair]\n",
        11,
        "levels.part.without_object.0",
        "has an object",
    ),
    "unknown part without object": (
        PARTS + "      person: [hair]\n      car: [wheel]\n    without_object: [nose]\n",
        11,
        "levels.part.without_object.0",
        "not listed",
    ),
    "no owners": (OBJECTS + "  part:\n    classes: [hair]\n", 4, "levels.part.of", "required"),
    "parts without background": (
        PARTS + "      person: [hair, wheel]\n    background:\n",
        10,
        "levels.part.background",
        "always a background",
    ),
    "level twice": (OBJECTS + "  object: {classes: [a]}\n", 4, "object", "twice"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_name_file_line_and_key(mistake: str, tmp_path: Path) -> None:
    text, line, key, words = MISTAKES[mistake]
    path = tmp_path / "t.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UpernetError) as caught:
        load_taxonomy(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: {key}: ")
    assert words in message
