"""Tests of the HTTP interface: what comes back for a photo in each format, and what the server says of itself."""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from helpers.server import (
    PARSE,
    GatedParser,
    photo,
    post,
)
from PIL import Image

import upernet
from upernet.inference.label_map import UNSURE
from upernet.rle import decode


@pytest.fixture
def expected(colors: GatedParser) -> upernet.Parse:
    """Return what the parser alone says of the photo."""
    return colors(photo())


def test_json_is_the_parse(client: httpx.Client, expected: upernet.Parse):
    answer = post(client)
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    found = answer.json()
    alone = json.loads(json.dumps(expected.to_dict()))
    assert {key: found[key] for key in alone if key != "path"} == {key: alone[key] for key in alone if key != "path"}
    assert found["path"] is None and found["levels"] == list(expected.levels)
    assert found["seconds"]["batch"] == 1 and found["seconds"]["network"] > 0
    assert re.fullmatch(r"queue;dur=[\d.]+, network;dur=[\d.]+", answer.headers["server-timing"])
    assert answer.headers["cache-control"] == "no-store"


def test_what_json_can_include(client: httpx.Client, expected: upernet.Parse):
    found = post(client, include=["labels", "confidence", "pixels", "rle", "photo"]).json()

    def image(text: str) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))).astype(int)

    assert image(found["photo"]).shape == (64, 96, 3)
    assert set(found["maps"]) == set(expected.maps)
    for level, label_map in expected.maps.items():
        maps = found["maps"][level]
        labels = np.where(label_map.labels == UNSURE, 255, label_map.labels)
        assert (image(maps["labels"]) == labels).all()
        assert abs(image(maps["confidence"]) - 255 * label_map.confidence).max() <= 0.5
        red, green, blue = np.moveaxis(image(maps["pixels"]), 2, 0)
        coded = red + 256 * green
        assert (np.where(coded == 65535, UNSURE, coded) == label_map.labels).all()
        assert abs(blue - 255 * label_map.confidence).max() <= 0.5
        for run in maps["rle"]:
            assert (decode(run["segmentation"]) == label_map.mask(run["name"])).all()
        assert sum(decode(run["segmentation"]).sum() for run in maps["rle"]) == label_map.labels.size


def test_png_is_the_label_map_of_a_level(client: httpx.Client, expected: upernet.Parse):
    for levels, level in ("object,part", "object"), ("material", "material"), ("scene,part", "part"):
        answer = post(client, format="png", levels=levels)
        assert answer.headers["content-type"] == "image/png"
        labels = np.asarray(Image.open(io.BytesIO(answer.content))).astype(int)
        assert (np.where(labels == 255, UNSURE, labels) == expected[level].labels).all()


def test_coco_has_the_regions_of_a_level(client: httpx.Client, expected: upernet.Parse):
    found = post(client, format="coco", levels="texture").json()
    assert found == json.loads(json.dumps(expected.to_coco("texture")))


def test_zip_has_the_files_of_a_parse(client: httpx.Client, expected: upernet.Parse, tmp_path: Path):
    files = {"file": ("my photo.png", photo(), "image/png")}
    answer = client.post(PARSE, params={"format": "zip"}, files=files)
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == 'attachment; filename="my photo.zip"'
    saved = expected.save(tmp_path)
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert sorted(archive.namelist()) == sorted(path.name for path in saved.iterdir())
        assert archive.read("object.png") == (saved / "object.png").read_bytes()
        assert json.loads(archive.read("parse.json"))["path"] == "my photo.png"


def test_a_zip_whose_temporary_folder_cannot_be_written_says_so(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    answer = post(client, format="zip")
    assert answer.status_code == 503 and answer.headers["retry-after"] == "60"
    assert "temporary folder of the server" in answer.json()["error"]
    assert str(tmp_path) not in answer.text


def test_levels_and_max_side(client: httpx.Client):
    found = post(client, levels=["texture,scene", "object"], max_side=48).json()
    assert found["levels"] == ["scene", "object", "texture"]
    assert (found["width"], found["height"]) == (48, 32)


def test_models(client: httpx.Client, colors: GatedParser):
    (model,) = client.get("/v1/models").json()
    assert model["name"] == "colors" and model["default"]
    assert [level["name"] for level in model["levels"]] == list(colors.levels)
    details = client.get("/v1/models/colors").json()
    assert details["taxonomy"] == json.loads(json.dumps(colors.model.taxonomy.to_dict()))
    assert client.get("/v1/models/other").status_code == 404


def test_health_readiness_and_documents(client: httpx.Client):
    assert client.get("/health").json()["status"] == "ok"
    assert client.get("/ready").json()["status"] == "ready"
    assert "swagger" in client.get("/docs").text
    assert client.get("/assets/swagger/swagger-ui.css").status_code == 200
    assert client.get("/openapi.json").json()["openapi"].startswith("3.1")
    examples = client.get("/v1/examples").json()
    assert client.get(f"/assets/examples/{examples[0]}").headers["content-type"] == "image/jpeg"
