"""Tests of upernet.exporting and upernet.inference.runtimes: files that compute the same as the model."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.exports import CARD, written_once
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.models.swin_transformer import SwinTransformerStage
from torch import Tensor

import upernet
from benchmarks.networks import as_if_trained
from upernet import UpernetError
from upernet.checkpoints import check_card
from upernet.decoding import label_map
from upernet.exporting import formats
from upernet.exporting.checking import agreement, check_errors, errors, sample_images
from upernet.exporting.formats import read_openvino, save_openvino, write_onnx, write_torch
from upernet.exporting.graph import Graph, trace
from upernet.exporting.operators import exportable
from upernet.exporting.quantizing import quantize_openvino
from upernet.inference import Parser
from upernet.inference.calibrating import calibration_images
from upernet.inference.runtimes import Description, ExportedNetwork, load_exported
from upernet.models import UPerNet, build_model
from upernet.recipe import load_recipe
from upernet.taxonomy import Taxonomy

pytestmark = pytest.mark.slow

SUFFIXES = [".onnx", ".xml", ".pt2"]


def write(model: UPerNet, folder: Path, card: dict[str, Any], torch_too: bool = False) -> None:
    """Write the logits of `model` for each runtime, from one trace, which takes most of the time of an export."""
    graph = Graph(model, "logits")
    about = Description(model.taxonomy, check_card(card), "logits", graph.names, {}, "fp32", "gridsample").to_json()
    program = trace(graph)
    write_onnx(program, folder / "model.onnx", graph.names, about, opset=20)
    save_openvino(read_openvino(folder / "model.onnx"), folder / "model.xml", about)
    if torch_too:
        write_torch(program, folder / "model.pt2", about)


@pytest.fixture(scope="module")
def files(tiny: UPerNet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = written_once(tmp_path_factory, "exported", lambda folder: write(tiny, folder, CARD, torch_too=True))
    return {suffix: folder / f"model{suffix}" for suffix in SUFFIXES}


@pytest.fixture(scope="module")
def network(files: dict[str, Path]) -> Callable[[str], ExportedNetwork]:
    return cache(lambda suffix: load_exported(files[suffix]))


def images(n: int, height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8)


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=8, deadline=None)
@given(n=st.integers(1, 3), height=st.integers(32, 120), width=st.integers(32, 120))
def test_every_size_gives_the_logits_of_the_model(
    network: Callable[[str], ExportedNetwork], tiny: UPerNet, suffix: str, n: int, height: int, width: int
) -> None:
    photos = images(n, height, width)
    found = network(suffix)(photos)
    with torch.inference_mode():
        expected = tiny(tiny.preprocess(photos))
    assert set(found) == {*expected, "familiarity"}
    for level, logits in expected.items():
        assert found[level].shape == logits.shape
        assert (found[level] - logits).abs().max() <= 1e-4 * logits.std()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_images_of_a_few_pixels(network: Callable[[str], ExportedNetwork], tiny: UPerNet, suffix: str) -> None:
    photos = images(1, 5, 33)
    with torch.inference_mode():
        expected = tiny(tiny.preprocess(photos))
    torch.testing.assert_close(network(suffix)(photos)["object"], expected["object"], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_parsing_with_the_file_gives_the_same_parse(
    network: Callable[[str], ExportedNetwork], tiny_file: Path, suffix: str
) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (70, 150, 3), dtype=np.uint8)
    own, exported = upernet.load(tiny_file)(photo), Parser(network(suffix))(photo)
    assert exported.model == own.model == "tiny"
    assert exported.thresholds == own.thresholds == {"object": 0.3}
    assert [name for name, _ in exported.scene] == [name for name, _ in own.scene]
    assert exported.familiarity == pytest.approx(own.familiarity, abs=0.05)
    for level in ("object", "part"):
        assert np.mean(exported[level].labels == own[level].labels) > 0.999
        np.testing.assert_allclose(exported[level].confidence, own[level].confidence, atol=1e-3)


LOADED_TWICE = """
import gc, os, signal, sys
from pathlib import Path
from upernet.inference.runtimes import OpenVino

networks = [OpenVino(Path(sys.argv[1])) for _ in range(2)]
while networks:
    networks.pop(0)
    gc.collect()
signal.signal(signal.SIGTERM, lambda number, frame: print("caught", flush=True))
os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="only there, OpenVINO changes how signals are handled")
def test_a_process_that_loaded_two_files_into_openvino_survives_signals(files: dict[str, Path]) -> None:
    done = subprocess.run([sys.executable, "-c", LOADED_TWICE, files[".xml"]], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "caught\n"), done.stderr


def member(path: Path, name: str) -> str:
    """Return a text in the archive of a torch.export program."""
    with zipfile.ZipFile(path) as archive:
        return archive.read(f"{archive.namelist()[0].partition('/')[0]}/{name}").decode()


def test_the_files_say_what_they_hold(files: dict[str, Path]) -> None:
    import onnx
    import openvino

    properties = {entry.key: entry.value for entry in onnx.load(files[".onnx"]).metadata_props}
    model: Any = openvino.Core().read_model(files[".xml"])
    texts = [properties["upernet"], member(files[".pt2"], "extra/upernet"), model.get_rt_info(["upernet"]).value]
    assert texts[0] == texts[1] == texts[2]
    content = json.loads(texts[0])
    assert list(content["taxonomy"]["levels"]) == ["scene", "object", "part"]
    assert content["card"]["thresholds"] == {"object": 0.3}
    assert content["outputs"] == ["scene", "object", "part", "familiarity"]


def test_the_graph_has_standard_operators_and_no_fixed_sizes(files: dict[str, Path]) -> None:
    import onnx

    model = onnx.load(files[".onnx"])
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""} and not model.functions
    (image,) = model.graph.input
    assert [axis.dim_param or axis.dim_value for axis in image.type.tensor_type.shape.dim] == [
        "N",
        3,
        "height",
        "width",
    ]
    content = files[".onnx"].read_bytes() + b"".join(
        path.read_bytes() for path in files[".xml"].parent.iterdir() if path.suffix == ".xml"
    )
    assert str(Path(upernet.__file__).parent).encode() not in content


def test_a_torch_program_needs_no_code_of_this_package(files: dict[str, Path]) -> None:
    text = member(files[".pt2"], "models/model.json")
    namespaces = {node["target"].rpartition(".")[0] for node in json.loads(text)["graph_module"]["graph"]["nodes"]}
    assert all(name.startswith("torch.ops.aten.") or name in ("torch", "math", "_operator") for name in namespaces)
    assert str(Path(upernet.__file__).parent) not in text


@pytest.fixture(scope="module")
def labels(small: UPerNet, tmp_path_factory: pytest.TempPathFactory) -> ExportedNetwork:
    def write_labels(folder: Path) -> None:
        path = folder / "small.onnx"
        done = upernet.export(small, path, output="labels", card={"temperatures": {"object": 1.5}})
        assert done.outputs == ("scene", "object", "object_confidence", "part", "part_confidence")
        assert done.files == (str(path),) and [file.name for file in folder.iterdir()] == ["small.onnx"]

    return load_exported(written_once(tmp_path_factory, "labels", write_labels) / "small.onnx")


def test_labels_are_those_of_the_resized_logits(labels: ExportedNetwork, small: UPerNet) -> None:
    photos = images(2, 50, 83)
    found = labels(photos)
    with torch.inference_mode():
        logits = small(small.preprocess(photos))
    for index in range(2):
        expected = label_map(logits["object"][index : index + 1], (50, 83))
        assert (found["object"][index] == expected).float().mean() > 0.999
    assert found["object"].dtype == torch.int32 and found["object"].shape == (2, 50, 83)
    torch.testing.assert_close(found["scene"], logits["scene"].softmax(1), atol=1e-4, rtol=1e-3)
    resized = F.interpolate(logits["object"], size=(50, 83), mode="bilinear")
    torch.testing.assert_close(found["object_confidence"], (resized / 1.5).softmax(1).amax(1), atol=1e-4, rtol=1e-3)
    groups = {group.owner: group.parts for group in small.taxonomy.part_groups}
    for owner in range(4):
        parts = found["part"][found["object"] == owner]
        assert set(parts.unique().tolist()) <= set(groups.get(owner, (0,)))


def test_files_with_labels_do_not_parse(labels: ExportedNetwork) -> None:
    with pytest.raises(UpernetError, match="export the model with --output logits"):
        upernet.load(labels.path)


def test_the_graph_normalizes_as_its_description_says(labels: ExportedNetwork, small: UPerNet) -> None:
    about = labels.description.preprocess
    assert about["channels"] == "RGB"
    assert about["mean"] == pytest.approx(small.preprocess.mean.flatten().tolist())


def assert_as_the_model(model: UPerNet, folder: Path) -> None:
    """Write `model`, and compare both runtimes with it."""
    write(model.eval(), folder, {})
    for suffix in (".onnx", ".xml"):
        found = errors(Graph(model, "logits"), load_exported(folder / f"model{suffix}"), sample_images())
        check_errors(found, "logits")


def test_everyday(tmp_path: Path) -> None:
    assert_as_the_model(upernet.load_model("everyday"), tmp_path)


def test_a_network_of_unified_perceptual_parsing(tmp_path: Path) -> None:
    model = build_model(load_recipe("upp_resnet50_upernet"))
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        setattr(model.backbone, stage, model.backbone.get_submodule(stage)[:1])  # further blocks are alike
    model.apply(as_if_trained)
    assert_as_the_model(model, tmp_path)


def test_a_backbone_of_timm(tmp_path: Path) -> None:
    """Swin pads its maps to whole windows, which are shifted in each second block; further blocks are alike."""
    model = UPerNet("swin_tiny_patch4_window7_224", "camvid", decoder_channels=32, pool_scales=())
    stages = [module for module in model.modules() if isinstance(module, SwinTransformerStage)]
    for stage, blocks in zip(stages, (0, 2, 0, 0), strict=True):
        stage.blocks = stage.blocks[:blocks]
    model.apply(as_if_trained)
    assert_as_the_model(model, tmp_path)


def test_the_largest_internimage_by_deform_conv(tmp_path: Path, rooms: Taxonomy) -> None:
    """InternImage-H has layers that the smaller ones lack."""
    options = {"channels": 16, "depths": (1, 1, 1, 1), "groups": (1, 2, 4, 8), "level2_post_norm_blocks": (0,)}
    model = UPerNet("internimage_h", rooms, backbone_options=options, decoder_channels=16, pool_scales=())
    model.apply(as_if_trained)
    done = upernet.export(model, tmp_path / "huge.onnx", dcnv3="deformconv")
    assert 0 < done.errors["object"] < 1e-4


def test_flash_internimage(tmp_path: Path, rooms: Taxonomy) -> None:
    options = {"channels": 16, "depths": (1, 1, 1, 1), "groups": (1, 2, 4, 8)}
    model = UPerNet("flash_internimage_l", rooms, backbone_options=options, decoder_channels=16, pool_scales=())
    model.apply(as_if_trained)
    assert_as_the_model(model, tmp_path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index, image in enumerate(sample_images()):
        Image.fromarray(image[0].permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
    return folder


def test_float16_agrees_with_the_model(smallest: UPerNet, tmp_path: Path, photos: Path) -> None:
    done = upernet.export(smallest, tmp_path / "a.xml", precision="fp16", calibration=photos)
    assert done.files == (str(tmp_path / "a.bin"), str(tmp_path / "a.xml"))
    assert done.agreement == {"scene": 1.0} and 1e-6 < done.errors["scene"] < 0.1
    assert (tmp_path / "a.bin").stat().st_size < 0.6 * 4 * sum(p.numel() for p in smallest.parameters())


@torch.inference_mode()
def test_dcnv3_samples_at_positions_in_float32_where_maps_are_in_float16(tiny: UPerNet) -> None:
    half, full = Graph(tiny, "logits", half=True), Graph(tiny, "logits")
    with exportable():
        for image in sample_images():
            found, expected = half(image)[1], full(image)[1]
            assert 1e-6 < (found - expected).abs().max() / expected.std() < 0.1


def test_int8_agrees_with_the_model(
    monkeypatch: pytest.MonkeyPatch, smallest: UPerNet, tmp_path: Path, photos: Path
) -> None:
    """The weights are in a file of their own, as those of more than 1 GiB are."""
    monkeypatch.setattr(formats, "INLINE_BYTES", 0)
    done = upernet.export(smallest, tmp_path / "a.onnx", precision="int8", calibration=photos)
    assert done.agreement == {"scene": 1.0} and 1e-4 < done.errors["scene"] < 2
    assert sorted(done.files) == [str(tmp_path / name) for name in ("a.onnx", "a.onnx.data")]
    assert sorted(map(str, tmp_path.iterdir())) == sorted(done.files)
    assert (tmp_path / "a.onnx.data").stat().st_size < 0.6 * 4 * sum(p.numel() for p in smallest.parameters())
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in done.files:
        Path(file).rename(moved / Path(file).name)
    assert load_exported(moved / "a.onnx").description.precision == "int8"


def test_int8_in_openvino(tiny: UPerNet, files: dict[str, Path], tmp_path: Path, photos: Path) -> None:
    quantized = quantize_openvino(read_openvino(files[".onnx"]), calibration_images(photos, None, 64))
    assert any(operation.get_type_name() == "FakeQuantize" for operation in quantized.get_ops())
    save_openvino(quantized, tmp_path / "tiny.xml", load_exported(files[".onnx"]).description.to_json())
    same = agreement(Graph(tiny, "logits"), load_exported(tmp_path / "tiny.xml"), sample_images())
    assert same["object"] > 0.7
