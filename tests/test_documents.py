"""Tests of the documents: links, generated tables, commands."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.process
def test_tables_are_those_of_the_result_files():
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "write_results.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_links_and_pictures_of_the_documents_exist():
    files = [path for pattern in ("docs/**/*.md", "src/**/*.md", "notebooks/*.ipynb") for path in ROOT.glob(pattern)]
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *files]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))]
    assert any(link.endswith((".jpg", ".png")) for _, link in links)
    for page, link in links:
        if "://" not in link:
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.process
def test_the_code_of_the_library_page_runs(tmp_path: Path):
    blocks = python_blocks(ROOT / "docs" / "library.md")
    assert len(blocks) >= 7
    shutil.copyfile(ROOT / "examples" / "street.jpg", tmp_path / "photo.jpg")
    shutil.copyfile(ROOT / "docs" / "results" / "camvid.json", tmp_path / "evaluation.json")
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks), encoding="utf-8")
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    miou = float(done.stdout.splitlines()[-1].split()[0])
    assert miou > 0.9, "the training loop of the page does not learn"
