"""Tests of the memory of InternImage-T: 2048 x 2048 pixels stay below 6 GiB, with all that the process needs."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import re, torch
from upernet.checkpoints import create_model

model = create_model("upernet_internimage_t_512_160k_ade20k").eval()
with torch.inference_mode():
    logits = model(torch.zeros(1, 3, 2048, 2048))["object"]
assert logits.shape == (1, 150, 512, 512)
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="needs Linux's /proc to read a process's peak memory"
)
def test_peak_memory_of_four_megapixels():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout) / 2**20
    assert peak < 6, f"{peak:.2f} GiB"
