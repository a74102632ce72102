"""Layers with packed weights, for inference on CPUs: in float32, in bfloat16, or in int8. They take and return float32.

In int8, weights have one step per output, and inputs lie within a range that was observed before. A number x of the
range [low, high] is the integer round(x / step) + zero, where step = (high - low) / 255; a number beyond the range
becomes the nearest end of it. Products are summed exactly, in int32, and the sums are converted to float32.
"""

from upernet.ops.packed.block import Branch, PackedInternImageBlock
from upernet.ops.packed.conv3x3 import Int8Conv3x3, Int8Lateral
from upernet.ops.packed.linear import PackedLinear, PackedMlp
from upernet.ops.packed.ranges import Range, TileRange

__all__ = [
    "Branch",
    "Int8Conv3x3",
    "Int8Lateral",
    "PackedInternImageBlock",
    "PackedLinear",
    "PackedMlp",
    "Range",
    "TileRange",
]
