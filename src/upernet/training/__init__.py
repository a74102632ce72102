"""Training from heterogeneous annotations."""

from upernet.training.loop import train

__all__ = ["train"]
