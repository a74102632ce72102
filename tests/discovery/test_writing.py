"""Tests of upernet.discovery.writing and upernet.discovery.report: what the files of a discovery hold."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any
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
    names = (
        "-",
        "</script><script>document.title='x'</script>",
        "<!--<b>&amp;\x1b[31m\x00",
        "\ufffe\uffff",
        '=HYPERLINK("http://example.com")',
    )
    parses = []
    for number in range(3):
        labels = np.random.default_rng(number).integers(0, 5, (40, 40))
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
    with open(tmp_path / "relations.csv", newline="", encoding="utf-8") as file:
        names = {row["a"] for row in csv.DictReader(file)}
    assert not any("\x1b" in name or name[:1] in "=+-@" for name in names)
    assert '\'=HYPERLINK("http://example.com")' in names


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_report_is_drawn_in_a_browser(found: Discovery, tmp_path: Path):
    write(found, tmp_path, ["report"])
    write(strange(tmp_path), tmp_path / "strange", ["report"])
    for page, rows in ((tmp_path / "report.html", 2), (tmp_path / "strange" / "report.html", 4)):
        command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
        dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
        assert "<title>What goes with what</title>" in dom
        assert len(re.findall("<tr tabindex", dom)) == rows
        assert len(re.findall("<path ", dom)) == rows
        assert f"{rows} of {rows} relations" in dom


def in_browser(page: Path, script: str, folder: Path) -> Any:
    """Return what a script gives that runs in a report, in a browser without a window."""
    text = page.read_text(encoding="utf-8")
    run = f"document.body.dataset.result = JSON.stringify((() => {{ {script} }})());"
    changed = folder / f"run-{page.name}"
    changed.write_text(text.replace("</body>", f"<script>{run}</script></body>"), encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += [f"--user-data-dir={folder / 'profile'}", "--dump-dom", changed.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    match = re.search(r'data-result="([^"]*)"', dom)
    assert match, "the script failed"
    return json.loads(html.unescape(match[1]))


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_report_filters_sorts_and_keeps_the_focus(found: Discovery, tmp_path: Path):
    write(found, tmp_path, ["report"])
    script = """
    const press = (target) => { target.focus(); target.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" })); };
    const rows = () => [...document.querySelectorAll("tbody tr")].map((row) => row.dataset.key);
    const result = { rows: [], focus: [] };
    const note = () => { result.rows.push(rows()); result.focus.push(document.activeElement.dataset.key ?? null); };
    find("pairs").querySelectorAll("button")[2].click();  // object - material
    note();
    result.detail = find("detail").querySelector("h2").textContent;
    const sort = document.querySelector('[data-key="sort a"]');
    sort.focus();
    sort.click();
    note();
    press(document.querySelector('[data-key="a car"]'));
    note();
    press(document.querySelector('tbody tr'));
    note();
    result.unchosen = find("detail").querySelector("h2") === null;
    find("reset").click();
    find("search").value = "skin";
    find("search").dispatchEvent(new Event("input"));
    note();
    result.caption = find("caption").textContent;
    return result;
    """
    result = in_browser(tmp_path / "report.html", script, tmp_path)
    car, person = "row car metal", "row person skin"
    assert result["rows"] == [[car, person], [car, person], [car], [car], [person]]
    assert result["focus"][1:4] == ["sort a", "a car", car]
    assert result["detail"].startswith("car ") and not result["unchosen"]
    assert result["caption"].startswith("1 of 2 relations in 5 photos")


def many(count: int) -> Discovery:
    """Return a discovery of `count` relations of classes with long names, most of which are hardly known."""
    names = [f"a class with a very long name that no graph has room for {number}" for number in range(count)]
    values: dict[str, Any] = {each.name: 0.5 for each in fields(Relation)}
    values |= {"pair": "object-material", "photos": 9, "photos_a": 8, "photos_b": 7}
    relations = tuple(
        Relation(
            **values | {"a": name, "b": names[number // 70], "support": 3 + number % 5, "known_share": number / count}
        )
        for number, name in enumerate(names)
    )
    settings = {"min_support": 3, "min_area": 0.001, "resamples": 100, "seed": 0}
    return Discovery(relations, {"object-material": 9}, settings, 9, {"one": 5, "<b>two": 4}, (), {})


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_report_of_thousands_of_relations_says_what_it_leaves_out(tmp_path: Path):
    write(many(5000), tmp_path, ["report"])
    script = """
    const state = () => [find("caption").textContent, document.querySelectorAll("tbody tr").length,
      document.querySelectorAll("path").length, document.querySelectorAll("path.little").length];
    const all = state();
    find("known").click();
    const fits = document.documentElement.scrollWidth <= window.innerWidth;
    return [all, state(), fits, document.querySelector("b")?.textContent];
    """
    (caption, rows, lines, little), (known, *_, none_little), fits, bold = in_browser(
        tmp_path / "report.html", script, tmp_path
    )
    assert caption.startswith("5000 of 5000 relations in 9 photos; the graph shows the 120 with the highest score")
    assert "the table shows the first 500" in caption and rows == 500 and lines == 120 and little > 0
    assert known.startswith("2500 of 5000 relations") and none_little == 0 and fits and bold == "Photos"
    assert "by 2 models (photos by one: 5, &lt;b&gt;two: 4)" in (tmp_path / "report.html").read_text(encoding="utf-8")


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
