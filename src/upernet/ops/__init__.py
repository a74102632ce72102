"""Tensor operators, each with one signature and several kernels behind it. They know nothing of models."""

from upernet.ops.dcnv3 import dcnv3

__all__ = ["dcnv3"]
