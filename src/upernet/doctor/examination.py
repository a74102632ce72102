"""The parts of the examination, in the order in which they are reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from upernet.doctor.caches import examine_caches
from upernet.doctor.finding import Facts, Finding
from upernet.doctor.kernels import examine_kernels
from upernet.doctor.machine import examine_devices, examine_machine, examine_torch
from upernet.doctor.packages import examine_packages
from upernet.doctor.variables import examine_variables


@dataclass(frozen=True)
class Examination:
    """The facts of each part, and everything that is wrong."""

    facts: Facts
    findings: Sequence[Finding]

    @property
    def is_broken(self) -> bool:
        """Whether commands fail because of something that was found."""
        return any(finding.broken for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return {**self.facts, "broken": self.is_broken, "problems": [finding._asdict() for finding in self.findings]}


def examine() -> Examination:
    """Examine the installation, the machine, the kernels, the caches and the environment variables.

    The kernels run on one small image, and their results are compared with those of torch's own operators. If torch,
    torchvision or Numba cannot be imported, that is reported, and only what does not need them is examined.
    """
    facts, findings = examine_packages()
    parts = [examine_variables]
    if all(facts["importable"].values()):
        # The kernels come before the caches, because they fill that of the compiled kernels.
        parts += [examine_machine, examine_torch, examine_devices, examine_kernels, examine_caches]
    for part in parts:
        more, wrong = part()
        facts |= more
        findings += wrong
    return Examination(facts, findings)
