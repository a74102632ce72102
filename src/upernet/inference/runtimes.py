"""Exported networks: files that ONNX Runtime, OpenVINO or torch computes without this package's networks.

A file carries its taxonomy, card and outputs as JSON (`Description`). A new runtime is a class with the interface of
`Runtime` and a row of `RUNTIMES`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from upernet.checkpoints import ModelCard, check_card, exported_suffix, refuse_research_weights
from upernet.errors import UpernetError, shorten
from upernet.files import refuse_special_file
from upernet.inference.torch_programs import refuse_code
from upernet.models.familiarity import FAMILIARITY
from upernet.taxonomy import LEVEL_KINDS, Taxonomy

INPUT = "image"
"""Name of the input: uint8 N x 3 x H x W, RGB."""
METADATA = "upernet"
"""Key of the description in the metadata of a file."""
FORMAT = 1
"""Version of the description."""

Arrays = dict[str, npt.NDArray[Any]]
Output = Literal["logits", "labels"]


@dataclass(frozen=True)
class Description:
    """What an exported file says of its network."""

    taxonomy: Taxonomy
    card: ModelCard
    output: Output
    """`logits`: one array per level, named after it. `labels`: label maps and confidences."""
    outputs: tuple[str, ...]
    """Names of the outputs, in order."""
    preprocess: Mapping[str, object]
    """Mean, standard deviation and order of the channels by which the graph normalizes its input."""
    precision: str
    dcnv3: str

    def to_json(self) -> str:
        """Return the JSON text that files carry."""
        content = {
            "format": FORMAT,
            "taxonomy": self.taxonomy.to_dict(),
            "card": self.card.to_dict(),
            "output": self.output,
            "outputs": list(self.outputs),
            "preprocess": dict(self.preprocess),
            "precision": self.precision,
            "dcnv3": self.dcnv3,
        }
        return json.dumps(content)

    @classmethod
    def from_json(cls, text: str, path: Path) -> Description:
        """Read what `to_json` returns.

        Raises:
            UpernetError: It is not valid, or of a later version.
        """
        try:
            content = json.loads(text)
            if content["format"] != FORMAT:
                raise UpernetError("a format that this version does not know: upgrade upernet")
            output, outputs = content["output"], tuple(map(str, content["outputs"]))
            if output not in ("logits", "labels"):
                raise ValueError(f"output {shorten(output)}")
            taxonomy = Taxonomy.from_dict(content["taxonomy"])
            if outputs not in (output_names(taxonomy, output, judged) for judged in (False, True)):
                raise ValueError(f"outputs {shorten(', '.join(outputs))}, which are not those of its levels")
            card = check_card(cast("dict[str, object]", dict(content["card"])))
            preprocess, precision, dcnv3 = dict(content["preprocess"]), str(content["precision"]), str(content["dcnv3"])
        except (KeyError, TypeError, ValueError, RecursionError, UpernetError) as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise UpernetError(
                f"{path}: its description of the network is not valid ({reason}); export the model again."
            ) from error
        return cls(taxonomy, card, output, outputs, preprocess, precision, dcnv3)


def output_names(taxonomy: Taxonomy, output: Output, familiarity: bool) -> tuple[str, ...]:
    """Return the names of the outputs of a network, in order.

    Args:
        taxonomy: its levels.
        output: "logits": one output per level. "labels": LEVEL_confidence follows each level with a label per pixel.
        familiarity: whether the familiarity follows the levels.
    """
    names: list[str] = []
    for level in taxonomy.levels:
        names.append(level)
        if output == "labels" and LEVEL_KINDS[level].dense:
            names.append(f"{level}_confidence")
    return (*names, FAMILIARITY) if familiarity else tuple(names)


class Runtime(Protocol):
    """A program that computes an exported file."""

    package: ClassVar[str]
    """The package that it needs."""
    description: str
    """JSON text of the file's `Description`; "" if it has none."""

    def __init__(self, path: Path) -> None:
        """Load the file."""
        ...

    def __call__(self, image: npt.NDArray[np.uint8], names: Sequence[str]) -> Arrays:
        """Compute the outputs `names` of uint8 N x 3 x H x W images."""
        ...


class OnnxRuntime:
    """ONNX Runtime on the CPU, with torch's number of threads."""

    package: ClassVar[str] = "onnxruntime"

    def __init__(self, path: Path) -> None:
        onnxruntime = optional_package(self.package)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.description: str = self._session.get_modelmeta().custom_metadata_map.get(METADATA, "")

    def __call__(self, image: npt.NDArray[np.uint8], names: Sequence[str]) -> Arrays:
        """Compute the outputs `names`."""
        return dict(zip(names, self._session.run(list(names), {INPUT: image}), strict=True))


def openvino_core() -> Any:
    """Return the `openvino.Core` of this process.

    There must not be two that compile: each gives the process an alternate stack for signals, frees it when it ends,
    and then restores the one that it found, which another core may have freed. The next signal ends the process.

    Raises:
        UpernetError: OpenVINO is not installed.
    """
    return _core(optional_package(OpenVino.package))


@cache
def _core(openvino: Any) -> Any:
    return openvino.Core()


class OpenVino:
    """OpenVINO on the CPU, with torch's number of threads, in float32 where the file is not quantized."""

    package: ClassVar[str] = "openvino"

    def __init__(self, path: Path) -> None:
        core = openvino_core()
        model = core.read_model(path)
        options = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "f32",  # otherwise bfloat16, where the processor has it
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._compiled = core.compile_model(model, "CPU", options)
        has_text = model.has_rt_info([METADATA])
        self.description: str = str(model.get_rt_info([METADATA]).value) if has_text else ""

    def __call__(self, image: npt.NDArray[np.uint8], names: Sequence[str]) -> Arrays:
        """Compute the outputs `names`."""
        results = self._compiled(image)
        return {name: results[name] for name in names}


class TorchProgram:
    """torch, which runs the operators of a `torch.export` program."""

    package: ClassVar[str] = "torch"

    def __init__(self, path: Path) -> None:
        refuse_code(path)
        extra = {METADATA: ""}
        with quiet("torch.export"):
            self._module: Any = torch.export.load(path, extra_files=extra).module()
        self.description: str = extra[METADATA]
        self._names: list[str] = json.loads(self.description)["outputs"] if self.description else []

    @torch.inference_mode()
    def __call__(self, image: npt.NDArray[np.uint8], names: Sequence[str]) -> Arrays:
        """Compute the outputs `names`."""
        results = dict(zip(self._names, self._module(torch.as_tensor(image)), strict=True))
        return {name: results[name].numpy() for name in names}


@contextmanager
def quiet(logger: str) -> Generator[None, None, None]:
    """Drop what a library logs inside the block: details for its developers, and errors that it raises as well."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


RUNTIMES: dict[str, type[Runtime]] = {".onnx": OnnxRuntime, ".xml": OpenVino, ".pt2": TorchProgram}
"""Suffix of a file -> what runs it."""


class ExportedNetwork(nn.Module):
    """An exported file in the place of a `UPerNet`: the same outputs, for images that are not normalized."""

    content: Tensor
    """uint8 32: SHA-256 of the files, which tells networks apart as weights do."""

    def __init__(self, path: Path, runtime: Runtime, description: Description) -> None:
        super().__init__()
        self.path, self.description = path, description
        self._runtime = runtime
        self.register_buffer("content", _digest(path))
        self.taxonomy, self.card = description.taxonomy, description.card
        self.familiarity = FAMILIARITY if FAMILIARITY in self.description.outputs else None

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels of the taxonomy."""
        return tuple(self.taxonomy.levels)

    def preprocess(self, image: Tensor) -> Tensor:
        """Return `image` unchanged: the graph normalizes."""
        return image

    def forward(self, images: Tensor, levels: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Compute outputs for uint8 images N x 3 x H x W.

        Args:
            images: the images.
            levels: the outputs, by name. Default: all of them.

        Raises:
            UpernetError: the graph cannot take images of this size, or its logits are not those of the classes that the
                file describes.
        """
        names = self.description.outputs if levels is None else tuple(levels)
        try:
            found = self._runtime(np.ascontiguousarray(images.cpu().numpy()), names)
            outputs = {name: torch.as_tensor(found[name]) for name in names}
        except Exception as error:
            size = " x ".join(map(str, images.shape))
            raise UpernetError(
                f"{self.path}: cannot take images of {size} ({last_line(error)}); give images of another size."
            ) from error
        if self.description.output == "logits":
            self._check_logits(outputs, len(images))
        return outputs

    def _check_logits(self, outputs: Mapping[str, Tensor], n: int) -> None:
        """Refuse logits that do not belong to the classes of the file."""
        for name, values in outputs.items():
            if name == FAMILIARITY:
                fits = values.shape == (n,)
            else:
                fits = values.shape[:2] == (n, self.taxonomy.num_logits(name))
                fits = fits and values.ndim == (4 if LEVEL_KINDS[name].dense else 2)
            if not fits or not values.is_floating_point():
                shape = " x ".join(map(str, values.shape))
                raise UpernetError(
                    f"{self.path}: {name} is {shape} of {str(values.dtype).removeprefix('torch.')}, which does not fit "
                    "the classes that the file describes; export the model again."
                )

    def check_use(self, device: torch.device, precision: str) -> None:
        """Check that a `Parser` can use the network.

        Raises:
            UpernetError: it returns labels, or it is to run on another device or in another precision than its own.
        """
        if self.description.output != "logits":
            raise UpernetError(f"{self.path}: returns label maps; for parsing, export the model with --output logits.")
        if device.type != "cpu":
            raise UpernetError(f"{self.path}: an exported network runs on the CPU here, not on {device}; use cpu.")
        if precision != "fp32":
            raise UpernetError(
                f"{self.path}: an exported network has the precision that it was exported with "
                f"({self.description.precision}); leave the precision out."
            )

    def __deepcopy__(self, memo: object) -> ExportedNetwork:
        """Return the network itself, whose weights never change."""
        return self


def load_exported(path: str | os.PathLike[str]) -> ExportedNetwork:
    """Return the network of a file that `upernet.export` wrote.

    Raises:
        UpernetError: the file or its runtime is missing, it cannot be loaded, or another program wrote it.
    """
    path = Path(path)
    make = RUNTIMES[exported_suffix(path)]
    refuse_special_file(path)
    if not path.is_file():
        raise UpernetError(f"{path}: no such file.")
    try:
        runtime = make(path)
    except UpernetError:
        raise
    except Exception as error:  # each runtime raises types of its own
        raise UpernetError(
            f"{path}: {make.package} cannot load it ({last_line(error)}); export the model again."
        ) from error
    if not runtime.description:
        raise UpernetError(f"{path}: has no description of its classes; export the model with `upernet export`.")
    description = Description.from_json(runtime.description, path)
    refuse_research_weights(path, description.card.research_only)
    return ExportedNetwork(path, runtime, description)


def optional_package(name: str) -> Any:
    """Return a package that the extra `export` installs.

    Raises:
        UpernetError: It is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise UpernetError(f"{name} is not installed; run `pip install 'upernet[export]'`.") from error


def weights_beside(path: Path) -> Path:
    """Return the file that holds the weights of `path`, an exported file, if they are not inside it."""
    return path.with_suffix(".bin") if exported_suffix(path) == ".xml" else path.with_name(f"{path.name}.data")


def _digest(path: Path) -> Tensor:
    """Return the SHA-256 of a file and of the weights beside it: uint8 32."""
    digest = hashlib.sha256()
    for file in (path, weights_beside(path)):
        if file.is_file():
            with open(file, "rb") as opened:
                while block := opened.read(1 << 20):
                    digest.update(block)
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)


def last_line(error: Exception) -> str:
    """Return the last line of an error of a runtime, which says most, without a full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shorten(lines[-1] if lines else type(error).__name__, 120).strip("'\"").rstrip(".")
