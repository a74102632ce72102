"""Tests of upernet.discovery: counts and scores against plain computations, order, streaming, resuming, bad input."""

from __future__ import annotations

import gc
import itertools
import json
import math
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import pytest
from helpers.small_parses import NAMES, SCENES, parse_of, save_parses
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

import upernet
from upernet import Discovery, Parse, UpernetError
from upernet.discovery.intervals import photo_weights, wilson

SIDE = 4
LEVELS = ("object", "part", "material", "texture")


def random_parse(seed: int, path: str | None = None) -> Parse:
    """Return a parse whose materials follow its objects, and whose other labels are random; some are unsure."""
    generator = np.random.default_rng(seed)
    maps = {level: generator.integers(-1, len(NAMES[level]), (SIDE, SIDE)) for level in LEVELS}
    follow = generator.random((SIDE, SIDE)) < 0.7
    maps["material"] = np.where(follow & (maps["object"] > 0), maps["object"] - 1, maps["material"])
    scene = [*SCENES, None][seed % 3]
    return parse_of(maps, scene, path or f"{seed}.jpg")


PAIRS = tuple(itertools.combinations(("scene", *LEVELS), 2))


def plain_relations(
    parses: list[Parse], min_area: float, weights: np.ndarray | None = None, pairs: tuple[tuple[str, str], ...] = PAIRS
) -> dict:
    """Compute the scores of every relation pixel by pixel, with Python's numbers; each photo may have a weight."""
    weights = np.ones(len(parses)) if weights is None else weights
    sums: dict = {}
    for parse, weight in zip(parses, weights, strict=True):
        pixels = parse.photo.width * parse.photo.height
        known: dict[str, list[str | None]] = {}
        for level, label_map in parse.maps.items():
            known[level] = [
                "unsure" if label == -1 else None if label_map.background and label == 0 else label_map.names[label]
                for label in label_map.labels.ravel()
            ]
        known["scene"] = [parse.scene[0][0] if parse.is_sure("scene") else "unsure"] * pixels
        for a, b in pairs:
            both = [(x, y) for x, y in zip(known[a], known[b], strict=True) if "unsure" not in (x, y)]
            if a == "scene" and not parse.is_sure("scene"):
                continue
            pair = sums.setdefault(f"{a}-{b}", {})
            shares: dict = {("all",): len(both) / pixels}
            unsure = [x for x, y in zip(known[a], known[b], strict=True) if y == "unsure" and x != "unsure"]
            for keys in (*((("a", x), ("b", y), (x, y)) for x, y in both), *((("unsure", x),) for x in unsure)):
                for key in keys:
                    shares[key] = shares.get(key, 0) + 1 / pixels
            for key, share in shares.items():
                count, area = pair.get(key, (0, 0))
                present = share > min_area - 1e-9 or key == ("all",) or (a == "scene" and key[0] == "a")
                pair[key] = count + weight * present, area + weight * share
    found = {}
    for pair, values in sums.items():
        photos, area = values["all",]
        for (x, y), (support, shared) in (
            (k, v) for k, v in values.items() if len(k) == 2 and k[0] not in ("a", "b", "unsure")
        ):
            if None in (x, y) or not support:
                continue
            (photos_a, area_a), (photos_b, area_b) = values["a", x], values["b", y]
            lift, area_lift = support * photos / (photos_a * photos_b), shared * area / (area_a * area_b)
            known_share = area_a / (area_a + values.get(("unsure", x), (0, 0))[1])
            found[pair, x, y] = (photos, photos_a, photos_b, support, lift, shared / area_a, area_lift, known_share)
    return found


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=6, unique=True), st.sampled_from([0.0, 0.1, 0.25]))
def test_scores_are_those_of_a_plain_computation(seeds: list[int], min_area: float):
    parses = [random_parse(seed) for seed in seeds]
    found = upernet.discover(parses, min_support=1, min_area=min_area, resamples=100)
    plain = plain_relations(parses, min_area)
    assert {(each.pair, each.a, each.b) for each in found.relations} == {
        key for key in plain if key[0] not in ("part-texture", "object-texture", "scene-texture")
    }
    for each in found.relations:
        photos, photos_a, photos_b, support, lift, area_share, area_lift, known = plain[each.pair, each.a, each.b]
        assert (each.photos, each.photos_a, each.photos_b, each.support) == (photos, photos_a, photos_b, support)
        assert each.frequency == support / photos_a and each.base_frequency == photos_b / photos
        assert each.lift == pytest.approx(lift) and each.pmi == pytest.approx(math.log2(lift))
        assert each.known_share == pytest.approx(known, rel=1e-5)
        assert each.area_share == pytest.approx(area_share, rel=1e-5)
        assert each.area_lift == pytest.approx(area_lift, rel=1e-5)
        assert each.area_pmi == pytest.approx(math.log2(area_lift), abs=1e-5)
        for name in ("frequency", "lift", "area_share", "area_lift"):
            low, value, high = (getattr(each, name + end) for end in ("_low", "", "_high"))
            assert low <= value <= high


def test_planted_knowledge_is_found_and_chance_is_not():
    found = upernet.discover((random_parse(seed) for seed in range(80)), min_area=0.01)
    scores = {(each.a, each.b): each for each in found.of("object-material")}
    for planted in (("car", "metal"), ("person", "skin"), ("tree", "foliage")):
        assert scores[planted].area_lift_low > 1.5 and scores[planted].area_share > 0.6
    assert all(scores[a, b].area_lift_high < 1 for a, b in (("car", "skin"), ("tree", "metal")))
    assert all(each.lift_low <= 1 <= each.lift_high for each in found.of("scene-part"))


@given(st.integers(1, 200), st.data())
def test_wilson_interval_is_scipys(trials: int, data: st.DataObject):
    successes = data.draw(st.integers(0, trials))
    expected = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert wilson(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_bootstrap_intervals_are_quantiles_over_reweighted_photos():
    parses = [random_parse(seed) for seed in range(30)]
    found = upernet.discover(parses, min_area=0.1, resamples=200, seed=7)
    weights = np.stack([photo_weights(str(parse.path), 200, 7) for parse in parses])
    samples = [plain_relations(parses, 0.1, row, (("object", "material"),)) for row in weights.T]
    for each in found.of("object-material"):
        for name, position in (("lift", 4), ("area_share", 5), ("area_lift", 6)):
            key = each.pair, each.a, each.b
            values = [sample[key][position] if key in sample else 0.0 for sample in samples]
            low, high = np.quantile(values, (0.025, 0.975))
            assert (getattr(each, name + "_low"), getattr(each, name + "_high")) == pytest.approx(
                (min(low, getattr(each, name)), max(high, getattr(each, name))), rel=1e-5
            )


def test_bootstrap_intervals_are_close_to_those_of_drawing_photos():
    parses = [random_parse(seed) for seed in range(60)]
    found = upernet.discover(parses, min_area=0.1, resamples=2000, min_support=25)
    drawn = np.random.default_rng(0).multinomial(60, np.full(60, 1 / 60), 300)
    samples = [plain_relations(parses, 0.1, row, (("object", "material"),)) for row in drawn]
    assert sum(1 for _ in found.of("object-material")) == 3
    for each in found.of("object-material"):
        low, high = np.quantile([sample[each.pair, each.a, each.b][5] for sample in samples], (0.025, 0.975))
        assert each.area_share_low == pytest.approx(low, abs=0.3 * (high - low))
        assert each.area_share_high == pytest.approx(high, abs=0.3 * (high - low))


def test_draws_of_photos_have_mean_and_variance_one():
    draws = np.stack([photo_weights(str(number), 1000, 0) for number in range(50)])
    assert draws.mean() == pytest.approx(1, abs=0.02) and draws.var() == pytest.approx(1, abs=0.03)
    assert not np.array_equal(photo_weights("a", 100, 0), photo_weights("a", 100, 1))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_parses(tmp_path, {f"p{seed}": random_parse(seed) for seed in range(7)})


def relations(found: Discovery) -> list[dict]:
    return [each.to_dict() for each in found.relations]


def test_result_depends_on_nothing_but_the_parses(saved: Path, tmp_path: Path):
    first = upernet.discover(saved)
    parses = [random_parse(seed, str(tmp_path / "photos" / f"p{seed}.png")) for seed in range(7)]
    shuffled = upernet.discover([parses[i] for i in (3, 0, 6, 2, 5, 1, 4)])
    assert relations(shuffled) == relations(upernet.discover(parses))
    shutil.copytree(saved, tmp_path / "moved" / "parses")
    assert relations(upernet.discover(tmp_path / "moved" / "parses")) == relations(first)
    assert [(each.a, each.b, each.support) for each in shuffled.relations] == [
        (each.a, each.b, each.support) for each in first.relations
    ]


def test_a_later_run_reads_only_what_is_new_or_has_changed(saved: Path, tmp_path: Path):
    out = tmp_path / "out"
    before = upernet.discover(saved, out)
    for name in ("p0", "p1", "p2"):
        (saved / name / "object.png").unlink()  # would fail if it was read again
    assert relations(upernet.discover(saved, out)) == relations(before)
    shutil.rmtree(saved / "p0")
    save_parses(tmp_path, {"p1": random_parse(11), "new": random_parse(12)})
    (saved / "p2" / "parse.json").touch()
    errors: list[str] = []
    found = upernet.discover(saved, out, on_error=lambda parse, error: errors.append(str(error)))
    assert found.counted == 6 and len(errors) == 1 and "p2" in errors[0] and "--save labels" in errors[0]
    fresh = upernet.discover(saved, tmp_path / "fresh", on_error=lambda parse, error: None)
    assert relations(fresh) == relations(found)


def test_an_interrupted_run_is_continued(saved: Path, tmp_path: Path):
    def stop(done: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upernet.discover(saved, tmp_path / "out", progress=stop)
    (saved / "p1" / "object.png").unlink()
    assert upernet.discover(saved, tmp_path / "out").counted == 7


def test_parses_are_not_kept_in_memory():
    alive: WeakSet[Parse] = WeakSet()

    def stream() -> Iterator[Parse]:
        for seed in range(12):
            gc.collect()
            assert len(alive) <= 2
            parse = random_parse(seed)
            alive.add(parse)
            yield parse

    assert upernet.discover(stream(), resamples=100).counted == 12


def test_classes_of_all_photos_without_a_sure_scene_are_still_related():
    found = upernet.discover([random_parse(2), random_parse(5)], min_support=1, resamples=100)
    assert not any(pair.startswith("scene") for pair in found.pairs) and "object-material" in found.pairs


def test_small_overlaps_do_not_count_as_present_but_keep_their_area():
    object_ = np.zeros((10, 10), int)
    object_[:5] = 1
    material = np.zeros((10, 10), int)
    material[0, 0] = 1
    parses = [parse_of({"object": object_, "material": material}, path=f"{i}") for i in range(2)]
    found = upernet.discover(parses, min_support=1, min_area=0.02, resamples=100)
    assert [(each.a, each.b) for each in found.of("object-material")] == [("car", "metal")]
    assert next(found.of("object-material")).area_share == pytest.approx(0.98)
    assert next(found.of("object-material")).base_area_share == pytest.approx(0.99)


def damage(folder: Path, how: str) -> str:
    """Damage a saved parse, and return what the error must say."""
    json_file, png = folder / "parse.json", folder / "object.png"
    content = json.loads(json_file.read_text())
    if how == "no labels":
        png.unlink()
        return "--save labels"
    if how == "broken png":
        png.write_bytes(png.read_bytes()[:40])
        return "object.png"
    if how == "not json":
        json_file.write_text("{")
        return "parse.json: cannot be read"
    if how == "list":
        json_file.write_text("[]")
        return "is not what `upernet parse` writes"
    if how == "no levels":
        json_file.write_text(json.dumps({key: content[key] for key in ("path", "model", "width", "height")}))
        return "no level"
    content |= {"other size": {"width": 5}, "no width": {"width": None}}.get(how, {})
    if how == "few names":
        content["object"]["names"] = ["-"]
    if how == "names of another type":
        content["object"]["names"] = 7
    json_file.write_text(json.dumps(content))
    return {"other size": "5 x 4", "no width": "width is missing", "few names": "names 1 classes"}.get(how, "names")


@pytest.mark.parametrize(
    "how",
    [
        "no labels",
        "broken png",
        "not json",
        "list",
        "no levels",
        "other size",
        "no width",
        "few names",
        "names of another type",
    ],
)
def test_a_damaged_parse_is_named_and_the_others_count(saved: Path, how: str):
    says = damage(saved / "p3", how)
    with pytest.raises(UpernetError, match="p3"):
        upernet.discover(saved)
    found = upernet.discover(saved, on_error=lambda parse, error: None)
    assert found.counted == 6
    ((parse, error),) = found.failures
    assert parse.endswith("p3") and says in error and error.count("\n") == 0


def test_a_photo_counts_once(saved: Path):
    shutil.copytree(saved / "p1", saved / "twin")
    content = json.loads((saved / "twin" / "parse.json").read_text())
    (saved / "twin" / "parse.json").write_text(json.dumps(content))
    found = upernet.discover(saved, on_error=lambda parse, error: None)
    assert found.counted == 7 and "another parse of the photo of p1" in found.failures[0][1]


def test_what_cannot_be_done_is_said(saved: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for wrong, says in ((tmp_path / "empty", "no saved parse"), (tmp_path / "missing", "no such folder")):
        with pytest.raises(UpernetError, match=says):
            upernet.discover(wrong)
    wrong_values: dict[str, Any] = {"min_support": 0, "min_area": 1.5, "resamples": 1, "examples": -1}
    for name, value in wrong_values.items():
        with pytest.raises(UpernetError, match=f"{name} {value}"):
            upernet.discover(saved, **{name: value})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "counts.sqlite").write_text("something else, which is long enough to be no database at all")
    with pytest.raises(UpernetError, match=r"counts.sqlite: .*remove"):
        upernet.discover(saved, tmp_path / "out")


def test_files_without_the_background_key_are_read(saved: Path):
    expected = relations(upernet.discover(saved))
    for file in saved.glob("*/parse.json"):
        content = json.loads(file.read_text())
        for level in LEVELS:
            del content[level]["background"]
        file.write_text(json.dumps(content))
    assert relations(upernet.discover(saved)) == expected


def test_a_twin_that_appears_later_counts_as_in_a_first_run(saved: Path, tmp_path: Path):
    upernet.discover(saved, tmp_path / "out")
    shutil.copytree(saved / "p3", saved / "a")  # comes before its twin p3, which is counted already
    failures: list[tuple[str, ...]] = []
    for out in (tmp_path / "out", tmp_path / "fresh"):
        found = upernet.discover(saved, out, on_error=lambda parse, error: None)
        assert found.counted == 7
        failures.append(found.failures[0])
    assert failures[0] == failures[1] and "p3" in failures[0][0]


def test_two_runs_into_one_folder_do_not_mix(saved: Path, tmp_path: Path):
    errors: list[str] = []

    def start_another(done: int) -> None:
        if done == 3:
            with pytest.raises(UpernetError) as caught:
                upernet.discover(saved, tmp_path / "out")
            errors.append(str(caught.value))

    expected = relations(upernet.discover(saved))
    assert relations(upernet.discover(saved, tmp_path / "out", progress=start_another)) == expected
    assert len(errors) == 1 and "another run" in errors[0]
    assert relations(upernet.discover(saved, tmp_path / "out")) == expected


def test_another_folder_beside_the_first_does_not_count_it_again(saved: Path, tmp_path: Path):
    upernet.discover(saved, tmp_path / "out")
    for file in saved.glob("*/object.png"):
        file.unlink()  # would fail if it was read again
    more = save_parses(tmp_path / "more", {"q": random_parse(20)})
    assert upernet.discover([saved, more], tmp_path / "out").counted == 8


def test_a_parse_that_vanishes_is_named(saved: Path):
    (saved / "p2" / "parse.json").unlink()
    (saved / "p2" / "parse.json").symlink_to(saved / "missing")
    found = upernet.discover(saved, on_error=lambda parse, error: None)
    assert found.counted == 6 and found.failures[0][0].endswith("p2")


@pytest.mark.parametrize("how", ["page", "counts"])
def test_a_damaged_file_of_counts_is_refused(saved: Path, tmp_path: Path, how: str):
    upernet.discover(saved, tmp_path / "out")
    file = tmp_path / "out" / "counts.sqlite"
    if how == "page":
        content = bytearray(file.read_bytes())
        content[4096:] = b"\xff" * (len(content) - 4096)
        file.write_bytes(content)
    else:
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("UPDATE photos SET counts = '{\"a\": 1}'")
    with pytest.raises(UpernetError, match=r"counts\.sqlite: .*remove"):
        upernet.discover(saved, tmp_path / "out")


def test_how_much_of_a_class_is_known_at_the_other_level():
    object_, material = np.ones((10, 10), int), np.zeros((10, 10), int)
    material[3:] = -1
    parses = [parse_of({"object": object_, "material": material}, path=str(number)) for number in range(3)]
    (found,) = upernet.discover(parses, resamples=100).of("object-material")
    assert found.area_share == 1 and found.known_share == pytest.approx(0.3)
    (of_scene,) = upernet.discover(parses, resamples=100).of("scene-material")
    assert of_scene.known_share == pytest.approx(0.3)


def test_parses_of_several_models_are_told_apart(saved: Path):
    assert upernet.discover(saved).models == {"small": 7}
    for name in ("p1", "p2"):
        file = saved / name / "parse.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"model": "other"}))
    assert upernet.discover(saved).models == {"other": 2, "small": 5}


KILLED = """
import os, signal, sys, upernet
def stop(done):
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)
upernet.discover(sys.argv[1], sys.argv[2], progress=stop)
"""


@pytest.mark.slow
@pytest.mark.process
def test_a_killed_run_is_continued(saved: Path, tmp_path: Path):
    process = subprocess.run([sys.executable, "-c", KILLED, str(saved), str(tmp_path / "out")], check=False)
    assert process.returncode == -signal.SIGKILL
    assert relations(upernet.discover(saved, tmp_path / "out")) == relations(upernet.discover(saved))
