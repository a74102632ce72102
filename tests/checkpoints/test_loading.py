"""Tests of upernet.checkpoints.loading and upernet.checkpoints.native."""

import json

import pytest
import torch
from helpers.full_disk import file_size_limit, needs_file_size_limit
from safetensors.torch import save_file

import upernet
from upernet.checkpoints import ModelCard, initialize_model, load_checkpoint, save_checkpoint
from upernet.checkpoints.classifiers import transfer_classifiers
from upernet.errors import UpernetError
from upernet.models import UPerNet
from upernet.recipe import ModelSpec
from upernet.taxonomy import Taxonomy, load_taxonomy

SPEC = ModelSpec(backbone="mobilenetv3_small_050", decoder_channels=8, auxiliary_channels=4)


@pytest.fixture(scope="module")
def model() -> UPerNet:
    torch.manual_seed(0)
    return UPerNet(SPEC, load_taxonomy("everyday")).eval()


@pytest.fixture
def file(model, tmp_path):
    save_checkpoint(tmp_path / "model.safetensors", model, {"name": "tiny", "thresholds": {"texture": 0.5}})
    return tmp_path / "model.safetensors"


@pytest.mark.slow
def test_round_trip_gives_the_same_logits_taxonomy_and_card(model, file):
    loaded, card = load_checkpoint(file)
    assert card == ModelCard(name="tiny", thresholds={"texture": 0.5})
    assert card.to_dict() == {"name": "tiny", "thresholds": {"texture": 0.5}}
    assert loaded.taxonomy == model.taxonomy and not loaded.training
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        for level, expected in model(images).items():
            assert torch.equal(loaded(images)[level], expected)


@pytest.mark.slow
def test_half_stores_matrices_in_half_the_bytes_and_keeps_norms_exact(model, file, tmp_path):
    save_checkpoint(tmp_path / "half.safetensors", model, {}, half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.65 * file.stat().st_size
    loaded, _ = load_checkpoint(tmp_path / "half.safetensors")
    own = model.state_dict()
    for key, value in loaded.state_dict().items():
        if not key.startswith("auxiliary."):
            expected = own[key].half().float() if value.is_floating_point() and value.ndim > 1 else own[key]
            assert torch.equal(value, expected), key


@pytest.mark.slow
def test_the_auxiliary_head_is_stored_only_when_asked_for(model, file, tmp_path):
    loaded, _ = load_checkpoint(file)
    assert loaded.auxiliary is None and loaded.spec.auxiliary_channels is None
    save_checkpoint(tmp_path / "whole.safetensors", model, {}, auxiliary=True)
    whole, _ = load_checkpoint(tmp_path / "whole.safetensors")
    assert whole.spec == model.spec
    assert model.auxiliary is not None and whole.auxiliary is not None
    assert torch.equal(whole.auxiliary.classifier.weight, model.auxiliary.classifier.weight)


def test_cut_off_file_foreign_file_and_missing_file_are_refused(file, tmp_path):
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(UpernetError, match="not a readable safetensors file"):
        load_checkpoint(file)
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UpernetError, match=r"holds 1 tensors \(the first is a\), but not of a network"):
        load_checkpoint(tmp_path / "foreign.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "state.safetensors", metadata={"upernet_run": "{}"})
    with pytest.raises(UpernetError, match=r"state of a training run; give the model\.safetensors"):
        load_checkpoint(tmp_path / "state.safetensors")
    with pytest.raises(UpernetError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "nothing.safetensors")


def test_weights_that_are_not_finite_are_refused(model, tmp_path):
    broken = UPerNet(model.spec, model.taxonomy)
    with torch.no_grad():
        broken.heads["object"].classifier.weight[0] = float("nan")
    save_checkpoint(tmp_path / "nan.safetensors", broken, {})
    with pytest.raises(UpernetError, match=r"heads\.object\.classifier\.weight has values that are not finite"):
        load_checkpoint(tmp_path / "nan.safetensors")


def write(path, network, /, **changes):
    """Write a native file with a wrong description."""
    tensors = {key: value for key, value in network.state_dict().items() if not key.startswith("auxiliary.")}
    content = {"format": 1, "model": SPEC.model_dump(mode="json"), "taxonomy": network.taxonomy.to_dict(), "card": {}}
    text = changes.pop("text", None) or json.dumps(content | changes)
    save_file(tensors, path, metadata={"upernet": text})
    return path


@pytest.mark.slow
def test_weights_that_do_not_fit_the_description_are_named(model, tmp_path):
    description = SPEC.model_dump(mode="json") | {"decoder_channels": 9}
    with pytest.raises(UpernetError, match=r"ppm\.pooled\.0\.0\.weight: file 8x288x1x1 -> model 9x288x1x1"):
        load_checkpoint(write(tmp_path / "odd.safetensors", model, model=description))


@pytest.mark.slow
@pytest.mark.parametrize("channels", [10**6, 10**12, 10**30])
def test_nothing_is_made_of_the_size_that_a_file_claims(model, tmp_path, channels):
    for key in ("decoder_channels", "head_channels", "auxiliary_channels"):
        description = SPEC.model_dump(mode="json") | {key: channels}
        path = write(tmp_path / "huge.safetensors", model, model=description)
        with pytest.raises(
            UpernetError, match=rf"is not valid \(model: {key}: should be less than or equal to 2048\)\.$"
        ):
            load_checkpoint(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"text": "no JSON"},
        {"text": "[1]"},
        {"text": "[" * 100_000},
        {"model": {"backbone": "resnet18", "unknown": 1}},
        {"model": {"backbone": "no_such_network"}},
        {"model": None},
        {"taxonomy": {"levels": {}}},
        {"card": "text"},
    ],
)
def test_descriptions_that_make_no_sense_are_refused(model, tmp_path, changes):
    with pytest.raises(UpernetError, match=r"odd\.safetensors: "):
        load_checkpoint(write(tmp_path / "odd.safetensors", model, **changes))


def test_a_newer_format_is_refused(model, tmp_path):
    with pytest.raises(UpernetError, match="upgrade upernet"):
        load_checkpoint(write(tmp_path / "new.safetensors", model, format=2))


@pytest.mark.slow
def test_buffers_that_are_computed_are_there_after_loading(tmp_path):
    """Timm keeps the index of window positions out of the weights."""
    spec = ModelSpec(
        backbone="swin_tiny_patch4_window7_224", feature_norms=True, decoder_channels=8, auxiliary_channels=None
    )
    swin = UPerNet(spec, load_taxonomy("camvid")).eval()
    save_checkpoint(tmp_path / "swin.safetensors", swin, {})
    loaded, _ = load_checkpoint(tmp_path / "swin.safetensors")
    images = torch.randn(1, 3, 45, 64)
    with torch.inference_mode():
        assert torch.equal(loaded(images)["object"], swin(images)["object"])
        assert torch.equal(loaded.preprocess(images), swin.preprocess(images))
    (tmp_path / "swin.safetensors").unlink()


@pytest.mark.slow
def test_initializing_another_taxonomy_keeps_all_but_the_classes_that_the_file_lacks(file):
    other = UPerNet(SPEC, load_taxonomy("ade20k150"))
    before = {key: value.clone() for key, value in other.state_dict().items()}
    kept = [key for key in initialize_model(other, file) if not key.startswith("auxiliary.")]
    assert sorted(kept) == ["heads.object.classifier.bias", "heads.object.classifier.weight"]
    loaded, _ = load_checkpoint(file)
    own, theirs = other.state_dict(), loaded.state_dict()
    assert torch.equal(own["fusion.conv.0.weight"], theirs["fusion.conv.0.weight"])
    names, known = other.taxonomy.level("object").names, loaded.taxonomy.level("object").names
    shared = set(names) & set(known)
    assert {"wall", "sky", "tree"} <= shared < set(names)
    for key in ("heads.object.classifier.weight", "heads.object.classifier.bias"):
        for label, name in enumerate(names):
            expected = theirs[key][known.index(name)] if name in shared else before[key][label]
            assert torch.equal(own[key][label], expected), (key, name)


def test_parts_keep_their_weights_with_their_object():
    """`wheel` of a car is another class than `wheel` of a bicycle, and the classes are in another order."""

    def build(of: dict[str, list[str]], names: list[str]) -> UPerNet:
        levels = {"object": {"classes": sorted(of)}, "part": {"background": "none", "classes": names, "of": of}}
        return UPerNet(SPEC, Taxonomy.from_dict({"description": "", "levels": levels}))

    source = build({"car": ["wheel", "door"], "house": ["door"]}, ["wheel", "door"])
    target = build({"bicycle": ["wheel"], "car": ["door", "wheel"]}, ["door", "wheel"])
    before = target.state_dict()["heads.part.classifier.weight"].clone()
    theirs = source.state_dict()
    rows = transfer_classifiers(target, theirs, source.taxonomy)["heads.part.classifier.weight"]
    assert source.taxonomy.logit_names("part") == ("car/none", "car/wheel", "car/door", "house/none", "house/door")
    weights = theirs["heads.part.classifier.weight"]
    expected = torch.stack([before[0], before[1], weights[0], weights[2], weights[1]])
    assert target.taxonomy.logit_names("part") == (
        "bicycle/none", "bicycle/wheel", "car/none", "car/door", "car/wheel",
    )  # fmt: skip
    assert torch.equal(rows, expected)


def test_initializing_from_another_network_is_refused(file):
    with pytest.raises(UpernetError, match="no tensor fits"):
        initialize_model(torch.nn.Linear(2, 2), file)  # type: ignore[arg-type]


@needs_file_size_limit
def test_a_full_disk_leaves_the_earlier_file(model, file):
    """A limit on file sizes stands for the full disk: the kernel refuses the write half-way."""
    before = file.read_bytes()
    with file_size_limit(100_000), pytest.raises(UpernetError, match="writing failed"):
        save_checkpoint(file, model, {"name": "tiny"})
    assert file.read_bytes() == before and [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.slow
def test_load_model_compares_classes_not_colors(model, tmp_path):
    changed = model.taxonomy.to_dict() | {"description": "other words"}
    for entry in changed["levels"]["scene"]["classes"]:
        entry["color"] = "#0" + entry["color"][2:]
    other = UPerNet(SPEC, Taxonomy.from_dict(changed))
    save_checkpoint(tmp_path / "other.safetensors", other, {})
    (tmp_path / "tiny.yaml").write_text(
        "description: d\ntaxonomy: everyday\n"
        "model: {backbone: mobilenetv3_small_050, decoder_channels: 8, auxiliary_channels: 4}\n"
    )
    assert (
        upernet.load_model(str(tmp_path / "tiny.yaml"), checkpoint=tmp_path / "other.safetensors").taxonomy
        != model.taxonomy
    )


def test_load_model_by_name_needs_weights_of_that_model(file):
    with pytest.raises(UpernetError, match="upp_resnet50_broden has no bundled or published weights"):
        upernet.load_model("upp_resnet50_broden")
    with pytest.raises(UpernetError, match=r"do not fit camvid \(the file looks like mobilenetv3_small_050, this is"):
        upernet.load_model("camvid", checkpoint=file)


@pytest.mark.slow
def test_load_model_by_name_needs_weights_of_that_taxonomy(model, tmp_path):
    renamed = model.taxonomy.to_dict()
    renamed["levels"]["scene"]["classes"][0]["name"] = "somewhere else"
    save_checkpoint(tmp_path / "other.safetensors", UPerNet(SPEC, Taxonomy.from_dict(renamed)), {})
    (tmp_path / "tiny.yaml").write_text(
        "description: d\ntaxonomy: everyday\nmodel: {backbone: mobilenetv3_small_050, decoder_channels: 8}\n"
    )
    with pytest.raises(UpernetError, match=r"of another taxonomy \(everyday\) than tiny"):
        upernet.load_model(str(tmp_path / "tiny.yaml"), checkpoint=tmp_path / "other.safetensors")
