from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.command_line import Result, Run

from upernet.cli.main import main


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run the command line in this process and return exit status and output; `--threads` is undone afterwards."""

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        assert isinstance(exit_.value.code, int)
        output = capsys.readouterr()
        return Result(exit_.value.code, str(output.out), str(output.err))

    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)


@pytest.fixture
def parse(run: Run, checkpoint: Path) -> Run:
    """Run `upernet parse` with the model of `checkpoint`; a later `--model` among the arguments takes precedence."""
    torch.set_num_threads(1)  # photos this small take longer with more on a busy machine; `run` undoes it
    return lambda *arguments: run("parse", "--model", checkpoint, *arguments)
