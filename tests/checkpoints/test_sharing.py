"""Tests of upernet.checkpoints.sharing, readme and the Hub's methods of UPerNet, with the real client of the Hub."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.web import WRITE_TOKEN, Hub
from huggingface_hub import ModelCard as HubCard
from huggingface_hub import constants
from typer.testing import CliRunner

import upernet
from upernet.checkpoints import card_of
from upernet.checkpoints.header import card_in
from upernet.checkpoints.http import MAX_BYTES
from upernet.checkpoints.readme import GENERATED
from upernet.errors import UpernetError
from upernet.recipe import ModelSpec, load_recipe
from upernet.taxonomy import Taxonomy

pytestmark = pytest.mark.usefixtures("home")
CARD = {
    "name": "tiny",
    "description": "Roads | and <b>cars</b>.",
    "license": "CC-BY-NC-4.0",
    "research_only": True,
    "short_side": 64,
    "thresholds": {"object": 0.625},
    "class_thresholds": {"object": {"car": 0.75}},
    "temperatures": {"object": 1.5},
    "scores": {"object": {"miou": 0.5, "pixel_accuracy": 0.75}},
    "scored_on": "3 photos of streets (split test)",
}


@pytest.fixture(scope="module")
def model() -> upernet.UPerNet:
    torch.manual_seed(0)
    options = {"channels": 8, "depths": (1, 1, 1, 1), "groups": (1, 1, 2, 2)}
    spec = ModelSpec(backbone="internimage_t", backbone_options=options, decoder_channels=8, auxiliary_channels=8)
    network = upernet.UPerNet(spec, Taxonomy.of_objects(["road", "car", "it's a sign"], "streets"))
    network.card = upernet.ModelCard.model_validate(CARD)
    return network.eval()


@pytest.fixture
def token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the client upload large files by the protocol of LFS, which the server speaks."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    return WRITE_TOKEN


def assert_same(first: upernet.UPerNet, second: upernet.UPerNet) -> None:
    assert first.spec == second.spec and first.taxonomy == second.taxonomy and first.card == second.card
    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(value, theirs[key]) for key, value in ours.items())


def metadata(page: str) -> dict[str, Any]:
    found = re.match(r"---\n(.*?)\n---\n", page, re.DOTALL)
    assert found is not None
    return yaml.safe_load(found[1])


def test_a_folder_holds_the_whole_model(model: upernet.UPerNet, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "new" / "folder")
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == ["README.md", "model.safetensors"]
    assert_same(upernet.UPerNet.from_pretrained(tmp_path / "new" / "folder"), model)
    parser = upernet.load(str(tmp_path / "new" / "folder"))
    assert parser.thresholds == {"object": 0.625} and parser.class_thresholds == {"object": {"car": 0.75}}
    assert parser.short_side == 64


def test_a_parser_follows_the_card_of_the_model(model: upernet.UPerNet, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = upernet.UPerNet.from_pretrained(tmp_path)
    assert upernet.Parser(loaded).thresholds == {"object": 0.625}
    assert upernet.Parser(loaded, {"short_side": 32}).thresholds == {}


def test_the_page_states_terms_scores_and_use(model: upernet.UPerNet, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    page = (tmp_path / "README.md").read_text()
    values = metadata(page)
    assert values["license"] == "cc-by-nc-4.0" and values["library_name"] == "upernet"
    assert values["pipeline_tag"] == "image-segmentation" and {"upernet", "internimage_t", "object"} <= set(
        values["tags"]
    )
    results = HubCard(page).data.eval_results
    assert results is not None
    assert [(result.metric_type, result.metric_value) for result in results] == [("mean_iou", 0.5), ("accuracy", 0.75)]
    assert "research and non-commercial use only" in page and "| object | mIoU 0.500, pixel accuracy 0.750 |" in page
    assert "Measured on 3 photos of streets (split test)." in page and "**object** (3): road, car, it's a sign" in page
    assert "Roads \\| and &lt;b>cars&lt;/b>." in page


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({"license": "Apache-2.0"}, {"license": "apache-2.0"}),
        ({"license": ""}, {}),
        ({"license": "", "research_only": True}, {"license": "other", "license_name": "research-only"}),
        (
            {"license": "MIT (OpenGVLab); ADE20K: research"},
            {"license": "other", "license_name": "mit-opengvlab-ade20k-research"},
        ),
        (
            {"license": "LicenseRef-upernet-weights"},
            {
                "license": "other",
                "license_name": "licenseref-upernet-weights",
                "license_link": "LICENSE-WEIGHTS",
            },
        ),
    ],
    ids=["known", "none", "research only", "words", "bundled"],
)
def test_the_license_is_one_that_the_hub_knows(
    model: upernet.UPerNet, tmp_path: Path, terms: dict[str, Any], expected: dict[str, str]
) -> None:
    model.save_pretrained(tmp_path, card=terms)
    values = metadata((tmp_path / "README.md").read_text())
    assert {key: value for key, value in values.items() if key.startswith("license")} == expected


@pytest.mark.slow
def test_the_terms_of_the_bundled_weights_go_with_them(tmp_path: Path) -> None:
    upernet.load_model("camvid").save_pretrained(tmp_path, half=True)
    assert (tmp_path / "LICENSE-WEIGHTS").read_text().startswith("Terms of the bundled weights")
    assert upernet.UPerNet.from_pretrained(tmp_path).card == upernet.load_model("camvid").card
    assert (tmp_path / "model.safetensors").stat().st_size < 13e6


def test_a_page_that_somebody_wrote_stays(model: upernet.UPerNet, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    page = tmp_path / "README.md"
    assert GENERATED in page.read_text()
    page.write_text(page.read_text().replace("# tiny", "# old"))
    model.save_pretrained(tmp_path)
    assert "# tiny" in page.read_text()
    page.write_text("My own words.")
    model.save_pretrained(tmp_path)
    assert page.read_text() == "My own words."


def test_no_file_changes_if_one_cannot_be_written(model: upernet.UPerNet, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"earlier")
    (tmp_path / "README.md").mkdir()
    with pytest.raises(UpernetError, match=r"README\.md"):
        model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == b"earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "model.safetensors"]
    with pytest.raises(UpernetError, match="is a file"):
        model.save_pretrained(tmp_path / "model.safetensors")
    with pytest.raises(UpernetError, match="card: not valid"):
        model.save_pretrained(tmp_path / "other", card={"license": 3})
    assert not (tmp_path / "other").exists()


def test_there_and_back(model: upernet.UPerNet, hub: Hub, token: str, tmp_path: Path) -> None:
    hub.revisions.clear()
    url = model.push_to_hub("owner/name", token=token, private=True, commit_message="First")
    assert url == f"{hub.base}/owner/name/commit/{hub.revisions['main'][0]}"
    (created,) = hub.created
    assert (created["organization"], created["name"], created["visibility"]) == ("owner", "name", "private")
    assert [(commit["summary"], commit["files"]) for commit in hub.commits] == [
        ("First", ["README.md", "model.safetensors"])
    ]
    assert 'upernet.load("hf://owner/name")' in hub.revisions["main"][1]["README.md"].decode()
    for reference in ("owner/name", "hf://owner/name", "hf://owner/name/model.safetensors@main"):
        assert_same(upernet.UPerNet.from_pretrained(reference), model)
    assert upernet.load("hf://owner/name").thresholds == {"object": 0.625}
    folder = tmp_path / "mine"
    loaded = upernet.UPerNet.from_pretrained("owner/name", revision="main", cache_dir=folder, token="hf_read")
    assert_same(loaded, model)
    assert list(folder.rglob("model.safetensors"))
    hub.revisions.clear()
    assert_same(upernet.UPerNet.from_pretrained("owner/name", cache_dir=folder, local_files_only=True), model)
    with pytest.raises(UpernetError, match="not downloaded yet"):
        upernet.UPerNet.from_pretrained("owner/name", cache_dir=tmp_path / "none", local_files_only=True)


@pytest.mark.slow
def test_the_command_line_takes_what_was_uploaded(model: upernet.UPerNet, hub: Hub, token: str, tmp_path: Path) -> None:
    from upernet.cli.main import app

    model.push_to_hub("owner/name", token=token)
    photo = Path(__file__).parents[2] / "examples" / "street.jpg"
    arguments = ["parse", str(photo), "--model", "hf://owner/name", "--out", str(tmp_path / "out"), "--quiet"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert list((tmp_path / "out").rglob("parse.json"))


def test_a_page_that_somebody_wrote_stays_on_the_hub(model: upernet.UPerNet, hub: Hub, token: str) -> None:
    hub.revisions["main"] = (hub.revisions["main"][0], {"README.md": b"My own words."})
    model.push_to_hub("owner/name", token=token)
    files = hub.revisions["main"][1]
    assert files["README.md"] == b"My own words." and hub.commits[0]["files"] == ["model.safetensors"]


def test_a_pull_request_and_a_branch(model: upernet.UPerNet, hub: Hub, token: str) -> None:
    before = dict(hub.revisions["main"][1])
    assert model.push_to_hub("owner/name", token=token, create_pr=True) == f"{hub.base}/owner/name/discussions/1"
    assert hub.revisions["main"][1] == before and "model.safetensors" in hub.revisions["pr"][1]
    model.push_to_hub("owner/name", token=token, branch="v1")
    assert "model.safetensors" in hub.revisions["v1"][1] and hub.revisions["main"][1] == before


def test_what_cannot_be_uploaded(model: upernet.UPerNet, hub: Hub, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(hub.revisions["main"][1])
    with pytest.raises(UpernetError, match=r"owner/name: not uploaded: .*`hf auth login`"):
        model.push_to_hub("owner/name", token="hf_read")
    with pytest.raises(UpernetError, match="not uploaded: no such revision"):
        model.push_to_hub("owner/name", token=token, branch="other")
    with pytest.raises(UpernetError, match="not uploaded: "):
        model.push_to_hub("no/such/name", token=token)
    hub.broken_upload = True
    with pytest.raises(UpernetError, match="not uploaded: "):
        model.push_to_hub("owner/name", token=token)
    assert hub.revisions["main"][1] == before and not hub.commits
    monkeypatch.setenv("UPERNET_OFFLINE", "1")
    with pytest.raises(UpernetError, match="UPERNET_OFFLINE"):
        model.push_to_hub("owner/name", token=token)


class Bomb:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("/tmp/upernet-bomb"),))


def serve(hub: Hub, **files: bytes) -> None:
    hub.revisions["main"] = (hub.revisions["main"][0], files)


def test_a_pickle_with_code_is_refused(hub: Hub) -> None:
    content = io.BytesIO()
    torch.save({"decode_head.classifier.weight": torch.zeros(3), "extra": Bomb()}, content)
    serve(hub, **{"pytorch_model.bin": content.getvalue()})
    with pytest.raises(UpernetError, match="refused because reading it would run code"):
        upernet.UPerNet.from_pretrained("owner/name")
    assert not Path("/tmp/upernet-bomb").exists()


@pytest.mark.parametrize("name", ["../../../evil.safetensors", "/tmp/evil.safetensors", "a/../../b.bin", "..\\c.pth"])
def test_a_file_outside_of_the_repository_is_refused(hub: Hub, name: str) -> None:
    serve(hub, **{name: b"x" * 100})
    with pytest.raises(UpernetError, match="is outside of the repository"):
        upernet.UPerNet.from_pretrained("owner/name")
    assert hub.asked == []


def test_a_file_that_claims_to_be_huge_is_refused(hub: Hub) -> None:
    serve(hub, **{"model.safetensors": b"x" * 100})
    hub.sizes["model.safetensors"] = MAX_BYTES + 1
    with pytest.raises(UpernetError, match=r"claims 34,359,738,369 bytes"):
        upernet.UPerNet.from_pretrained("owner/name")
    assert not [request for request in hub.asked if request.endswith("model.safetensors")]


def test_two_revisions_are_refused(hub: Hub) -> None:
    with pytest.raises(UpernetError, match="has a revision already"):
        upernet.UPerNet.from_pretrained("hf://owner/name@v1", revision="main")


def test_weights_for_research_only_can_be_refused(
    model: upernet.UPerNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.save_pretrained(tmp_path)
    monkeypatch.setenv("UPERNET_NO_RESEARCH_WEIGHTS", "1")
    with pytest.raises(UpernetError, match="research"):
        upernet.UPerNet.from_pretrained(tmp_path)


def test_a_model_that_starts_from_research_weights_says_so(tmp_path: Path) -> None:
    started = upernet.create_model("camvid", classes=["crack"], pretrained=True)
    started.save_pretrained(tmp_path)
    card = card_in(tmp_path / "model.safetensors")
    assert card is not None and card.research_only and card.thresholds == {}
    assert not upernet.create_model("camvid", classes=["crack"]).card.research_only


def test_scores_of_an_evaluation() -> None:
    result = {
        "object": {"miou": 0.5, "pixel_accuracy": 0.0, "mean_accuracy": None, "per_class": {}},
        "photos": {"camvid": 117},
        "split": "test",
    }
    card = card_of(load_recipe("camvid")).with_scores(result)
    assert card.scores == {"object": {"miou": 0.5, "pixel_accuracy": 0.0}}
    assert card.scored_on == "117 photos of camvid (split test)"
    for wrong in ({}, {"object": 3}, {"photos": {}, "split": "test"}, {"object": {"miou": "high"}, "photos": {}}):
        with pytest.raises(UpernetError, match="not an evaluation"):
            card.with_scores(wrong)
