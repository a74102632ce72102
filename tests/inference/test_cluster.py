"""Tests of upernet.inference.cluster on a real Ray of two workers, on this machine."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.color_checkpoint import beach_photo
from helpers.deadly import Deadly
from helpers.shards import write_shard
from helpers.web import running
from PIL import Image

from upernet.errors import UpernetError
from upernet.inference.cluster import ModelChoice, RayEngine
from upernet.inference.manifest import MANIFEST_FILE
from upernet.inference.photos import parse_photos
from upernet.inference.planning import Finished
from upernet.inference.sources import find_photos

LEVELS = ["scene", "object", "part"]

pytestmark = [pytest.mark.slow, pytest.mark.process]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Start Ray with two cores, and so two workers of one thread."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    if sys.platform != "linux":
        pytest.skip("finding the worker to kill needs /proc")
    pytest.importorskip("ray.data", reason="ray[data] is not installed")
    with pytest.MonkeyPatch.context() as patch:
        paths = [str(Path(__file__).parents[2] / "src"), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        patch.setenv("RAY_worker_niceness", "0")  # the default of 15 starves them where other tests use all cores
        ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        yield ray
        ray.shutdown()


def beach() -> bytes:
    file = io.BytesIO()
    Image.fromarray(beach_photo()).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Create a folder of photos, of which one is broken, and a shard, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for number in range(20):
        (tmp_path / "in" / f"{number:02}.png").write_bytes(beach() if number != 5 else b"broken")
    write_shard(tmp_path / "0.tar", [("a/1.png", beach()), ("2.png", b"broken"), ("3.png", beach())])
    return ["in", "0.tar"]


def run(checkpoint: Path, sources: list[str], out: str, engine: bool) -> dict[str, str]:
    """Parse photos, and return what became of each by name; each has one outcome."""
    choice = ModelChoice(str(checkpoint))
    cluster = RayEngine(choice, threads=1) if engine else None
    letters: dict[str, str] = {}
    for outcome in parse_photos(
        choice.load("cpu"), find_photos(sources).photos, LEVELS, Path(out), ["labels"], engine=cluster
    ):
        assert outcome.name not in letters
        done = isinstance(outcome.result, Finished)
        letters[outcome.name] = ("e" if outcome.result.earlier else "d") if done else str(outcome.result)
    return letters


def results(out: str) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes().replace(out.encode(), b"OUT")
        for path in Path(out).rglob("*")
        if path.is_file() and path.name not in (MANIFEST_FILE, ".lock")
    }


def records(out: str) -> list[str]:
    lines = [json.loads(line) for line in (Path(out) / MANIFEST_FILE).read_text().splitlines()]
    return sorted(json.dumps(line).replace(out, "OUT") for line in lines)


def test_the_results_of_a_cluster_with_a_dying_worker_are_those_of_one_process(
    ray: Any, checkpoint: Path, sources: list[str]
) -> None:
    with running(Deadly(beach(), deaths=1)) as server:
        everything = [*sources, f"{server.base}/deadly.png"]
        by_cluster = run(checkpoint, everything, "cluster", engine=True)
        assert len(server.killed) == 1 and server.killed[0] != os.getpid()
        by_one = run(checkpoint, everything, "single", engine=False)
        assert by_cluster == by_one and list(by_one.values()).count("d") == 22
        assert results("cluster") == results("single")
        assert records("cluster") == records("single")
        assert not list(Path("cluster").glob(".upernet-*"))
        again = run(checkpoint, everything, "cluster", engine=False)
        assert list(again.values()).count("e") == 22


def test_photos_that_kill_their_workers_fail_and_others_do_not(ray: Any, checkpoint: Path, sources: list[str]) -> None:
    with running(Deadly(beach(), deaths=99)) as server:
        photos = [f"{server.base}/deadly.png", *sources]
        outcomes = run(checkpoint, photos, "out", engine=True)
    lost = {name for name, outcome in outcomes.items() if "3 workers died with this photo" in outcome}
    assert photos[0] in outcomes and len(server.killed) == 3
    assert "0.tar/a/1.png" not in lost and outcomes["0.tar/a/1.png"] == outcomes["in/19.png"] == "d"
    assert lost | {"in/05.png"} <= {photos[0], *(f"in/{number:02}.png" for number in range(15))}


def test_what_a_cluster_refuses(ray: Any, checkpoint: Path, sources: list[str], tmp_path: Path) -> None:
    parser = ModelChoice(str(checkpoint)).load("cpu")
    engine = RayEngine(ModelChoice(str(checkpoint)), threads=1)
    photos = find_photos(sources).photos
    with pytest.raises(UpernetError, match="a cluster saves its results to a folder; give one with --out"):
        next(parse_photos(parser, photos, LEVELS, None, engine=engine))
    with pytest.raises(UpernetError, match="coco is one file of all regions"):
        next(parse_photos(parser, photos, LEVELS, tmp_path / "out", ["coco"], engine=engine))
    other = RayEngine(ModelChoice(str(checkpoint), short_side=16), threads=1)
    with pytest.raises(UpernetError, match="has another version of upernet, or other weights"):
        next(parse_photos(parser, photos, LEVELS, tmp_path / "out", ["json"], engine=other))
    gone = RayEngine(ModelChoice("gone.safetensors"), threads=1)
    with pytest.raises(UpernetError, match="gone"):
        next(parse_photos(parser, photos, LEVELS, tmp_path / "out", ["json"], engine=gone))
