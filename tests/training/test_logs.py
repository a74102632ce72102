"""Tests of upernet.training.logs."""

from __future__ import annotations

import json
from pathlib import Path

from upernet.training.history import IterationRecord
from upernet.training.live import LiveLine
from upernet.training.logs import RunLog


def record(iteration: int, loss: float = 0.5) -> IterationRecord:
    return {
        "iteration": iteration,
        "stage": "all",
        "source": "streets",
        "learning_rate": 0.1,
        "loss": loss,
        "losses": {"object": loss},
        "seconds": 0.2,
    }


def test_a_resumed_log_replaces_the_records_after_the_saved_state(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0, LiveLine(4, 0, quiet=True)) as log:
        for iteration in (1, 2, 3):
            log.write(record(iteration))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"iteration": 4, "lo')  # a killed process
    with RunLog(tmp_path, 2, LiveLine(4, 2, quiet=True)) as log:
        for iteration in (3, 4):
            log.write(record(iteration, loss=0.25))
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert records == [record(1), record(2), record(3, 0.25), record(4, 0.25)]


def test_a_new_run_starts_an_empty_log(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps(record(1)) + "\n")
    with RunLog(tmp_path, 0, LiveLine(4, 0, quiet=True)):
        pass
    assert (tmp_path / "log.jsonl").read_text() == ""
