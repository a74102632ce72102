"""Inference: from a photo to a `Parse`."""

from upernet.inference.label_map import UNSURE, LabelMap
from upernet.inference.parse import Parse
from upernet.inference.parser import Parser, load

__all__ = ["UNSURE", "LabelMap", "Parse", "Parser", "load"]
