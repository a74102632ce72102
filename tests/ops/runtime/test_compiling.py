"""Tests of upernet.ops.runtime.compiling: kernels that a second process compiles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, multiprocessing, sys, time
from upernet.ops.runtime import compiling
from upernet.ops.thresholds import cpu

compiling.usable_cores = lambda: int(sys.argv[1])
compiling.compile_ahead(("thresholds.cpu",))
processes = len(multiprocessing.active_children())
while multiprocessing.active_children():
    time.sleep(0.05)
cpu.warm_up()
print(json.dumps([processes, sum(cpu._apply.stats.cache_misses.values())]))
"""


def outcome(cores: int, cache: Path) -> list[int]:
    """Return how many processes were begun, and how many kernels the first one compiled after they had ended."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", SCRIPT, str(cores)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
def test_a_second_process_fills_the_cache_once(tmp_path: Path) -> None:
    assert outcome(2, tmp_path) == [1, 0]
    assert outcome(2, tmp_path) == [0, 0]


TOGETHER = """
import json, multiprocessing, os, signal, sys
from upernet.ops.guided import cpu as guided
from upernet.ops.runtime import compiling
from upernet.ops.thresholds import cpu as thresholds

def misses():
    return sum(sum(kernel.stats.cache_misses.values()) for kernel in (guided._guide, thresholds._apply))

compiling.usable_cores = lambda: 2
compiling.compile_ahead(("thresholds.cpu", "guided.cpu"))
if sys.argv[1] == "killed":
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
for name in ("guided.cpu", "thresholds.cpu"):
    compiling.finish(name)
before = misses()
guided.warm_up(), thresholds.warm_up()
print(json.dumps([before, misses() - before]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
@pytest.mark.parametrize("fate", ["alive", "killed"])
def test_two_processes_share_the_work(fate: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", TOGETHER, fate]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0 and not done.stderr, done.stderr
    meanwhile, later = json.loads(done.stdout)
    if fate == "alive":
        assert meanwhile <= 1 and later == 0
    else:
        assert 1 <= meanwhile + later <= 2


@pytest.mark.slow
def test_one_core_compiles_alone(tmp_path: Path) -> None:
    assert outcome(1, tmp_path) == [0, 1]
