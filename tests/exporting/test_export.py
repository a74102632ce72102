"""Tests of upernet.exporting and upernet.inference.runtimes: files that compute the same as the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import upernet
from benchmarks.networks import as_if_trained
from upernet import UpernetError
from upernet.checkpoints import check_card
from upernet.decoding import label_map
from upernet.exporting.checking import agreement, check_errors, errors, sample_images
from upernet.exporting.formats import read_openvino, save_openvino, write_onnx, write_torch
from upernet.exporting.graph import Graph, trace
from upernet.exporting.quantizing import calibration_images, quantize_openvino
from upernet.inference.runtimes import Description, ExportedNetwork, load_exported
from upernet.models import UPerNet, build_model
from upernet.recipe import load_recipe

pytestmark = pytest.mark.slow

CARD = {"name": "tiny", "short_side": 96, "thresholds": {"object": 0.3}, "temperatures": {"object": 1.5}}
SUFFIXES = [".onnx", ".xml", ".pt2"]


def written(model: UPerNet, folder: Path, card: dict[str, Any], torch_too: bool = False) -> dict[str, Path]:
    """Write the logits of `model` for each runtime, from one trace, which takes most of the time of an export."""
    graph = Graph(model, "logits")
    description = Description(
        model.taxonomy, check_card(card), "logits", graph.names, {}, "fp32", "gridsample"
    ).to_json()
    program, files = (
        trace(graph, "gridsample"),
        {suffix: folder / f"model{suffix}" for suffix in SUFFIXES[: 2 + torch_too]},
    )
    write_onnx(program, files[".onnx"], graph.names, description, opset=20)
    save_openvino(read_openvino(files[".onnx"]), files[".xml"], description)
    if torch_too:
        write_torch(program, files[".pt2"], description)
    return files


@pytest.fixture(scope="module")
def files(tiny: UPerNet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return written(tiny, tmp_path_factory.mktemp("exported"), CARD, torch_too=True)


@pytest.fixture(scope="module")
def networks(files: dict[str, Path]) -> dict[str, ExportedNetwork]:
    return {suffix: load_exported(path) for suffix, path in files.items()}


def images(n: int, height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8)


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=8, deadline=None)
@given(n=st.integers(1, 3), height=st.integers(32, 120), width=st.integers(32, 120))
def test_every_size_gives_the_logits_of_the_model(
    networks: dict[str, ExportedNetwork], tiny: UPerNet, suffix: str, n: int, height: int, width: int
) -> None:
    photos = images(n, height, width)
    found = networks[suffix](photos)
    with torch.inference_mode():
        expected = tiny(tiny.preprocess(photos))
    assert set(found) == {*expected, "familiarity"}
    for level, logits in expected.items():
        assert found[level].shape == logits.shape
        assert (found[level] - logits).abs().max() <= 1e-4 * logits.std()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_images_of_a_few_pixels(networks: dict[str, ExportedNetwork], tiny: UPerNet, suffix: str) -> None:
    photos = images(1, 5, 33)
    with torch.inference_mode():
        expected = tiny(tiny.preprocess(photos))
    torch.testing.assert_close(networks[suffix](photos)["object"], expected["object"], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_parsing_with_the_file_gives_the_same_parse(files: dict[str, Path], tiny_file: Path, suffix: str) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (70, 150, 3), dtype=np.uint8)
    own, exported = upernet.load(tiny_file)(photo), upernet.load(files[suffix])(photo)
    assert exported.model == own.model == "tiny"
    assert exported.thresholds == own.thresholds == {"object": 0.3}
    assert [name for name, _ in exported.scene] == [name for name, _ in own.scene]
    assert exported.familiarity == pytest.approx(own.familiarity, abs=0.05)
    for level in ("object", "part"):
        assert np.mean(exported[level].labels == own[level].labels) > 0.999
        np.testing.assert_allclose(exported[level].confidence, own[level].confidence, atol=1e-3)


def test_the_files_say_what_they_hold(files: dict[str, Path]) -> None:
    import onnx
    import openvino

    properties = {entry.key: entry.value for entry in onnx.load(files[".onnx"]).metadata_props}
    extra = {"upernet": ""}
    torch.export.load(files[".pt2"], extra_files=extra)
    model: Any = openvino.Core().read_model(files[".xml"])
    texts = [properties["upernet"], extra["upernet"], model.get_rt_info(["upernet"]).value]
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
    program = torch.export.load(files[".pt2"])
    namespaces = {
        node.target.namespace for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)
    }
    assert namespaces == {"aten"}
    assert str(Path(upernet.__file__).parent) not in str([node.meta.get("stack_trace") for node in program.graph.nodes])


@pytest.fixture(scope="module")
def labels(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportedNetwork:
    path = tmp_path_factory.mktemp("labels") / "tiny.onnx"
    done = upernet.export(tiny_file, path, output="labels")
    assert done.outputs == ("scene", "object", "object_confidence", "part", "part_confidence", "familiarity")
    assert done.files == (str(path),) and [file.name for file in path.parent.iterdir()] == ["tiny.onnx"]
    return load_exported(path)


def test_labels_are_those_of_the_resized_logits(labels: ExportedNetwork, tiny: UPerNet) -> None:
    photos = images(2, 50, 83)
    found = labels(photos)
    with torch.inference_mode():
        logits = tiny(tiny.preprocess(photos))
    for index in range(2):
        expected = label_map(logits["object"][index : index + 1], (50, 83))
        assert (found["object"][index] == expected).float().mean() > 0.999
    assert found["object"].dtype == torch.int32 and found["object"].shape == (2, 50, 83)
    torch.testing.assert_close(found["scene"], logits["scene"].softmax(1), atol=1e-4, rtol=1e-3)
    confidence = found["object_confidence"]
    assert confidence.min() >= 1 / 4 and confidence.max() <= 1
    groups = {group.owner: group.parts for group in tiny.taxonomy.part_groups}
    for owner in range(4):
        parts = found["part"][found["object"] == owner]
        assert set(parts.unique().tolist()) <= set(groups.get(owner, (0,)))


def test_files_with_labels_do_not_parse(labels: ExportedNetwork) -> None:
    with pytest.raises(UpernetError, match="export the model with --output logits"):
        upernet.load(labels.path)


def test_the_graph_normalizes_as_its_description_says(labels: ExportedNetwork, tiny: UPerNet) -> None:
    about = labels.description.preprocess
    assert about["channels"] == "RGB"
    assert about["mean"] == pytest.approx(tiny.preprocess.mean.flatten().tolist())


def assert_as_the_model(model: UPerNet, files: dict[str, Path]) -> None:
    graph = Graph(model, "logits")
    for path in files.values():
        check_errors(errors(graph, load_exported(path), sample_images()), "logits")


def test_deform_conv_computes_the_same(tiny: UPerNet, tmp_path: Path) -> None:
    done = upernet.export(tiny, tmp_path / "tiny.onnx", dcnv3="deformconv")
    assert 0 < done.errors["object"] < 1e-4


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index, image in enumerate(sample_images()):
        Image.fromarray(image[0].permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
    return folder


def test_float16_agrees_with_the_model(tiny: UPerNet, tmp_path: Path, photos: Path) -> None:
    done = upernet.export(tiny, tmp_path / "tiny.xml", precision="fp16", calibration=photos)
    assert done.files == (str(tmp_path / "tiny.bin"), str(tmp_path / "tiny.xml"))
    assert set(done.agreement) == {"scene", "object", "part"} and min(done.agreement.values()) > 0.95
    assert 1e-6 < done.errors["object"] < 0.1
    assert (tmp_path / "tiny.bin").stat().st_size < 0.6 * 4 * sum(p.numel() for p in tiny.parameters())


def test_int8_agrees_with_the_model(tiny: UPerNet, tmp_path: Path, photos: Path) -> None:
    done = upernet.export(tiny, tmp_path / "tiny.onnx", precision="int8", calibration=photos)
    assert done.agreement["object"] > 0.7 and 1e-4 < done.errors["object"] < 2
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.onnx"]
    assert load_exported(tmp_path / "tiny.onnx").description.precision == "int8"


def test_int8_in_openvino(tiny: UPerNet, files: dict[str, Path], tmp_path: Path, photos: Path) -> None:
    quantized = quantize_openvino(read_openvino(files[".onnx"]), calibration_images(photos, None))
    assert any(operation.get_type_name() == "FakeQuantize" for operation in quantized.get_ops())
    save_openvino(quantized, tmp_path / "tiny.xml", load_exported(files[".onnx"]).description.to_json())
    same = agreement(Graph(tiny, "logits"), load_exported(tmp_path / "tiny.xml"), sample_images())
    assert same["object"] > 0.7


def test_everyday(tmp_path: Path) -> None:
    model = upernet.load_model("everyday")
    assert_as_the_model(model, written(model, tmp_path, {}))


def test_a_network_of_unified_perceptual_parsing(tmp_path: Path) -> None:
    model = build_model(load_recipe("upp_resnet50_upernet"))
    model.apply(as_if_trained)
    assert_as_the_model(model.eval(), written(model, tmp_path, {}))


@pytest.mark.parametrize("backbone", ["internimage_t", "convnext_atto", "swin_tiny_patch4_window7_224"])
def test_backbones(tmp_path: Path, backbone: str) -> None:
    torch.manual_seed(0)
    model = UPerNet(backbone, "camvid", decoder_channels=32)
    model.apply(as_if_trained)
    assert_as_the_model(model.eval(), written(model, tmp_path, {}))


def test_flash_internimage(tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"channels": 16, "depths": (1, 1, 2, 1), "groups": (1, 2, 4, 8)}
    model = UPerNet("flash_internimage_l", "camvid", decoder_channels=32, backbone_options=options)
    model.apply(as_if_trained)
    assert_as_the_model(model.eval(), written(model, tmp_path, {}))
