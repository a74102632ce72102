"""Tests of upernet.settings: the error for a YAML file names the file, line and key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import model_validator

from upernet.errors import UpernetError, nearest_name, shorten
from upernet.settings import (
    Number,
    Settings,
    SettingsError,
    Whole,
    check_settings,
    parse_settings,
    read_settings,
)
from upernet.yaml_document import line_of


class Wheel(Settings):
    spokes: int


class Bicycle(Settings):
    color: str = "black"
    wheels: tuple[Wheel, ...] = ()
    load: int | str | Wheel | None = None
    prices: dict[str, float] | None = None

    @model_validator(mode="after")
    def _wheels_match(self) -> Bicycle:
        for position, wheel in enumerate(self.wheels):
            if wheel.spokes != self.wheels[0].spokes:
                raise SettingsError("the wheels differ", "wheels", position, "spokes")
        return self


class Shed(Settings):
    bicycles: tuple[Bicycle, ...]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("- 1\n", "f.yaml:1: expected a mapping", id="not a mapping"),
        pytest.param("", "f.yaml:1: expected a mapping", id="empty"),
        pytest.param("a: 1\nb: [\n", "f.yaml:3: not valid YAML", id="syntax"),
        pytest.param("a: 1\nb: \0\n", "f.yaml:1: not valid YAML", id="control character"),
        pytest.param("a: 2020-13-45\n", "f.yaml:1: not valid YAML", id="impossible date"),
        pytest.param("a: " + "[" * 3000, "f.yaml:1: not valid YAML", id="too deep"),
        pytest.param("color: red\ncolor: blue\n", "f.yaml:2: color: the key appears twice.", id="repeated"),
        pytest.param("wheels:\n  - spokes: 1\n    spokes: 2\n", "f.yaml:3: spokes: the key appears twice.", id="in"),
        pytest.param("? [a]\n: 1\n", "f.yaml:1: not valid YAML: found unhashable key.", id="list as key"),
        pytest.param("color: red\nbell: 1\n", "f.yaml:2: bell: unknown key", id="unknown key"),
        pytest.param("color: [red]\n", "f.yaml:1: color: should be a valid string.", id="type"),
        pytest.param("\nwheels: 3\n", "f.yaml:2: wheels: expected a list.", id="not a list"),
        pytest.param("wheels:\n\n- 3\n", "f.yaml:3: wheels.0: expected a mapping", id="not a nested mapping"),
        pytest.param("wheels:\n- spokes: 1\n- {}\n", "f.yaml:3: wheels.1.spokes: this key is required", id="missing"),
        pytest.param("wheels:\n- spokes: 1\n- spokes: 2\n", "f.yaml:3: wheels.1.spokes: the wheels differ.", id="own"),
        pytest.param("load:\n  spokes: x\n", "f.yaml:", id="union"),
        pytest.param("prices:\n  a: 1\n  1: 2\n", "f.yaml:3: prices.1: a key must be text; put it", id="dict key"),
        pytest.param("color: 1\nload: []\n", "f.yaml:1: color: should be a valid string.\n  f.yaml:2: load", id="more"),
        pytest.param("wheels: [{spoks: 1}]", "f.yaml:1: wheels.0.spoks: unknown key (did you mean 'spok", id="near"),
    ],
)  # fmt: skip
def test_errors_name_line_and_key(text: str, expected: str) -> None:
    with pytest.raises(UpernetError) as caught:
        parse_settings(text, Bicycle, "f.yaml")
    assert str(caught.value).startswith(expected)


def test_union_members_are_not_keys() -> None:
    with pytest.raises(UpernetError, match=r"^f.yaml:2: load: "):
        parse_settings("color: red\nload: [1]\n", Bicycle, "f.yaml")


def test_validators_of_nested_models_keep_their_place() -> None:
    text = "bicycles:\n- color: red\n- wheels:\n  - spokes: 1\n  - {spokes: 1}\n  - {spokes: 2}\n"
    with pytest.raises(UpernetError, match=r"^f.yaml:6: bicycles\.1\.wheels\.2\.spokes: the wheels differ\.$"):
        parse_settings(text, Shed, "f.yaml")


def test_without_a_file_errors_name_the_key() -> None:
    with pytest.raises(UpernetError, match=r"^card: wheels\.0\.spokes: this key is required, and missing\.$"):
        check_settings({"wheels": [{}]}, Bicycle, "card")
    with pytest.raises(UpernetError, match=r"^card: \(top level\): expected a mapping"):
        check_settings(3, Bicycle, "card")


def test_reads_files(tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    path.write_text("color: grün\nwheels: [{spokes: 32}]\n", encoding="utf-8")
    assert read_settings(path, Bicycle) == Bicycle(color="grün", wheels=(Wheel(spokes=32),))
    with pytest.raises(UpernetError, match=r"c\.yaml: no such file"):
        read_settings(tmp_path / "c.yaml", Bicycle)
    with pytest.raises(UpernetError, match="cannot be read as text"):
        read_settings(tmp_path, Bicycle)
    path.write_bytes(b"color: \xff\xfe")
    with pytest.raises(UpernetError, match="cannot be read as text"):
        read_settings(path, Bicycle)


def test_aliases_are_values_like_others() -> None:
    text = "wheels: [&w {spokes: 8}, *w]\n"
    assert len(parse_settings(text, Bicycle, "f.yaml").wheels) == 2
    with pytest.raises(UpernetError, match=r"^f\.yaml:1: not valid YAML: a list or mapping contains itself"):
        parse_settings("wheels: &w [*w]\n", Bicycle, "f.yaml")


@pytest.mark.parametrize("text", ["[*a{0}, *a{0}]", "{{<<: [*a{0}, *a{0}]}}"], ids=["lists", "merged keys"])
@pytest.mark.parametrize("key", ["color", "wheels", "bell"])
def test_aliases_of_aliases_are_refused_before_they_are_followed(key: str, text: str) -> None:
    start = "a0: &a0 {x: 1}\n" if "<<" in text else "a0: &a0 [x]\n"
    doubling = start + "".join(f"a{i}: &a{i} {text.format(i - 1)}\n" for i in range(1, 40))
    with pytest.raises(UpernetError, match=r"^f\.yaml:\d+: not valid YAML: it has more than 250,000 values"):
        parse_settings(f"{doubling}{key}: *a39\n", Bicycle, "f.yaml")


def test_files_are_neither_deep_nor_long() -> None:
    chain = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 60))
    with pytest.raises(UpernetError, match="nested more than 50 levels deep"):
        parse_settings(chain, Bicycle, "f.yaml")
    with pytest.raises(UpernetError, match=r"f\.yaml: has more than 4,194,304 bytes"):
        parse_settings("#" * (2**22 + 1), Bicycle, "f.yaml")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("!!bool x", "'x' is not a value of the type bool"),
        ('!!int ""', "'' is not a value of the type int"),
        ("!!float x", "'x' is not a value of the type float"),
        ("!!timestamp x", "'x' is not a value of the type timestamp"),
        ("2020-13-45", "'2020-13-45' is not a value of the type timestamp"),
        ("!!binary eA==", "the tag 'binary' has no meaning in settings; remove it"),
        ("!!set {a, b}", "the tag 'set' has no meaning in settings; remove it"),
        ("!!omap [a: 1]", "the tag 'omap' has no meaning in settings; remove it"),
        ("!!map x", "the tag 'map' has no meaning in settings; remove it"),
        ("!!str [x]", "the tag 'str' has no meaning in settings; remove it"),
        ("!!python/object/apply:os.system [echo]", "the tag 'python/object/apply:os.system' has no meaning"),
        ("!x y", "the tag '!x' has no meaning in settings; remove it"),
        ('"a\\0b"', r"'a\x00b' has a control character; remove it"),
        ('"\\e[31m"', r"'\x1b[31m' has a control character; remove it"),
        pytest.param("9" * 5000, "is not a value of the type int", id="digits"),
    ],
)
def test_values_that_no_setting_has(value: str, problem: str) -> None:
    with pytest.raises(UpernetError) as caught:
        parse_settings(f"# a comment\n\ncolor: {value}\n", Bicycle, "f.yaml")
    message = str(caught.value)
    assert message.startswith("f.yaml:3: not valid YAML: ") and problem in message
    assert "\n" not in message and len(message) < 250


def test_every_fault_of_a_file_is_listed() -> None:
    text = "colour: red\nwheels:\n- spokes: x\n- {spoks: 3}\n- {}\nprices: {a: .nan}\n"
    with pytest.raises(UpernetError) as caught:
        parse_settings(text, Bicycle, "f.yaml")
    assert str(caught.value).split("\n  ") == [
        "f.yaml:1: colour: unknown key (did you mean 'color'?).",
        "f.yaml:3: wheels.0.spokes: should be a valid integer, unable to parse string as an integer.",
        "f.yaml:4: wheels.1.spoks: unknown key (did you mean 'spokes'?).",
        "f.yaml:6: prices.a: should be a finite number.",
        "f.yaml:5: wheels.2.spokes: this key is required, and missing.",
    ]
    many = "".join(f"k{number}: 1\n" for number in range(100))
    with pytest.raises(UpernetError) as caught:
        parse_settings(many, Bicycle, "f.yaml")
    assert len(str(caught.value).splitlines()) == 11 and str(caught.value).endswith("there are 90 more faults.")


def test_a_key_is_recognized_by_its_initials() -> None:
    assert nearest_name("lr", ["loss", "learning_rate"]) == "learning_rate"
    assert nearest_name("learn_rate", ["loss", "learning_rate"]) == "learning_rate"
    assert nearest_name("x", ["loss", "learning_rate"]) is None


@pytest.mark.parametrize("value", [True, "1", 1.0, None])
def test_a_whole_number_is_nothing_else(value: object) -> None:
    class Bell(Settings):
        tones: Whole = 1
        weight: Number = 1.0

    with pytest.raises(UpernetError) as caught:
        check_settings({"tones": value, "weight": True}, Bell, "bell")
    tones, weight = str(caught.value).split("\n  ")
    assert tones.startswith("bell: tones: ") and weight == "bell: weight: should be a valid number."


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.e-4", "+1e-4", ".1e-3", "1.0e-4", "0.0001"])
def test_numbers_have_exponents(text: str) -> None:
    class Bell(Settings):
        weight: Number

    assert parse_settings(f"weight: {text}", Bell, "bell").weight == 1e-4


nested: list[object] = ["x"]
for _ in range(60):
    nested = [nested, nested]


@pytest.mark.parametrize(
    "value", [nested, {"a": nested}, "x" * 10**6, 10**5000, [nested] * 1000, {i: i for i in range(1000)}, b"x" * 1000],
    ids=["lists", "mapping", "text", "number", "list", "keys", "bytes"],
)  # fmt: skip
def test_values_in_errors_are_short(value: object) -> None:
    assert len(shorten(value)) <= 130


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "b.yaml")
    with pytest.raises(UpernetError, match=r"b\.yaml: is a pipe or a device, not a file"):
        read_settings(tmp_path / "b.yaml", Bicycle)


def test_merged_keys_can_be_overridden() -> None:
    text = "bicycles:\n- &b {color: red, wheels: []}\n- <<: *b\n  color: %s\n"
    assert [b.color for b in parse_settings(text % "blue", Shed, "f.yaml").bicycles] == ["red", "blue"]
    with pytest.raises(UpernetError, match=r"^f.yaml:4: bicycles\.1\.color"):
        parse_settings(text % "[]", Shed, "f.yaml")


trees = st.recursive(
    st.integers() | st.text("abc", min_size=1),
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(st.text("xyz", min_size=1), inner, min_size=1, max_size=3),  # noqa: E501
    max_leaves=12,
)  # fmt: skip


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from("pqrs"), trees, min_size=1))
def test_line_of_finds_every_value(values: dict[str, object]) -> None:
    text = yaml.safe_dump(values, default_flow_style=False)
    lines = text.splitlines()
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    for key in values:
        assert lines[line_of(root, (key,)) - 1].startswith(f"{key}:")
        assert line_of(root, (key, "no such key")) >= line_of(root, (key,))
