"""Scores per level, and thresholds of what is sure enough to show."""

from upernet.evaluation.calibration import calibrate
from upernet.evaluation.confusion import ConfusionMatrix
from upernet.evaluation.loop import evaluate
from upernet.evaluation.metrics import Scores

__all__ = ["ConfusionMatrix", "Scores", "calibrate", "evaluate"]
