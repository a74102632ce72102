"""Tests of upernet.recipe."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from upernet.data.sources import Source
from upernet.errors import UpernetError
from upernet.evaluation.calibration import check_calibration
from upernet.models import build_model
from upernet.recipe import AnySourceSpec, FolderSpec, Recipe, data_folder, list_recipes, load_recipe
from upernet.taxonomy import load_taxonomy


def write(tmp_path: Path, **changes: Any) -> Path:
    recipe: dict[str, Any] = {
        "description": "d",
        "taxonomy": "camvid",
        "model": {"backbone": "resnet18"},
        "sources": {
            "a": {"kind": "mask_folder", "path": "a/{split}", "level": "object", "classes": {0: "sky", 7: "road"}}
        },
        "training": {"stages": [{"name": "s", "iterations": 1, "sources": ["a"], "learning_rate": 0.1}]},
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(recipe | changes, sort_keys=False))
    return path


@pytest.mark.parametrize("name", list_recipes())
def test_shipped_recipes_load_and_name_what_their_taxonomy_has(name: str) -> None:
    recipe = load_recipe(name)
    taxonomy = recipe.load_taxonomy()
    assert recipe.name == name
    folders = [source for source in recipe.sources.values() if isinstance(source, FolderSpec)]
    annotations = [item for source in folders for item in source.annotated.items()]
    for own_level, annotation in annotations:
        for target in (annotation.classes or {}).values():
            for class_name in [target] if isinstance(target, str) else target or ():
                assert taxonomy.level(own_level).index(class_name) >= 0
        for level, implied in annotation.implies.items():
            for target in [implied] if isinstance(implied, str) else implied.values():
                for class_name in [target] if isinstance(target, str) else target:
                    assert taxonomy.level(level).index(class_name) >= 0
    for level, factors in recipe.loss.class_weights.items():
        assert all(taxonomy.level(level).index(name) >= 0 for name in factors)
    check_calibration(taxonomy, recipe)


def test_levels_that_are_not_weighed_keep_the_papers_weight(tmp_path: Path) -> None:
    loss = load_recipe(write(tmp_path, loss={"weights": {"object": 2.0}})).loss
    assert loss.weights == {"object": 2.0, "part": 0.5, "scene": 0.25, "material": 1.0, "texture": 1.0}


def test_numbers_as_source_classes_are_text(tmp_path: Path) -> None:
    annotated = load_recipe(write(tmp_path)).sources["a"].annotated
    assert annotated["object"].classes == {"0": "sky", "7": "road"}


def test_a_taxonomy_beside_the_recipe_is_found(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("description: mine\nlevels: {object: {classes: [a, b]}}\n")
    recipe = load_recipe(write(tmp_path, taxonomy="own.yaml"))
    assert load_taxonomy(recipe.taxonomy).level("object").names == ("a", "b")


def test_a_model_may_have_some_levels_of_its_taxonomy(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, taxonomy="broden", levels=["part", "object"]))
    assert list(recipe.load_taxonomy().levels) == ["object", "part"]
    assert list(build_model(recipe).heads) == ["object", "part"]
    with pytest.raises(UpernetError, match="level part needs the level object"):
        load_recipe(write(tmp_path, taxonomy="broden", levels=["part"])).load_taxonomy()
    with pytest.raises(UpernetError, match="levels: should have at least 1 item"):
        load_recipe(write(tmp_path, levels=[]))


def test_the_folder_of_the_data_is_relative_to_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path.parent)
    recipe = load_recipe(write(tmp_path, data="photos"))
    assert data_folder(recipe, None) == tmp_path / "photos"
    assert data_folder(recipe, "elsewhere") == Path("elsewhere")
    assert data_folder(load_recipe(write(tmp_path, data="/absolute")), None) == Path("/absolute")
    with pytest.raises(UpernetError, match="recipe mine does not say where its data is; give --data DIR, or set"):
        data_folder(load_recipe(write(tmp_path)), None)


def test_mistakes_name_file_line_and_key(tmp_path: Path) -> None:
    path = write(tmp_path, model={"backbone": "resnet18", "decoder_chanels": 3})
    with pytest.raises(UpernetError, match=r"mine\.yaml:5: model\.decoder_chanels: unknown key"):
        load_recipe(path)
    stages = {"stages": [{"name": "s", "iterations": 1, "sources": ["b"], "learning_rate": 0.1}]}
    with pytest.raises(UpernetError, match=r"mine\.yaml:\d+: training\.stages\.0\.sources: .*unknown source b"):
        load_recipe(write(tmp_path, training=stages))
    with pytest.raises(
        UpernetError,
        match=r"unknown recipe 'evryday' \(did you mean 'everyday'\?\): give the path of a \.yaml file or one of camv",
    ):
        load_recipe("evryday")
    with pytest.raises(UpernetError, match="no such file"):
        load_recipe(tmp_path / "none.yaml")


def test_a_recipe_without_its_suffix_or_in_a_folder_is_suggested(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path)
    with pytest.raises(UpernetError, match=rf"'{path.stem}': no recipe; did you mean {path.stem}\.yaml\?"):
        load_recipe(path.stem)
    (tmp_path / "run").mkdir()
    path.rename(tmp_path / "run" / "recipe.yaml")
    with pytest.raises(UpernetError, match=r"'run': no recipe; did you mean run.recipe\.yaml\?"):
        load_recipe("run")


MASKS = {"kind": "mask_folder", "path": "a/{split}"}
SEVERAL = {"object": {"folder": "objects"}, "scene": {"table": "scenes.csv", "supervision": "broadcast"}}


def test_each_kind_has_a_module_of_its_name() -> None:
    """A new kind needs its settings in the union and a module; nothing else lists the kinds."""
    union, _ = get_args(AnySourceSpec)
    for spec in get_args(union):
        (kind,) = get_args(spec.model_fields["kind"].annotation)
        assert issubclass(import_module(f"upernet.data.sources.{kind}").SOURCE, Source)


def test_a_recipe_survives_a_round_trip(tmp_path: Path) -> None:
    recipes = [load_recipe(name) for name in list_recipes()]
    recipes.append(load_recipe(write(tmp_path, sources={"a": MASKS | {"annotations": SEVERAL}})))
    for recipe in recipes:
        assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
        assert Recipe.model_validate(recipe.model_dump(mode="json", exclude_defaults=True)) == recipe


def test_each_level_has_its_supervision(tmp_path: Path) -> None:
    source = load_recipe(write(tmp_path, sources={"a": MASKS | {"annotations": SEVERAL}})).sources["a"]
    assert source.supervision_by_level == {"object": "pooled", "scene": "broadcast"}
    entry = {"level": "texture", "supervision": "broadcast", "implies": {"material": "sky"}}
    alone = load_recipe(write(tmp_path, sources={"a": MASKS | entry})).sources["a"]
    assert alone.supervision_by_level == {"texture": "broadcast", "material": "broadcast"}


@pytest.mark.parametrize(
    ("source", "line", "message"),
    [
        ({"path": "x"}, 6, "kind: this key is required, and missing."),
        (
            MASKS | {"kind": "mask_foldr"},
            7,
            "kind: expected one of mask_folder, camvid, polygons, label_folder, label_table, collage (did you mean",
        ),
        (
            MASKS | {"level": "object", "clases": {}},
            10,
            "clases: kind mask_folder has no such key (did you mean 'classes'?).",
        ),
        (
            {"kind": "label_folder", "path": "x", "level": "scene", "ignore": [0]},
            10,
            "ignore: kind label_folder has no such key; correct its spelling or remove it.",
        ),
        ({"kind": "camvid", "path": "x"}, 6, "the level is missing; name the level that the source annotates."),
        (
            MASKS,
            6,
            "the level is missing; name the level that the source annotates, or several levels under annotations.",
        ),
        (MASKS | {"annotations": {}}, 6, "the level is missing"),
        (
            MASKS | {"level": "object", "annotations": SEVERAL},
            9,
            "level: describes a single level; move it to the level's entry under annotations.",
        ),
        (MASKS | {"ignore": [0], "annotations": SEVERAL}, 9, "ignore: describes a single level; move it"),
        (
            MASKS | {"annotations": {"scene": {"table": "s.csv", "colum": "x"}}},
            12,
            "annotations.scene.colum: unknown key (did you mean 'column'?).",
        ),
        (MASKS | {"annotations": {"object": {"ignore": 255}}}, 11, "annotations.object.ignore: expected a list."),
        (MASKS | {"annotations": {"objects": {}}}, 10, "annotations.objects: "),
        (MASKS | {"annotations": {"object": 3}}, 10, "annotations.object: expected a mapping of keys to values."),
    ],
)
def test_mistakes_in_sources_name_the_kind(tmp_path: Path, source: dict[str, Any], line: int, message: str) -> None:
    path = write(tmp_path, sources={"a": source})
    with pytest.raises(UpernetError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}:{line}: sources.a") and message in str(caught.value)


def test_a_truth_value_of_yaml_is_no_class() -> None:
    source = {"kind": "label_folder", "path": "x", "level": "scene", "classes": {True: "street"}}
    values = {"description": "", "taxonomy": "camvid", "model": {"backbone": "resnet18"}, "sources": {"a": source}}
    with pytest.raises(ValueError, match="truth value"):
        Recipe.model_validate(values)
