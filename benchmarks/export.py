"""Exported networks in ONNX Runtime and OpenVINO beside this package's own CPU path and the official way.

    pip install -e '.[export]'
    python -m benchmarks.export [--threads 2] [--repeats 5] [--json OUT]

Each network is exported with the fast decoder, which convolves coarse maps at their own resolution, and with the
published one, and InternImage also with DeformConv instead of GridSample. All runs start from uint8 photos.

OpenVINO has DeformConv, but its reader of ONNX files does not know the operator; `read_deform_conv` adds it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.networks import agreement, network, official_way
from benchmarks.side_by_side import command_line, compare, save, show, show_agreement
from upernet.checkpoints import ModelCard, load_model
from upernet.exporting.formats import OPSET, read_openvino, save_openvino, write_onnx
from upernet.exporting.graph import Graph, trace
from upernet.exporting.operators import Dcnv3, Decoder
from upernet.inference.runtimes import Description, load_exported
from upernet.models import UPerNet

PAUSE = 0.1
"""Seconds that the threads of one program get to go to sleep before another one is timed."""
VARIANTS: dict[str, tuple[Dcnv3, Decoder]] = {
    "": ("gridsample", "fast"),
    ", published decoder": ("gridsample", "published"),
    ", DeformConv": ("deformconv", "fast"),
}


def main() -> None:
    arguments = command_line(__doc__)
    *decoders, deform_conv = VARIANTS
    subjects: dict[str, tuple[UPerNet, tuple[int, int], list[str]]]
    if arguments.quick:
        small = UPerNet("test_resnet", classes=3, decoder_channels=16, pool_scales=()).eval()
        subjects = {
            "a small network": (small, (64, 96), decoders[1:]),
            "a small InternImage": (network("T", tiny=True), (64, 64), [deform_conv]),
        }
    else:
        subjects = {
            "everyday": (load_model("everyday"), (360, 480), decoders),
            "InternImage-T": (network("T"), (512, 512), [*decoders, deform_conv]),
        }
    rows: dict[str, Any] = {}
    for name, (model, size, variants) in subjects.items():
        with tempfile.TemporaryDirectory() as folder:
            result = measure(name, model, size, variants, Path(folder), arguments.repeats)
        rows[f"{name} at {size[0]} x {size[1]}"] = result
    save(arguments, rows=rows)


def measure(
    name: str, model: UPerNet, size: tuple[int, int], variants: Sequence[str], folder: Path, repeats: int
) -> dict[str, Any]:
    """Time all ways to compute `model` on one photo, and compare their object logits."""
    photo = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    graph = Graph(model, "logits").eval()
    where = graph.names.index("object")
    runs: dict[str, Callable[[], Tensor]] = {
        "official": official_way()(lambda: graph(photo)[where]),
        "fast": lambda: graph(photo)[where],
    }
    for title in variants:
        for runtime, path in write(graph, model, VARIANTS[title], folder / f"{len(runs)}.onnx").items():
            exported = load_exported(path)
            runs[f"{runtime}{title}"] = lambda exported=exported: exported(photo, ["object"])["object"]
    with torch.inference_mode():
        result = compare(runs, repeats, PAUSE)
        logits = {title: run() for title, run in runs.items()}
    show(name, result)
    reference = logits.pop("official")
    differences = {title: agreement(each, reference) for title, each in logits.items()}
    show_agreement(differences)
    return result | {"agreement": differences}


def write(graph: Graph, model: UPerNet, variant: tuple[Dcnv3, Decoder], path: Path) -> dict[str, Path]:
    """Write the graph for each runtime; return the files."""
    description = Description(model.taxonomy, ModelCard(), "logits", graph.names, {}, "fp32", variant[0]).to_json()
    write_onnx(trace(graph, *variant), path, graph.names, description, OPSET)
    read = read_deform_conv if variant[0] == "deformconv" else read_openvino
    save_openvino(read(path), path.with_suffix(".xml"), description)
    return {"ONNX Runtime": path, "OpenVINO": path.with_suffix(".xml")}


def read_deform_conv(path: Path) -> Any:
    """Return the network of an ONNX file with DeformConv (opset 19 or newer, without a bias) as an `openvino.Model`."""
    import openvino
    from openvino import opset13
    from openvino.frontend.onnx import ConversionExtension

    def convert(node: Any) -> list[Any]:
        x, weight, offset, _, mask = (node.get_input(index) for index in range(5))
        pads = node.get_attribute("pads")
        converted = opset13.deformable_convolution(
            x,
            offset,
            weight,
            node.get_attribute("strides"),
            pads[:2],
            pads[2:],
            node.get_attribute("dilations"),
            mask=mask,
            group=node.get_attribute("group"),
            deformable_group=node.get_attribute("offset_group"),
            bilinear_interpolation_pad=True,  # pixels beyond the edge are 0, as in ONNX
        )
        return [converted.output(0)]

    return openvino.convert_model(path, extension=[ConversionExtension("DeformConv", convert)])


if __name__ == "__main__":
    main()
