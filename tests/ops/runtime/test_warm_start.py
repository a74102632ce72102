"""Tests of upernet.ops.runtime: a second process loads what the first one compiled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WORK = """
import hashlib, json, sys
import numpy as np
import torch
import upernet
from upernet.models import UPerNet
from upernet.ops import linear, use_kernel
from upernet.recipe import ModelSpec
from upernet.taxonomy import load_taxonomy

torch.manual_seed(0)
photo = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
results = list(upernet.load("everyday")(photo).maps.values())
results = [array for result in results for array in (result.labels, result.confidence)]
options = {"channels": 32, "depths": (1, 1, 1, 1), "groups": (2, 4, 8, 16)}
spec = ModelSpec(backbone="internimage_t", backbone_options=options, decoder_channels=64)
model = UPerNet(spec, load_taxonomy("ade20k150")).eval()
with torch.inference_mode():
    results += [logits.numpy() for logits in model(torch.randn(1, 3, 96, 128)).values()]

counts = {"hits": 0, "misses": 0}
for name in [name for name in sys.modules if name.startswith("upernet.ops.")]:
    for function in vars(sys.modules[name]).values():
        if hasattr(function, "stats") and hasattr(function, "signatures"):  # a dispatcher of Numba
            counts["hits"] += sum(function.stats.cache_hits.values())
            counts["misses"] += sum(function.stats.cache_misses.values())
digest = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in results)).hexdigest()
can_compile = "numba.np.arraymath" in sys.modules

x, weight = torch.randn(5, 7, dtype=torch.float64), torch.randn(3, 7, dtype=torch.float64)
with use_kernel(linear="numba"):  # which serves training and has not run yet
    difference = (linear(x, weight) - x @ weight.T).abs().max().item()
print(json.dumps({**counts, "digest": digest, "can_compile": can_compile, "difference": difference}))
"""


def work(cache: Path) -> dict[str, Any]:
    """Use two networks in a process: their results, and how often a kernel was found in the cache and how often not."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", WORK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_second_process_compiles_nothing(tmp_path: Path) -> None:
    cold = work(tmp_path)
    assert cold["misses"] > 0 and cold["can_compile"]
    warm = work(tmp_path)
    assert warm["misses"] == 0 and warm["hits"] > 0
    assert not warm["can_compile"]  # what only compilation needs has not been imported, which is slow
    assert warm["digest"] == cold["digest"]

    files = list(tmp_path.rglob("*_interpolate_rows*"))
    assert files
    for path in files:
        path.unlink()
    mixed = work(tmp_path)  # compiles one kernel after it has loaded others
    assert 0 < mixed["misses"] < cold["misses"] and mixed["can_compile"]
    assert mixed["digest"] == cold["digest"]
    assert max(process["difference"] for process in (cold, warm, mixed)) < 1e-12
