"""Layers with packed weights, for inference on CPUs: in float32, in bfloat16, or in int8. They take and return float32.

In int8, weights have one step per output, and inputs lie within a range that was observed before. A number x of the
range [low, high] is the integer round(x / step) + zero, where step = (high - low) / 255; a number beyond the range
becomes the nearest end of it. Products are summed exactly, in int32, and the sums are converted to float32.
"""
