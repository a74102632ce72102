"""Tests of upernet.ops.runtime.availability: a second process loads what the first one compiled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WORK = """
import json, sys
import numpy as np
import torch
import pytest
import upernet
from upernet.models import UPerNet
from upernet.recipe import ModelSpec
from upernet.taxonomy import load_taxonomy

upernet.load("everyday")(np.zeros((96, 128, 3), np.uint8))
options = {"channels": 32, "depths": (1, 1, 1, 1), "groups": (2, 4, 8, 16)}
spec = ModelSpec(backbone="internimage_t", backbone_options=options, decoder_channels=64)
with torch.inference_mode():
    UPerNet(spec, load_taxonomy("ade20k150")).eval()(torch.zeros(1, 3, 96, 128))

counts = {"hits": 0, "misses": 0}
for name in [name for name in sys.modules if name.startswith("upernet.ops.")]:
    for function in vars(sys.modules[name]).values():
        if hasattr(function, "stats") and hasattr(function, "signatures"):  # a dispatcher of Numba
            counts["hits"] += sum(function.stats.cache_hits.values())
            counts["misses"] += sum(function.stats.cache_misses.values())
print(json.dumps(counts))
"""


def counts(cache: Path) -> dict[str, int]:
    """How often a kernel was found in the cache and how often not, in a process that uses two networks."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", WORK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_second_process_compiles_nothing(tmp_path: Path) -> None:
    assert counts(tmp_path)["misses"] > 0
    warm = counts(tmp_path)
    assert warm["misses"] == 0 and warm["hits"] > 0
