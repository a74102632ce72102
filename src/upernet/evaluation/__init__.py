"""Evaluation: scores per level, test-time augmentation, and calibration of confidence thresholds."""

from upernet.evaluation.calibration import calibrate
from upernet.evaluation.confusion import ConfusionMatrix
from upernet.evaluation.familiarity import fit_familiarity
from upernet.evaluation.loop import default_split, evaluate
from upernet.evaluation.results import EvaluationResult, LabelMetrics, LevelMetrics, PartMetrics, PixelMetrics
from upernet.evaluation.scores import Scores
from upernet.evaluation.tta import TestTimeAugmentation

__all__ = [
    "ConfusionMatrix",
    "EvaluationResult",
    "LabelMetrics",
    "LevelMetrics",
    "PartMetrics",
    "PixelMetrics",
    "Scores",
    "TestTimeAugmentation",
    "calibrate",
    "default_split",
    "evaluate",
    "fit_familiarity",
]
