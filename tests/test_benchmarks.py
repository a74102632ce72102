"""Tests of the benchmarks: each one runs in its `--quick` form and writes what the documents need."""

from __future__ import annotations

import importlib
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import deform_conv2d

import upernet
from upernet.inference.runtimes import openvino_core
from upernet.ops import dcnv3, upsample_conv3x3, use_kernel

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run a benchmark and read its file."""

    def run(name: str, threads: int = 1) -> dict[str, Any]:
        out = tmp_path / "results" / f"{name}.json"
        monkeypatch.setattr(
            sys, "argv", [name, "--quick", "--threads", str(threads), "--repeats", "1", "--json", str(out)]
        )
        importlib.import_module(f"benchmarks.{name}").main()
        result = json.loads(out.read_text(encoding="utf-8"))
        assert result["repeats"] == 1 and result["machine"]["threads"] == threads
        return result

    return run


def assert_compared(result: dict[str, Any], *alternatives: str) -> None:
    assert set(alternatives) <= set(result["seconds"]) == set(result["ratio"])
    first = next(iter(result["seconds"].values()))["median"]
    for name, times in result["seconds"].items():
        assert 0 < times["lowest"] <= times["median"] <= times["highest"]
        assert result["ratio"][name] == pytest.approx(first / times["median"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["operators", "training"])
def test_official_beside_fast(run: Any, name: str):
    rows = run(name)["rows"]
    assert rows
    for row in rows.values():
        assert_compared(row, "official", "fast")


@pytest.mark.slow
def test_flash_internimage_beside_internimage(run: Any):
    rows = run("flash")["rows"]
    for name in ("whole network", "backbone"):
        assert_compared(rows[name], "InternImage-T", "FlashInternImage-T")
    assert_compared(rows["30 operators"], "DCNv3", "DCNv4")


@pytest.mark.slow
def test_unified_perceptual_parsing(run: Any):
    whole, *others = run("upp")["rows"].values()
    for row in (whole, *others):
        assert_compared(row, "official", "fast")
    assert set(whole["agreement"]) == {"scene", "object", "part", "material"}
    assert all(values["relative_error"] < 1e-4 for values in whole["agreement"].values())


@pytest.mark.slow
def test_training_step(run: Any):
    rows = run("everyday_step")["rows"]
    assert len(rows) == 3
    for row in rows.values():
        assert_compared(row, "published", "fast")


@pytest.mark.slow
def test_models(run: Any):
    result = run("models")
    assert len(result["rows"]) == 3
    for row in result["rows"].values():
        assert_compared(row, "official", "fast")
    whole, *_ = result["rows"].values()
    assert whole["agreement"]["fast"]["relative_error"] < 1e-4
    assert whole["agreement"]["fast"]["argmax_agreement"] > 0.999
    limit = result["roofline"]
    best = max(limit["multiply_adds_per_second"].values())
    assert limit["seconds"] == pytest.approx(limit["multiply_adds"] / best)
    assert limit["multiply_adds"] <= result["direct"]["multiply_adds"]
    (name, possible), *_ = result["limits"].items()
    assert possible["multiply_adds"] <= limit["multiply_adds"]
    official = result["rows"][name]["seconds"]["official"]["median"]
    assert possible["ratio"] == pytest.approx(official / (possible["multiply_adds"] / best))


@pytest.mark.slow
def test_breakdown(run: Any):
    seconds = run("breakdown")["seconds"]
    assert {"packed_conv3x3", "internimage_block", "all others"} <= set(seconds)
    assert all(value > 0 for value in seconds.values())


@pytest.mark.slow
def test_peers_that_are_installed(run: Any):
    result = run("peers")
    assert_compared(result, "official", "fast", "official, bf16 autocast")
    assert not set(result["seconds"]) & set(result["skipped"])
    for name in ("ONNX Runtime", "OpenVINO"):
        assert name in result["skipped"] or result["agreement"][name]["relative_error"] < 1e-4


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="AVX2 is a matter of x86")
def test_measurements_without_avx512(tmp_path: Path):
    command = [sys.executable, "-m", "benchmarks.training", "--quick", "--repeats", "1", "--avx2"]
    subprocess.run([*command, "--json", str(tmp_path / "result.json")], check=True, capture_output=True, cwd=ROOT)
    about = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["machine"]
    assert about["vectors"] in ("AVX2", "DEFAULT")


@pytest.mark.slow
def test_evaluation(run: Any):
    rows = run("evaluation")["rows"]
    assert [row["photos"] for row in rows.values()] == [1, 1, 1]
    assert all(set(row["seconds"]) == {"network", "evaluate"} for row in rows.values())


@pytest.mark.slow
def test_exported_networks(run: Any):
    rows = run("export")["rows"].values()
    for row, variant in zip(rows, ("published decoder", "DeformConv"), strict=True):
        assert_compared(row, "official", "fast", f"ONNX Runtime, {variant}", f"OpenVINO, {variant}")
        assert all(values["relative_error"] < 1e-4 for values in row["agreement"].values())


def test_openvino_reads_deform_conv(tmp_path: Path):
    """The reference is torchvision's, and the maps are longer than wide, with strides and offsets beyond the edges."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("openvino")
    from benchmarks.export import read_deform_conv

    names = {"x": [1, 4, 9, 6], "weight": [4, 1, 3, 3], "offset": [1, 36, 5, 3], "mask": [1, 18, 5, 3]}
    values = {name: torch.randn(shape) for name, shape in names.items()}
    values["offset"] *= 3
    node = onnx.helper.make_node(
        "DeformConv", ["x", "weight", "offset", "", "mask"], ["y"],
        kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], dilations=[1, 1], group=4, offset_group=2,
    )  # fmt: skip
    infos = [
        onnx.helper.make_tensor_value_info(name, 1, shape) for name, shape in (names | {"y": [1, 4, 5, 3]}).items()
    ]
    graph = onnx.helper.make_graph([node], "graph", infos[:-1], infos[-1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)]), tmp_path / "a.onnx")
    compiled = openvino_core().compile_model(read_deform_conv(tmp_path / "a.onnx"), "CPU")
    found = torch.as_tensor(compiled({name: value.numpy() for name, value in values.items()})[0])
    expected = deform_conv2d(
        values["x"], values["offset"], values["weight"], None, (2, 2), (1, 1), (1, 1), values["mask"]
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc")
def test_the_memory_benchmark_reports_peaks(run: Any):
    for row in run("memory")["rows"].values():
        assert 2**27 < row["official"] < 2**33 and 2**27 < row["fast"] < 2**33


@pytest.mark.slow
def test_scaling(run: Any):
    groups = run("scaling", threads=2)["groups"]
    assert [len(group) for group in groups.values()] == [2, 2, 2]
    for row in chain(*(group.values() for group in groups.values())):
        assert_compared(row, "official", "fast")


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's /proc and CPU affinity")
def test_busy_cores(run: Any):
    result = run("busy", threads=2)
    assert len(result["rows"]) == 6
    for row in result["rows"].values():
        assert_compared(row, "1 thread", "2 threads, long waits", "2 threads")
    assert result["load_of_others"] >= -0.1


@pytest.mark.slow
def test_cold_start(run: Any):
    result = run("cold_start")
    whole, forward = result["rows"].values()
    assert_compared(whole, "first ever", "filled cache")
    assert_compared(forward, "official", "fast")
    assert all(seconds > 0 for seconds in result["steps"].values())


@pytest.mark.parametrize("kernel", ["direct", "winograd"])
def test_multiplications_are_counted_as_they_are_done(kernel: str):
    from benchmarks.models import winograd_operations

    maps = [torch.randn(1, 64, 16, 16), torch.randn(1, 32, 8, 8), torch.randn(1, 16, 2, 2)]
    formula = {torch.ops.upernet.upsample_conv3x3: partial(winograd_operations, (4,))}
    counter = FlopCounterMode(display=False, custom_mapping=formula)
    with use_kernel(upsample_conv3x3=kernel), torch.inference_mode(), counter:
        upsample_conv3x3(maps, torch.randn(48, 112, 3, 3))
    direct, winograd = 9 * (16 * 16 * 64 + 8 * 8 * 32 + 2 * 2 * 16), 36 * 16 * (64 + 32) + 9 * 2 * 2 * 16
    assert counter.get_total_flops() // 2 == 48 * (direct if kernel == "direct" else winograd)


def test_plain_dcnv3_is_dcnv3():
    from upernet.ops.dcnv3.reference import ComposedDcnv3

    x, offset, mask = torch.randn(1, 5, 6, 16), torch.randn(1, 5, 6, 36), torch.rand(1, 5, 6, 18)
    expected = dcnv3(x, offset, mask, groups=2)
    with ComposedDcnv3():
        actual = dcnv3(x, offset, mask, groups=2)
        half = dcnv3(x.bfloat16(), offset, mask, groups=2)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert half.dtype == torch.bfloat16


@pytest.mark.slow
def test_collections(run: Any):
    (row,) = run("collections")["rows"].values()
    assert_compared(row, "network", "whole")
    assert row["photos"] == 2 and list(row["steps"]) == ["decode", "network", "label maps", "save"]
    assert row["steps"]["decode"] > 0 and row["steps"]["save"] > 0


def test_the_most_confident_teacher_labels_a_pixel():
    from benchmarks.teachers import CONFIDENCE, UNKNOWN, mask

    photo = Image.open(ROOT / "examples" / "street.jpg").convert("RGB")
    near, far = (upernet.load("everyday", short_side=side) for side in (192, 96))
    maps = [teacher(photo, ["object"])["object"] for teacher in (near, far)]
    found = mask(photo, [near, far])
    assert found.shape == photo.size[::-1] and found.dtype == np.uint8
    labels, confidences = (np.stack([getattr(each, name) for each in maps]) for name in ("labels", "confidence"))
    known = (confidences.max(0) >= CONFIDENCE) & (found != UNKNOWN)
    assert 0.2 < known.mean() < 1 and (found[~known] == UNKNOWN).all()
    best = np.where(confidences[0] >= confidences[1], labels[0], labels[1])
    np.testing.assert_array_equal(found[known], best[known] + 1)
