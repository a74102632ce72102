"""Quantization to int8 by the tools of ONNX Runtime and OpenVINO, with the photos of a folder."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy.typing as npt
from torch import Tensor

from upernet.errors import UpernetError
from upernet.inference.runtimes import INPUT, METADATA, last_line, optional_package, weights_beside

PHOTOS = 64
"""Largest number of photos that values are observed on; more hardly change the ranges."""


def quantize_onnx(source: Path, path: Path, images: Sequence[Tensor]) -> None:
    """Write the network of the ONNX file `source` with convolutions and linear layers in int8 to `path`.

    Products of two maps, such as those that pool and resize, stay in float32. If the weights of `source` are in a file
    beside it, so are those of `path`.

    Raises:
        upernet.UpernetError: ONNX Runtime is missing, or cannot quantize the network.
    """
    onnx, tools = optional_package("onnx"), optional_package("onnxruntime.quantization")
    preparing = optional_package("onnxruntime.quantization.shape_inference")
    prepared = source.with_name(f"{source.stem}.prepared.onnx")
    is_large = weights_beside(source).exists()
    with _refusing("ONNX Runtime"):
        preparing.quant_pre_process(
            source,
            prepared,
            skip_optimization=is_large,  # it would lose the file with the weights
            skip_symbolic_shape=True,
            save_as_external_data=is_large,
            all_tensors_to_one_file=True,
            external_data_location=weights_beside(prepared).name,
        )
        model = onnx.load(prepared, load_external_data=False)
        constants = {tensor.name for tensor in model.graph.initializer}
        products = [
            node.name
            for node in model.graph.node
            if node.op_type == "MatMul" and not any(name in constants for name in node.input)
        ]
        tools.quantize_static(
            prepared,
            path,
            _Photos(images),
            quant_format=tools.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            per_channel=True,
            weight_type=tools.QuantType.QInt8,
            activation_type=tools.QuantType.QUInt8,
            nodes_to_exclude=products,
            use_external_data_format=is_large,
        )
    prepared.unlink()
    weights_beside(prepared).unlink(missing_ok=True)
    written = onnx.load(path, load_external_data=False)
    if not any(entry.key == METADATA for entry in written.metadata_props):
        about = onnx.load(source, load_external_data=False).metadata_props
        onnx.helper.set_model_props(written, {METADATA: next(entry.value for entry in about if entry.key == METADATA)})
        onnx.save(written, path)


@contextmanager
def _refusing(tool: str) -> Generator[None, None, None]:
    """Raise the errors of a tool, which are of many types, as UpernetError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise UpernetError(
            f"int8: {tool} cannot quantize the network ({last_line(error)}); choose another precision."
        ) from error


class _Photos:
    """Gives out one photo at a time, as ONNX Runtime's `CalibrationDataReader`."""

    def __init__(self, images: Sequence[Tensor]):
        self._rest = iter(images)

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        """Return the input of the next run, or None after the last photo."""
        image = next(self._rest, None)
        return None if image is None else {INPUT: image.numpy()}


def quantize_openvino(model: Any, images: Sequence[Tensor]) -> Any:
    """Return an `openvino.Model` in int8.

    Raises:
        upernet.UpernetError: NNCF is missing, or cannot quantize the network.
    """
    nncf = optional_package("nncf")
    nncf.set_log_level(logging.ERROR)
    photos = nncf.Dataset([image.numpy() for image in images])
    with _refusing("NNCF"):
        return nncf.quantize(model, photos, preset=nncf.QuantizationPreset.MIXED, subset_size=len(images))
