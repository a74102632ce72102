"""Export: a model as a file of ONNX, OpenVINO or torch, checked against the model."""

from upernet.exporting.export import Export, export

__all__ = ["Export", "export"]
