"""A run of the bundled model and of DCNv3: which kernels are chosen, why, and whether they agree with torch."""

from __future__ import annotations

import warnings
from collections import Counter

from upernet.doctor.finding import Facts, Finding

MODEL = "everyday"
"""The bundled model that runs."""
SIZE = (256, 320)
"""Height and width of its image in pixels."""
TOLERANCE = 1e-3
"""Largest difference from torch's own operators, in standard deviations of the result."""


def examine_kernels() -> tuple[Facts, list[Finding]]:
    """Run the model and DCNv3 on the CPU, with the chosen kernels and with torch's own, and compare the results."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a kernel that does not run is one of the findings
        try:
            facts = run_model() | {"dcnv3": run_dcnv3()}
        except Exception as error:  # whatever stops the model is what the user needs to know
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            reinstall = "pip install --force-reinstall --no-deps upernet"
            return {}, [Finding(f"the bundled model {MODEL} does not run ({what})", reinstall)]
    findings: list[Finding] = []
    error = max(facts["error"], facts["dcnv3"]["error"])
    if not error <= TOLERANCE:  # NaN is not
        findings.append(
            Finding(
                f"the kernels compute other results than torch does (they differ by {error:.1e} of their spread)",
                "report it with the output of `upernet doctor --json`; until then, use --device with another device",
            )
        )
    chosen = [*facts["kernels"], facts["dcnv3"]]
    if slow := sorted({row["reason"] for row in chosen if row["reason"].startswith("Numba does not run")}):
        findings.append(
            Finding(f"{'; '.join(slow)}, so everything is slower", "pip install --force-reinstall numba", broken=False)
        )
    return {"run": facts}, findings


def run_model() -> Facts:
    """Return time, speedup, error and kernels of one forward pass of the bundled model."""
    from upernet.checkpoints import find_checkpoint, load_checkpoint
    from upernet.inference.bench import bench

    model, _ = load_checkpoint(find_checkpoint(MODEL))
    result = bench(model, *SIZE, repeats=1, compare=True)
    calls: Counter[tuple[str, str, str]] = Counter()
    for row in result["kernels"]:
        calls[row["operator"], row["kernel"], row["reason"]] += row["calls"]
    return {
        "model": MODEL,
        "size": list(SIZE),
        "seconds": result["seconds"],
        "times_as_fast_as_torch": result["ratio"],
        "error": max(result["error"].values()),
        "kernels": [
            {"operator": operator, "kernel": kernel, "reason": reason, "calls": count}
            for (operator, kernel, reason), count in calls.items()
        ],
    }


def run_dcnv3() -> Facts:
    """Return kernel, reason and error of one deformable convolution, the operator of InternImage."""
    import torch

    from upernet.ops import dcnv3, recorded_decisions, use_kernel

    generator = torch.Generator().manual_seed(0)
    groups, points = 4, 9
    x = torch.randn(1, 16, 20, 16 * groups, generator=generator)
    offset = torch.randn(1, 16, 20, groups * points * 2, generator=generator)
    mask = torch.rand(1, 16, 20, groups * points, generator=generator)
    with torch.inference_mode(), recorded_decisions() as decisions:
        found = dcnv3(x, offset, mask, groups=groups)
    with torch.inference_mode(), use_kernel(dcnv3="torch"):
        expected = dcnv3(x, offset, mask, groups=groups)
    error = float((found - expected).abs().max() / expected.std())
    return {"kernel": decisions[0].kernel, "reason": decisions[0].reason, "error": error}
