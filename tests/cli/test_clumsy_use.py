"""Tests of clumsy use of the commands: odd names, pipes, folders in the way; the user's files stay intact."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from helpers.color_checkpoint import beach_photo
from helpers.command_line import Run
from PIL import Image

from upernet.checkpoints import create_model, save_checkpoint
from upernet.errors import UpernetError
from upernet.inference import Parser, load


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(beach_photo()).save("photo.png")
    return tmp_path / "photo.png"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["..jpg", "...jpg", "....jpg"])
def test_names_of_dots_stay_below_the_output_folder(photo: Path, parse: Run, name: str) -> None:
    Path(name).write_bytes(photo.read_bytes())
    assert parse(name, "--out", "deep/out").status == 0
    assert [path.name for path in Path("deep").iterdir()] == ["out"]
    (folder,) = Path("deep/out").iterdir()
    assert (folder / "parse.json").is_file()


@pytest.mark.slow
def test_a_folder_of_the_user_is_left_alone(photo: Path, parse: Run) -> None:
    Path("photo").mkdir()
    Path("photo/object.png").write_text("mine")
    assert parse("photo.png", "--out", ".").status == 0
    assert [path.name for path in Path("photo").iterdir()] == ["object.png"]
    assert Path("photo-2/parse.json").is_file()


@pytest.mark.slow
def test_a_photo_without_suffix_beside_its_results(photo: Path, parse: Run) -> None:
    photo.rename("scan")
    assert parse("scan", "--out", ".").status == 0
    assert Path("scan-2/parse.json").is_file()


@pytest.mark.slow
def test_empty_folders_among_those_of_a_pattern(photo: Path, parse: Run) -> None:
    for name in ("a", "b"):
        Path("in", name).mkdir(parents=True)
    assert "no photos in the folders that the pattern matches" in parse("in/*").stderr
    photo.rename("in/b/photo.png")
    assert parse("in/*").status == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_without_waiting(photo: Path, parse: Run) -> None:
    os.mkfifo("pipe.jpg")
    result = parse("pipe.jpg")
    assert result.status == 2
    assert "pipe.jpg: is a pipe or a device" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("levels", ["", " ", ","])
def test_no_level(photo: Path, parse: Run, levels: str) -> None:
    result = parse("photo.png", "--levels", levels)
    assert result.status == 2
    assert "no level is asked for" in result.stderr


@pytest.mark.slow
def test_json_even_if_nothing_was_found(photo: Path, parse: Run) -> None:
    result = parse("missing.jpg", "--json")
    assert result.status == 2
    assert json.loads(result.stdout)["failures"][0]["path"] == "missing.jpg"


@pytest.mark.parametrize(("command", "option"), [("evaluate", "--json"), ("train", "--out")])
def test_a_device_that_is_not_there(photo: Path, run: Run, command: str, option: str) -> None:
    result = run(command, "camvid", "--data", ".", option, "out", "--device", "nonsense")
    assert result.status == 2
    assert "device 'nonsense' cannot be used" in result.stderr


def test_scores_do_not_go_to_a_folder(photo: Path, run: Run) -> None:
    result = run("evaluate", "camvid", "--data", ".", "--json=.")
    assert result.status == 2
    assert "is a folder" in result.stderr


@pytest.fixture
def parser(checkpoint: Path) -> Parser:
    return load(checkpoint)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_an_image_without_pixels(parser: Parser, mode: str) -> None:
    with pytest.raises(UpernetError, match="at least one pixel"):
        parser(Image.new(mode, (0, 5)))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_images_of_32_bits(parser: Parser, mode: str) -> None:
    assert parser(Image.new(mode, (40, 30))).object.labels.shape == (30, 40)


@pytest.mark.slow
def test_the_folder_of_a_training_run(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model.safetensors", create_model("camvid"), {"name": "mine"})
    (tmp_path / "state.safetensors").write_bytes(b"")
    assert load(tmp_path).card.name == "mine"
