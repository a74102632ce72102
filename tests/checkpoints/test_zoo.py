"""Tests of upernet.checkpoints.zoo: its entries, and that the networks are as large as published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.shared import REFERENCE
from pydantic import ValidationError

from upernet.checkpoints import ZooEntry, fetch, is_downloaded, list_zoo, zoo_entry
from upernet.checkpoints.fetching import addresses
from upernet.checkpoints.sizes import model_size
from upernet.checkpoints.zoo import ZooFile
from upernet.errors import UpernetError
from upernet.models import list_models
from upernet.models.complexity import count
from upernet.models.deep_resnet import VARIANTS as DEEP_RESNETS
from upernet.models.flash_internimage import VARIANTS as FLASH_VARIANTS
from upernet.models.internimage import VARIANTS

UPP = "upp_resnet50_upernet"

ENTRIES = [entry for name in list_zoo() if (entry := zoo_entry(name)) is not None]
MODELS = [entry.name for entry in ENTRIES if entry.published]
COUNTED = [entry.name for entry in ENTRIES if entry.published and entry.published.macs]
"""The models whose authors publish parameters and multiply-adds."""
FACTS = REFERENCE / "macs.json"


def variant(name: str) -> str:
    return name.split("_")[-4]


def test_what_the_zoo_has() -> None:
    assert [variant(name) for name in MODELS] == ["t", "s", "b", "l", "xl", "h", "t", "s", "b", "l"]
    assert [name for name in MODELS if name not in COUNTED] == [name for name in MODELS if "flash" in name]
    backbones = [*VARIANTS, *FLASH_VARIANTS, *DEEP_RESNETS]
    assert [entry.name for entry in ENTRIES if not entry.published] == [UPP, *backbones]
    assert {*MODELS, UPP} <= set(list_models())
    assert zoo_entry("internimage_z") is None
    for entry in ENTRIES:
        if entry.name in (UPP, *DEEP_RESNETS):
            continue
        assert entry.url.startswith("https://") and entry.file.endswith(".pth")
        project = "DCNv4" if "flash" in entry.name else "InternImage"
        assert entry.license.startswith(f"MIT ({project}, OpenGVLab)")
        assert entry.url.startswith(f"https://huggingface.co/OpenGVLab/{project}/resolve/main/")
        if entry.published:
            assert entry.file == f"{entry.name}.pth" and "ADE20K" in entry.license and entry.research_only
        else:
            assert entry.file.startswith(entry.name.replace("flash_internimage", "flash_intern_image") + "_")
    assert len({entry.file for entry in ENTRIES}) == len(ENTRIES)


def test_what_the_authors_of_unified_perceptual_parsing_published() -> None:
    host = "http://sceneparsing.csail.mit.edu/model/"
    entry = zoo_entry(UPP)
    assert entry is not None and entry.research_only and "Broden+" in entry.license
    assert [(part.url, part.file) for part in entry.files] == [
        (
            f"{host}unified_perceptual_parsing/upp-resnet50-upernet/{half}_epoch_40.pth",
            f"upp_resnet50_upernet/{half}_epoch_40.pth",
        )
        for half in ("encoder", "decoder")
    ]
    for name in DEEP_RESNETS:
        entry = zoo_entry(name)
        assert entry is not None and not entry.research_only
        assert entry.url == f"{host}pretrained_resnet/{name.removesuffix('_deep')}-imagenet.pth"


def test_both_files_of_a_model_are_fetched_into_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPERNET_HOME", str(tmp_path / "home"))
    urls = [(tmp_path / f"{half}_epoch_1.pth").as_uri() for half in ("encoder", "decoder")]
    (tmp_path / "encoder_epoch_1.pth").write_bytes(b"first")
    entry = ZooEntry(name="pair", url=urls[0], decoder=ZooFile(url=urls[1]), license="free")
    folder = tmp_path / "home" / "checkpoints" / "pair"
    with pytest.raises(UpernetError, match="decoder_epoch_1") as error:
        fetch(entry)
    assert str(error.value).endswith(f"or fetch it by hand and put it at {folder}/decoder_epoch_1.pth.")
    assert not is_downloaded(entry)
    (tmp_path / "decoder_epoch_1.pth").write_bytes(b"second")
    path = fetch(entry)
    assert path == folder / "encoder_epoch_1.pth" and is_downloaded(entry)
    assert [(path.parent / f"{half}_epoch_1.pth").read_bytes() for half in ("encoder", "decoder")] == [
        b"first",
        b"second",
    ]
    monkeypatch.setenv("UPERNET_MIRROR", "https://mirror.invalid/weights/")
    mirrored = [f"https://mirror.invalid/weights/pair/{half}_epoch_1.pth" for half in ("encoder", "decoder")]
    assert [addresses(part) for part in entry.files] == [(url,) for url in mirrored]


def test_a_model_of_two_files_that_cannot_be_downloaded_names_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPERNET_HOME", str(tmp_path))
    urls = [(tmp_path / f"{half}_epoch_1.pth").as_uri() for half in ("encoder", "decoder")]
    entry = ZooEntry(name="pair", url=urls[0], decoder=ZooFile(url=urls[1]), license="free")
    place = f"put them into {tmp_path}/checkpoints/pair."
    with pytest.raises(UpernetError) as error:
        fetch(entry)
    assert str(error.value).endswith(f"or fetch {urls[0]} and {urls[1]} by hand and {place}")
    monkeypatch.setenv("UPERNET_OFFLINE", "1")
    with pytest.raises(UpernetError) as error:
        fetch("upp_resnet50_upernet")
    assert "encoder_epoch_40.pth and http://" in str(error.value) and "decoder_epoch_40.pth on" in str(error.value)
    assert str(error.value).endswith(f"put them into {tmp_path}/checkpoints/upp_resnet50_upernet.")


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


@pytest.fixture(scope="module", params=COUNTED)
def counted(request: pytest.FixtureRequest) -> tuple[ZooEntry, int, int]:
    entry = zoo_entry(request.param)
    assert entry is not None and entry.published is not None
    size = model_size(entry.name)
    assert size.macs_at == entry.published.macs_at
    return entry, size.params, size.macs


def test_the_networks_are_as_large_as_published(counted: tuple[ZooEntry, int, int]) -> None:
    entry, params, macs = counted
    assert entry.published is not None
    assert params == pytest.approx(entry.published.params, rel=5e-3)
    assert macs == pytest.approx(entry.published.macs, rel=5e-3)


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
