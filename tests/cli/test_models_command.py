"""Tests of `upernet models`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.command_line import Run

from upernet.checkpoints import create_model, list_zoo
from upernet.models import list_models

IN_THE_ZOO = "upernet_internimage_t_512_160k_ade20k"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where downloads are kept."""
    monkeypatch.setenv("UPERNET_HOME", str(tmp_path))
    return tmp_path / "checkpoints"


@pytest.mark.slow
def test_models_as_json(run: Run, folder: Path) -> None:
    folder.mkdir()
    (folder / "upernet_internimage_s_512_160k_ade20k.pth").touch()
    result = run("models", "--json")
    assert result.status == 0
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert list(rows) == list_models()

    everyday = rows["everyday"]
    model = create_model("everyday")
    assert everyday["params"] == sum(p.numel() for p in model.parameters())
    assert everyday["macs"] > 10**9 and everyday["macs_at"] == [512, 2048]
    assert everyday["levels"] == list(model.levels)
    assert everyday["description"]
    assert everyday["shipped"] and everyday["weights"] == "shipped"
    assert everyday["miou_single_scale"] is None and everyday["miou_multi_scale"] is None

    large = rows["upernet_internimage_l_640_160k_ade20k"]
    assert (large["miou_single_scale"], large["miou_multi_scale"]) == (53.9, 54.1)
    assert (large["crop"], large["macs_at"]) == ([640, 640], [640, 2560])
    assert large["params"] == pytest.approx(256e6, rel=5e-3)
    assert large["macs"] == pytest.approx(2526e9, rel=5e-3)
    assert not large["shipped"]
    weights = {name: row["weights"] for name, row in rows.items()}
    assert weights["upernet_internimage_s_512_160k_ade20k"] == "downloaded"
    assert weights[IN_THE_ZOO] == "available"
    assert weights["upp_resnet50_broden"] == "none"


@pytest.mark.slow
def test_models_as_a_table_of_80_columns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = run("models")
    assert result.status == 0
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert max(map(len, lines)) <= 80
    names = [line.split()[0] for line in lines if line and line.split()[0] in list_models()]
    zoo = [name for name in list_zoo() if name in names]
    assert names == [name for name in list_models() if name not in zoo] + zoo
    (row,) = [line for line in lines if line.startswith(IN_THE_ZOO)]
    assert row.split()[1:] == ["47.9", "59.1", "M", "944", "G", "available"]


@pytest.mark.slow
def test_terms_are_in_the_list_and_in_the_details(run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    terms = {row["name"]: (row["license"], row["research_only"]) for row in json.loads(run("models", "--json").stdout)}
    assert terms["everyday"] == terms["camvid"] == ("LicenseRef-upernet-weights", True)
    assert terms[IN_THE_ZOO][0].startswith("MIT") and terms[IN_THE_ZOO][1]
    assert terms["upp_resnet50_broden"] == (None, None)

    details = run("models", "everyday")
    assert details.status == 0 and max(map(len, details.stdout.splitlines())) <= 80
    for text in ("LicenseRef-upernet-weights", "LICENSE-WEIGHTS", "research and non-commercial use only", "TrashNet"):
        assert text in details.stdout
    about = json.loads(run("models", "everyday", "--json").stdout)
    assert about["training_data"]["camvid"]["research_only"] and "street" in about["classes"]["scene"]

    own = run("models", checkpoint)
    assert own.status == 0 and "not stated" in own.stdout
    unknown = run("models", "nobody")
    assert (unknown.status, unknown.stdout) == (2, "") and "unknown model" in unknown.stderr


def test_a_file_without_a_card_is_an_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other.pth").write_bytes(b"PK\3\4")
    result = run("models", tmp_path / "other.pth")
    assert (result.status, result.stdout) == (2, "") and "convert it with `upernet convert`" in result.stderr
