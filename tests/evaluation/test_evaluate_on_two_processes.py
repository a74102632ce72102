"""Tests of upernet.evaluation on two processes, compared with one process."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.color_network import BLUE, GREEN, RED, VIOLET, color_network, halves, recipe, save

from upernet.evaluation import ConfusionMatrix, calibrate, evaluate
from upernet.evaluation.photo_counts import PhotoCounts
from upernet.recipe import CalibrationSpec, Recipe


def settings() -> Recipe:
    people = {
        "kind": "mask_folder",
        "path": "parts/{split}",
        "level": "part",
        "implies": {"object": {"*": "person"}},
        "splits": {"test": "test", "held_back": "test"},
    }
    scenes = {
        "kind": "label_folder",
        "path": "scenes/{split}",
        "level": "scene",
        "splits": {"test": "test", "held_back": "test"},
    }
    # One photo of a scene only: one of the processes gets none.
    return recipe(people=people, scenes=scenes).model_copy(
        update={"calibration": CalibrationSpec(target_precision={"scene": 0.6, "part": 0.3})}
    )


def write_data(folder: Path) -> None:
    random = np.random.default_rng(0)
    (folder / "parts").mkdir()
    (folder / "parts" / "labels.txt").write_text("1\thead\n2\tbody\n")
    for number in range(5):
        save(folder / "parts" / "test" / "images" / f"{number}.png", halves(BLUE, VIOLET))
        truth = random.integers(1, 3, (16, 16)).astype(np.uint8)
        save(folder / "parts" / "test" / "annotations" / f"{number}.png", truth)
    save(folder / "scenes" / "test" / "beach" / "a.png", halves(RED, GREEN))


def process(rank: int, data: str, out: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{out}/store"
    limit = timedelta(minutes=5)
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=limit)
    matrix = ConfusionMatrix(3)
    for row in range(rank, 4, 2):
        matrix.update(torch.full((2,), 2), torch.tensor([row % 3, -1]))
    result = evaluate(color_network(), settings(), data)
    assert result.counts is not None
    thresholds = asdict(calibrate(color_network(), settings(), data))
    if rank == 1:
        result.counts.save(Path(out, "photos.npz"))
    values = {"counts": matrix.reduce().counts.tolist(), "result": result.to_dict(), "thresholds": thresholds}
    Path(out, f"{rank}.json").write_text(json.dumps(values))
    torch.distributed.destroy_process_group()


@pytest.mark.process
@pytest.mark.slow
def test_two_processes_return_what_one_does(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    out.mkdir()
    write_data(data)
    alone = evaluate(color_network(), settings(), data)
    torch.multiprocessing.spawn(process, (str(data), str(out)), nprocs=2)  # type: ignore[attr-defined]
    first, second = (json.loads((out / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["counts"] == [[0, 0, 2, 0], [0, 0, 1, 0], [0, 0, 1, 0]]
    assert first["result"] == json.loads(json.dumps(alone.to_dict()))
    assert first["result"]["photos"] == {"people": 5, "scenes": 1}
    counts = PhotoCounts.load(out / "photos.npz")
    assert alone.counts is not None and counts.photos == alone.counts.photos
    for level, expected in zip(counts.levels, alone.counts.levels, strict=True):
        assert (level.level, level.names) == (expected.level, expected.names)
        assert np.array_equal(level.cells, expected.cells)
    assert first["thresholds"] == asdict(calibrate(color_network(), settings(), data))
