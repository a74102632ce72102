"""Tests of what upernet.exporting and upernet.inference.runtimes refuse, and that nothing is lost then."""

from __future__ import annotations

import copy
import json
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.full_disk import file_size_limit, needs_file_size_limit
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import ExportedProgram

import upernet
from upernet import UPerNet, UpernetError
from upernet.checkpoints import load_checkpoint
from upernet.exporting import checking
from upernet.exporting.formats import OPSET, save_openvino, write_onnx, write_torch
from upernet.exporting.graph import Graph, trace
from upernet.files import atomic_files
from upernet.inference.runtimes import load_exported
from upernet.inference.torch_programs import refuse_code


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        ("a.onnx", {"opset": 99}, "opset 99 cannot be written; choose one from 18 to 23."),
        ("a.onnx", {"opset": 18, "dcnv3": "deformconv"}, "opset 18 has no DeformConv; choose 19 or newer"),
        ("a.onnx", {"to": "openvino"}, "the name of the file must end with .xml for openvino."),
        ("a.bin", {}, r"must end with one of .onnx \(ONNX\), .xml \(OpenVINO\), .pt2 \(torch.export\)."),
        ("a.onnx", {"to": "tflite"}, "format 'tflite' is unknown; choose onnx, openvino, torch."),
        ("a.pt2", {"opset": 20}, "--to torch has no opset; leave it out"),
        ("a.pt2", {"dcnv3": "deformconv"}, "--to torch has no deformconv"),
        ("a.xml", {"dcnv3": "deformconv"}, "--to openvino has no deformconv; choose --dcnv3 gridsample"),
        ("a.pt2", {"precision": "int8"}, "--to torch has no int8"),
        ("a.onnx", {"precision": "int8"}, "give a folder with --calibration."),
        ("a.onnx", {"calibration": "photos"}, "fp32 needs no photos; leave --calibration out"),
        ("a.onnx", {"precision": "int4"}, "precision 'int4' is unknown; choose fp32, fp16, int8."),
        ("a.onnx", {"output": "boxes"}, "output 'boxes' is unknown; choose logits, labels."),
        ("a.onnx", {"dcnv3": "im2col"}, "dcnv3 'im2col' is unknown; choose gridsample, deformconv."),
        ("a.onnx", {"data": "somewhere"}, "scoring needs logits and the recipe of the data"),
    ],
)
def test_options_that_do_not_fit(
    tiny: UPerNet, tmp_path: Path, file: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UpernetError, match=message):
        upernet.export(tiny, tmp_path / file, **options)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_photos_cannot_calibrate(tiny: UPerNet, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(UpernetError, match="no photos in this folder or below; give a folder"):
        upernet.export(tiny, tmp_path / "a.onnx", precision="int8", calibration=tmp_path / "photos")


@pytest.mark.parametrize(
    ("file", "taken"), [("a.onnx", "a.onnx"), ("a.onnx", "a.onnx.data"), ("a.xml", "a.xml"), ("a.xml", "a.bin")]
)
def test_files_are_not_overwritten_unless_asked(tiny: UPerNet, tmp_path: Path, file: str, taken: str) -> None:
    (tmp_path / taken).write_text("mine")
    with pytest.raises(UpernetError, match=f"{taken}: exists already; choose another name, or use --force"):
        upernet.export(tiny, tmp_path / file)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(taken, "mine")]


def test_a_model_does_not_overwrite_itself(tiny_file: Path, tmp_path: Path) -> None:
    """The weights of a.xml are in a.bin, and some checkpoints end with .bin."""
    checkpoint = tmp_path / "a.bin"
    checkpoint.write_bytes(tiny_file.read_bytes())
    with pytest.raises(UpernetError, match=r"a\.xml: a\.bin would overwrite the model itself; choose another name"):
        upernet.export(checkpoint, tmp_path / "a.xml", force=True)
    assert checkpoint.read_bytes() == tiny_file.read_bytes()


@pytest.mark.slow
def test_a_file_that_appears_meanwhile_is_not_overwritten(smallest: UPerNet, tmp_path: Path) -> None:
    out = tmp_path / "a.pt2"
    model = copy.deepcopy(smallest)
    model.backbone.register_forward_hook(lambda *_: out.write_text("of another process") and None)
    with pytest.raises(UpernetError, match="exists already; choose another name"):
        upernet.export(model, out, verify=False)
    assert out.read_text() == "of another process" and [file.name for file in tmp_path.iterdir()] == ["a.pt2"]


@pytest.fixture(scope="module")
def traced(smallest: UPerNet) -> ExportedProgram:
    return trace(Graph(smallest, "logits"))


@pytest.mark.slow
@needs_file_size_limit
@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_a_full_disk_changes_nothing(traced: ExportedProgram, smallest: UPerNet, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"a{suffix}"
    out.write_text("mine")
    writers: dict[str, Callable[[Path], None]] = {
        ".onnx": lambda path: write_onnx(traced, path, Graph(smallest, "logits").names, "{}", OPSET),
        ".xml": lambda path: save_openvino(constants(50_000), path, "{}"),
        ".pt2": lambda path: write_torch(traced, path, "{}"),
    }
    refused = pytest.raises(UpernetError, match=r"writing failed \(.*\); nothing was changed")
    with refused, atomic_files(out) as path, file_size_limit(100_000):
        writers[suffix](path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(out.name, "mine")]


def constants(count: int) -> Any:
    """Return a network of OpenVINO that adds as many numbers."""
    import openvino
    from openvino import opset13

    image = opset13.parameter([count], np.float32, name="image")
    return openvino.Model([opset13.add(image, np.arange(count, dtype=np.float32))], [image])


@pytest.mark.parametrize(("suffix", "package"), [(".onnx", "onnxruntime"), (".xml", "openvino")])
def test_a_missing_runtime_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suffix: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / f"a{suffix}").write_text("")
    with pytest.raises(UpernetError, match=rf"{package} is not installed; run `pip install 'upernet\[export\]'`."):
        upernet.load(tmp_path / f"a{suffix}")


def test_missing_packages_are_reported_before_the_network_is_traced(
    monkeypatch: pytest.MonkeyPatch, tiny: UPerNet, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UpernetError, match=r"onnxscript is not installed; run `pip install 'upernet\[export\]'`."):
        upernet.export(tiny, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_file_that_differs_from_the_model_is_not_written(
    monkeypatch: pytest.MonkeyPatch, smallest: UPerNet, tmp_path: Path
) -> None:
    (tmp_path / "a.pt2").write_text("mine")
    monkeypatch.setattr(checking, "TOLERANCE", 0.0)
    with pytest.raises(UpernetError, match=r"differs from the model by .* of the logits' spread, more than"):
        upernet.export(smallest, tmp_path / "a.pt2", force=True)
    assert (tmp_path / "a.pt2").read_text() == "mine"
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt2"]


class Wrapped(nn.Module):
    """A backbone with one more step at its first feature."""

    def __init__(self, backbone: nn.Module, step: Callable[[Tensor], Tensor]):
        super().__init__()
        self.backbone, self.step = backbone, step

    def forward(self, images: Tensor) -> list[Tensor]:
        first, *rest = self.backbone(images)
        return [self.step(first), *rest]


def own_operator(x: Tensor) -> Tensor:
    return torch.ops.upernet.grouped_softmax(x, 1)


def a_branch(x: Tensor) -> Tensor:
    return x if x.mean() > 0 else -x


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "message"),
    [
        (own_operator, "upernet.grouped_softmax.default has no export; choose another backbone."),
        (a_branch, "torch.export cannot trace it for images of all sizes"),
    ],
)
def test_networks_without_an_export(smallest: UPerNet, step: Callable[[Tensor], Tensor], message: str) -> None:
    graph = Graph(smallest, "logits")
    graph.network.backbone = Wrapped(graph.network.backbone, step)
    with pytest.raises(UpernetError, match=message):
        trace(graph)


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
@pytest.mark.parametrize("content", [b"", b"no network", b"PK\x03\x04 and no more"])
def test_files_that_are_no_networks(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(UpernetError, match=r"a\.\w+: .*[.]$") as error:
        load_exported(path)
    assert "\n" not in str(error.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UpernetError, match="no such file"):
        upernet.load(tmp_path / "a.onnx")


def an_onnx_file(path: Path, description: str | None) -> Path:
    """Write a graph that returns its input."""
    import onnx
    from onnx import TensorProto, helper

    shape = ["N", 3, "height", "width"]
    values = [helper.make_tensor_value_info(name, TensorProto.UINT8, shape) for name in ("image", "object")]
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["object"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if description is not None:
        helper.set_model_props(model, {"upernet": description})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (None, "has no description of its classes"),
        ("{", "its description of the network is not valid"),
        ('{"format": 7}', "upgrade upernet"),
        ('{"format": 1, "output": "x", "outputs": []}', "its description of the network is not valid"),
        ("[1]", "its description of the network is not valid"),
        ("[" * 100_000, "its description of the network is not valid"),
    ],
)
def test_networks_of_other_programs(tmp_path: Path, description: str | None, message: str) -> None:
    with pytest.raises(UpernetError, match=message):
        upernet.load(an_onnx_file(tmp_path / "a.onnx", description))


def described(**changes: object) -> str:
    taxonomy = {"name": "t", "description": "d", "levels": {"object": {"classes": [{"name": "a"}, {"name": "b"}]}}}
    content = {
        "format": 1,
        "taxonomy": taxonomy,
        "card": {},
        "output": "logits",
        "outputs": ["object"],
        "preprocess": {},
        "precision": "fp32",
        "dcnv3": "gridsample",
    }
    return json.dumps(content | changes)


@pytest.mark.parametrize("outputs", [[], ["object", "object"], ["object", "part"], ["familiarity"], 7])
def test_outputs_that_are_not_those_of_the_levels(tmp_path: Path, outputs: object) -> None:
    with pytest.raises(UpernetError, match="its description of the network is not valid"):
        load_exported(an_onnx_file(tmp_path / "a.onnx", described(outputs=outputs)))


def test_logits_that_do_not_fit_the_classes(tmp_path: Path) -> None:
    """The graph returns its input, which has 3 channels of uint8; the file describes 2 classes."""
    network = load_exported(an_onnx_file(tmp_path / "a.onnx", described()))
    with pytest.raises(UpernetError, match="object is 1 x 3 x 8 x 8 of uint8, which does not fit the classes"):
        network(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_a_size_that_the_graph_cannot_take(tmp_path: Path) -> None:
    network = load_exported(an_onnx_file(tmp_path / "a.onnx", described()))
    with pytest.raises(UpernetError, match="cannot take images of 1 x 4 x 8 x 8"):
        network(torch.zeros(1, 4, 8, 8, dtype=torch.uint8))


def test_an_exported_network_has_its_own_precision(tmp_path: Path) -> None:
    with pytest.raises(UpernetError, match="has the precision that it was exported with"):
        upernet.load(an_onnx_file(tmp_path / "a.onnx", described()), precision="bf16")


def test_research_weights_stay_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = an_onnx_file(tmp_path / "a.onnx", described(card={"research_only": True}))
    monkeypatch.setenv("UPERNET_NO_RESEARCH_WEIGHTS", "1")
    with pytest.raises(UpernetError, match="for research and non-commercial use only"):
        upernet.load(path)


def test_an_exported_file_is_no_checkpoint(tmp_path: Path) -> None:
    path = an_onnx_file(tmp_path / "a.onnx", described())
    with pytest.raises(UpernetError, match="give the checkpoint that it was exported from"):
        load_checkpoint(path)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.conv(image.float())


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a harmless program."""
    exported = torch.export.export(Small(), (torch.zeros(1, 3, 8, 8, dtype=torch.uint8),))
    exported.example_inputs = None
    exported._guards_code = []
    path = tmp_path_factory.mktemp("program") / "a.pt2"
    torch.export.save(exported, path, extra_files={"upernet": "{}"})
    return path


def changed(source: Path, path: Path, member: str, change: Callable[[str], str]) -> Path:
    """Copy an archive with another text in the member that ends like this."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(path, "w") as copy:
        for info in archive.infolist():
            content = archive.read(info)
            if info.filename.endswith(member):
                content = change(content.decode()).encode()
            copy.writestr(info.filename, content)
    return path


@pytest.mark.slow
def test_a_harmless_program_is_accepted(program: Path) -> None:
    refuse_code(program)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("member", "old", "new", "message"),
    [
        ("model.json", "torch.ops.aten.conv2d.default", "torch.hub.load", "a target 'torch.hub.load'"),
        ("model.json", "torch.ops.aten.conv2d.default", "torch.ops.aten.from_file.default", "a target"),
        ("model.json", '"guards_code": []', '"guards_code": ["__import__(\'os\')"]', "Python expressions"),
        ("model.json", '"name": "conv2d"', '"name": "x=1;import os"', "a name 'x=1;import os'"),
        ("weights_config.json", '"use_pickle": false', '"use_pickle": true', "pickled tensors"),
        ("sample_inputs/model.pt", "", "x", "pickled inputs"),
    ],
)
def test_programs_that_may_run_code_are_refused(
    program: Path, tmp_path: Path, member: str, old: str, new: str, message: str
) -> None:
    path = changed(program, tmp_path / "b.pt2", member, lambda text: text.replace(old, new) if old else new)
    with pytest.raises(UpernetError, match=f"{message}.*load only files that `upernet export` wrote"):
        load_exported(path)


@pytest.mark.slow
def test_members_of_other_kinds_are_refused(program: Path, tmp_path: Path) -> None:
    path = changed(program, tmp_path / "b.pt2", "none", str)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/data/aotinductor/model/model.so", b"\x7fELF")
    with pytest.raises(UpernetError, match="a member"):
        load_exported(path)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(places=st.lists(st.integers(-2000, 2**20), max_size=4), bits=st.integers(1, 255), cut=st.integers(0, 2000))
def test_damaged_programs(
    tmp_path_factory: pytest.TempPathFactory, program: Path, places: list[int], bits: int, cut: int
) -> None:
    """The last bytes are the directory of the archive."""
    content = bytearray(program.read_bytes())
    for place in places:
        content[place % len(content)] ^= bits
    path = tmp_path_factory.getbasetemp() / "damaged.pt2"
    path.write_bytes(content[:-cut] if cut < 1000 else content)
    with suppress(UpernetError):
        refuse_code(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compression", "flags", "reason"),
    [
        (zipfile.ZIP_STORED, 1, "is compressed or encrypted"),
        (zipfile.ZIP_DEFLATED, 0, "is compressed or encrypted"),
        (99, 0, "is compressed or encrypted"),
    ],
)
def test_members_that_torch_does_not_write(
    program: Path, tmp_path: Path, compression: int, flags: int, reason: str
) -> None:
    """The central directory says how a member is stored: at bytes 8 (flags) and 10 (compression) of its entry."""
    content = bytearray(program.read_bytes())
    with zipfile.ZipFile(program) as archive:
        entry = archive.start_dir
    content[entry + 8] |= flags
    content[entry + 10] = compression
    path = tmp_path / "b.pt2"
    path.write_bytes(content)
    with pytest.raises(UpernetError, match=rf"not a readable torch.export file \(.*{reason}\); export the model again"):
        load_exported(path)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["[]", "7", '{"config": []}', '{"config": {"a": 1}}', "[" * 100_000])
@pytest.mark.parametrize("member", ["model.json", "weights_config.json"])
def test_members_with_other_json(program: Path, tmp_path: Path, member: str, text: str) -> None:
    path = changed(program, tmp_path / "b.pt2", member, lambda _: text)
    with pytest.raises(UpernetError, match=r"export the model again\.$") as error:
        load_exported(path)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_damaged_weights(program: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Torch finds them, and would write the traceback of its own error to the standard error stream."""
    path = tmp_path / "b.pt2"
    with zipfile.ZipFile(program) as archive:
        weights = next(info for info in archive.infolist() if "weights/weight_" in info.filename)
        content = archive.read(weights)
    assert program.read_bytes().count(content) == 1
    path.write_bytes(program.read_bytes().replace(content, bytes(len(content))))
    with pytest.raises(UpernetError, match=r"torch cannot load it \(.*\); export the model again"):
        load_exported(path)
    assert capfd.readouterr() == ("", "")
