"""Tests of `upernet convert`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.command_line import Run
from helpers.full_disk import file_size_limit, needs_file_size_limit
from helpers.official_network import official_state
from helpers.shared import needs_reference

import upernet
from upernet.checkpoints import load_checkpoint, save_checkpoint
from upernet.models import UPerNet
from upernet.recipe import ModelSpec, load_recipe
from upernet.taxonomy import Taxonomy, load_taxonomy

TINY_T = {
    "backbone": "internimage_t",
    "backbone_options": {"channels": 16, "depths": [1, 1, 3, 1], "groups": [1, 2, 4, 8]},
    "head_channels": 0,
    "decoder_channels": 24,
    "auxiliary_channels": 12,
}


def logits(model: UPerNet) -> torch.Tensor:
    torch.manual_seed(3)
    with torch.inference_mode():
        return model(torch.randn(1, 3, 64, 75))["object"]


@pytest.mark.slow
@needs_reference
@pytest.mark.golden
def test_an_official_file_becomes_safetensors_and_a_recipe(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(json.dumps({"description": "d", "taxonomy": "camvid", "model": TINY_T}))
    torch.save({"state_dict": official_state("tiny_t"), "meta": {}}, tmp_path / "in.pth")
    result = run("convert", tmp_path / "in.pth", tmp_path / "out", "--recipe", tmp_path / "mine.yaml")
    assert result.status == 0, result.stderr
    assert "UPerNet with internimage_t (file of mmsegmentation), 11 classes of object" in result.stdout
    assert "with auxiliary head" in result.stdout
    weights, recipe = tmp_path / "out.safetensors", tmp_path / "out.yaml"
    assert str(weights) in result.stdout and str(recipe) in result.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.pth", "mine.yaml", "out.safetensors", "out.yaml"]

    original = upernet.load_model(str(tmp_path / "mine.yaml"), checkpoint=tmp_path / "in.pth")
    converted = upernet.load_model(str(recipe), checkpoint=weights)
    assert torch.equal(logits(converted), logits(original))
    expected = original.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in converted.state_dict().items())
    mine = load_recipe(tmp_path / "mine.yaml")
    assert load_recipe(recipe) == mine.model_copy(update={"name": "out"})


@pytest.mark.slow
def test_the_recipe_of_a_shipped_model_comes_with_its_sources(run: Run, tmp_path: Path) -> None:
    model = upernet.create_model("camvid").eval()
    save_checkpoint(tmp_path / "in.safetensors", model, {"name": "mine"}, auxiliary=True)
    assert run("convert", tmp_path / "in.safetensors", tmp_path / "new" / "out.safetensors").status == 0
    camvid = load_recipe("camvid")
    assert load_recipe(tmp_path / "new" / "out.yaml") == camvid.model_copy(update={"name": "out"})
    assert camvid.sources and camvid.training
    loaded, card = load_checkpoint(tmp_path / "new" / "out.safetensors")
    assert card.name == "mine" and torch.equal(logits(loaded), logits(model))


@pytest.mark.slow
def test_a_taxonomy_of_ones_own_is_written_beside(run: Run, tmp_path: Path) -> None:
    classes = {"name": "mine", "levels": {"object": {"classes": ["cup", "spoon", "no", "1"]}}}
    spec = ModelSpec(backbone="mobilenetv3_small_050", decoder_channels=8, auxiliary_channels=None)
    model = UPerNet(spec, Taxonomy.from_dict(classes)).eval()
    save_checkpoint(tmp_path / "in.safetensors", model, {})
    folder = tmp_path / "out"
    folder.mkdir()
    result = run("convert", tmp_path / "in.safetensors", folder)
    assert result.status == 0 and "without auxiliary head" in result.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["in.safetensors", "in.yaml", "in_taxonomy.yaml"]
    recipe = load_recipe(folder / "in.yaml")
    assert recipe.model == spec and load_taxonomy(recipe.taxonomy) == model.taxonomy
    loaded = upernet.load_model(str(folder / "in.yaml"), checkpoint=folder / "in.safetensors")
    assert torch.equal(logits(loaded), logits(model))
    assert upernet.load(folder / "in.safetensors").model.taxonomy == model.taxonomy


@pytest.mark.slow
def test_files_that_are_there_stay(run: Run, tmp_path: Path) -> None:
    spec = ModelSpec(backbone="mobilenetv3_small_050", decoder_channels=8, auxiliary_channels=None)
    save_checkpoint(tmp_path / "in.safetensors", UPerNet(spec, load_taxonomy("camvid")), {})
    (tmp_path / "out.yaml").write_text("mine")
    result = run("convert", tmp_path / "in.safetensors", tmp_path / "out")
    assert result.status == 2 and "out.yaml: already exists" in result.stderr and "--force" in result.stderr
    assert (tmp_path / "out.yaml").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.safetensors", "out.yaml"]
    assert run("convert", tmp_path / "in.safetensors", tmp_path / "out", "--force").status == 0
    assert load_recipe(tmp_path / "out.yaml").model == spec


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"<html>404</html>", "text instead of weights"), (b"", "empty"), (None, "no such checkpoint")],
)
def test_a_file_that_is_no_checkpoint_leaves_nothing_behind(
    run: Run, tmp_path: Path, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "in.pth").write_bytes(content)
    result = run("convert", tmp_path / "in.pth", tmp_path / "out")
    assert result.status == 2 and words in result.stderr and result.stderr.count("\n") == 1
    assert not [path for path in tmp_path.iterdir() if path.name != "in.pth"]


@pytest.mark.slow
@needs_file_size_limit
def test_a_full_disk_leaves_nothing_behind(run: Run, tmp_path: Path) -> None:
    """The recipe is written, the weights are not."""
    spec = ModelSpec(backbone="mobilenetv3_small_050", decoder_channels=8, auxiliary_channels=None)
    save_checkpoint(tmp_path / "in.safetensors", UPerNet(spec, load_taxonomy("camvid")), {})
    with file_size_limit(100_000):
        result = run("convert", tmp_path / "in.safetensors", tmp_path / "out")
    assert result.status == 2 and "writing failed" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]


def test_halves_of_two_models_are_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("encoder_epoch_20.pth", "decoder_epoch_40.pth"):
        torch.save({"conv3.weight": torch.ones(1)}, tmp_path / "in" / name)
    result = run("convert", tmp_path / "in", tmp_path / "out")
    assert result.status == 2 and not list(tmp_path.glob("out*"))
    assert "of the same epoch (found: decoder_epoch_40.pth, encoder_epoch_20.pth)" in result.stderr


EXPRESSIBLE = {
    "backbone": "convnext_tiny",
    "feature_norms": True,
    "head_channels": 0,
    "decoder_channels": 8,
    "auxiliary_channels": None,
}


def save(path: Path, spec: dict[str, object], taxonomy: Taxonomy | None = None) -> Path:
    model = UPerNet(ModelSpec.model_validate(spec), taxonomy or Taxonomy.of_objects(["road", "car"]))
    save_checkpoint(path, model, {"name": "mine", "thresholds": {"object": 0.75}, "research_only": True})
    return path


@pytest.mark.slow
def test_a_folder_of_transformers(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = save(tmp_path / "in.safetensors", EXPRESSIBLE), tmp_path / "new" / "out"
    result = run("convert", source, out, "--to", "transformers")
    assert result.status == 0, result.stderr
    names = ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert all(str(out / name) in result.stdout for name in names)
    expected = load_checkpoint(source)[0].state_dict()
    again = upernet.load(str(out)).model.state_dict()
    assert again.keys() == expected.keys() and all(torch.equal(value, again[key]) for key, value in expected.items())

    card = upernet.load(str(out)).card
    assert (card.name, card.thresholds, card.origin) == ("mine", {"object": 0.75}, "transformers")
    monkeypatch.setenv("UPERNET_NO_RESEARCH_WEIGHTS", "1")
    result = run("convert", out, tmp_path / "back")
    assert result.status == 2 and "research and non-commercial use only" in result.stderr, "conversion drops the terms"
    monkeypatch.delenv("UPERNET_NO_RESEARCH_WEIGHTS")

    (out / "model.safetensors").write_bytes(b"mine")
    result = run("convert", source, out, "--to", "transformers")
    assert result.status == 2 and "already exists" in result.stderr
    assert (out / "model.safetensors").read_bytes() == b"mine"
    assert run("convert", source, out, "--to", "transformers", "--force").status == 0
    assert run("convert", source, source, "--to", "transformers").status == 2
    for path in (source, out / "model.safetensors"):
        path.unlink()  # 110 MB each


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (TINY_T | {"auxiliary_channels": None}, "backbone internimage_t, and there are only Swin and ConvNeXt"),
        (EXPRESSIBLE | {"backbone": "resnet18", "feature_norms": False}, "backbone resnet18"),
        (EXPRESSIBLE | {"head_channels": 8}, "convolution before the classifier"),
        (EXPRESSIBLE | {"feature_norms": False}, "no layer norms"),
        (EXPRESSIBLE | {"pooling": "precise"}, "pooling: average"),
        (EXPRESSIBLE | {"pool_channels": 4}, "`pool_channels` differ"),
    ],
    ids=["internimage", "resnet", "head", "norms", "pooling", "pool_channels"],
)
@pytest.mark.slow
def test_what_transformers_cannot_express(run: Run, tmp_path: Path, spec: dict[str, object], reason: str) -> None:
    source = save(tmp_path / "in.safetensors", spec)
    result = run("convert", source, tmp_path / "out", "--to", "transformers")
    assert result.status == 2 and "cannot express this network" in result.stderr and reason in result.stderr
    assert not (tmp_path / "out").exists()
    source.unlink()


def test_transformers_has_one_level(run: Run, tmp_path: Path) -> None:
    result = run("convert", "everyday", tmp_path / "out", "--to", "transformers")
    assert result.status == 2 and "the levels scene, object, part, material, texture" in result.stderr
    assert not (tmp_path / "out").exists()
    assert run("convert", "everyday", tmp_path / "out", "--to", "onnxruntime").status == 2
