"""From a photo to a `Parse`."""

from upernet.inference.level_map import UNSURE, LevelMap
from upernet.inference.parse import Parse
from upernet.inference.parser import Parser, load

__all__ = ["UNSURE", "LevelMap", "Parse", "Parser", "load"]
