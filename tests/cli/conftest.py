from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from helpers.command_line import Result, Run
from helpers.painted_network import PaintedNetwork

from upernet.cli.main import main
from upernet.inference import Parser
from upernet.inference import parser as parser_module
from upernet.models import UPerNet


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
def painted_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """`everyday` is the painted network."""

    def load(name: str, device: str, **options: Any) -> Parser:
        if name != "everyday":
            return parser_module.load(name, device, **options)
        return Parser(cast(UPerNet, PaintedNetwork()), {"name": "painted"}, device=device, **options)

    monkeypatch.setattr("upernet.inference.load", load)
