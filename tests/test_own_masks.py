"""Tests of docs/own_masks.md: its commands are run, one after another, as a reader would."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.strangers import make, save_photo

PAGE = Path(__file__).parents[1] / "docs" / "own_masks.md"
COMMANDS = [
    line.strip()
    for block in re.findall(r"^ *```sh\n(.*?)^ *```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


@pytest.mark.slow
@pytest.mark.process
def test_the_commands_of_the_page(tmp_path: Path) -> None:
    make(tmp_path / "photos", count=8)
    (tmp_path / "names.txt").write_text("sky\nroad\ntree\nwater\n")
    save_photo(tmp_path / "new.jpg")
    for name in ("dotted", "striped"):
        for number in range(3):
            save_photo(tmp_path / "sorted" / name / f"{number}.jpg", number)
    assert [line.split()[1] for line in COMMANDS] == ["init", "train", "parse", "evaluate", "init", "init", "data"]
    for line in COMMANDS:
        program, *arguments = shlex.split(line)
        assert program == "upernet"
        if arguments[0] == "train":
            arguments += ["--iterations", "2"]
        command = [sys.executable, "-m", "upernet", *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: {done.stderr}"
    assert list(tmp_path.glob("parses/new/parse.json"))
