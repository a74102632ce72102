"""Run the notebooks in notebooks/ and store their outputs in them, with small pictures.

::

    python docs/write_notebooks.py          # `make notebooks` does the same
    python docs/write_notebooks.py NAME     # notebooks/NAME.ipynb alone
"""

from __future__ import annotations

import base64
import io
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image
from write_gallery import EXAMPLES, ROOT, model_hash, small_jpeg

from upernet.files import write_text

NOTEBOOKS = ROOT / "notebooks"
PICTURE_BYTES = 60_000
"""Largest size of a stored picture."""
MOST_BYTES_TOGETHER = 1_000_000
"""Largest size of all notebooks."""
SECONDS = 600
"""How long a cell may take."""


def notebooks() -> list[Path]:
    """Return the notebooks."""
    return sorted(NOTEBOOKS.glob("*.ipynb"))


def execute(path: Path, folder: Path) -> Any:
    """Run all cells of a notebook in a new process, and return it with its outputs.

    Args:
        path: The notebook.
        folder: An empty folder, which gets the folders `examples`, with the photos, and `notebooks`, in which it runs.

    Raises:
        CellExecutionError: A cell raises an error.
    """
    place = folder / "notebooks"
    place.mkdir()
    shutil.copytree(EXAMPLES, folder / "examples", ignore=shutil.ignore_patterns("*.md", "*.yaml"))
    notebook: Any = nbformat.read(path, as_version=4)
    about = dict(notebook.metadata)
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(place)}},
    )
    client.execute()
    notebook.metadata = about  # the kernel adds its version
    return notebook


def outputs(notebook: Any) -> list[Any]:
    """Return the outputs of all cells."""
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def reduce_outputs(notebook: Any) -> None:
    """Keep each picture once, as a small JPEG, and no output of cells with the tag `timing`, which varies."""
    for cell in notebook.cells:
        if "timing" in cell.metadata.get("tags", []):
            cell.outputs = []
    for output in outputs(notebook):
        data = output.get("data", {})
        if "image/png" in data:
            picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
            jpeg = base64.b64encode(small_jpeg(picture, PICTURE_BYTES)).decode("ascii")
            output["data"] = {"image/jpeg": jpeg, "text/plain": data["text/plain"]}


def main() -> None:
    """Run the notebooks and store their outputs."""
    names = sys.argv[1:]
    for path in notebooks():
        if names and path.stem not in names:
            continue
        with TemporaryDirectory(prefix="upernet-") as temporary:
            notebook = execute(path, Path(temporary))
        reduce_outputs(notebook)
        notebook.metadata["upernet"] = {"everyday": model_hash()}
        write_text(path, nbformat.writes(notebook) + "\n")


if __name__ == "__main__":
    main()
