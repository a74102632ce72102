"""The environment variables that change what this package does."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from upernet.doctor.finding import Facts, Finding
from upernet.errors import did_you_mean

VARIABLES = {
    "UPERNET_HOME": "folder for downloaded weights",
    "UPERNET_MIRROR": "address of a folder that weights are downloaded from",
    "UPERNET_NO_RESEARCH_WEIGHTS": "1: refuse weights for research or non-commercial use only",
    "UPERNET_OFFLINE": "1: download nothing",
    "UPERNET_TOKEN": "token that clients of `upernet serve` have to send",
    "UPERNET_TRITON": "1: use the Triton kernels on a GPU",
}
"""Variable of this package -> what it does."""
OTHERS = (
    "CUDA_VISIBLE_DEVICES",
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "HF_TOKEN",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "MKL_NUM_THREADS",
    "NO_PROXY",
    "NUMBA_CACHE_DIR",
    "NUMBA_DISABLE_JIT",
    "OMP_NUM_THREADS",
)
"""Variables of other programs that matter here."""


def examine_variables(environment: Mapping[str, str] = os.environ) -> tuple[Facts, list[Finding]]:
    """Return the variables that are set, without secrets.

    Args:
        environment: Names and values.
    """
    shown = {name: _shown(name, environment[name]) for name in (*VARIABLES, *OTHERS) if environment.get(name)}
    findings: list[Finding] = []
    for name in sorted(environment):
        if name.startswith("UPERNET_") and name not in VARIABLES:
            meant = did_you_mean(name, VARIABLES)
            findings.append(Finding(f"there is no environment variable {name}{meant}", f"unset {name}", broken=False))
    mirror = environment.get("UPERNET_MIRROR", "")
    if mirror and not mirror.startswith(("https://", "http://", "file://")):
        findings.append(
            Finding(
                f"UPERNET_MIRROR={mirror} is no address, so downloads fail",
                "begin it with https://, http:// or file://, or unset UPERNET_MIRROR",
            )
        )
    return {"environment": shown}, findings


def _shown(name: str, value: str) -> str:
    if name.endswith("TOKEN"):
        return "set (not shown)"
    return re.sub(r"//[^/@]*@", "//...@", value)  # user and password of an address
