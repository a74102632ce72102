import pytest
import yaml

from upernet.errors import UpernetError
from upernet.evaluation.calibration import check_calibration
from upernet.recipe import list_recipes, load_recipe
from upernet.taxonomy import load_taxonomy


def write(tmp_path, **changes):
    recipe = {
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
def test_shipped_recipes_load_and_name_what_their_taxonomy_has(name):
    recipe = load_recipe(name)
    taxonomy = load_taxonomy(recipe.taxonomy)
    assert recipe.name == name
    for source in recipe.sources.values():
        for own, annotation in source.levels.items():
            for target in (annotation.classes or {}).values():
                assert target is None or taxonomy.level(own).index(target) >= 0
            for level, implied in annotation.implies.items():
                for target in [implied] if isinstance(implied, str) else implied.values():
                    assert taxonomy.level(level).index(target) >= 0
    for level, factors in recipe.loss.class_weights.items():
        assert all(taxonomy.level(level).index(name) >= 0 for name in factors)
    check_calibration(taxonomy, recipe)


def test_levels_that_are_not_weighed_keep_the_papers_weight(tmp_path):
    loss = load_recipe(write(tmp_path, loss={"weights": {"object": 2.0}})).loss
    assert loss.weights == {"object": 2.0, "part": 0.5, "scene": 0.25, "material": 1.0, "texture": 1.0}


def test_numbers_as_source_classes_are_text(tmp_path):
    assert load_recipe(write(tmp_path)).sources["a"].classes == {"0": "sky", "7": "road"}


def test_a_taxonomy_beside_the_recipe_is_found(tmp_path):
    (tmp_path / "own.yaml").write_text("description: mine\nlevels: {object: {classes: [a, b]}}\n")
    recipe = load_recipe(write(tmp_path, taxonomy="own.yaml"))
    assert load_taxonomy(recipe.taxonomy).level("object").names == ("a", "b")


def test_mistakes_name_file_line_and_key(tmp_path):
    path = write(tmp_path, model={"backbone": "resnet18", "decoder_chanels": 3})
    with pytest.raises(UpernetError, match=r"mine\.yaml:5: model\.decoder_chanels: unknown key"):
        load_recipe(path)
    stages = {"stages": [{"name": "s", "iterations": 1, "sources": ["b"], "learning_rate": 0.1}]}
    with pytest.raises(UpernetError, match=r"mine\.yaml:\d+: training\.stages\.0\.sources: .*unknown source b"):
        load_recipe(write(tmp_path, training=stages))
    with pytest.raises(
        UpernetError, match=r"unknown recipe 'evryday': give the path of a \.yaml file or one of camvid, everyday"
    ):
        load_recipe("evryday")
    with pytest.raises(UpernetError, match="no such file"):
        load_recipe(tmp_path / "none.yaml")
