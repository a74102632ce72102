"""The choice of temperatures and of confidence thresholds, from counted predictions."""

from __future__ import annotations

import torch
from torch import Tensor

from upernet.evaluation.confidences import STEPS, TEMPERATURES, UNCHANGED, Confidences
from upernet.evaluation.reliability import BINS

SHOW_NOTHING = 1.01
"""Threshold of a class whose target precision is out of reach; no softmax probability gets there."""
PRIOR_PHOTOS = 4
"""Weight of the whole level in the threshold of a class, in photos that show the class."""


def choose_temperature(labeled: Tensor) -> int:
    """Return the index of the temperature at which confidences agree best with accuracies (arXiv 1706.04599).

    This is the temperature with the smallest log loss of "the prediction is right", if it also lowers the expected
    calibration error; otherwise that of 1.

    Args:
        labeled: Weights of the labeled predictions: float64 T x 2 x (STEPS + 1), see `Confidences.labeled`.
    """
    centers = ((torch.arange(STEPS + 1, dtype=torch.float64) + 0.5) / STEPS).clamp(max=1 - 0.25 / STEPS)
    losses = -(labeled[:, 1] @ centers.log() + labeled[:, 0] @ (1 - centers).log())
    best = int(losses.argmin())
    return best if calibration_error(labeled[best]) < calibration_error(labeled[UNCHANGED]) else UNCHANGED


def calibration_error(weights: Tensor) -> float:
    """Return the expected calibration error of predictions: float64 2 x (STEPS + 1), wrong and right."""
    total, confidence, right = reliability(weights)
    return float((confidence - right).abs().sum() / total.sum()) if total.any() else 0.0


def reliability(weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weight, the sum of confidences and the weight of right predictions in `BINS` bins: float64 BINS each.

    Args:
        weights: Weights of predictions per step of confidence: float64 2 x (STEPS + 1), wrong and right.
    """
    steps = torch.arange(STEPS + 1, dtype=torch.float64)
    bins = (steps * BINS / STEPS).long().clamp(max=BINS - 1)
    total, centers = weights.sum(0), ((steps + 0.5) / STEPS).clamp(max=1)
    sums = (total, total * centers, weights[1])
    total, confidence, right = (torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, values) for values in sums)
    return total, confidence, right


def smallest_threshold(weights: Tensor, target: float) -> float | None:
    """Return the smallest threshold at which the share of right predictions reaches `target`; None if there is none.

    Args:
        weights: Weights of predictions per step of confidence: float64 2 x (STEPS + 1), wrong and right.
        target: Target precision in 0..1.
    """
    at_least = weights.flip(1).cumsum(1).flip(1)  # predictions of at least this confidence
    shown, right = at_least.sum(0), at_least[1]
    # The weights are rounded: 0.9 of 1 must reach a target of 0.9.
    reached = (shown > 1e-12) & (right >= target * shown - 1e-12)
    return int(reached.nonzero()[0]) / STEPS if reached.any() else None


def class_thresholds(found: Confidences, temperature: int, target: float) -> dict[str, float]:
    """Return the threshold of each class that has predictions to judge it by: class -> threshold.

    A class is judged by its own predictions together with those of the whole level, which weigh as much as
    `PRIOR_PHOTOS` photos. So the threshold of a rare class is close to that of the level, and it is that of the level
    where no photo shows the class; such classes are left out.

    Args:
        found: The counted predictions.
        temperature: Index of the temperature.
        target: Target precision in 0..1.
    """
    weights = found.mixture()[temperature]
    level = weights.sum(0)
    chosen: dict[str, float] = {}
    for name, own, photos in zip(found.level.names, weights, map(int, found.photos), strict=True):
        if photos:
            both = photos * own / own.sum() + PRIOR_PHOTOS * level / level.sum()
            threshold = smallest_threshold(both, target)
            chosen[name] = SHOW_NOTHING if threshold is None else threshold
    return chosen


def share_shown(weights: Tensor, thresholds: Tensor) -> tuple[float, float]:
    """Return the share of predictions that reach the threshold of their class, and the share of them that are right.

    Args:
        weights: Weights of predictions: float64 K x 2 x (STEPS + 1), wrong and right.
        thresholds: One per class: float64 K.
    """
    steps = torch.arange(STEPS + 1, dtype=torch.float64) / STEPS
    shown = (weights * (steps >= thresholds[:, None] - 1e-9)[:, None]).sum((0, 2))
    total = float(shown.sum())
    return total / max(1e-12, float(weights.sum())), float(shown[1]) / total if total else 0.0


def temperature_index(temperature: float) -> int:
    """Return the index of the nearest of `TEMPERATURES`."""
    return min(range(len(TEMPERATURES)), key=lambda index: abs(TEMPERATURES[index] - temperature))
