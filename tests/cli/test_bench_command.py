"""Tests of `upernet bench`: times, the comparison with the published kernels, and the chosen kernels."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.command_line import Run

from upernet.ops import PLAIN, dcnv3, linear, recorded_decisions, use_kernel


@pytest.mark.slow
def test_json(run: Run) -> None:
    done = run("bench", "camvid", "--size", "64x96", "--batch", "2", "--repeats", "2", "--compare", "--json")
    assert done.status == 0
    result = json.loads(done.stdout)
    assert (result["size"], result["batch"], result["repeats"]) == ([64, 96], 2, 2)
    assert result["images_per_second"] == pytest.approx(2 / result["seconds"])
    assert result["ratio"] == pytest.approx(result["plain_seconds"] / result["seconds"])
    assert result["error"]["object"] < 1e-4 and result["agreement"]["object"] > 0.999
    kernels = {row["operator"]: row for row in result["kernels"]}
    assert {"upsample_conv3x3", "lateral", "linear"} <= set(kernels)
    laterals = [row for row in result["kernels"] if row["operator"] == "lateral"]
    assert {row["shapes"][0][0] for row in laterals} == {2}
    # the channels of C2 and C4, 24 and 120, are not multiples of 16
    assert {row["shapes"][0][1]: row["kernel"] for row in laterals} == {24: "torch", 48: "numba", 120: "torch"}


def test_explanation(run: Run) -> None:
    done = run("bench", "camvid", "--size", "64", "--repeats", "1", "--threads", "1", "--explain")
    lines = done.stdout.splitlines()
    assert done.status == 0 and "1 x 64 x 64 in fp32 on cpu, 1 threads" in lines[0]
    laterals = [line for line in lines[1:] if line.startswith("lateral: ")]
    assert any("lateral: numba, " in line and "(a few rows at a time" in line for line in laterals)
    assert any("lateral: torch, " in line and "(channels are not a multiple of 16)" in line for line in laterals)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("camvid", "--size", "0"), "--size 0: give pixels"),
        (("camvid", "--size", "12x"), "--size 12x: give pixels"),
        (("camvid", "--device", "cuda:77"), "cannot be used"),
        (("no_such_file.pth",), "no_such_file.pth"),
        (("everyda",), "unknown model 'everyda' (did you mean 'everyday'?): give one of "),
        (("camvid", "--size", "99999999999999999999"), "give pixels up to 65536"),
        (("camvid", "--size", "65536", "--batch", "4096"), "do not fit into the memory of cpu"),
        (("camvid", "--device", "meta"), "'meta' cannot be used"),
    ],
)
def test_mistakes(run: Run, arguments: tuple[str, ...], complaint: str) -> None:
    done = run("bench", *arguments)
    assert done.status == 2 and complaint in done.stderr and "Traceback" not in done.stderr


def test_decisions_are_recorded_where_asked() -> None:
    x, weight = torch.randn(1, 4, 4, 16), torch.randn(32, 16)
    with recorded_decisions() as outer:
        linear(x, weight)
        with recorded_decisions() as inner, use_kernel(**PLAIN):
            dcnv3(x, torch.zeros(1, 4, 4, 18), torch.ones(1, 4, 4, 9))
    linear(x, weight)
    assert [(d.operator, d.kernel) for d in outer] == [("linear", "convolution"), ("dcnv3", "torch")]
    assert [(d.operator, d.reason) for d in inner] == [("dcnv3", "requested with use_kernel")]
    assert outer[0].shapes == ((1, 4, 4, 16), (32, 16)) and outer[0].dtype == "float32"
