"""Tests of upernet.checkpoints.reading: which files are accepted, which are refused, and in which words."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from upernet.checkpoints.reading import read_weights
from upernet.errors import UpernetError

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2, dtype=torch.float64), "n": torch.tensor(7)}


def save_zip(path: Path) -> None:
    torch.save({"state_dict": TENSORS, "meta": {"CLASSES": ("x",)}}, path)


def save_old(path: Path) -> None:
    torch.save({"state_dict": TENSORS}, path, _use_new_zipfile_serialization=False)


def save_safetensors(path: Path) -> None:
    save_file(TENSORS, path, metadata={"format": "pt"})


WRITERS: list[Callable[[Path], None]] = [save_zip, save_old, save_safetensors]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ""])
def test_content_counts_not_the_name(write: Callable[[Path], None], suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"file{suffix}"
    write(path)
    tensors = read_weights(path).tensors
    assert set(tensors) == set(TENSORS)
    for key, value in TENSORS.items():
        assert tensors[key].dtype == (torch.float32 if value.is_floating_point() else torch.int64)
        assert torch.equal(tensors[key], value.to(tensors[key].dtype))


def test_metadata_comes_along(tmp_path: Path) -> None:
    save_zip(tmp_path / "a")
    save_safetensors(tmp_path / "b")
    assert read_weights(tmp_path / "a").metadata == {"CLASSES": ("x",)}
    assert read_weights(tmp_path / "b").metadata == {"format": "pt"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty; fetch"),
        (b"<!DOCTYPE html><html>404</html>", "text instead of weights .it begins with '<!DOCTYPE html><html>404"),
        (b"\n\n <html lang='\xc3\xa9'>", "text instead of weights"),
        (b'{"error": "not found"}', "text instead of weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n\x00\x00\x00", "not weights that upernet can read"),
        (b"\x80\x04garbage", "cut off or damaged"),
        (b"PK\x03\x04garbage", "cut off or damaged"),
        ((10).to_bytes(8, "little") + b"{garbage}}", "not a readable safetensors file"),
    ],
)
def test_what_is_no_file_of_weights(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(UpernetError, match=rf"file\.pth: .*{words}"):
        read_weights(tmp_path / "file.pth")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UpernetError, match="no such checkpoint file"):
        read_weights(tmp_path / "missing.pth")
    with pytest.raises(UpernetError, match="a folder"):
        read_weights(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("write", WRITERS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_read_or_refused_in_words(
    write: Callable[[Path], None], tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "file"
    write(path)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans(), label="cut"):
        end = data.draw(st.integers(0, len(content) - 1))
        path.write_bytes(content[:end])
        with pytest.raises(UpernetError, match=r"file: "):
            read_weights(path)
        return
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        read_weights(path)
    except UpernetError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017 (some damage is harmless)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("write", [torch.save, save_file])
def test_values_that_are_not_finite(write: Callable[[Any, Path], None], value: float, tmp_path: Path) -> None:
    write({"a": torch.ones(3), "b.weight": torch.tensor([1.0, value, 2.0])}, tmp_path / "file")
    with pytest.raises(UpernetError, match=r"tensor b\.weight has values that are not finite"):
        read_weights(tmp_path / "file")


def test_an_optimizer_may_hold_what_it_likes(tmp_path: Path) -> None:
    torch.save({"state_dict": TENSORS, "optimizer": {"m": torch.tensor(float("nan"))}}, tmp_path / "file")
    assert set(read_weights(tmp_path / "file").tensors) == set(TENSORS)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"state_dict": {}}, {"state_dict": {"a": 1}}])
def test_files_without_tensors(content: dict[str, Any], tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file")
    with pytest.raises(UpernetError, match="holds no tensors"):
        read_weights(tmp_path / "file")


def test_a_tensor_alone_and_a_network_are_no_state_dict(tmp_path: Path) -> None:
    torch.save(torch.zeros(2), tmp_path / "tensor")
    with pytest.raises(UpernetError, match="not a state dict"):
        read_weights(tmp_path / "tensor")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "network")
    with pytest.raises(
        UpernetError, match=r"refused because reading it would run code \(torch\.nn\.modules\.linear\.Linear\)"
    ):
        read_weights(tmp_path / "network")


class _Evil:
    """Opens a file for writing when it is unpickled."""

    def __init__(self, path: Path, function: Any = open):
        self.path, self.function = path, function

    def __reduce__(self) -> Any:
        return self.function, (str(self.path), "w") if self.function is open else (f"echo > {self.path}",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["tensor", "extra"])
def test_code_is_refused_and_not_run(zipped: bool, place: str, tmp_path: Path) -> None:
    import os

    for function, name in ((open, "io.open"), (os.system, r"posix\.system|posix|nt")):
        evil = _Evil(tmp_path / "was_run", function)
        content = {"state_dict": TENSORS | {"b": evil}} if place == "tensor" else {"state_dict": TENSORS, "args": evil}
        torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(
            UpernetError, match=rf"refused because reading it would run code \(({name})\).*save the state dict"
        ):
            read_weights(tmp_path / "evil.pth")
        assert not (tmp_path / "was_run").exists()


def test_plain_pickles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"a": np.zeros(3)}))
    with pytest.raises(UpernetError, match=r"plain\.pkl: "):
        read_weights(tmp_path / "plain.pkl")


@pytest.mark.parametrize("zipped", [True, False])
def test_scores_and_options_beside_the_weights_do_no_harm(zipped: bool, tmp_path: Path) -> None:
    """What training programs store; none of it is made into an object of its class."""
    extras = {
        "meta": {"mIoU": np.float64(0.5), "per_class": np.zeros((2, 3), np.float32), "CLASSES": ("x",)},
        "args": argparse.Namespace(lr=1e-3, out=PosixPath("/tmp") if isinstance(Path(), PosixPath) else "."),
    }
    torch.save({"state_dict": TENSORS, **extras}, tmp_path / "file", _use_new_zipfile_serialization=zipped)
    weights = read_weights(tmp_path / "file")
    assert torch.equal(weights.tensors["a.weight"], TENSORS["a.weight"])
    assert weights.metadata["CLASSES"] == ("x",)
    assert not isinstance(weights.metadata["mIoU"], np.generic)
    torch.serialization.get_safe_globals()  # and torch.load is as strict afterwards as before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "file", weights_only=True)


def test_functions_by_a_harmless_name_are_not_called(tmp_path: Path) -> None:
    """Mmengine's logs ask for `getattr`; a hostile file may, too, and gets an empty object instead."""

    class ByGetattr:
        def __reduce__(self) -> Any:
            return getattr, (Path, "cwd")

    torch.save({"state_dict": TENSORS, "log": ByGetattr()}, tmp_path / "file")
    with pytest.raises(UpernetError, match=r"would run code \(pathlib\.Path\)"):
        read_weights(tmp_path / "file")


def test_sizes_beyond_the_file_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(10**12)}, tmp_path / "wide")
    with pytest.raises(UpernetError, match="tensor a claims to be larger than the file"):
        read_weights(tmp_path / "wide")
    torch.save({"a": torch.zeros(2, 2).to_sparse()}, tmp_path / "sparse")
    torch.save({"a": torch.empty(10**9, 10**3, device="meta")}, tmp_path / "meta")
    for name in ("sparse", "meta"):
        with pytest.raises(UpernetError, match="tensor a is not a plain tensor"):
            read_weights(tmp_path / name)


def test_archives_of_another_kind_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("photo.txt", "x")
    with pytest.raises(UpernetError, match="a zip archive without weights of torch"):
        read_weights(tmp_path / "photos.zip")
    save_zip(tmp_path / "file.pth")
    with zipfile.ZipFile(tmp_path / "file.pth") as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(UpernetError, match="a compressed archive"):
        read_weights(tmp_path / "packed.pth")


def test_a_file_that_contains_itself(tmp_path: Path) -> None:
    content: dict[str, Any] = {"epoch": 1}
    content["model"] = content
    torch.save(content, tmp_path / "loop")
    with pytest.raises(UpernetError, match="holds no tensors"):
        read_weights(tmp_path / "loop")
