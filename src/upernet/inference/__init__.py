"""Inference: from a photo to a `Parse`."""

from upernet.inference.label_map import UNSURE, LabelMap
from upernet.inference.parse import Parse, PixelLabel
from upernet.inference.parser import Parser, load
from upernet.inference.regions import Region

__all__ = ["UNSURE", "LabelMap", "Parse", "Parser", "PixelLabel", "Region", "load"]
