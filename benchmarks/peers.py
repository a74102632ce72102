"""InternImage-T + UPerHead beside other networks of its size and other programs with its weights, 512 x 512 pixels.

    pip install -e '.[bench]'
    python -m benchmarks.peers [--threads 2] [--repeats 5] [--json OUT]

All weights and the photo are random, and int8 is calibrated on that photo. All end with logits of 150 classes at stride
4. What is not installed is left out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.models import alternatives
from benchmarks.networks import agreement, network, official_way
from benchmarks.side_by_side import command_line, compare, save, show, show_agreement
from upernet.errors import UpernetError
from upernet.exporting import export
from upernet.inference.runtimes import load_exported, openvino_core
from upernet.models import UPerNet

CLASSES = 150
CONVNEXT_T = {"hidden_sizes": [96, 192, 384, 768], "depths": [3, 3, 9, 3]}
SWIN_T = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]}
PAUSE = 0.1
"""Seconds that the threads of one program get to go to sleep before another one is timed."""

Forward = Callable[[], Tensor]


class Objects(nn.Module):
    """A function from photos to object logits."""

    def __init__(self, model: UPerNet):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)["object"]


class Peers:
    """The programs and networks that are compared. Each method returns a `Forward`, or raises ImportError."""

    def __init__(self, model: UPerNet, pixels: Tensor, folder: Path, threads: int, width: int):
        self.model, self.pixels, self.folder, self.threads, self.width = model, pixels, folder, threads, width
        self.images = model.preprocess(pixels)

    @cached_property
    def onnx_file(self) -> Path:
        """Return the model as the official code computes it."""
        import onnxscript  # noqa: F401  # what the exporter needs, for one clear error

        path, photo = self.folder / "model.onnx", (self.images,)
        with official_way():
            program = torch.export.export(Objects(self.model).eval(), photo)
        torch.onnx.export(program, photo, path, dynamo=True, opset_version=20, external_data=False, verbose=False)
        return path

    def official_autocast(self) -> Forward:
        @torch.autocast("cpu", torch.bfloat16)
        def run() -> Tensor:
            with official_way():
                return self.model(self.images)["object"]

        return run

    def onnx_runtime(self) -> Forward:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(self.onnx_file, options, providers=["CPUExecutionProvider"])
        inputs = {session.get_inputs()[0].name: self.images.numpy()}
        return lambda: torch.from_numpy(session.run(None, inputs)[0])

    def openvino(self, precision: str) -> Forward:
        import openvino  # noqa: F401  # an ImportError where it is not installed

        options = {
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = openvino_core().compile_model(str(self.onnx_file), "CPU", options)
        photo = self.images.numpy()
        return lambda: torch.from_numpy(compiled(photo)[0])

    def int8(self, suffix: str) -> Forward:
        """Return the network as `upernet export --precision int8` quantizes it with the tools of the runtime."""
        path, photos = self.folder / f"int8{suffix}", self.folder / "photos"
        photos.mkdir(exist_ok=True)
        Image.fromarray(self.pixels[0].permute(1, 2, 0).numpy()).save(photos / "noise.png")
        try:
            export(self.model, path, precision="int8", calibration=photos, verify=False)
        except UpernetError as error:
            raise ImportError(str(error)) from error
        exported = load_exported(path)
        return lambda: exported(self.pixels, ["object"])["object"]

    def transformers(self, backbone: str, **options: Any) -> Forward:
        """Return UPerNet as in mmsegmentation, on the backbone of a configuration class of transformers."""
        import transformers

        stages = ["stage1", "stage2", "stage3", "stage4"]
        config = transformers.UperNetConfig(
            backbone_config=getattr(transformers, backbone)(out_features=stages, **options),
            hidden_size=self.width,
            use_auxiliary_head=False,
        )
        config.num_labels = CLASSES
        model = transformers.UperNetForSemanticSegmentation(config).eval()
        return lambda: model.decode_head(model.backbone(self.images).feature_maps)

    def segmentation_models_pytorch(self) -> Forward:
        import segmentation_models_pytorch

        model = segmentation_models_pytorch.UPerNet(
            "resnet50", encoder_weights=None, decoder_channels=self.width, classes=CLASSES, upsampling=1
        ).eval()
        return lambda: model(self.images)

    def same_weights(self) -> dict[str, Callable[[], Forward]]:
        own = {
            name: lambda function=function: lambda: function(self.images)
            for name, function in alternatives(self.model, [self.images]).items()
        }
        return own | {
            "official, bf16 autocast": self.official_autocast,
            "ONNX Runtime": self.onnx_runtime,
            "OpenVINO": lambda: self.openvino("f32"),
            "OpenVINO, bf16": lambda: self.openvino("bf16"),
            "ONNX Runtime, int8": lambda: self.int8(".onnx"),
            "OpenVINO, int8": lambda: self.int8(".xml"),
        }

    def other_networks(self) -> dict[str, Callable[[], Forward]]:
        return {
            "transformers, ConvNeXt-T": lambda: self.transformers("ConvNextConfig", **CONVNEXT_T),
            "transformers, Swin-T": lambda: self.transformers("SwinConfig", **SWIN_T),
            "segmentation_models_pytorch, ResNet-50": self.segmentation_models_pytorch,
        }


def main() -> None:
    arguments = command_line(__doc__)
    size, width = (64, 64) if arguments.quick else (512, 512)
    model = network("T", tiny=arguments.quick)
    pixels = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        peers = Peers(model, pixels, Path(folder), arguments.threads, width)
        same_weights = peers.same_weights()
        runs, skipped = installed(same_weights | peers.other_networks())
        with torch.inference_mode():
            result = compare(runs, arguments.repeats, PAUSE)
            logits = {name: runs[name]() for name in same_weights if name in runs}
    show(f"T at {size} and its peers", result)
    reference = logits.pop(next(iter(same_weights)))
    differences = {name: agreement(value, reference) for name, value in logits.items()}
    show_agreement(differences)
    save(arguments, **result, agreement=differences, skipped=skipped)


def installed(makers: dict[str, Callable[[], Forward]]) -> tuple[dict[str, Forward], dict[str, str]]:
    """Return the peers that could be built, and why the others could not."""
    runs: dict[str, Forward] = {}
    skipped: dict[str, str] = {}
    for name, make in makers.items():
        try:
            runs[name] = make()
        except ImportError as error:
            skipped[name] = str(error)
            print(f"without {name}: {error}")
    return runs, skipped


if __name__ == "__main__":
    main()
