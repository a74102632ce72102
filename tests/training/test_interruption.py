"""Tests of upernet.training.interruption, upernet.training.loop: stopped runs, which the same command goes on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.interrupts import interruptible

from upernet.errors import UpernetError
from upernet.recipe import load_recipe
from upernet.training import train

INTERRUPTIBLE = (
    "import signal, sys\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell may start jobs without Ctrl-C
    "from upernet.cli.main import main\n"
    "main(sys.argv[1:])\n"
)


class Signaler:
    """A logger that sends this process, or the one whose number is in a file, a signal after an iteration."""

    def __init__(self, number: int, after: int, pid: Path | None = None) -> None:
        self.number, self.after, self.pid = number, after, pid

    def scalars(self, values, iteration: int) -> None:
        if iteration == self.after and "learning_rate" in values:
            os.kill(int(self.pid.read_text()) if self.pid else os.getpid(), self.number)

    def picture(self, name, picture, iteration) -> None:
        pass

    def close(self) -> None:
        pass


def records(folder: Path) -> list[dict]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_state_and_the_same_command_goes_on(data, recipe_file, tmp_path, number, capsys):
    recipe, lines = load_recipe(recipe_file(checkpoint_every=100)), []

    def run(folder, *loggers):
        train(recipe, data, tmp_path / folder, device="cpu", loggers=loggers, log=lines.append)

    run("whole")
    for after in (3, 8):  # in the first stage, and in the second
        with interruptible(), pytest.raises((KeyboardInterrupt, SystemExit)) as stopped:
            run("stopped", Signaler(number, after))
        if number == signal.SIGTERM:
            assert stopped.value.code == 143
        assert lines[-1] == f"Stopped after iteration {after}; the same command goes on."
        assert records(tmp_path / "stopped") == records(tmp_path / "whole")[:after]
    lines.clear()
    run("stopped")
    assert lines[0] == "Going on after iteration 8 of 10 (stage texture)."
    assert records(tmp_path / "stopped") == records(tmp_path / "whole")
    model = (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert (tmp_path / "stopped" / "model.safetensors").read_bytes() == model
    assert signal.getsignal(number) is not None and "Stopping after this iteration" in capsys.readouterr().err


@pytest.mark.slow
def test_a_second_signal_stops_at_once(data, recipe_file, tmp_path):
    recipe, lines = load_recipe(recipe_file(checkpoint_every=2)), []
    loggers = (Signaler(signal.SIGINT, 3), Signaler(signal.SIGINT, 3))
    with interruptible(), pytest.raises(KeyboardInterrupt):
        train(recipe, data, tmp_path / "run", device="cpu", loggers=loggers, quiet=True, log=lines.append)
    assert not any("Stopped" in line for line in lines)
    train(recipe, data, tmp_path / "run", device="cpu", quiet=True, log=lines.append)
    assert "Going on after iteration 2 of 10 (stage all)." in lines


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_first_state_starts_over(data, recipe_file, tmp_path):
    run, lines = tmp_path / "run", []
    (run / "tensorboard").mkdir(parents=True)
    (run / "tensorboard" / "events.out.tfevents.1.host").write_bytes(b"of the killed run")
    (run / "log.jsonl").write_text('{"iteration": 1, "lo')
    (run / ".state-x8dk2.safetensors").write_bytes(b"unfinished")
    train(load_recipe(recipe_file()), data, run, device="cpu", quiet=True, log=lines.append)
    assert lines[0] == f"{run}: an earlier run stopped before it saved a state; this one starts over."
    assert len(records(run)) == 10
    assert not (run / "tensorboard" / "events.out.tfevents.1.host").exists()
    assert {path.name for path in run.iterdir() if path.name.startswith(".")} <= {".lock"}


@pytest.mark.slow
def test_a_model_without_a_state_is_not_overwritten(data, recipe_file, tmp_path):
    (tmp_path / "model.safetensors").write_text("mine")
    with pytest.raises(UpernetError, match="holds a model without the state of its run"):
        train(load_recipe(recipe_file()), data, tmp_path, device="cpu", quiet=True)
    assert (tmp_path / "model.safetensors").read_text() == "mine"


@pytest.mark.slow
def test_a_reader_of_the_lines_that_goes_away_is_not_a_folder_that_cannot_be_written(data, recipe_file, tmp_path):
    def log(line: str) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        train(load_recipe(recipe_file()), data, tmp_path / "run", device="cpu", quiet=True, log=log)


@pytest.mark.slow
def test_a_finished_run_says_so(data, recipe_file, tmp_path):
    lines: list[str] = []
    recipe = load_recipe(recipe_file())
    train(recipe, data, tmp_path / "run", device="cpu", quiet=True)
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    train(recipe, data, tmp_path / "run", device="cpu", quiet=True, log=lines.append)
    assert lines[0] == "The run has done its 10 iterations; --iterations with a larger number goes on."
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_ends_with_the_status_of_the_signal(data, recipe_file, tmp_path, number, status):
    """Sent to the whole process group, as a terminal does: the workers that read photos must not die of it."""
    recipe = recipe_file(checkpoint_every=1000, workers=2, stages=[
        {"name": "all", "iterations": 100_000, "sources": ["streets"], "learning_rate": 0.001}
    ])  # fmt: skip
    command = ["train", str(recipe), "--data", str(data), "--out", str(tmp_path / "run"), "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    log = tmp_path / "run" / "log.jsonl"
    while process.poll() is None and not (log.is_file() and log.read_text().count("\n") >= 2):
        pass
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert "Traceback" not in err and "the same command goes on." in out
    assert (tmp_path / "run" / "state.safetensors").is_file()


@pytest.mark.process
@pytest.mark.slow
def test_processes_stop_at_the_same_iteration(data, recipe_file, tmp_path):
    """Only the second process gets the signal."""
    recipe = recipe_file(checkpoint_every=1000)
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "from pathlib import Path\n"
        "sys.path.insert(0, os.environ['TESTS'])\n"
        "from training.test_interruption import Signaler\n"
        "from upernet.recipe import load_recipe\n"
        "from upernet.training import train\n"
        "pid, (recipe, data, out, number) = Path(sys.argv[1]), sys.argv[2:]\n"
        "if os.environ['RANK'] == '1':\n"
        "    pid.write_text(str(os.getpid()))\n"
        "loggers = [Signaler(int(number), 3, pid)] if int(number) else []\n"
        "train(load_recipe(recipe), data, out, device='cpu', quiet=True, loggers=loggers)\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environment["TESTS"] = str(Path(__file__).parents[1])

    def run(folder: str, number: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
        arguments = [tmp_path / "pid", recipe, data, tmp_path / folder, number]
        return subprocess.run([*command, *map(str, arguments)], env=environment, text=True, capture_output=True)

    stopped = run("stopped", signal.SIGTERM)
    # The main process sends it within iteration 3, and all learn of it when that iteration or the next one ends.
    (line,) = [line for line in stopped.stdout.splitlines() if line.startswith("Stopped after iteration")]
    assert line[24] in "34" and line.endswith("; the same command goes on."), stopped.stderr
    assert run("stopped").returncode == run("whole").returncode == 0
    assert [r["losses"] for r in records(tmp_path / "stopped")] == [r["losses"] for r in records(tmp_path / "whole")]
