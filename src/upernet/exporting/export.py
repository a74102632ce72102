"""From a model to a file of ONNX, OpenVINO or torch that is known to compute the same."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from torch import Tensor

from upernet.checkpoints import EXPORTED, ModelCard, check_card, find_checkpoint, recipe_of
from upernet.checkpoints import UPerNet as LoadedUPerNet
from upernet.checkpoints.loading import load_named
from upernet.errors import UpernetError, shorten
from upernet.evaluation import EvaluationResult, default_split, evaluate
from upernet.exporting.checking import agreement, check_errors, errors, sample_images
from upernet.exporting.formats import (
    DEFORM_CONV,
    OPSET,
    OPSETS,
    read_openvino,
    require_exporter,
    save_openvino,
    write_onnx,
    write_torch,
)
from upernet.exporting.graph import Graph, trace
from upernet.exporting.operators import Dcnv3
from upernet.exporting.quantizing import PHOTOS, quantize_onnx, quantize_openvino
from upernet.files import atomic_files
from upernet.inference.calibrating import calibration_images
from upernet.inference.runtimes import (
    RUNTIMES,
    Description,
    ExportedNetwork,
    Output,
    load_exported,
    optional_package,
    weights_beside,
)
from upernet.models import UPerNet
from upernet.recipe import Recipe

Format = Literal["onnx", "openvino", "torch"]
Precision = Literal["fp32", "fp16", "int8"]
DEPLOYED = {"onnx": "ONNX", "openvino": "OpenVINO", "torch": "torch.export"}


@dataclass(frozen=True)
class Export:
    """The result of `export`."""

    path: str
    """The file to load."""
    files: tuple[str, ...]
    """It, and the files beside it that it needs."""
    format: Format
    precision: Precision
    opset: int | None
    """Version of ONNX's standard operators; None: torch."""
    outputs: tuple[str, ...]
    """Names of the outputs."""
    errors: dict[str, float]
    """Output -> largest error, as `upernet.exporting.checking.errors` measures it; empty if nothing was checked."""
    agreement: dict[str, float]
    """Level -> share of pixels (scene: images) with the same class as in the model; for fp16 and int8."""
    scores: dict[str, dict[str, float]]
    """Level -> its main metric of the model (`before`) and of the file (`after`), if there is data."""

    def to_dict(self) -> dict[str, Any]:
        """Return the values as JSON types."""
        return asdict(self)


def export(
    model: UPerNet | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    to: Format | None = None,
    card: ModelCard | Mapping[str, object] | None = None,
    precision: Precision = "fp32",
    output: Output = "logits",
    opset: int | None = None,
    dcnv3: Dcnv3 = "gridsample",
    calibration: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
    recipe: Recipe | None = None,
    photos: int | None = None,
    verify: bool = True,
    force: bool = False,
) -> Export:
    """Write a model as a file that other runtimes compute.

    The file takes `image`, uint8 N x 3 x H x W in RGB, with N, H and W of any value; normalization is inside. Its
    outputs are named after the levels. Taxonomy, card (with thresholds) and normalization are in its metadata, so that
    `upernet.load(out)` parses with it.

    Args:
        model: The model, or what `upernet.load` takes.
        out: The file, with the suffix .onnx, .xml (OpenVINO, with a .bin beside it) or .pt2 (torch).
        to: The format. Default: by the suffix.
        card: The card of the file, or its keys. Default: that of the model.
        precision: "fp16": weights and maps in float16. "int8": convolutions and linear layers quantized with the photos
            of `calibration`.
        output: "logits": the values of `model(model.preprocess(image))`. "labels": for each level with a label per
            pixel, an int32 label map of the size of the image and, as LEVEL_confidence, its probabilities; for the
            others, the probability of each class.
        opset: Version of ONNX's standard operators. Default: 20.
        dcnv3: The operator for DCNv3: "gridsample", or "deformconv" (ONNX alone, opset 19 or newer).
        calibration: Folder with photos like those to be parsed; int8 needs it, and fp16 is compared on them.
        data: Folder with the data sets of the recipe, to score the model before and after.
        recipe: The recipe of `data`. Default: that of a model by name.
        photos: Largest number of photos per source to score; None: all.
        verify: Whether to compare the file with the model, at two sizes. In fp32, a difference of more than 1e-4 of the
            standard deviation of the logits is an error.
        force: Whether to overwrite an existing file.

    Returns:
        What was written, and how it compares with the model.

    Raises:
        UpernetError: The options do not fit together, a package is missing, the network cannot be exported, or the file
            differs from the model. Nothing is written then.

    Example:
        >>> upernet.export("everyday", "everyday.onnx").outputs
        ('scene', 'object', 'part', 'material', 'texture', 'familiarity')
    """
    out = Path(out)
    to = _format(out, to)
    _check_names(precision, output, dcnv3)
    opset = _check_options(to, precision, opset, dcnv3, calibration is not None)
    if not force:
        _refuse_to_overwrite(out)
    needs_runtime = verify or precision != "fp32" or data is not None
    if needs_runtime:
        optional_package(RUNTIMES[out.suffix].package)
    if not isinstance(model, UPerNet):
        recipe, source = recipe or recipe_of(model), find_checkpoint(model)
        for file in (out, weights_beside(out)):
            if file.exists() and file.samefile(source):
                raise UpernetError(f"{out}: {file.name} would overwrite the model itself; choose another name.")
        model = load_named(source, model)
    card = model.card if card is None and isinstance(model, LoadedUPerNet) else check_card(card)
    if data is not None and (recipe is None or output != "logits"):
        raise UpernetError("data: scoring needs logits and the recipe of the data; name the model or a recipe.")
    images = [] if calibration is None else calibration_images(calibration, card.short_side, PHOTOS)
    reference = Graph(model, output, card.temperatures).cpu()
    graph = reference if precision != "fp16" else Graph(model, output, card.temperatures, half=True).cpu()
    description = Description(
        model.taxonomy,
        card,
        output,
        graph.names,
        {
            "mean": [float(value) for value in model.preprocess.mean.flatten()],
            "std": [float(value) for value in model.preprocess.std.flatten()],
            "channels": model.preprocess.channels,
        },
        precision,
        dcnv3,
    )
    with atomic_files(out) as path:
        _write(graph, path, to, description, opset, dcnv3, images if precision == "int8" else None)
        files = sorted(file.name for file in path.parent.iterdir())
        found, same, scores = {}, {}, {}
        if needs_runtime:
            network = load_exported(path)
            if verify:
                found = errors(reference, network, sample_images())
            if verify and precision == "fp32":
                check_errors(found, output)
            if precision != "fp32":
                same = agreement(reference, network, images or sample_images())
            if data is not None and recipe is not None:
                scores = _scores(model, network, recipe, Path(data), photos)
            del network  # Windows cannot move files that are in use
        if not force:  # another process may have written it meanwhile
            _refuse_to_overwrite(out)
    return Export(
        str(out),
        tuple(str(out.with_name(name)) for name in files),
        to,
        precision,
        opset,
        graph.names,
        found,
        same,
        scores,
    )


def _format(out: Path, to: Format | None) -> Format:
    """Return the format of the file `out`."""
    by_suffix = {suffix: name for name, suffix in EXPORTED.items()}
    if to is not None and to not in EXPORTED:
        raise UpernetError(f"format {shorten(to)} is unknown; choose {', '.join(EXPORTED)}.")
    if out.suffix not in by_suffix or (to is not None and EXPORTED[to] != out.suffix):
        suffixes = ", ".join(f"{suffix} ({DEPLOYED[name]})" for name, suffix in EXPORTED.items())
        wanted = f"{EXPORTED[to]} for {to}" if to else f"one of {suffixes}"
        raise UpernetError(f"{out}: the name of the file must end with {wanted}.")
    return cast(Format, by_suffix[out.suffix])


def _refuse_to_overwrite(out: Path) -> None:
    for file in (out, weights_beside(out)):
        if file.exists():
            raise UpernetError(f"{file}: exists already; choose another name, or use --force.")


def _check_names(precision: str, output: str, dcnv3: str) -> None:
    """Raise UpernetError if the value of an option is unknown."""
    for name, value, known in (
        ("precision", precision, get_args(Precision)),
        ("output", output, get_args(Output)),
        ("dcnv3", dcnv3, get_args(Dcnv3)),
    ):
        if value not in known:
            raise UpernetError(f"{name} {shorten(value)} is unknown; choose {', '.join(known)}.")


def _check_options(to: Format, precision: str, opset: int | None, dcnv3: str, calibrated: bool) -> int | None:
    """Return the opset, None for torch; raise UpernetError if options do not fit together."""
    if calibrated and precision == "fp32":
        raise UpernetError("fp32 needs no photos; leave --calibration out, or choose --precision int8.")
    if to == "torch":
        for is_given, what in ((opset, "opset"), (dcnv3 == "deformconv", "deformconv"), (precision == "int8", "int8")):
            if is_given:
                raise UpernetError(f"--to torch has no {what}; leave it out, or use --to onnx.")
        return None
    opset = OPSET if opset is None else opset
    if opset not in OPSETS:
        raise UpernetError(f"opset {opset} cannot be written; choose one from {OPSETS[0]} to {OPSETS[-1]}.")
    if dcnv3 == "deformconv" and to == "openvino":
        raise UpernetError("--to openvino has no deformconv; choose --dcnv3 gridsample, or --to onnx.")
    if dcnv3 == "deformconv" and opset < DEFORM_CONV:
        raise UpernetError(f"opset {opset} has no DeformConv; choose {DEFORM_CONV} or newer, or --dcnv3 gridsample.")
    if precision == "int8" and not calibrated:
        raise UpernetError("int8 needs photos to find the ranges of values; give a folder with --calibration.")
    require_exporter()
    return opset


def _write(
    graph: Graph,
    path: Path,
    to: Format,
    description: Description,
    opset: int | None,
    dcnv3: Dcnv3,
    images: Sequence[Tensor] | None,
) -> None:
    """Write the file `path`; `images` quantize it."""
    program, text = trace(graph, dcnv3), description.to_json()
    if to == "torch":
        write_torch(program, path, text)
        return
    assert opset is not None
    source = path if to == "onnx" and images is None else path.with_name(f"{path.stem}.float32.onnx")
    write_onnx(program, source, graph.names, text, opset)
    if to == "openvino":
        _write_openvino(source, path, text, images)
    elif images is not None:
        quantize_onnx(source, path, images)
    if source != path:
        source.unlink()
        weights_beside(source).unlink(missing_ok=True)


def _write_openvino(source: Path, path: Path, text: str, images: Sequence[Tensor] | None) -> None:
    """Write the ONNX file `source` as the OpenVINO file `path`; `images` quantize it."""
    network = read_openvino(source)
    save_openvino(network if images is None else quantize_openvino(network, images), path, text)


def _scores(
    model: UPerNet, network: ExportedNetwork, recipe: Recipe, data: Path, photos: int | None
) -> dict[str, dict[str, float]]:
    """Return the main metric of each level of `model` and of `network`."""
    split = default_split(model.taxonomy, recipe, data)
    before, after = (evaluate(cast(UPerNet, each), recipe, data, split, photos=photos) for each in (model, network))
    return {
        level: {"before": _main_metric(before, level), "after": _main_metric(after, level)}
        for level in model.levels
        if level in before
    }


def _main_metric(result: EvaluationResult, level: str) -> float:
    values = result[level]
    return float(next(values[name] for name in ("miou", "top1") if values.get(name) is not None))
