"""Tests of `upernet init`: its files, its questions, its errors."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import Run
from helpers.strangers import make, save, save_photo

from upernet.recipe import load_recipe


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder `Street Photos` in the current folder."""
    monkeypatch.chdir(tmp_path)
    root = make(tmp_path / "Street Photos", count=6)
    (root / "labels.txt").write_text("0\tsky\n1\troad\n2\ttree\n3\tvoid\n")
    return root


def test_the_recipe_is_named_after_the_folder(run: Run, root: Path) -> None:
    done = run("init", root, "--yes")
    assert (done.status, done.stderr) == (0, "")
    assert "Found     6 annotated photos: photos in images/, masks in masks/" in done.stdout
    assert "upernet train street-photos.yaml" in done.stdout
    recipe = load_recipe("street-photos.yaml")
    assert (recipe.data, list(recipe.sources)) == (str(root), ["street-photos"])
    assert recipe.sources["street-photos"].ignore == (3,)
    files = {path.name for path in root.parent.iterdir()}
    assert files == {
        "Street Photos",
        *(f"street-photos{end}" for end in (".yaml", "-classes.yaml", "-train.txt", "-val.txt")),
    }


def test_a_recipe_is_checked_as_it_would_be_trained(run: Run, root: Path) -> None:
    run("init", root, "--yes", "--quiet", "--out", "my.yaml")
    assert run("data", "check", "my.yaml", "--quiet").status == 0
    done = run("data", "check", "my.yaml", "--set", "sources.street-photos.folder=nowhere")
    assert done.status == 1 and "nowhere" in done.stdout


def test_the_files_read_well(run: Run, root: Path) -> None:
    assert run("init", root, "--yes", "--quiet", "--out", "my.yaml").stdout == ""
    for file in ("my.yaml", "my-classes.yaml"):
        lines = Path(file).read_text().splitlines()
        assert lines[0].startswith("# ") and all(len(line) <= 120 for line in lines)
    assert "data: Street Photos" in Path("my.yaml").read_text()


def test_photos_with_left_and_right_classes_are_not_mirrored(run: Run, root: Path) -> None:
    run("init", root, "--yes")
    assert load_recipe("street-photos.yaml").sources["street-photos"].augmentation.flip
    (root / "labels.txt").write_text("0\tskin\n1\tleft_eye\n2\tright_eye\n3\tvoid\n")
    done = run("init", root, "--yes", "--force")
    assert "Photos are not mirrored" in done.stdout and "left_eye and right_eye" in " ".join(done.stdout.split())
    assert not load_recipe("street-photos.yaml").sources["street-photos"].augmentation.flip


def test_the_next_commands_score_the_test_split_if_there_is_one(run: Run, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("beach", "street"):
            for number in range(4):
                save_photo(tmp_path / "places" / split / name / f"{number}.jpg", number)
    out = tmp_path / "my.yaml"
    assert "upernet evaluate runs/my --split test" in run("init", tmp_path / "places", "--yes", "--out", out).stdout
    assert "upernet evaluate runs/my --split test" in out.read_text()


def test_existing_files_are_kept(run: Run, root: Path) -> None:
    Path("my-classes.yaml").write_text("mine")
    done = run("init", root, "--yes", "--out", "my.yaml")
    assert done.status == 2 and "my-classes.yaml: exists already; give another --out, or --force" in done.stderr
    assert Path("my-classes.yaml").read_text() == "mine" and not Path("my.yaml").exists()
    assert run("init", root, "--yes", "--out", "my.yaml", "--force").status == 0
    assert Path("my-classes.yaml").read_text() != "mine"


def test_the_same_folder_gives_the_same_files(run: Run, root: Path) -> None:
    texts: list[list[str]] = []
    for _ in range(2):
        run("init", root, "--yes", "--force", "--quiet", "--out", "my.yaml")
        texts.append([path.read_text() for path in sorted(Path().glob("my*"))])
    assert texts[0] == texts[1] and len(texts[0]) == 4


def test_a_single_photo_has_nothing_to_validate_on(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("init", make(tmp_path / "one", count=1), "--yes")
    assert done.status == 0 and "upernet train one.yaml" in done.stdout
    text = Path("one.yaml").read_text()
    assert "evaluate" not in done.stdout + text and "validation" not in text


def test_mistakes(run: Run, root: Path) -> None:
    for arguments, message in (
        (("nowhere",), "nowhere: no such folder; give the folder with your photos and masks."),
        ((root, "--out", "my.txt"), "my.txt: a recipe ends with .yaml"),
        ((root, "--level", "thing"), "--level thing: give one of scene, object"),
        ((root, "--classes", "none.txt"), "none.txt: no such file"),
    ):
        done = run("init", *arguments, "--yes")
        assert done.status == 2 and message in done.stderr, done.stderr
    assert [path.name for path in root.parent.iterdir()] == [root.name]


def test_problems_of_the_data_are_told_before_anything_is_written(run: Run, root: Path) -> None:
    """The pixels of a photo are only read by `data check`; its header is fine here."""
    photo = root / "images" / "002.jpg"
    photo.write_bytes(photo.read_bytes()[:-200])
    done = run("init", root, "--yes")
    assert done.status == 2 and "002.jpg: the image is damaged or truncated" in done.stderr
    assert [path.name for path in root.parent.iterdir()] == [root.name]


@pytest.mark.slow
@pytest.mark.process
def test_questions_on_a_terminal(tmp_path: Path) -> None:
    root = make(tmp_path / "polyps", count=6, paint=lambda values: np.uint8(values == 1) * np.uint8(255))
    save(root / "masks" / "000.png", np.zeros((32, 48), np.uint8))
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "upernet", "init", str(root), "--out", "my.yaml"]
    process = subprocess.Popen(command, cwd=tmp_path, stdin=slave, stdout=slave, stderr=slave, env=os.environ.copy())
    os.close(slave)
    os.write(master, b"polyp\n")
    said = b""
    while True:
        try:
            said += (chunk := os.read(master, 4096))
        except OSError:  # the program closed the terminal
            break
        if not chunk:
            break
    assert process.wait() == 0, said.decode()
    assert b"What does the marked area of the masks show?" in said
    assert "- polyp" in (tmp_path / "my-classes.yaml").read_text()
