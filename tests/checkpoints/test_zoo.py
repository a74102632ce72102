"""Tests of upernet.checkpoints.zoo: its entries, and that the networks are as large as published."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from helpers.shared import REFERENCE
from pydantic import ValidationError

from upernet.checkpoints import ZooEntry, create_model, list_zoo, zoo_entry
from upernet.models import list_models
from upernet.models.complexity import count
from upernet.models.internimage import VARIANTS

ENTRIES = [entry for name in list_zoo() if (entry := zoo_entry(name)) is not None]
MODELS = [entry.name for entry in ENTRIES if entry.published]
FACTS = REFERENCE / "macs.json"


def variant(name: str) -> str:
    return name.split("_")[2]


def test_what_the_zoo_has() -> None:
    assert [variant(name) for name in MODELS] == ["t", "s", "b", "l", "xl", "h"]
    assert [entry.name for entry in ENTRIES if not entry.published] == list(VARIANTS)
    assert set(MODELS) <= set(list_models())
    assert zoo_entry("internimage_z") is None
    for entry in ENTRIES:
        assert entry.url.startswith("https://") and entry.file.endswith(".pth")
        assert entry.license.startswith("MIT (InternImage, OpenGVLab)")
        if entry.published:
            assert entry.file == f"{entry.name}.pth" and "ADE20K" in entry.license
        else:
            assert entry.file.startswith(f"{entry.name}_")
    assert len({entry.file for entry in ENTRIES}) == len(ENTRIES)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://weights.invalid/tiny.pth",
        "/mnt/tiny.pth",
        "https://weights.invalid/",
        "https://weights.invalid/..",
        "https://weights.invalid/a%2Fb%5Cc.pth",
        "https://weights.invalid/.hidden",
    ],
)
def test_an_address_that_names_no_file_of_the_web_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="must"):
        ZooEntry(url=url, license="free")


@pytest.fixture(scope="module", params=MODELS)
def counted(request: pytest.FixtureRequest) -> tuple[ZooEntry, int, int]:
    entry = zoo_entry(request.param)
    assert entry is not None and entry.published is not None
    with torch.device("meta"):
        model = create_model(entry.name)
    params, macs = count(model, *entry.published.macs_at)
    return entry, params, macs


@pytest.mark.slow
def test_the_networks_are_as_large_as_published(counted: tuple[ZooEntry, int, int]) -> None:
    entry, params, macs = counted
    assert entry.published is not None
    assert params == pytest.approx(entry.published.params, rel=5e-3)
    assert macs == pytest.approx(entry.published.macs, rel=5e-3)


@pytest.mark.slow
@pytest.mark.skipif(not FACTS.is_file(), reason="needs the reference facts in ../shared/reference/macs.json")
def test_the_networks_are_as_large_as_the_authors_code_counts(counted: tuple[ZooEntry, int, int]) -> None:
    entry, params, macs = counted
    assert entry.published is not None
    facts: dict[str, Any] = json.loads(FACTS.read_text())[variant(entry.name)]
    height, width = entry.published.macs_at
    millions, giga = facts["published"]
    assert (entry.published.params, entry.published.macs) == (millions * 10**6, giga * 10**9)
    assert params == facts["params"]
    assert macs == pytest.approx(facts[f"{height}x{width}"]["total"], rel=1.5e-3)


def test_counting_leaves_the_network_as_it_was() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.Dropout())
    model[1].eval()
    weight = model[0].weight
    assert count(model, 10, 20) == (3 * 4 * 9 + 4 + 8, 3 * 4 * 9 * 200)
    assert [module.training for module in model] == [True, False, True]
    assert model[0].weight is weight and weight.device.type == "cpu"
