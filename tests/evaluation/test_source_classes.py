"""Tests of how a source that knows fewer classes than the taxonomy is scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.color_network import BLUE, GREEN, RED, VIOLET, color_network, halves, recipe, save

from upernet.evaluation import evaluate


def test_the_mean_runs_over_the_classes_that_the_source_can_show(tmp_path: Path) -> None:
    # Half of the sky is predicted as a tree, which the source does not label: an error, but no class with an IoU of 0.
    folder = tmp_path / "set" / "test"
    save(folder / "images" / "a.png", halves(RED, GREEN))
    save(folder / "annotations" / "a.png", np.zeros((16, 16), np.uint8))
    sources = {"set": {"kind": "mask_folder", "path": "set/{split}", "level": "object", "classes": {"0": "sky"}}}
    result = evaluate(color_network(), recipe(**sources), tmp_path)
    metrics = result.sources["set"]["object"].pixels
    assert metrics is not None
    assert metrics.miou == pytest.approx(0.5) and metrics.pixel_accuracy == pytest.approx(0.5)
    assert list(metrics.per_class) == ["sky"]


def test_a_prediction_of_one_of_several_classes_counts_as_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "test"
    save(folder / "images" / "a.png", halves(RED, GREEN))
    save(folder / "annotations" / "a.png", np.zeros((16, 16), np.uint8))
    source = {"kind": "mask_folder", "path": "set/{split}", "level": "object", "classes": {"0": ["sky", "tree"]}}
    metrics = evaluate(color_network(), recipe(set=source), tmp_path).sources["set"]["object"].pixels
    assert metrics is not None and metrics.miou == 1
    # where trees are labeled, a tree is a tree
    save(folder / "images" / "b.png", halves(GREEN, GREEN))
    save(folder / "annotations" / "b.png", np.ones((16, 16), np.uint8))
    source["classes"] = {"0": ["sky", "tree"], "1": "tree"}
    metrics = evaluate(color_network(), recipe(set=source), tmp_path).sources["set"]["object"].pixels
    assert metrics is not None and metrics.per_class["sky"].iou == pytest.approx(0.5)


def test_parts_that_are_one_of_several_count_as_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "test"
    save(folder / "images" / "a.png", halves(BLUE, VIOLET))
    save(folder / "annotations" / "a.png", np.zeros((16, 16), np.uint8))
    source = {
        "kind": "mask_folder",
        "path": "set/{split}",
        "level": "part",
        "classes": {"0": ["head", "body"]},
        "implies": {"object": {"*": "person"}},
    }
    metrics = evaluate(color_network(), recipe(set=source), tmp_path).sources["set"]["part"].parts
    assert metrics is not None and metrics.miou == 1
    assert list(metrics.per_class) == ["person/head"]
