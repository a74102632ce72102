"""Tensor operators, each with one signature and several kernels behind it. They know nothing of models."""

from upernet.ops.choice import Choice, use_kernel
from upernet.ops.dcnv3 import choose_dcnv3, dcnv3
from upernet.ops.fusion import choose_conv3x3, choose_lateral, lateral, resize, resize_like, upsample_conv3x3
from upernet.ops.linear import choose_linear, linear
from upernet.ops.softmax import choose_grouped_softmax, grouped_softmax

PLAIN = {
    "dcnv3": "torch",
    "grouped_softmax": "torch",
    "linear": "torch",
    "mlp": "torch",
    "conv3x3": "concat",
    "lateral": "torch",
}
"""`with use_kernel(**PLAIN)`: as the published implementation computes. What benchmarks compare with."""

__all__ = [
    "PLAIN",
    "Choice",
    "choose_conv3x3",
    "choose_dcnv3",
    "choose_grouped_softmax",
    "choose_lateral",
    "choose_linear",
    "dcnv3",
    "grouped_softmax",
    "lateral",
    "linear",
    "resize",
    "resize_like",
    "upsample_conv3x3",
    "use_kernel",
]
