"""Tests of upernet.evaluation.photo_counts: what was counted in each photo, and the file of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from upernet.errors import UpernetError
from upernet.evaluation import ConfusionMatrix
from upernet.evaluation.photo_counts import Confusion, Kind, Photo, PhotoCounter, PhotoCounts

NAMES = ("sky", "tree", "a \u2028 name, \U0001f333")


def counts(photos: int = 4, seed: int = 0) -> PhotoCounts:
    random = np.random.default_rng(seed)
    counter = PhotoCounter()
    for number in range(photos):
        matrix = ConfusionMatrix(3)
        matrix.update(torch.from_numpy(random.integers(-1, 3, 50)), torch.from_numpy(random.integers(-1, 3, 50)))
        found: dict[tuple[str, Kind], Confusion] = {("object", "pixels"): Confusion(matrix, NAMES, (0, 0, 0))}
        if number % 2:
            image = ConfusionMatrix(2)
            image.update(torch.tensor([1]), torch.tensor([0]))
            found["scene", "labels"] = Confusion(image, ("beach", "night"), (0, 0))
        counter.add(Photo("streets", number, f"streets/{number}.jpg", True), found)
    return counter.result()


def test_matrices_of_photos_add_up_to_that_of_all() -> None:
    level = counts().levels[1]
    total = ConfusionMatrix(3)
    for photo in range(4):
        total += level.matrix([photo])
    assert torch.equal(total.counts, level.matrix().counts) and total.counts.sum() > 100
    true, predicted, correct = level.totals([2, 0])
    for row, photo in enumerate((2, 0)):
        matrix = level.matrix([photo])
        assert true[row].tolist() == matrix.support.tolist()
        assert predicted[row].tolist() == matrix.predicted.tolist()
        assert correct[row].tolist() == matrix.correct.tolist()


def test_a_level_knows_its_photos() -> None:
    found = counts()
    assert [level.photos() for level in found.levels] == [[1, 3], [0, 1, 2, 3]]
    assert [level.title for level in found.levels] == ["scene", "object"]


def test_a_file_holds_everything_without_pickled_objects(tmp_path: Path) -> None:
    found = counts()
    found.save(tmp_path / "photos.npz")
    loaded = PhotoCounts.load(tmp_path / "photos.npz")
    assert loaded.photos == found.photos
    for level, expected in zip(loaded.levels, found.levels, strict=True):
        assert (level.level, level.kind, level.names, level.groups) == (
            expected.level,
            expected.kind,
            expected.names,
            expected.groups,
        )
        assert np.array_equal(level.cells, expected.cells)
    with np.load(tmp_path / "photos.npz", allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)


def test_the_file_is_small(tmp_path: Path) -> None:
    counts(200).save(tmp_path / "photos.npz")
    assert (tmp_path / "photos.npz").stat().st_size < 200 * 100


def broken(**changes: Any) -> dict[str, np.ndarray]:
    level = {"level": "object", "kind": "pixels", "names": ["sky"], "groups": [0]}
    about = {"version": 1, "photos": [["a", 0, "a.jpg", True]], "levels": [level]} | changes
    cells = {f"{column}_0": np.zeros(1, np.int64) for column in ("photo", "true", "predicted", "count")}
    return {"about": np.frombuffer(json.dumps(about).encode(), np.uint8), **cells}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 no archive",
        b"\x93NUMPY",
        {"about": np.frombuffer(b"{", np.uint8)},
        {"about": np.frombuffer(b"[]", np.uint8)},
        {"about": np.frombuffer(b"\xff", np.uint8)},
        broken(version=2),
        broken(photos=[["a", 0]]),
        broken(photos=[]),
        broken(levels=[{"level": "object"}]),
        broken(levels=3),
        broken(levels=[{"level": "smell", "kind": "pixels", "names": ["sky"], "groups": [0]}]),
        broken(levels=[{"level": "object", "kind": ["pixels"], "names": ["sky"], "groups": [0]}]),
        broken() | {"true_0": np.ones(1, np.int64)},
        broken() | {"true_0": -np.ones(1, np.int64)},
        broken() | {"count_0": np.zeros(2, np.int64)},
        broken() | {"count_0": np.array(["x"])},
        broken() | {"count_0": np.array([None])},
    ],
    ids=lambda content: str(content)[:30].encode("ascii", "replace").decode(),
)
def test_other_files_get_one_sentence(content: bytes | dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "photos.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UpernetError, match=r"photos\.npz: not the counts of an evaluation"):
        PhotoCounts.load(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UpernetError, match=r"photos\.npz: no such file; write it with `upernet evaluate --out`"):
        PhotoCounts.load(tmp_path / "photos.npz")
