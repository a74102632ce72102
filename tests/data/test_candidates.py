"""Tests of candidate sets in label maps: classes mapped to several, `elsewhere`, and pseudo-labels."""

import numpy as np
import pytest
from helpers.folders import TAXONOMY, make_label_folder, make_mask_folder, save_mask, save_photo, source_spec

from upernet.data.candidates import FIRST_CODE, Candidates, CandidateSets
from upernet.data.check import check
from upernet.data.images import read_mask
from upernet.data.sources import open_source
from upernet.errors import UpernetError
from upernet.recipe import Recipe
from upernet.taxonomy import IGNORE

SKY, ROAD, TREE, PERSON = range(4)


def open_split(root, spec, split="train"):
    return open_source("mine", spec, TAXONOMY, root, split)


def recipe_of(spec, root) -> Recipe:
    (root / "tiny.yaml").write_text("levels:\n  object:\n    classes: [sky, road, tree, person]\n")
    values = {"description": "tiny", "taxonomy": str(root / "tiny.yaml"), "model": {"backbone": "resnet18"}}
    return Recipe.model_validate(values | {"sources": {"mine": spec}})


def members(source, code: int, level: str = "object") -> set[int]:
    table = source.candidates[level]
    return set(table.members[FIRST_CODE - code].nonzero().flatten().tolist())


def test_equal_sets_have_one_code_and_other_weights_another():
    sets = CandidateSets()
    codes = [sets.code([1, 2]), sets.code([2, 1]), sets.code([1, 2], 0.5), sets.code([0])]
    assert codes == [-2, -2, -3, -4]
    assert sets.labels(-3) == {1, 2}
    table = sets.table(3)
    assert table.members.tolist() == [[False, True, True], [False, True, True], [True, False, False]]
    assert table.weights.tolist() == [1, 0.5, 1]


def test_joined_tables_keep_their_order():
    first, second = CandidateSets(), CandidateSets()
    first.code([0])
    second.code([1, 2], 0.25)
    joined = Candidates.joined([first.table(3), second.table(3)])
    assert joined.members.tolist() == [[True, False, False], [False, True, True]]
    assert joined.weights.tolist() == [1, 0.25]


def test_a_class_may_be_one_of_several(tmp_path):
    folder = make_mask_folder(tmp_path)
    source = open_split(tmp_path, source_spec(classes={"road": ["road", "person"]}))
    mask = read_mask(folder / "annotations" / "000.png")
    labels = source[0].maps["object"].numpy()
    assert np.array_equal(labels[mask != ROAD], mask[mask != ROAD])
    (code,) = np.unique(labels[mask == ROAD]).tolist()
    assert members(source, code) == {ROAD, PERSON}
    assert source[0].candidates is source.candidates


@pytest.mark.parametrize("split", ["val", "test", "held_back"])
def test_in_scoring_the_first_class_of_a_set_stands_for_all(tmp_path, split):
    make_mask_folder(tmp_path, split if split != "held_back" else "train", count=12)
    classes = {"road": ["road", "tree"], "tree": ["person", "tree"], "person": ["sky", "road"], "sky": None}
    spec = source_spec(classes=classes, elsewhere="none_of_these", held_back=0.5)
    source = open_split(tmp_path, spec, split)
    assert source.candidates == {}
    assert {tuple(sample.maps["object"].unique().tolist()) for sample in source} == {(IGNORE, SKY, ROAD, PERSON)}
    assert source.scored_labels() == {"object": {SKY, ROAD, PERSON}}
    assert source.merged_labels()["object"].tolist() == [SKY, ROAD, ROAD, PERSON]


def test_elsewhere_is_none_of_the_classes_that_the_source_maps_to(tmp_path):
    folder = make_mask_folder(tmp_path, values=(0, 1, 2, 255))
    spec = source_spec(classes={"sky": None, "tree": ["tree", "road"]}, elsewhere="none_of_these")
    source = open_split(tmp_path, spec)
    mask, labels = read_mask(folder / "annotations" / "000.png"), source[0].maps["object"].numpy()
    assert set(labels[mask == 255]) == {IGNORE}
    (code,) = set(labels[mask == 0].tolist())
    assert members(source, code) == set(range(len(TAXONOMY.level("object").names))) - {ROAD, TREE, PERSON}


def test_elsewhere_is_unknown_unless_said_otherwise(tmp_path):
    make_mask_folder(tmp_path)
    source = open_split(tmp_path, source_spec(classes={"sky": None}))
    assert int(source[0].maps["object"].min()) == IGNORE and source.candidates == {}


def test_a_class_may_imply_one_of_several(tmp_path):
    folder = make_mask_folder(tmp_path)
    spec = source_spec(implies={"material": {"road": ["asphalt", "hair"], "tree": "foliage", "*": ["hair", "foliage"]}})
    source, material = open_split(tmp_path, spec), TAXONOMY.level("material")
    mask = read_mask(folder / "annotations" / "000.png")
    labels = source[0].maps["material"].numpy()
    assert (labels[mask == TREE] == material.index("foliage")).all()
    found = {label: np.unique(labels[mask == label]).tolist() for label in (ROAD, SKY)}
    assert {label: len(codes) for label, codes in found.items()} == {ROAD: 1, SKY: 1}
    assert members(source, found[ROAD][0], "material") == {material.index("asphalt"), material.index("hair")}
    assert members(source, found[SKY][0], "material") == {material.index("hair"), material.index("foliage")}
    make_mask_folder(tmp_path, "test")
    scored = open_split(tmp_path, spec, "test")
    labels = scored[0].maps["material"].numpy()
    assert set(np.unique(labels)) == {IGNORE, material.index("foliage")}
    assert scored.scored_labels()["material"] == {material.index("foliage")}


def test_the_owner_of_parts_is_one_object(tmp_path):
    make_mask_folder(tmp_path)
    spec = source_spec(level="part", classes={"Sky": "hair"}, implies={"object": {"*": ["person", "tree"]}})
    with pytest.raises(UpernetError, match="'hair' implies one of several"):
        open_split(tmp_path, spec)


def test_one_of_several_implies_what_all_of_them_imply(tmp_path):
    folder = make_mask_folder(tmp_path)
    implied = {"material": {"road": "asphalt", "person": "asphalt", "tree": "foliage"}}
    spec = source_spec(classes={"road": ["road", "person"], "person": ["tree", "person"]}, implies=implied)
    mask, sample = read_mask(folder / "annotations" / "000.png"), open_split(tmp_path, spec)[0]
    found = sample.maps["material"].numpy()
    assert set(found[mask == ROAD]) == {0}
    assert set(found[mask == PERSON]) == {IGNORE}


def test_a_photos_label_is_one_class(tmp_path):
    make_label_folder(tmp_path)
    spec = source_spec(kind="label_folder", level="scene", classes={"garden": ["garden", "street"]})
    with pytest.raises(UpernetError, match="only the pixels of masks can be one of several"):
        open_split(tmp_path, spec)


# pseudo-labels


def save_pseudo(root, name: str, values) -> None:
    folder = root / "pseudo"
    folder.mkdir(exist_ok=True)
    (folder / "labels.txt").write_text("0\tunknown\n1\troad\n2\thouse\n")
    (folder / "train").mkdir(exist_ok=True)
    save_mask(folder / "train" / name, values)


def pseudo_spec(**settings):
    return {"object": {"folder": "pseudo/{split}", "classes": {"house": ["tree", "person"]}, **settings}}


def test_pseudo_labels_fill_what_the_source_does_not_name(tmp_path):
    folder = make_mask_folder(tmp_path, count=2, values=(0, 1, 255, 255))
    save_pseudo(tmp_path, "000.png", np.tile([0, 1, 2], (8, 4)))
    source = open_split(tmp_path, source_spec(pseudo_labels=pseudo_spec(weight=0.5)))
    mask, labels = read_mask(folder / "annotations" / "000.png"), source[0].maps["object"].numpy()
    pseudo = np.tile([0, 1, 2], (8, 4))
    assert np.array_equal(labels[mask != 255], mask[mask != 255])
    unknown = mask == 255
    assert set(labels[unknown & (pseudo == 0)]) == {IGNORE}
    (road,) = set(labels[unknown & (pseudo == 1)].tolist())
    (house,) = set(labels[unknown & (pseudo == 2)].tolist())
    assert (members(source, road), members(source, house)) == ({ROAD}, {TREE, PERSON})
    assert source.candidates["object"].weights.tolist() == [0.5, 0.5]
    assert int(source[1].maps["object"].min()) == IGNORE  # without a file


def test_pseudo_labels_are_stronger_than_none_of_these(tmp_path):
    make_mask_folder(tmp_path, count=1, values=(0, 0, 0, 0))
    save_pseudo(tmp_path, "000.png", np.tile([0, 1], (8, 6)))
    spec = source_spec(classes={"sky": None}, elsewhere="none_of_these", pseudo_labels=pseudo_spec())
    source = open_split(tmp_path, spec)
    labels = source[0].maps["object"]
    assert members(source, int(labels[0, 1])) == {ROAD}
    assert ROAD not in members(source, int(labels[0, 0]))


def test_photos_with_an_image_label_can_have_pseudo_labels(tmp_path):
    folder = make_label_folder(tmp_path, count=1)
    pseudo = tmp_path / "pseudo" / "train"
    for path in folder.glob("*/*"):
        (pseudo / path.parent.name).mkdir(parents=True)
        save_mask(pseudo / path.parent.name / f"{path.stem}.png", np.full((8, 12), 1))
    (tmp_path / "pseudo" / "labels.txt").write_text("1\troad\n")
    spec = source_spec(kind="label_folder", level="scene", pseudo_labels={"object": {"folder": "pseudo/{split}"}})
    source = open_split(tmp_path, spec)
    assert source.levels == ("scene", "object")
    assert members(source, int(source[0].maps["object"].unique())) == {ROAD}


def test_pseudo_labels_are_never_scored(tmp_path):
    make_mask_folder(tmp_path, "val", count=1, values=(255, 255, 255, 255))
    source = open_split(tmp_path, source_spec(pseudo_labels=pseudo_spec()), "val")
    assert set(source[0].maps["object"].unique().tolist()) == {IGNORE}


@pytest.mark.parametrize(
    ("values", "text"),
    [(np.full((8, 12), 7), "value 7 is not mapped"), (np.full((4, 4), 1), "is 4 x 4 pixels, but its photo")],
)
def test_a_pseudo_label_map_that_does_not_fit_names_the_file(tmp_path, values, text):
    make_mask_folder(tmp_path, count=1)
    save_pseudo(tmp_path, "000.png", values)
    source = open_split(tmp_path, source_spec(pseudo_labels=pseudo_spec()))
    with pytest.raises(UpernetError, match=text) as caught:
        source[0]
    assert str(tmp_path / "pseudo" / "train" / "000.png") in str(caught.value)


def test_check_reads_pseudo_labels(tmp_path):
    make_mask_folder(tmp_path, count=3)
    for name in ("000.png", "001.png"):
        save_pseudo(tmp_path, name, np.full((8, 12), 7))
    (problem,) = check(recipe_of(source_spec(pseudo_labels=pseudo_spec()), tmp_path), tmp_path).problems
    assert "value 7 is not mapped" in problem.text and problem.count == 2


def test_a_folder_without_a_single_pseudo_label_is_an_error(tmp_path):
    make_mask_folder(tmp_path)
    save_photo(tmp_path / "other.png")
    save_pseudo(tmp_path, "other.png", np.zeros((8, 12)))
    with pytest.raises(UpernetError, match="no photo has a mask in this folder"):
        open_split(tmp_path, source_spec(pseudo_labels=pseudo_spec()))
    with pytest.raises(UpernetError, match="no such folder"):
        open_split(tmp_path, source_spec(pseudo_labels={"object": {"folder": "nowhere"}}))


def test_the_check_counts_pixels_that_are_one_of_several(tmp_path):
    folder = make_mask_folder(tmp_path, count=2)
    report = check(recipe_of(source_spec(classes={"road": ["road", "person"]}), tmp_path), tmp_path)
    (split,) = report.splits
    expected = [int((read_mask(path) == ROAD).sum()) for path in (folder / "annotations").iterdir()]
    assert report.ok and split.partial == sum(expected) > 0
    assert split.partial + sum(split.labels.values()) == 2 * 8 * 12
