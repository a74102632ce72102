"""Tests of upernet.ops.runtime.waiting: when threads wait only briefly for each other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upernet.ops.runtime.waiting import delay_between, run_delay, run_delays

LINUX = pytest.mark.skipif(not Path("/proc/self/schedstat").is_file(), reason="needs the delays of Linux")
TIMES = st.floats(0, 1e6).map(lambda seconds: round(seconds, 9))
THREADS = st.dictionaries(st.integers(1, 50).map(str), TIMES)


@given(st.integers(0, 10**18), st.integers(0, 10**18), st.integers(0, 10**9))
def test_the_second_number_is_the_delay_in_nanoseconds(on_core: int, delay: int, turns: int):
    assert run_delay(f"{on_core} {delay} {turns}\n") == delay / 1e9


@given(before=THREADS, more=THREADS)
def test_delays_add_up_over_threads_that_live(before: dict[str, float], more: dict[str, float]):
    after = {thread: before.get(thread, 0) + delay for thread, delay in more.items()}
    assert delay_between(before, after) == pytest.approx(sum(more.values()), abs=1e-6)


def test_the_delays_of_threads_are_read(tmp_path: Path):
    for thread, text in (("7", "5000000000 250000000 9\n"), ("8", "0 0 0\n")):
        (tmp_path / thread).mkdir()
        (tmp_path / thread / "schedstat").write_text(text, encoding="ascii")
    (tmp_path / "9").mkdir()  # a thread that ends meanwhile
    assert run_delays(tmp_path) == {"7": 0.25, "8": 0.0}
    assert run_delays(tmp_path / "7" / "schedstat") == run_delays(tmp_path / "nowhere") == {}


@LINUX
def test_this_process_has_delays():
    assert str(os.getpid()) in run_delays()


# Two threads on one core always delay each other; INTERVAL is shortened.
PROGRAM = """
import os, torch
from concurrent.futures import ThreadPoolExecutor
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from upernet.ops import dcnv3, use_kernel
from upernet.ops.runtime import waiting
waiting.INTERVAL = 0.02
torch.set_num_threads(2)
generator = torch.Generator().manual_seed(0)
x = torch.randn(1, 16, 16, 32, generator=generator)
offset, mask = torch.randn(1, 16, 16, 36, generator=generator), torch.rand(1, 16, 16, 18, generator=generator)
def call():
    with use_kernel(dcnv3="numba"):
        return dcnv3(x, offset, mask, groups=2)
expected = call()
"""
BOTH_WAYS = """
while not waiting.waits_briefly():  # the limit is the time that this process gets
    assert torch.equal(call(), expected)
with ThreadPoolExecutor(4) as pool:
    assert all(torch.equal(result, expected) for result in pool.map(lambda _: call(), range(100)))
torch.set_num_threads(1)
while waiting.waits_briefly():
    assert torch.equal(call(), expected)
torch.set_num_threads(2)
while not waiting.waits_briefly():
    call()
child = os.fork()
if child == 0:
    os._exit(0 if all(torch.equal(call(), expected) for _ in range(50)) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
NEVER = """
before = waiting.run_delays()
while waiting.delay_between(before, waiting.run_delays()) < 0.2:
    call()
assert not waiting.waits_briefly()
"""


def run(script: str, **environment: str) -> None:
    chosen = ("OMP_NUM_THREADS", *environment)
    inherited = {name: value for name, value in os.environ.items() if name not in chosen}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=inherited | environment)
    assert done.returncode == 0, done.stderr


@LINUX
@pytest.mark.slow
@pytest.mark.process
def test_waits_are_short_while_the_cores_are_contended_and_results_stay_the_same():
    run(PROGRAM + BOTH_WAYS)


@LINUX
@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("choice", [{"OMP_WAIT_POLICY": "passive"}, {"GOMP_SPINCOUNT": "1000"}])
def test_the_users_choice_holds(choice: dict[str, str]):
    run(PROGRAM + NEVER, **choice)


@LINUX
@pytest.mark.slow
@pytest.mark.process
def test_the_second_team_is_not_made_where_it_would_be_large():
    small = "waiting.MOST_SLEEPING = 1"
    run(PROGRAM.replace("generator =", f"{small}\ngenerator =", 1) + NEVER)
