"""Tests of upernet.checkpoints.finding: every command finds checkpoints by the same references."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from upernet.checkpoints import checkpoint_in, find_checkpoint, save_checkpoint
from upernet.cli.main import main
from upernet.errors import UpernetError
from upernet.models import UPerNet
from upernet.recipe import ModelSpec
from upernet.taxonomy import load_taxonomy

MODEL = {"backbone": "mobilenetv3_small_050", "decoder_channels": 8, "auxiliary_channels": None}
STAGE = {"name": "scenes", "iterations": 1, "sources": ["scenes"], "learning_rate": 1e-3}
RECIPE = {
    "description": "Scenes, tiny.",
    "taxonomy": "everyday",
    "model": MODEL,
    "sources": {
        "scenes": {
            "kind": "label_folder",
            "path": "scenes/{split}",
            "level": "scene",
            "batch_size": 2,
            "augmentation": {"crop": [64, 64]},
        }
    },
    "training": {"workers": 0, "stages": [STAGE]},
}
COMMANDS = ("parse", "train", "evaluate", "convert", "bench")
Command = Callable[[str, object], list[object]]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Return the folder of a finished training run."""
    folder = tmp_path / "finished"
    model = UPerNet(ModelSpec.model_validate(MODEL), load_taxonomy("everyday"))
    save_checkpoint(folder / "model.safetensors", model, {"name": "tiny"})
    (folder / "state.safetensors").write_bytes(b"")
    return folder


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Return the arguments of a command that loads a checkpoint, for a small recipe with two photos per split."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("garden", "coast"):
            path = tmp_path / "data" / "scenes" / split / label / "a.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)

    def arguments(name: str, reference: object) -> list[object]:
        recipe, data, out = tmp_path / "tiny.yaml", tmp_path / "data", tmp_path / "out"
        return {
            "parse": ["parse", data / "scenes/test/garden/a.png", "--model", reference, "--out", out],
            "train": ["train", recipe, "--data", data, "--init", reference, "--out", out, "--device", "cpu", "--quiet"],
            "evaluate": ["evaluate", recipe, "--data", data, "--checkpoint", reference, "--device", "cpu"],
            "convert": ["convert", reference, out],
            "bench": ["bench", reference, "--size", "64", "--repeats", "1"],
        }[name]

    return arguments


def status(arguments: list[object]) -> object:
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    return exit_.value.code


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_the_folder_of_a_run(
    name: str, command: Command, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(command(name, run_folder)) == 0, capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("everyda", "unknown model 'everyda' (did you mean 'everyday'?): give one of camvid, everyday, "),
        ("missing.pth", "missing.pth: no such checkpoint file"),
        ("data", "data: a folder must hold one checkpoint (found: none); give the file itself."),
        ("hf://nobody", "hf://nobody: "),
    ],
)
def test_every_command_refuses_in_the_same_words(
    name: str,
    reference: str,
    sentence: str,
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert status(command(name, reference)) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


@pytest.mark.parametrize("name", ["parse", "train", "evaluate", "convert"])
def test_a_model_without_weights(name: str, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(command(name, "upp_resnet50_broden")) == 2
    error = capsys.readouterr().err
    assert "upp_resnet50_broden has no bundled or published weights; give a checkpoint file" in error
    assert "`upernet train upp_resnet50_broden`" in error and "=" not in error


@pytest.mark.slow
def test_convert_takes_the_name_of_a_model(command: Command, tmp_path: Path) -> None:
    assert status(command("convert", "camvid")) == 0
    assert (tmp_path / "out.safetensors").is_file() and (tmp_path / "out.yaml").is_file()


def test_names_win_over_files_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "camvid").mkdir()
    assert find_checkpoint("camvid").name == "camvid.safetensors"


def test_backbones_are_found_only_where_a_backbone_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPERNET_HOME", str(tmp_path))
    monkeypatch.setenv("UPERNET_OFFLINE", "1")
    with pytest.raises(UpernetError, match="internimage_t: a backbone, which has no classes"):
        find_checkpoint("internimage_t")
    with pytest.raises(UpernetError, match="UPERNET_OFFLINE"):
        find_checkpoint("internimage_t", backbones=True)


@pytest.mark.parametrize(
    "reference", ["hf://", "hf://owner", "hf:///name", "hf://owner/", "hf://owner/name@", "hf://owner@v1/name"]
)
def test_references_to_the_hub_that_name_no_repository(reference: str) -> None:
    with pytest.raises(UpernetError, match=r"write hf://OWNER/NAME or hf://OWNER/NAME/FILE"):
        find_checkpoint(reference)


@pytest.mark.parametrize("reference", ["", "x" * 5000, "a\0b"])
def test_names_that_no_file_can_have(reference: str) -> None:
    with pytest.raises(UpernetError, match="unknown model"):
        find_checkpoint(reference)


@pytest.mark.slow
def test_the_checkpoint_in_a_folder(run_folder: Path, tmp_path: Path) -> None:
    file = run_folder / "model.safetensors"
    assert checkpoint_in(run_folder) == find_checkpoint(run_folder) == file
    other = tmp_path / "other"
    other.mkdir()
    file.rename(other / "one.pth")
    assert checkpoint_in(other) == other / "one.pth"
    (other / "two.pt").touch()
    with pytest.raises(UpernetError, match=r"found: one\.pth, two\.pt"):
        checkpoint_in(other)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs the permissions of Unix")
def test_a_folder_without_permission_is_one_sentence(tmp_path: Path) -> None:
    user, mode = os.geteuid(), tmp_path.stat().st_mode
    tmp_path.chmod(0)
    if user == 0:
        os.seteuid(65534)  # root may read everything
    try:
        with pytest.raises(UpernetError, match=r"cannot be read \(Permission denied\); give the"):
            checkpoint_in(tmp_path)
    finally:
        os.seteuid(user)
        tmp_path.chmod(mode)
