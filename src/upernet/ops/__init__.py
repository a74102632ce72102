"""Tensor operators, each with one signature and several kernels behind it. They know nothing of models.

There is one folder per operator. In each, `__init__.py` has the signature, the shapes and the errors, and `choose_...`,
which picks the kernel for given tensors and says why; `reference.py` has the plain version in torch; `cpu.py` and
`gpu.py` have the kernels. `runtime/` holds what kernels share, and `packed/` the layers with packed weights. `dcnv4`
and `mlp` are compositions of other operators, without a kernel of their own.

The functions `dcnv3`, `dcnv4`, `lateral` and `linear` have the names of their folders: import from a folder with
`from upernet.ops.dcnv3 import reference`, not as an attribute of `upernet.ops`.
"""

from upernet.ops.conv3x3 import choose_upsample_conv3x3, upsample_conv3x3
from upernet.ops.conv3x3.packed import packed_conv3x3
from upernet.ops.cross_entropy import choose_resized_cross_entropy, resized_cross_entropy
from upernet.ops.dcnv3 import choose_dcnv3, dcnv3
from upernet.ops.dcnv4 import dcnv4
from upernet.ops.depthwise import choose_depthwise_conv2d, depthwise_conv2d
from upernet.ops.dispatch import Choice, Decision, recorded_decisions, use_kernel
from upernet.ops.guided import Axis, choose_guided_labels, guided_labels
from upernet.ops.lateral import choose_lateral, lateral
from upernet.ops.linear import choose_linear, conv1x1, linear
from upernet.ops.linear.mlp import mlp
from upernet.ops.linear.pointwise import pointwise_conv2d
from upernet.ops.packed.block import BlockWeights, internimage_block
from upernet.ops.runtime.availability import bfloat16_unavailable, int8_unavailable
from upernet.ops.runtime.bilinear import resize, resize_like
from upernet.ops.runtime.cores import set_threads, usable_cores
from upernet.ops.runtime.memory import release_memory
from upernet.ops.softmax import choose_grouped_softmax, grouped_softmax
from upernet.ops.thresholds import apply_thresholds
from upernet.ops.upsampled import (
    OwnedChannels,
    add_upsampled_probabilities,
    choose_upsampled_labels,
    upsampled_labels,
)

PLAIN = {
    "dcnv3": "torch",
    "grouped_softmax": "torch",
    "linear": "torch",
    "mlp": "torch",
    "upsample_conv3x3": "concat",
    "lateral": "torch",
    "resized_cross_entropy": "torch",
    "depthwise_conv2d": "torch",
}
"""Kernels of the published implementation, which benchmarks compare with: `with use_kernel(**PLAIN): ...`."""

OPERATORS = (*PLAIN, "upsample_taps", "upsampled_labels", "guided_labels", "apply_thresholds")
"""Names that `use_kernel` takes; `upsample_taps` is a step of `upsample_conv3x3`, and the last three come after the
network."""

set_threads()  # a container may use fewer cores than torch sees

__all__ = [
    "OPERATORS",
    "PLAIN",
    "Axis",
    "BlockWeights",
    "Choice",
    "Decision",
    "OwnedChannels",
    "add_upsampled_probabilities",
    "apply_thresholds",
    "bfloat16_unavailable",
    "choose_dcnv3",
    "choose_depthwise_conv2d",
    "choose_grouped_softmax",
    "choose_guided_labels",
    "choose_lateral",
    "choose_linear",
    "choose_resized_cross_entropy",
    "choose_upsample_conv3x3",
    "choose_upsampled_labels",
    "conv1x1",
    "dcnv3",
    "dcnv4",
    "depthwise_conv2d",
    "grouped_softmax",
    "guided_labels",
    "int8_unavailable",
    "internimage_block",
    "lateral",
    "linear",
    "mlp",
    "packed_conv3x3",
    "pointwise_conv2d",
    "recorded_decisions",
    "release_memory",
    "resize",
    "resize_like",
    "resized_cross_entropy",
    "set_threads",
    "upsample_conv3x3",
    "upsampled_labels",
    "usable_cores",
    "use_kernel",
]
