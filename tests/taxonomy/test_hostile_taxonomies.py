"""Tests of taxonomies and recipes that nobody would write on purpose."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from random import Random

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from upernet.errors import UpernetError
from upernet.recipe import RECIPES, load_recipe
from upernet.taxonomy import load_taxonomy
from upernet.taxonomy.taxonomy import TAXONOMIES

LAUGHS = "a0: &a0 [x, x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 30))


@pytest.mark.parametrize("classes", ["[*a29]", "*a29", "[{name: x, color: *a29}]", "[{name: *a29}]", "[*a5]"])
def test_nested_aliases_are_refused_at_once(tmp_path: Path, classes: str) -> None:
    """The error printed the value, which took minutes and gigabytes."""
    (tmp_path / "t.yaml").write_text(f"{LAUGHS}levels: {{object: {{classes: {classes}}}}}\n")
    with pytest.raises(UpernetError) as caught:
        load_taxonomy(tmp_path / "t.yaml")
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize("classes", ["[[[x, [y, [z]]]] ]", "[{name: x, color: [[1, 2], {a: b}]}]", f"[{[9] * 10000}]"])
def test_the_value_in_an_error_is_short(tmp_path: Path, classes: str) -> None:
    (tmp_path / "t.yaml").write_text(f"levels: {{object: {{classes: {classes}}}}}\n")
    with pytest.raises(UpernetError, match=r"t\.yaml:1: .* is not a (class|color)") as caught:
        load_taxonomy(tmp_path / "t.yaml")
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_a_taxonomy_of_thousands_of_parts(tmp_path: Path) -> None:
    """Checks and labels take linear time: with quadratic ones, this takes minutes."""
    parts = [f"part {number}" for number in range(20_000)]
    levels = {"object": {"classes": ["thing"]}, "part": {"classes": parts, "of": {"thing": parts[:10_000]}}}
    levels["part"]["without_object"] = parts[10_000:]
    (tmp_path / "t.yaml").write_text(json.dumps({"levels": levels}))
    assert load_taxonomy(tmp_path / "t.yaml").num_logits("part") == 10_001


ATOMS = (
    *("!!bool x", '!!int ""', "!!timestamp x", "!!set {a}", "&a [*a]", "~", "-1", "1e400", ".nan", "-.inf", "1:30"),
    *("2020-13-45", '"\\0"', '"\\ud800"', "[]", "{}", "{a: {b: []}}", "yes", "=", "<<", "*x", "!x", "|", "'", "? a"),
    *("\t", "\ufeff", "x" * 5000, "/dev/zero", "~nobody/x", "9" * 5000, "0x" + "f" * 6000, "{<<: {<<: {}}}", "\u2028"),
)
TEXTS = [path.read_text() for path in (*RECIPES.glob("*.yaml"), *TAXONOMIES.glob("*.yaml"))]
TEXTS = [text for text in TEXTS if len(text) < 10_000]


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(random=st.randoms(use_true_random=False), text=st.sampled_from(TEXTS))
def test_any_change_of_a_file_is_read_or_refused_with_its_line(random: Random, text: str) -> None:
    lines = text.splitlines()
    for _ in range(random.randint(1, 3)):
        place, atom = random.randrange(len(lines)), random.choice(ATOMS)
        before, _, after = lines[place].partition(": ")
        lines[place] = random.choice([f"{before}: {atom}", f"{atom}: {after}", f"  {lines[place]}", atom])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f.yaml"
        path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
        try:
            if "levels:" in text:
                json.dumps(load_taxonomy(path).to_dict()).encode()
            else:
                yaml.safe_dump(load_recipe(path).model_dump(mode="json"))
        except UpernetError as error:
            for line in str(error).split("\n  "):
                assert line.startswith(f"{path}:") and line.isprintable() and len(line) < 700
