"""Tensor operators, each with one signature and several kernels behind it. They know nothing of models."""

from upernet.ops.choice import Choice, use_kernel
from upernet.ops.dcnv3 import choose_dcnv3, dcnv3

__all__ = ["Choice", "choose_dcnv3", "dcnv3", "use_kernel"]
