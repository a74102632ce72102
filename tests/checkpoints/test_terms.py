"""Tests of upernet.checkpoints.terms, and of the terms in cards, recipes and the zoo."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm

import upernet
from upernet.checkpoints import (
    ModelCard,
    card_of,
    create_model,
    fetch,
    initialize_model,
    list_zoo,
    load_backbone_weights,
    load_checkpoint,
    load_model,
    save_checkpoint,
    shipped_checkpoint,
    zoo_entry,
)
from upernet.checkpoints.header import card_in
from upernet.checkpoints.terms import SWITCH, restricts_use
from upernet.checkpoints.timm_weights import has_restricted_terms
from upernet.errors import UpernetError
from upernet.inference import load
from upernet.models import UPerNet, list_models
from upernet.models.backbones import build_backbone
from upernet.recipe import ModelSpec, load_recipe
from upernet.taxonomy import Taxonomy

ROOT = Path(__file__).parents[2]
SHIPPED = [name for name in list_models() if shipped_checkpoint(name)]
ON_ADE20K = "upernet_internimage_t_512_160k_ade20k"
REFUSED = rf"research and non-commercial use only, which {SWITCH} refuses"
SPEC = ModelSpec(backbone="mobilenetv3_small_050", decoder_channels=8, auxiliary_channels=None)


@pytest.fixture
def switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "1")


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a mirror, from which files of the zoo are fetched into an empty folder."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv("UPERNET_MIRROR", folder.as_uri())
    monkeypatch.setenv("UPERNET_HOME", str(tmp_path / "home"))
    return folder


def save(path: Path, card: dict[str, Any]) -> Path:
    save_checkpoint(path, UPerNet(SPEC, Taxonomy.of_objects(["a", "b"], "ab")), card)
    return path


def test_the_package_and_every_shipped_card_name_the_terms_of_the_weights():
    expression = re.search(r'^license = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    terms = (ROOT / "LICENSE-WEIGHTS").read_text(encoding="utf-8")
    assert expression and SHIPPED
    code, _, weights = expression[1].partition(" AND ")
    assert (code, weights) == ("Apache-2.0", "LicenseRef-upernet-weights")
    for name in SHIPPED:
        path = shipped_checkpoint(name)
        card = card_in(path) if path else None
        assert card and (card.license, card.research_only) == (weights, True), name
        assert path and path.name in terms
    assert weights in terms


@pytest.mark.parametrize("name", SHIPPED)
def test_the_terms_of_all_training_data_are_known_and_listed(name: str):
    recipe, terms = load_recipe(name), (ROOT / "LICENSE-WEIGHTS").read_text(encoding="utf-8")
    assert recipe.training_data
    for source, spec in recipe.training_data.items():
        stated = spec.terms
        assert stated.name and stated.license, f"{name}: source {source}"
        assert stated.name.partition(" (")[0] in terms, f"{name}: source {source}"
    assert recipe.research_only == card_of(recipe).research_only is True


def test_every_file_of_the_zoo_says_who_may_use_it():
    for name in list_zoo():
        entry = zoo_entry(name)
        assert entry and entry.license and "research_only" in entry.model_fields_set, name
        assert entry.research_only == (name in list_models()), "networks on ADE20K are restricted, backbones are not"
        if name in list_models():
            assert load_recipe(name).research_only


def test_only_sources_that_are_trained_on_restrict_a_model():
    recipe = load_recipe("camvid")
    terms = recipe.sources["camvid"].terms
    free = recipe.sources["camvid"].model_copy(update={"terms": terms.model_copy(update={"research_only": False})})
    scored_only = {"camvid": free, "other": recipe.sources["camvid"]}
    assert not recipe.model_copy(update={"sources": scored_only}).research_only
    assert recipe.research_only


def test_a_card_is_read_from_the_header_alone(tmp_path: Path):
    path = save(tmp_path / "mine.safetensors", {"name": "mine", "license": "MIT"})
    assert card_in(path) == ModelCard(name="mine", license="MIT")
    path.write_bytes(path.read_bytes()[:-8])
    assert card_in(path) is None
    assert card_in(tmp_path / "none.safetensors") is None
    with pytest.raises(UpernetError, match="research_only"):
        save(tmp_path / "odd.safetensors", {"research_only": "yes"})


@pytest.mark.slow
@pytest.mark.usefixtures("switch")
@pytest.mark.parametrize("name", SHIPPED)
def test_the_switch_refuses_shipped_weights(name: str):
    for use in (load, load_model, lambda name: create_model(name, pretrained=True)):
        with pytest.raises(UpernetError, match=REFUSED):
            use(name)


@pytest.mark.slow
@pytest.mark.usefixtures("switch")
def test_the_switch_goes_by_the_card_of_a_file(tmp_path: Path):
    restricted = save(tmp_path / "restricted.safetensors", {"research_only": True})
    free = save(tmp_path / "everyday.safetensors", {"license": "MIT"})
    model = UPerNet(SPEC, Taxonomy.of_objects(["a", "b"], "ab"))
    backbone = build_backbone(SPEC.backbone)
    uses = (
        load,
        load_checkpoint,
        lambda path: initialize_model(model, path),
        lambda path: load_backbone_weights(backbone, SPEC.backbone, str(path)),
    )
    for use in uses:
        use(free)
        with pytest.raises(UpernetError, match=rf"(restricted\.safetensors|backbone \w+): these .* {REFUSED}"):
            use(restricted)


@pytest.mark.parametrize("value", ["", "0", "false", "off"])
def test_the_switch_can_be_off(value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv(SWITCH, value)
    load_checkpoint(save(tmp_path / "restricted.safetensors", {"research_only": True}))


def test_the_switch_refuses_research_weights_of_the_zoo(mirror: Path, monkeypatch: pytest.MonkeyPatch):
    (mirror / f"{ON_ADE20K}.pth").write_bytes(b"weights")
    (mirror / "internimage_s_1k_224.pth").write_bytes(b"weights")
    assert fetch(ON_ADE20K).is_file()
    monkeypatch.setenv(SWITCH, "1")
    with pytest.raises(UpernetError, match=rf"^{ON_ADE20K}: .*{REFUSED}"):
        fetch(ON_ADE20K)
    with pytest.raises(UpernetError, match="internimage_s_1k_224"):  # allowed, but not the published file
        fetch("internimage_s")


def test_timm_says_which_of_its_weights_are_restricted():
    assert has_restricted_terms("convnextv2_tiny.fcmae_ft_in22k_in1k")
    assert not has_restricted_terms("resnet50") and not has_restricted_terms("tf_efficientnet_lite2")
    known = {
        "cc-by-nc-4.0": True,
        "fair-noncommercial-research-license": True,
        "apple-amlr": True,
        "seer-license": True,
    }
    free = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "nvidia-open-model-license", "unknown", None)
    for license, restricted in (known | dict.fromkeys(free, False)).items():
        assert restricts_use(license) == restricted, license
    assert timm.get_pretrained_cfg("resnet50").license == "apache-2.0"


@pytest.mark.usefixtures("switch")
@pytest.mark.parametrize("source", ["timm", "auto"])
def test_restricted_backbones_of_timm_are_refused_before_a_download(source: str):
    name = "convnextv2_atto.fcmae_ft_in1k"
    with pytest.raises(UpernetError, match=rf"^backbone {name}: .*{REFUSED}"):
        load_backbone_weights(build_backbone(name), name, source)


@pytest.mark.slow
def test_a_loaded_model_says_its_terms():
    assert upernet.load("everyday").card.license == "LicenseRef-upernet-weights"
