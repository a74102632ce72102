"""Training on heterogeneous annotations."""

from upernet.training.ablation import Ablation, ablate
from upernet.training.loop import train

__all__ = ["Ablation", "ablate", "train"]
