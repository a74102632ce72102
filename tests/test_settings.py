"""Tests of upernet.settings: the error for a YAML file names the file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import model_validator

from upernet.errors import UpernetError
from upernet.settings import Settings, SettingsError, check_settings, line_of, parse_settings, read_settings


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
        pytest.param("color: [red]\n", "f.yaml:1: color: Input should be a valid string.", id="type"),
        pytest.param("\nwheels: 3\n", "f.yaml:2: wheels: expected a list.", id="not a list"),
        pytest.param("wheels:\n\n- 3\n", "f.yaml:3: wheels.0: expected a mapping", id="not a nested mapping"),
        pytest.param("wheels:\n- spokes: 1\n- {}\n", "f.yaml:3: wheels.1.spokes: this key is required", id="missing"),
        pytest.param("wheels:\n- spokes: 1\n- spokes: 2\n", "f.yaml:3: wheels.1.spokes: the wheels differ.", id="own"),
        pytest.param("load:\n  spokes: x\n", "f.yaml:", id="union"),
        pytest.param("prices:\n  a: 1\n  1: 2\n", "f.yaml:3: prices.1: Input should be a valid string.", id="dict key"),
        pytest.param("color: 1\nload: []\n", "f.yaml:1: color: Input should be a valid string (and", id="more"),
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


def test_aliases_are_followed_once() -> None:
    text = "wheels: [&w {spokes: 8}, *w]\n"
    assert len(parse_settings(text, Bicycle, "f.yaml").wheels) == 2
    doubling = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
    with pytest.raises(UpernetError, match=r"^f.yaml:1: a0: unknown key"):
        parse_settings(doubling, Bicycle, "f.yaml")
    with pytest.raises(UpernetError, match=r"f\.yaml:1"):
        parse_settings("wheels: &w [*w]\n", Bicycle, "f.yaml")


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
