"""Writing a traced network as a file of ONNX, OpenVINO or torch, with its description as metadata."""

from __future__ import annotations

import io
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch.export import ExportedProgram
from torch.utils._sympy.value_ranges import ValueRanges

from upernet.errors import UpernetError
from upernet.inference.runtimes import INPUT, METADATA, last_line, optional_package, quiet

OPSET = 20
OPSETS = range(18, 24)
"""Versions of ONNX's standard operators that can be written; GridSample has its present form since 20."""
DEFORM_CONV = 19
"""First version with DeformConv."""
AXES = ("N", "height", "width")
INLINE_BYTES = 1 << 30
"""Largest weights inside an .onnx file, whose format ends at 2 GiB; larger ones go to a file beside it."""


def require_exporter() -> None:
    """Raise UpernetError if what torch's ONNX exporter needs is not installed."""
    for package in ("onnx", "onnxscript"):
        optional_package(package)


def write_onnx(program: ExportedProgram, path: Path, names: Sequence[str], description: str, opset: int) -> None:
    """Write `path` and, if the weights are large, `path`.data beside it.

    Args:
        program: the traced network.
        path: the file.
        names: names of the outputs.
        description: JSON text of a `Description`.
        opset: version of the standard operators.

    Raises:
        UpernetError: a package is missing, or an operator of the network has no counterpart in `opset`.
    """
    require_exporter()
    size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    try:
        with warnings.catch_warnings(), quiet("onnxscript"), _no_stack_traces():
            warnings.simplefilter("ignore")  # about the exporter's own workings
            exported = cast(Any, torch.onnx).export(
                program,
                input_names=[INPUT],
                output_names=list(names),
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
            model: Any = exported.model
            _name_axes(model.graph.inputs[0])
            for node in model.graph.all_nodes():
                node.metadata_props.clear()  # where in this package's code it comes from
            model.metadata_props[METADATA] = description
            exported.save(path, external_data=size > INLINE_BYTES)
    except OSError:
        raise
    except Exception as error:  # the exporter raises many types
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise UpernetError(f"opset {opset} cannot express the network ({reason}); choose another.") from error
    written = optional_package("onnx").load(path, load_external_data=False)
    found = next(entry.version for entry in written.opset_import if not entry.domain)
    if found != opset:
        raise UpernetError(f"opset {opset}: the network can only be written with {found}; choose that.")


@contextmanager
def _no_stack_traces() -> Generator[None, None, None]:
    """Let torch.fx record no lines of code for the nodes that the exporter makes, which takes most of its time."""
    config = cast(Any, torch.fx).config
    before = config.do_not_emit_stack_traces
    config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        config.do_not_emit_stack_traces = before


def _name_axes(value: Any) -> None:
    """Name the axes of the input that are not fixed."""
    names = iter(AXES)
    value.shape = type(value.shape)([axis if isinstance(axis, int) else next(names) for axis in value.shape])


def read_openvino(path: Path) -> Any:
    """Return the network of an ONNX file as an `openvino.Model`.

    Raises:
        UpernetError: OpenVINO is missing, or it does not know an operator of the network.
    """
    openvino = optional_package("openvino")
    try:
        return openvino.convert_model(path)
    except Exception as error:  # OpenVINO raises types of its own
        reason = " ".join(str(error).split())[-200:].rstrip(".")
        raise UpernetError(f"OpenVINO cannot read the network ({reason}); export it with --to onnx.") from error


def save_openvino(model: Any, path: Path, description: str) -> None:
    """Write an `openvino.Model` and its description to `path`, and its weights to a .bin file beside it.

    Raises:
        OSError: the files cannot be written.
    """
    model.set_rt_info(description, [METADATA])
    try:
        optional_package("openvino").save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:
        raise OSError(last_line(error)) from error


def write_torch(program: ExportedProgram, path: Path, description: str) -> None:
    """Write `path`, which `torch.export.load` reads without this package.

    torch has found limits of the sizes while it traced, such as a last map of more than one pixel, below which maps
    would have other strides. The operators of the graph compute smaller images as well, so these limits are taken out.

    Raises:
        OSError: the file cannot be written.
    """
    about: Any = program
    about.example_inputs = None
    for symbol, bounds in about.range_constraints.items():
        about.range_constraints[symbol] = ValueRanges(1, bounds.upper)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about weights in channels-last order
        with _Output(io.FileIO(path, "wb")) as file:
            torch.export.save(program, file, extra_files={METADATA: description})
    if file.problem is not None:
        raise file.problem


class _Output(io.BufferedWriter):
    """A file for torch's writer of archives, which would end the process if a write raised an error."""

    problem: OSError | None = None
    """The first error."""

    def write(self, buffer: Any, /) -> int:
        """Write `buffer`; after an error, drop it."""
        try:
            return super().write(buffer)
        except OSError as error:
            self.problem = self.problem or error
            return memoryview(buffer).nbytes
