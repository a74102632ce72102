"""`upernet bench`: times, the comparison with the published kernels, and what the operators chose."""

from __future__ import annotations

import json

import pytest
import torch
from command_line import Run

from upernet.ops import PLAIN, dcnv3, linear, recorded_decisions, use_kernel


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
    assert kernels["lateral"]["kernel"] == "numba" and kernels["lateral"]["shapes"][0][0] == 2


def test_explanation(run: Run) -> None:
    done = run("bench", "camvid", "--size", "64", "--repeats", "1", "--threads", "1", "--explain")
    lines = done.stdout.splitlines()
    assert done.status == 0 and "1 x 64 x 64 in fp32 on cpu, 1 threads" in lines[0]
    explained = {line.split(":")[0]: line for line in lines[1:]}
    assert explained["lateral"].startswith("lateral: numba, ") and "(some rows at a time" in explained["lateral"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("camvid", "--size", "0"), "--size 0: give pixels"),
        (("camvid", "--size", "12x"), "--size 12x: give pixels"),
        (("camvid", "--device", "cuda:77"), "cannot be used"),
        (("no_such_file.pth",), "no_such_file.pth"),
        (("everyda",), "unknown model 'everyda': give one of "),
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
