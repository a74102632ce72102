"""Tests of upernet.discovery.writing and upernet.discovery.report: what the files of a discovery hold."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path
from xml.etree import ElementTree

import networkx
import numpy as np
import pytest
from helpers.small_parses import parse_of, save_parses
from PIL import Image

import upernet
from upernet import Discovery, Relation, UpernetError
from upernet.discovery.writing import check_what, write

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def found(tmp_path: Path) -> Discovery:
    """Find relations of five photos, with a person at the left and metal cars at the right, one row wider each."""
    parses = {}
    for number in range(5):
        labels = np.full((120, 160), 2)
        labels[:, 80 - 10 * number :] = 1
        parses[f"p{number}"] = parse_of({"object": labels, "material": labels - 1}, color=200)
    return upernet.discover(save_parses(tmp_path, parses), resamples=100)


def test_csv_has_a_row_per_relation_with_all_digits(found: Discovery, tmp_path: Path):
    write(found, tmp_path, ["csv"])
    with open(tmp_path / "relations.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["pair"] for row in rows] == ["scene-object"] * 2 + ["scene-material"] * 2 + ["object-material"] * 2
    for row, relation in zip(rows, found.relations, strict=True):
        assert list(row) == [field.name for field in fields(Relation)]
        for name, value in relation.to_dict().items():
            assert row[name] == value if isinstance(value, str) else float(row[name]) == value


def test_parquet_has_the_same_table(found: Discovery, tmp_path: Path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write(found, tmp_path, ["parquet"])
    assert parquet.read_table(tmp_path / "relations.parquet").to_pylist() == [
        each.to_dict() for each in found.relations
    ]


def test_dataframe_has_the_same_table(found: Discovery):
    frame = found.to_dataframe()
    assert frame.to_dict("records") == [each.to_dict() for each in found.relations]


def test_graphml_is_read_by_networkx(found: Discovery, tmp_path: Path):
    write(found, tmp_path, ["graphml"])
    graph = networkx.read_graphml(tmp_path / "relations.graphml")
    assert isinstance(graph, networkx.DiGraph)
    assert graph.nodes["object: car"] == {"level": "object", "name": "car"}
    edge = graph.edges["object: car", "material: metal"]
    expected = next(each for each in found.of("object-material") if each.a == "car")
    assert edge == {name: value for name, value in expected.to_dict().items() if name not in ("a", "b")}
    assert graph.number_of_edges() == len(found.relations)


def data_of(page: Path) -> dict:
    text = page.read_text(encoding="utf-8")
    match = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert match
    return json.loads(match[1])


def test_report_has_relations_and_crops_and_needs_no_network(found: Discovery, tmp_path: Path):
    write(found, tmp_path, ["report"])
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["'](?!data:)""", text) and "default-src 'none'" in text
    assert re.findall(r"https?://[^\s\"']+", text) == ["http://www.w3.org/2000/svg"]  # the name of SVG, not an address
    data = data_of(tmp_path / "report.html")
    (pair,) = (each for each in data["pairs"] if each["pair"] == "object-material")
    assert [dict(zip(data["columns"], each["values"], strict=True)) for each in pair["relations"]] == [
        each.to_dict() for each in found.of("object-material")
    ]
    car = next(each for each in pair["relations"] if "car" in each["values"])
    assert [crop["name"] for crop in car["crops"]] == ["p4.png", "p3.png", "p2.png"]  # the largest first
    with Image.open(io.BytesIO(base64.b64decode(car["crops"][0]["jpeg"]))) as crop:
        pixels = np.asarray(crop.convert("L")).astype(int)
    assert max(crop.size) == 220
    middle = pixels[pixels.shape[0] // 2]
    assert abs(middle[-5] - 200) < 5 and middle[2] < 160  # metal of the car as it is, the person faded


def test_report_without_photos_has_no_crops(found: Discovery, tmp_path: Path):
    shutil.rmtree(tmp_path / "photos")
    write(found, tmp_path, ["report"])
    data = data_of(tmp_path / "report.html")
    assert all(not each["crops"] for pair in data["pairs"] for each in pair["relations"])


def strange(tmp_path: Path) -> Discovery:
    """Return relations of classes whose names are code, markup and control characters."""
    names = ("-", "</script><script>document.title='x'</script>", "<!--<b>&amp;\x1b[31m\x00", "\ufffe\uffff")
    parses = []
    for number in range(3):
        labels = np.random.default_rng(number).integers(0, 4, (40, 40))
        parse = parse_of({"object": labels, "material": np.zeros_like(labels)}, path=f"{number}")
        object.__setattr__(parse.maps["object"], "names", names)
        parses.append(parse)
    return upernet.discover(parses, resamples=100)


def test_names_are_never_code(tmp_path: Path):
    found = strange(tmp_path)
    write(found, tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("</script>") == 2 and "\x1b" not in text
    assert "document.title" in str(data_of(tmp_path / "report.html"))
    ElementTree.parse(tmp_path / "relations.graphml")
    assert len(networkx.read_graphml(tmp_path / "relations.graphml").edges) == len(found.relations)
    assert "\x1b" not in (tmp_path / "relations.csv").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_report_is_drawn_in_a_browser(found: Discovery, tmp_path: Path):
    write(found, tmp_path, ["report"])
    write(strange(tmp_path), tmp_path / "strange", ["report"])
    for page, rows in ((tmp_path / "report.html", 2), (tmp_path / "strange" / "report.html", 3)):
        command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
        dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
        assert "<title>What goes with what</title>" in dom
        assert len(re.findall("<tr tabindex", dom)) == rows
        assert len(re.findall("<path ", dom)) == rows
        assert f"{rows} of {rows} relations" in dom


def test_nothing_is_half_written(found: Discovery, tmp_path: Path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UpernetError, match="out"):
        write(found, tmp_path / "out")
    (tmp_path / "blocked" / "report.html").mkdir(parents=True)
    with pytest.raises(UpernetError, match=r"report\.html"):
        write(found, tmp_path / "blocked")
    assert [file.name for file in (tmp_path / "blocked").glob(".*")] == []


def test_unknown_files_are_refused():
    with pytest.raises(UpernetError, match=r"'cvs' cannot be saved \(did you mean 'csv'\?\)"):
        check_what(["cvs"])


def test_no_relations_are_no_error(tmp_path: Path):
    found = upernet.discover([parse_of({"object": np.zeros((4, 4), int), "material": np.zeros((4, 4), int)}, path="a")])
    write(found, tmp_path)
    assert found.relations == () and len((tmp_path / "relations.csv").read_text().splitlines()) == 1
