"""Tests of notebooks/ and docs/write_notebooks.py: every cell runs, and what is stored is small and up to date."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
import write_notebooks as writing
from write_gallery import model_hash

NOTEBOOKS = writing.notebooks()


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path: Path, tmp_path: Path):
    notebook = writing.execute(path, tmp_path)
    assert sum("image/png" in output.get("data", {}) for output in writing.outputs(notebook)) >= 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_those_of_the_bundled_model(path: Path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata["upernet"] == {"everyday": model_hash()}, (
        "the bundled weights have changed: run make notebooks"
    )
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run make notebooks"
    found = writing.outputs(notebook)
    assert any("image/jpeg" in output.get("data", {}) for output in found)
    assert not any(output.get("name") == "stderr" or output.output_type == "error" for output in found)


def test_notebooks_are_small():
    assert len(NOTEBOOKS) >= 3
    assert sum(path.stat().st_size for path in NOTEBOOKS) <= writing.MOST_BYTES_TOGETHER
