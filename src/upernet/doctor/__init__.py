"""An examination of the installation: what is there, what runs here and why, and what is wrong with which remedy.

Nothing is downloaded, and nothing is written but Numba's cache of compiled kernels.
"""

from upernet.doctor.examination import Examination, examine
from upernet.doctor.finding import Finding

__all__ = ["Examination", "Finding", "examine"]
