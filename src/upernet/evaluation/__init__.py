"""Scores per level, and thresholds of what is sure enough to show."""

from upernet.evaluation.calibration import calibrate
from upernet.evaluation.confusion import ConfusionMatrix
from upernet.evaluation.loop import evaluate
from upernet.evaluation.metrics import Scores
from upernet.evaluation.passes import Passes

__all__ = ["ConfusionMatrix", "Passes", "Scores", "calibrate", "evaluate"]
