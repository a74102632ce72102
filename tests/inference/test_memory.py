"""Tests of the memory of a parse: a process with a photo of 12 megapixels stays below 2 GiB."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

STATUS = Path("/proc/self/status")
pytestmark = pytest.mark.skipif(not STATUS.is_file(), reason="needs Linux's /proc to read a process's peak memory")

PROGRAM = """
import re, sys
import numpy as np
from upernet.inference import Parser
from upernet.inference.tiling import PIXEL_BUDGET
from upernet.checkpoints import create_model

model = create_model("everyday")
side = int(PIXEL_BUDGET**0.5)
Parser(model, short_side=None)(np.zeros((side, side, 3), np.uint8))  # as much as ever goes through at once
Parser(model, {"thresholds": {"texture": 0.3}}, short_side=384)(sys.argv[1]).save(sys.argv[2])
# Not getrusage: its peak is inherited from the process that started this one.
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.process
@pytest.mark.slow
def test_peak_memory_of_a_12_megapixel_photo(tmp_path: Path) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((4000, 3000)).save(tmp_path / "large.jpg")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "large.jpg"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "out" / "large" / "object.png").size == (4000, 3000)
    peak = int(done.stdout) / 1024
    assert peak < 2048, f"{peak:.0f} MiB"
