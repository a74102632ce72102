"""Training on heterogeneous annotations."""

from upernet.training.loop import train

__all__ = ["train"]
